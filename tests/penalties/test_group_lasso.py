from copy import deepcopy

import pytest
import torch
from torch import nn

from lossbalance.penalties import L2, GroupLasso


def blocks_of(module, group):
    """The blocks of each layer's weight, spelled out from what a layer computes."""
    weight = module.weight
    if isinstance(module, nn.Embedding):
        return list(weight if group == "input" else weight.T)
    if isinstance(module, nn.ConvTranspose2d):
        parts = weight.chunk(module.groups)
        return [b for part in parts for b in (part if group == "input" else part.transpose(0, 1))]
    if isinstance(module, nn.Conv2d):
        return [
            b for part in weight.chunk(module.groups) for b in (part if group == "output" else part.transpose(0, 1))
        ]
    return list(weight if group == "output" else weight.T)


MODULES = {
    "linear": nn.Linear(3, 4),
    "conv": nn.Conv2d(6, 8, 3),
    "grouped conv": nn.Conv2d(6, 8, 3, groups=2),
    "depthwise conv": nn.Conv2d(6, 6, 3, groups=6),
    "channels last": nn.Conv2d(6, 8, 3).to(memory_format=torch.channels_last),
    "transposed conv": nn.ConvTranspose2d(6, 8, 2),
    "grouped transposed conv": nn.ConvTranspose2d(6, 8, 2, groups=2),
    "embedding": nn.Embedding(5, 3),
}


@pytest.mark.parametrize("group", ["output", "input"])
@pytest.mark.parametrize("kind", MODULES)
def test_it_is_the_sum_of_the_norms_of_the_blocks_times_the_roots_of_their_sizes(kind, group):
    module = MODULES[kind]
    penalty = GroupLasso(0.7, group)
    expected = 0.7 * sum(block.numel() ** 0.5 * block.norm() for block in blocks_of(module, group))

    value = penalty(module)

    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(torch.autograd.grad(value, module.weight), torch.autograd.grad(expected, module.weight))


@pytest.mark.parametrize("group", ["output", "input"])
@pytest.mark.parametrize("kind", MODULES)
def test_the_proximal_operator_shrinks_each_block_and_sets_the_small_ones_to_zero(kind, group):
    module = deepcopy(MODULES[kind])
    before = [block.detach().clone() for block in blocks_of(module, group)]
    strength = sorted(block.norm() / block.numel() ** 0.5 for block in before)[len(before) // 2].item()
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    GroupLasso(strength, group, mode="proximal").attach(optimizer, module)
    module.weight.grad = torch.zeros_like(module.weight)

    optimizer.step()

    after = blocks_of(module, group)
    for old, new in zip(before, after, strict=True):
        kept = (1 - strength * old.numel() ** 0.5 / old.norm()).clamp(min=0)
        torch.testing.assert_close(new.detach(), kept * old)
    assert 0 < sum((block == 0).all().item() for block in after) < len(after)


@pytest.mark.parametrize("normalization", ["sum", "mean", "tensor_mean", "fan"])
def test_every_normalization_scales_it_as_it_scales_the_others(normalization):
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    for layer in net:
        nn.init.constant_(layer.weight, 0.5)  # the sum of sqrt(size) * norm is then that of abs, twice that of squares

    torch.testing.assert_close(GroupLasso(0.7, normalization=normalization)(net), 2 * L2(0.7, normalization)(net))


def test_a_bias_that_is_included_is_the_column_of_a_constant_input():
    linear = nn.Linear(3, 4)

    by_output = GroupLasso(1.0, "output", include="bias")(linear)
    by_input = GroupLasso(1.0, "input", include="bias")(linear)

    torch.testing.assert_close(by_output, linear.bias.abs().sum())
    torch.testing.assert_close(by_input, 2 * linear.bias.norm())
    scalar = nn.ParameterDict({"scale": nn.Parameter(torch.tensor(-3.0))})
    assert GroupLasso(1.0, "input", include="scale")(scalar).item() == 3


@pytest.mark.parametrize("mode", ["loss", "gradient", "decoupled"])
def test_a_block_of_zeros_has_no_gradient_in_any_mode(mode):
    linear = nn.Linear(3, 2, bias=False)
    linear.weight.data[:, 1] = 0
    optimizer = torch.optim.SGD(linear.parameters(), lr=1.0)
    penalty = GroupLasso(0.01, "input", mode=mode)
    before = linear.weight.detach().clone()
    if mode != "loss":
        penalty.attach(optimizer, linear)

    (0 * linear.weight.sum() + (penalty(linear) if mode == "loss" else 0)).backward()
    optimizer.step()

    expected = before - 0.01 * 2**0.5 * before / before.norm(dim=0).clamp(min=1e-30)
    torch.testing.assert_close(linear.weight.detach(), expected)
    assert (linear.weight[:, 1] == 0).all()


def test_the_second_derivative_is_that_of_a_norm():
    module = nn.ParameterDict({"weight": nn.Parameter(torch.randn(2, 3, dtype=torch.double))})

    def value(weight):
        return 2**0.5 * weight.norm(dim=0).sum()

    (gradient,) = torch.autograd.grad(GroupLasso(1.0, "input")(module), module["weight"], create_graph=True)
    (expected,) = torch.autograd.grad(value(module["weight"]), module["weight"], create_graph=True)
    probe = torch.randn(2, 3, dtype=torch.double)

    torch.testing.assert_close(
        torch.autograd.grad((gradient * probe).sum(), module["weight"]),
        torch.autograd.grad((expected * probe).sum(), module["weight"]),
    )


def test_a_share_of_the_gradient_takes_the_place_of_a_strength():
    net = nn.Linear(3, 2)
    penalty = GroupLasso(group="input", share=0.1, mode="gradient")
    penalty.attach(optimizer := torch.optim.SGD(net.parameters(), lr=0.0), net)
    net(torch.ones(2, 3)).square().mean().backward()
    of_data = net.weight.grad.clone()

    optimizer.step()

    torch.testing.assert_close((net.weight.grad - of_data).norm() / of_data.norm(), torch.tensor(0.1))


def test_a_group_is_of_an_output_or_an_input():
    with pytest.raises(ValueError, match=r"`group` must be one of \['output', 'input'\], got 'inptu' \(did you mean"):
        GroupLasso(0.1, "inptu")
