"""Mode ``"proximal"``: exact zeros, equal to the solvers of scikit-learn and to a solver of the group lasso."""

import copy

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes
from sklearn.linear_model import ElasticNet as ReferenceElasticNet
from sklearn.linear_model import Lasso
from torch import nn

from lossbalance import WeightedLoss
from lossbalance.penalties import L1, L2, ElasticNet, GroupLasso
from lossbalance.weighting import Equal

PENALTIES = {
    "l1": lambda strength, **rest: L1(strength, mode="proximal", **rest),
    "elastic": lambda strength, **rest: ElasticNet(strength, strength / 2, mode="proximal", **rest),
    "group": lambda strength, **rest: GroupLasso(strength, "input", mode="proximal", **rest),
}
each_penalty = pytest.mark.parametrize("make", PENALTIES.values(), ids=PENALTIES)


@pytest.fixture(scope="module")
def diabetes():
    """Ten standardized inputs of 442 patients, and the progression of the disease."""
    x, y = load_diabetes(return_X_y=True)
    return (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()


def fit(penalty, x, y, steps=300):
    """Returns the weights of a linear network after proximal gradient steps on half the mean squared error."""
    x, y = torch.as_tensor(x), torch.as_tensor(y).view(len(x), -1)
    net = nn.Linear(x.size(1), y.size(1)).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=1 / torch.linalg.eigvalsh(x.T @ x / len(x)).max().item())
    penalty.attach(optimizer, net)
    for _ in range(steps):
        optimizer.zero_grad()
        ((net(x) - y).square().sum() / len(x) / 2).backward()
        optimizer.step()
    return net.weight.detach().numpy()


@pytest.mark.parametrize("strength", [0.1, 0.3])
def test_l1_under_sgd_is_the_lasso_of_scikit_learn(diabetes, strength):
    expected = Lasso(alpha=strength, tol=1e-12, max_iter=100_000).fit(*diabetes).coef_

    (found,) = fit(L1(strength, mode="proximal"), *diabetes)

    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found == 0, expected == 0)
    assert (found == 0).sum() >= 6


@pytest.mark.parametrize("strength", [0.2, 0.5])
def test_elastic_net_under_sgd_is_that_of_scikit_learn(diabetes, strength):
    expected = ReferenceElasticNet(alpha=strength, l1_ratio=0.6, tol=1e-12, max_iter=100_000).fit(*diabetes).coef_

    (found,) = fit(ElasticNet(0.6 * strength, 0.4 * strength / 2, mode="proximal"), *diabetes)

    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found == 0, expected == 0)
    assert (found == 0).any()


def solve_group_lasso(x, y, strength, sweeps):
    """Returns the minimum ``[outputs, inputs]``, by block coordinate descent over the inputs."""
    w, n = np.zeros((x.shape[1], y.shape[1])), len(x)
    for _ in range(sweeps):
        for j in range(x.shape[1]):
            curvature = x[:, j] @ x[:, j] / n
            z = x[:, j] @ (y - x @ w + np.outer(x[:, j], w[j])) / n
            w[j] = max(0, 1 - strength * np.sqrt(y.shape[1]) / np.linalg.norm(z)) * z / curvature
    return w.T


def test_group_lasso_of_inputs_is_the_minimum_that_block_coordinate_descent_finds(diabetes):
    x, y = diabetes
    y = np.stack([y, y**2 - 1, np.sin(3 * x[:, 0]) + y], axis=1)
    y -= y.mean(0)
    expected = solve_group_lasso(x, y, 0.1, sweeps=100)

    found = fit(GroupLasso(0.1, "input", mode="proximal"), x, y)

    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    zero = (found == 0).all(axis=0)
    np.testing.assert_array_equal(zero, (expected == 0).all(axis=0))
    assert 0 < zero.sum() < 10
    assert not (found[:, ~zero] == 0).any()  # the inputs that count, count for each output


def test_group_lasso_of_outputs_is_that_of_inputs_of_the_transposed_problem(diabetes):
    strength, x, y = 0.05, torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), torch.ones(20, 3)

    def train(group, transpose):
        weight = torch.full((3, 4), 0.5)
        module = nn.ParameterDict({"w": nn.Parameter(weight.T.clone() if transpose else weight.clone())})
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        GroupLasso(strength, group, mode="proximal").attach(optimizer, module)
        for _ in range(20):
            optimizer.zero_grad()
            w = module["w"].T if transpose else module["w"]
            (x @ w.T - y).square().mean().backward()
            optimizer.step()
        return w.detach()

    torch.testing.assert_close(train("output", transpose=False), train("input", transpose=True))


