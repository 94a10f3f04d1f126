import copy
import gc
import io
import weakref

import pytest
import torch
from torch import nn

from lossbalance import WeightedLoss
from lossbalance.penalties import L1, L2, ElasticNet, GroupLasso
from lossbalance.weighting import Equal
from tests.helpers.compiler import skip_where_the_compiler_cannot_differentiate


def squares(*weights):
    return sum(weight.detach().square().sum() for weight in weights)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3))


def test_weights_count_and_biases_and_norms_do_not(net):
    torch.testing.assert_close(L2(1.0)(net).detach(), squares(net[0].weight, net[2].weight))


def test_include_and_exclude_choose_by_name(net):
    torch.testing.assert_close(L2(1.0, include="bias")(net).detach(), squares(net[0].bias, net[1].bias, net[2].bias))
    torch.testing.assert_close(L2(1.0, exclude=r"^0\.")(net).detach(), squares(net[2].weight))
    both = L2(1.0, include=[r"^0\.", r"^1\."], exclude="bias")
    torch.testing.assert_close(both(net).detach(), squares(net[0].weight, net[1].weight))


def test_each_layer_may_have_its_own_strength(net):
    penalty = L2({r"^0\.": 0.5, ".": 2.0})

    torch.testing.assert_close(penalty(net).detach(), 0.5 * squares(net[0].weight) + 2.0 * squares(net[2].weight))


def test_what_no_strength_matches_is_not_penalized(net):
    torch.testing.assert_close(L2({r"^2\.": 3.0}, "mean")(net).detach(), 3.0 * net[2].weight.detach().square().mean())
    both = ElasticNet(l1={r"^0\.": 2.0}, l2={r"^2\.": 3.0})
    expected = 2.0 * net[0].weight.detach().abs().sum() + 3.0 * squares(net[2].weight)
    torch.testing.assert_close(both(net).detach(), expected)


def test_frozen_parameters_do_not_count_from_the_call_on_that_finds_them_frozen(net):
    penalty = L2(1.0, "mean")
    everything = penalty(net)

    net[0].weight.requires_grad_(False)
    torch.testing.assert_close(penalty(net).detach(), net[2].weight.detach().square().mean())
    net[0].weight.requires_grad_(True)
    torch.testing.assert_close(penalty(net), everything)
    assert L2(1.0)(net.requires_grad_(False)) == 0


def test_a_layer_that_is_replaced_is_seen(net):
    penalty = L2(1.0)
    penalty(net)

    net[2] = nn.Linear(6, 5)

    torch.testing.assert_close(penalty(net).detach(), squares(net[0].weight, net[2].weight))


def test_tied_parameters_count_once_and_answer_to_each_of_their_names():
    net = nn.ModuleDict({"embedding": nn.Embedding(5, 3), "decoder": nn.Linear(3, 5)})
    net["decoder"].weight = net["embedding"].weight

    for penalty in L2(1.0), L2(1.0, include="decoder.weight"), L2({"decoder": 1.0}):
        torch.testing.assert_close(penalty(net).detach(), squares(net["embedding"].weight))


def test_num_samples_divides(net):
    torch.testing.assert_close(L2(1.0, num_samples=50)(net), L2(1.0)(net) / 50)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_weights_are_measured_in_fp32(dtype):
    net = nn.Linear(500, 400).to(dtype)
    net.weight.data.fill_(20.0)  # 200,000 squares of 400 overflow fp16, and a running sum in bf16 stops growing

    value = L2(0.5)(net)
    value.backward()

    assert value.dtype == torch.float32
    torch.testing.assert_close(value.item(), 0.5 * 200_000 * 400.0)
    torch.testing.assert_close(net.weight.grad, torch.full_like(net.weight, 20.0))


def test_the_whole_penalty_is_one_node_of_the_graph(net):
    value = L2(1.0)(net)

    assert [type(parent).__name__ for parent, _ in value.grad_fn.next_functions if parent] == ["AccumulateGrad"] * 2


def test_the_second_derivative_is_right():
    weight = torch.randn(2, 3, dtype=torch.double, requires_grad=True)
    for penalty in L1(0.3), L2(0.7), ElasticNet(0.3, 0.7):
        module = nn.ParameterDict({"weight": nn.Parameter(weight.detach().clone())})

        (gradient,) = torch.autograd.grad(penalty(module), [module["weight"]], create_graph=True)
        curvature = gradient.square().sum()
        if isinstance(penalty, L1):  # flat: nothing depends on the weights
            continue
        (second,) = torch.autograd.grad(curvature, [module["weight"]])

        torch.testing.assert_close(second, 2 * gradient.detach() * 2 * 0.7)


COMPILED = [L1(0.3), L2(0.7, "fan"), ElasticNet(0.3, 0.7, exclude="2"), GroupLasso(0.3, "input")]


@pytest.mark.parametrize("penalty", COMPILED, ids=repr)
def test_a_step_compiles_in_one_graph(penalty, net):
    if penalty.rule.normalization == "fan":  # older compilers do not tell the kinds of layers apart
        skip_where_the_compiler_cannot_differentiate()
    criterion = WeightedLoss(Equal(["data"]), penalties={"penalty": penalty})
    x = torch.randn(8, 4)

    def step():
        return criterion({"data": net(x).square().mean()}, module=net)

    total = step()
    expected = torch.autograd.grad(total, list(net.parameters()))
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")()

    torch.testing.assert_close(compiled, total)
    torch.testing.assert_close(torch.autograd.grad(compiled, list(net.parameters())), expected)


def test_the_penalty_keeps_nothing_of_the_module():
    net, penalty = nn.Sequential(nn.Linear(4, 3)), L2(1.0)
    penalty(net)
    names, watched = [name for name, _ in penalty.named_parameters()], weakref.ref(net[0].weight)

    del net
    gc.collect()

    assert names == []
    assert watched() is None


def test_a_penalty_that_was_used_can_be_copied_and_saved(net):
    penalty = L2(0.3)
    value = penalty(net)
    file = io.BytesIO()
    torch.save(penalty, file)
    file.seek(0)

    torch.testing.assert_close(copy.deepcopy(penalty)(net), value)
    torch.testing.assert_close(torch.load(file, weights_only=False)(net), value)


@pytest.mark.parametrize("strength", [-1.0, float("nan"), float("inf"), {"weight": -1.0}, {}])
def test_a_strength_that_is_not_allowed_is_refused(strength):
    with pytest.raises(ValueError, match=r"`strength.* must be a number, finite and not negative"):
        L2(strength)


def test_a_pattern_that_matches_nothing_is_refused_with_the_names(net):
    for penalty in L2(1.0, include="1.wieght"), L2(1.0, exclude="1.wieght"), L2({"1.wieght": 1.0}):
        with pytest.raises(ValueError, match=r"'1.wieght' matches none of \['0.weight', .*did you mean '.\.weight'"):
            penalty(net)


def test_a_pattern_that_is_no_regular_expression_is_refused():
    with pytest.raises(ValueError, match=r"`include` must be regular expressions, got '\('"):
        L2(1.0, include="(")


def test_what_is_no_module_and_no_pattern_is_refused_by_name():
    with pytest.raises(TypeError, match=r"`module` must be the torch.nn.Module whose parameters are penalized, got 3"):
        L2(1.0)(3)
    for patterns in 3, [3]:
        with pytest.raises(TypeError, match=r"`include` must be .*regular expressions?.* on parameter names.*, got 3"):
            L2(1.0, include=patterns)
