from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

from lossbalance.penalties import L1, L2, ElasticNet

# Each with its tensors of two or more dimensions, and their fan-in and fan-out worked out by hand.
MODULES = {
    "linear": (nn.Linear(7, 5), {"weight": (7, 5)}),
    "conv": (nn.Conv2d(6, 8, 3), {"weight": (6 * 9, 8 * 9)}),
    "grouped conv": (nn.Conv2d(6, 8, 3, groups=2), {"weight": (3 * 9, 4 * 9)}),
    "transposed conv": (nn.ConvTranspose1d(6, 8, 5), {"weight": (6 * 5, 8 * 5)}),
    "grouped transposed conv": (nn.ConvTranspose1d(6, 8, 5, groups=2), {"weight": (3 * 5, 4 * 5)}),
    "embedding": (nn.Embedding(11, 4), {"weight": (11, 4)}),
    "attention": (nn.MultiheadAttention(6, 2), {"in_proj_weight": (6, 6), "out_proj.weight": (6, 6)}),
    "attention, other keys": (
        nn.MultiheadAttention(6, 2, kdim=3, vdim=5),
        {"q_proj_weight": (6, 6), "k_proj_weight": (3, 6), "v_proj_weight": (5, 6), "out_proj.weight": (6, 6)},
    ),
    "unknown": (nn.Bilinear(3, 4, 5), {"weight": (3 * 4, 5 * 4)}),
}
MEASURES = {"l1": lambda weight: weight.abs().sum(), "l2": lambda weight: (weight**2).sum()}


def by_formula(measure, normalization, weights, fans):
    sizes = {name: weight.numel() for name, weight in weights.items()}
    scales = {
        "sum": dict.fromkeys(weights, 1),
        "mean": dict.fromkeys(weights, 1 / sum(sizes.values())),
        "tensor_mean": {name: 1 / size for name, size in sizes.items()},
        "fan": {name: sum(fans[name]) / size for name, size in sizes.items()},
    }[normalization]
    return sum(scales[name] * measure(weight) for name, weight in weights.items())


@pytest.mark.parametrize("normalization", ["sum", "mean", "tensor_mean", "fan"])
@pytest.mark.parametrize("kind", MODULES)
def test_value_and_gradient_are_those_of_the_formula_in_double_precision(kind, normalization):
    module, fans = MODULES[kind]
    exact = {name: module.get_parameter(name).detach().double().requires_grad_() for name in fans}
    penalties = [
        (L1(0.3, normalization), {"l1": 0.3}),
        (L2(0.7, normalization), {"l2": 0.7}),
        (ElasticNet(0.3, 0.7, normalization=normalization), {"l1": 0.3, "l2": 0.7}),
    ]
    for penalty, strengths in penalties:
        expected = sum(s * by_formula(MEASURES[r], normalization, exact, fans) for r, s in strengths.items())
        expected_gradients = torch.autograd.grad(expected, list(exact.values()))

        value = penalty(module)
        gradients = torch.autograd.grad(value, [module.get_parameter(name) for name in fans])

        torch.testing.assert_close(value.double(), expected.detach(), rtol=1e-6, atol=0)
        for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
            torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("kind", ["grouped conv", "attention"])
def test_an_identity_parametrization_changes_no_scale(kind):
    module, fans = MODULES[kind]
    plain, parametrized = deepcopy(module), nn.Sequential(deepcopy(module))
    for name in fans:
        owner, _, attribute = name.rpartition(".")
        register_parametrization(parametrized[0].get_submodule(owner), attribute, nn.Identity())

    for normalization in ("fan", "tensor_mean", "mean", "sum"):
        torch.testing.assert_close(L2(0.3, normalization)(parametrized), L2(0.3, normalization)(plain))


def test_a_bias_that_is_included_is_the_column_of_a_constant_input():
    linear = nn.Linear(3, 4)

    value = L2(1.0, "fan", include="bias")(linear)

    torch.testing.assert_close(value, (1 + 4) / 4 * linear.bias.square().sum())


def test_an_unknown_normalization_is_refused_with_the_nearest():
    with pytest.raises(
        ValueError, match=r"`normalization` must be one of .*'tensor_mean'.*got 'men' \(did you mean 'mean'"
    ):
        L2(1.0, "men")