def make_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def step(net, optimizer, x, parts=1, scaler=None):
    optimizer.zero_grad()
    for part in x.chunk(parts):
        loss = net(part).square().mean() / parts
        (loss if scaler is None else scaler.scale(loss)).backward()
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()


def proximal_by_hand(make, strength, weight):
    """The operator at a step of 1, from its formula."""
    soft = weight.sign() * (weight.abs() - strength).clamp(min=0)
    norms = weight.norm(dim=0, keepdim=True)
    of_groups = weight * (1 - strength * weight.size(0) ** 0.5 / norms).clamp(min=0)
    return {"l1": soft, "elastic": soft / (1 + strength), "group": of_groups}[make]


@pytest.mark.parametrize("kind", PENALTIES)
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_after_the_optimizers_own_step_the_operator_has_the_learning_rate_of_each_group(kind, optimizer):
    net, plain = make_net(), make_net()
    groups = [[{"params": each[0].parameters(), "lr": 0.1}, {"params": each[2].parameters()}] for each in (net, plain)]
    ours, theirs = (optimizer(group, lr=0.02) for group in groups)
    PENALTIES[kind](0.5).attach(ours, net)
    ours.param_groups[1]["lr"] = theirs.param_groups[1]["lr"] = 0.05  # as a scheduler does
    x = torch.ones(5, 4)

    step(net, ours, x)
    step(plain, theirs, x)

    for layer, lr in (0, 0.1), (2, 0.05):
        expected = proximal_by_hand(kind, 0.5 * lr, plain[layer].weight.detach())
        if kind == "elastic":
            expected = expected * (1 + 0.5 * lr) / (1 + 2 * 0.25 * lr)
        torch.testing.assert_close(net[layer].weight.detach(), expected)
        torch.testing.assert_close(net[layer].bias, plain[layer].bias)


@each_penalty
def test_a_closure_accumulated_batches_and_a_scaler_change_nothing(make):
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))

    def train(how):
        net = make_net()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, fused=how == "fused")
        make(0.3).attach(optimizer, net)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10) if how in ("scaler", "fused") else None
        for _ in range(3):
            if how == "closure":

                def closure():
                    optimizer.zero_grad()
                    loss = net(x).square().mean()
                    loss.backward()
                    return loss

                optimizer.step(closure)
            else:
                step(net, optimizer, x, parts=4 if how == "accumulated" else 1, scaler=scaler)
        return [parameter.detach() for parameter in net.parameters()]

    expected = train("plain")
    for how in "closure", "accumulated", "scaler", "fused":
        torch.testing.assert_close(train(how), expected)


@each_penalty
@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_scaler_skips_applies_nothing(make, fused):
    net = make_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, fused=fused)
    make(0.3).attach(optimizer, net)
    before = copy.deepcopy(list(net.parameters()))

    step(net, optimizer, torch.full((1, 4), torch.inf), scaler=torch.amp.GradScaler("cpu", init_scale=2.0**10))

    torch.testing.assert_close(list(net.parameters()), before, rtol=0, atol=0)


@each_penalty
def test_without_a_backward_pass_and_without_a_gradient_of_its_own_a_weight_stays(make):
    net = make_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    make(0.3).attach(optimizer, net)
    before = copy.deepcopy(list(net.parameters()))
    optimizer.step()
    torch.testing.assert_close(list(net.parameters()), before, rtol=0, atol=0)

    net[0](torch.ones(2, 4)).sum().backward()
    optimizer.step()

    torch.testing.assert_close(net[2].weight, before[2], rtol=0, atol=0)
    assert not torch.equal(net[0].weight, before[0])


@each_penalty
def test_a_schedule_multiplies_the_threshold(make):
    def train(strength, factor):
        net = make_net()
        criterion = WeightedLoss(Equal(["data"]), penalties={"penalty": make(strength)})
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        criterion.attach(optimizer, net)
        criterion.set_factor("penalty", factor)
        criterion({"data": net(torch.ones(3, 4)).square().mean()}, module=net).backward()
        optimizer.step()
        return net[0].weight.detach()

    torch.testing.assert_close(train(0.6, 0.5), train(0.3, 1.0))
    assert not torch.equal(train(0.6, 0.0), train(0.6, 0.5))
    assert (train(0.6, 0.0) != 0).all()


