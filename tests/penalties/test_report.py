import pytest
import torch
from torch import nn

from lossbalance import WeightedLoss
from lossbalance.penalties import L1, L2
from lossbalance.weighting import Alpha, Equal, Fixed


def make_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def weights_of(net):
    return [net[0].weight, net[2].weight]


def norm(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors]).norm()


@pytest.mark.parametrize("mode", ["loss", "gradient", "decoupled"])
def test_each_penalty_reports_its_value_and_both_of_its_shares(mode):
    net = make_net()
    penalties = {"l1": L1(0.03), "l2": L2(0.7, "fan", mode=mode)}
    criterion = WeightedLoss(Fixed(["a", "b"], {"a": 2.0, "b": 1.0}), penalties=penalties)
    outputs = net(torch.ones(5, 4))
    losses = {"a": outputs.square().mean(), "b": -outputs.abs().mean()}
    of_data = torch.autograd.grad(2 * losses["a"] + losses["b"], weights_of(net), retain_graph=True)
    values = {"l1": L1(0.03)(net), "l2": L2(0.7, "fan")(net)}

    criterion(losses, module=net).backward()
    report = criterion.report_penalties()

    magnitude = 2 * losses["a"] - losses["b"] + sum(values.values())
    for name, value in values.items():
        own = norm(torch.autograd.grad(value, weights_of(net), retain_graph=True))
        torch.testing.assert_close(report[name].value, value.detach())
        torch.testing.assert_close(report[name].value_share, (value / magnitude).detach())
        torch.testing.assert_close(report[name].gradient_norm, own)
        torch.testing.assert_close(report[name].gradient_share, own / (own + norm(of_data)))


def test_a_mean_keeps_its_share_of_the_value_and_loses_that_of_the_gradient_as_the_model_grows():
    shares = []
    for width in 16, 1024:
        torch.manual_seed(0)
        net = nn.Linear(width, width, bias=False)
        nn.init.constant_(net.weight, 0.5)
        criterion = WeightedLoss(Equal(["data"]), penalties={"l2": L2(1.0, "mean")})
        criterion({"data": net.weight[0, 0].square()}, module=net).backward()
        shares.append(criterion.report_penalties()["l2"])

    small, large = shares
    torch.testing.assert_close(small.value_share, large.value_share)
    assert large.gradient_share < small.gradient_share / 50


def test_a_penalty_may_be_a_term_and_alpha_is_then_one_over_one_plus_lambda():
    net, strength = make_net(), 0.25
    data = net(torch.ones(5, 4)).square().mean()
    alpha = 1 / (1 + strength)
    as_term = WeightedLoss(Alpha(["data", "l2"], alpha))
    regularized = WeightedLoss(Equal(["data"]), penalties={"l2": L2(strength)})

    chosen = as_term({"data": data, "l2": L2(1.0)(net)})
    usual = regularized({"data": data}, module=net)

    torch.testing.assert_close(chosen, alpha * usual)  # the same minimum, at a learning rate 1 / alpha times as large
    torch.testing.assert_close(
        torch.autograd.grad(chosen / alpha, weights_of(net), retain_graph=True),
        torch.autograd.grad(usual, weights_of(net)),
    )


def test_a_network_trained_on_the_data_twice_over_has_the_penalty_that_num_samples_says():
    x, y = torch.randn(10, 4, generator=torch.Generator().manual_seed(0)), torch.ones(10, 3)

    def train(x, y, penalty):
        net = make_net()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(20):
            optimizer.zero_grad()
            ((net(x) - y).square().sum() / len(x) + penalty(net)).backward()
            optimizer.step()
        return list(net.parameters())

    once = train(x, y, L2(0.3, num_samples=10))
    twice = train(torch.cat([x, x]), torch.cat([y, y]), L2(0.6, num_samples=20))
    half = train(torch.cat([x, x]), torch.cat([y, y]), L2(0.3, num_samples=20))

    torch.testing.assert_close(once, twice)
    torch.testing.assert_close(half, train(x, y, L2(0.3 / 20)))
