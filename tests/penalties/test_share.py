import copy

import pytest
import torch
from torch import nn

from lossbalance import WeightedLoss
from lossbalance.penalties import L1, L2, ElasticNet
from lossbalance.penalties.share import GradientShare
from lossbalance.weighting import Equal


def make_net(width=6):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3))


def norm(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors]).norm()


def weights_of(net):
    return [parameter for parameter in net.parameters() if parameter.ndim == 2]


def test_the_strength_is_the_share_of_the_average_over_the_norm_at_strength_one():
    share = GradientShare(0.05)

    share.observe(torch.tensor(4.0), torch.tensor(2.0))
    torch.testing.assert_close(share.strength, torch.tensor(0.05 * 4 / 2))
    share.observe(torch.tensor(2.0), torch.tensor(1.0))

    average = (0.9 * 4 + 2) / 1.9  # the newest counts 1, the one before 0.9
    torch.testing.assert_close(share.strength, torch.tensor(0.05 * average / 1))


@pytest.mark.parametrize("mode", ["loss", "gradient"])
@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
@pytest.mark.parametrize("penalty", [L1, L2, lambda **rest: ElasticNet(0.1, 1.0, **rest)], ids=["l1", "l2", "elastic"])
def test_the_penalty_gets_its_share_of_the_gradient_at_any_width_and_scale_of_loss(penalty, mode, scale):
    for width in 8, 64:
        net = make_net(width)
        criterion = WeightedLoss(Equal(["data"]), penalties={"penalty": penalty(share=0.05, mode=mode)})
        optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
        criterion.attach(optimizer, net)
        data = scale * net(torch.ones(5, 4)).square().mean()
        of_data = torch.autograd.grad(data, weights_of(net), retain_graph=True)

        criterion({"data": data}, module=net).backward()
        optimizer.step()

        of_penalty = [weight.grad - gradient for weight, gradient in zip(weights_of(net), of_data, strict=True)]
        torch.testing.assert_close(norm(of_penalty) / norm(of_data), torch.tensor(0.05), rtol=1e-4, atol=0)


def test_the_strength_it_amounts_to_can_be_read_and_used():
    net = make_net()
    penalty = L2(share=0.05, mode="gradient")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    penalty.attach(optimizer, net)
    assert penalty.effective_strength == 0
    assert L2(0.3).effective_strength == 0.3

    net(torch.ones(5, 4)).square().mean().backward()
    of_data = [weight.grad.clone() for weight in weights_of(net)]
    optimizer.step()

    fixed = L2(penalty.effective_strength.item())
    torch.testing.assert_close(penalty(net), fixed(net))
    of_fixed = torch.autograd.grad(fixed(net), weights_of(net))
    torch.testing.assert_close(norm(of_fixed), 0.05 * norm(of_data))


def test_a_step_that_is_not_finite_changes_nothing():
    share = GradientShare(0.05)
    share.observe(torch.tensor(4.0), torch.tensor(2.0))
    before = copy.deepcopy(share.state_dict())

    for data, penalty in [(torch.nan, 1.0), (torch.inf, 1.0), (1.0, torch.nan), (1.0, torch.inf)]:
        share.observe(torch.tensor(data), torch.tensor(penalty))

    torch.testing.assert_close(dict(share.state_dict()), dict(before), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.* has no gradient, while other losses have one")
def test_a_loss_that_is_not_finite_and_has_no_gradient_changes_nothing():
    net, penalty = nn.Linear(3, 2), L2(share=0.1)
    criterion = WeightedLoss(Equal(["data", "given"]), penalties={"l2": penalty})
    data = net(torch.ones(4, 3)).square().mean()
    criterion({"data": data, "given": torch.tensor(1.0)}, module=net)
    before = penalty.share.strength.clone()
    assert before > 0

    criterion({"data": 5 * data, "given": torch.tensor(torch.nan)}, module=net)
    torch.testing.assert_close(penalty.share.strength, before, rtol=0, atol=0)


def test_where_a_gradient_vanishes_the_strength_is_zero():
    for data, penalty in [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)]:
        share = GradientShare(0.05)
        share.observe(torch.tensor(data), torch.tensor(penalty))
        assert share.strength == 0


@pytest.mark.parametrize("mode", ["loss", "gradient"])
def test_a_resumed_run_equals_an_uninterrupted_one(mode):
    def start():
        net = make_net()
        criterion = WeightedLoss(Equal(["data"]), penalties={"l2": L2(share=0.5, mode=mode)})
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        criterion.attach(optimizer, net)
        return net, criterion, optimizer

    def steps(net, criterion, optimizer, seeds):
        for seed in seeds:
            x = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))
            optimizer.zero_grad()
            criterion({"data": net(x).square().mean()}, module=net).backward()
            optimizer.step()

    whole, first, second = start(), start(), start()
    steps(*whole, range(6))
    steps(*first, range(3))
    for resumed, saved in zip(second, first, strict=True):
        resumed.load_state_dict(copy.deepcopy(saved.state_dict()))
    steps(*second, range(3, 6))

    for resumed, uninterrupted in zip(second[:2], whole[:2], strict=True):
        torch.testing.assert_close(resumed.state_dict(), uninterrupted.state_dict(), rtol=0, atol=0)


def test_evaluation_changes_nothing():
    net = make_net()
    criterion = WeightedLoss(Equal(["data"]), penalties={"l2": L2(share=0.05)}).eval()

    criterion({"data": net(torch.ones(5, 4)).square().mean()}, module=net)

    assert all((state == 0).all() for state in criterion.penalties.state_dict().values())


def test_a_narrower_model_keeps_the_average_in_full_precision():
    assert {state.dtype for state in L2(share=0.05).bfloat16().state_dict().values()} == {torch.float32}


def test_layers_keep_their_proportions():
    net = make_net()
    penalty = L2({r"^0\.": 1.0, r"^2\.": 3.0}, share=0.05)
    WeightedLoss(Equal(["data"]), penalties={"l2": penalty})({"data": net(torch.ones(5, 4)).sum()}, module=net)

    torch.testing.assert_close(
        penalty(net), penalty.effective_strength * (net[0].weight.square().sum() + 3 * net[2].weight.square().sum())
    )


@pytest.mark.parametrize("share", [0.0, -1.0, float("nan"), float("inf")])
def test_a_share_must_be_positive(share):
    with pytest.raises(ValueError, match="`share` must be a positive, finite number"):
        L2(share=share)


def test_share_and_strength_exclude_each_other():
    with pytest.raises(ValueError, match="`share` must be given in place of a number for `strength`"):
        L2(0.1, share=0.05)
    with pytest.raises(ValueError, match="`share` must go with mode 'gradient' or 'loss'"):
        L2(share=0.05, mode="decoupled")
    with pytest.raises(TypeError, match="`strength` must be a number"):
        L2()