@pytest.mark.parametrize("normalization", ["mean", "tensor_mean", "fan"])
def test_the_normalization_scales_the_threshold(normalization):
    scales = {"mean": 1 / (24 + 18), "tensor_mean": 1 / 24, "fan": (4 + 6) / 24}

    def first_weights(penalty):
        net = make_net()
        penalty.attach(optimizer := torch.optim.SGD(net.parameters(), lr=0.1), net)
        step(net, optimizer, torch.ones(3, 4))
        return net[0].weight.detach()

    scaled = first_weights(L1(2.0, normalization, mode="proximal"))
    torch.testing.assert_close(scaled, first_weights(L1(2.0 * scales[normalization], mode="proximal")))


def test_l1_and_group_lasso_together_are_the_sparse_group_lasso_in_any_order():
    weight = torch.tensor([[3.0, 0.3, -1.0], [4.0, -0.2, 0.2]])
    soft = weight.sign() * (weight.abs() - 0.5).clamp(min=0)  # Simon et al. 2013: first each weight, then its group
    expected = soft * (1 - 0.4 * 2**0.5 / soft.norm(dim=0)).clamp(min=0).nan_to_num()

    for names in ["l1", "group"], ["group", "l1"]:
        module = nn.ParameterDict({"weight": nn.Parameter(weight.clone())})
        both = {"l1": L1(0.5, mode="proximal"), "group": GroupLasso(0.4, "input", mode="proximal")}
        criterion = WeightedLoss(Equal(["data"]), penalties={name: both[name] for name in names})
        optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
        criterion.attach(optimizer, module)
        module["weight"].grad = torch.zeros(2, 3)
        optimizer.step()
        torch.testing.assert_close(module["weight"].detach(), expected)


def test_complex_weights_are_shrunk_by_their_modulus():
    module = nn.ParameterDict({"weight": nn.Parameter(torch.tensor([[3 + 4j, 0.3 - 0.4j]]))})
    for penalty in L1(1.0, mode="proximal"), L1(1.0), L1(1.0, mode="gradient"):
        torch.testing.assert_close(penalty(module).item(), 5.5)
    torch.testing.assert_close(torch.autograd.grad(L1(1.0)(module), module["weight"])[0], module["weight"].sgn())
    torch.testing.assert_close(L2(1.0)(module).item(), 25.25)
    torch.testing.assert_close(torch.autograd.grad(L2(1.0)(module), module["weight"])[0], 2 * module["weight"])

    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    L1(1.0, mode="proximal").attach(optimizer, module)
    module["weight"].grad = torch.zeros_like(module["weight"])
    optimizer.step()

    torch.testing.assert_close(module["weight"].detach(), torch.tensor([[0.8 * (3 + 4j), 0]]))


def test_narrow_weights_are_shrunk_in_fp32():
    net = nn.Linear(2, 1, bias=False).bfloat16()
    net.weight.data.copy_(torch.tensor([[1.0, -0.001]]))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    L1(0.1, mode="proximal").attach(optimizer, net)
    net.weight.grad = torch.zeros_like(net.weight)

    optimizer.step()

    assert net.weight.tolist() == [[torch.tensor(0.99).bfloat16().item(), 0.0]]


def test_momentum_divides_the_penalty_unless_dampening_equals_it(diabetes):
    x, y = diabetes

    def train(strength, **momentum):
        net = nn.Linear(10, 1).double()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, **momentum)
        L1(strength, mode="proximal").attach(optimizer, net)
        for _ in range(400):
            optimizer.zero_grad()
            ((net(torch.as_tensor(x))[:, 0] - torch.as_tensor(y)).square().mean() / 2).backward()
            optimizer.step()
        return net.weight.detach().numpy()[0]

    expected = Lasso(alpha=0.1, tol=1e-12).fit(x, y).coef_
    np.testing.assert_allclose(train(0.5, momentum=0.8), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(train(0.1, momentum=0.8, dampening=0.8), expected, rtol=0, atol=1e-5)


def test_what_makes_no_sense_is_refused_by_name():
    with pytest.raises(
        ValueError, match=r"`mode` must be one of \['loss', 'gradient', 'decoupled'\] for L2, got 'prox"
    ):
        L2(0.1, mode="proximal")
    for kind in L1, GroupLasso:
        with pytest.raises(ValueError, match="`share` must go with mode 'gradient' or 'loss', got 'proximal'"):
            kind(share=0.1, mode="proximal")
    with pytest.raises(ValueError, match="`clipped` must be False in mode 'proximal'"):
        L1(0.1, mode="proximal", clipped=True)
    net = make_net()
    with pytest.raises(ValueError, match=r"`optimizer` must not be LBFGS for the penalty L1\(strength=0.1"):
        L1(0.1, mode="proximal").attach(torch.optim.LBFGS(net.parameters()), net)
