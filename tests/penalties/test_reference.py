"""L2-SP: the distance to the weights of the first call, or to given ones."""

import copy
import io

import pytest
import torch
from torch import nn

from lossbalance import WeightedLoss
from lossbalance.penalties import L2
from lossbalance.weighting import Equal


def make_net(seed=0, outputs=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, outputs))


def distance(net, other):
    return sum((net[i].weight - other[i].weight).square().sum() for i in (0, 2)).detach()


def train(net, penalty, steps=4, start=0):
    criterion = WeightedLoss(Equal(["data"]), penalties={"sp": penalty})
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    criterion.attach(optimizer, net)
    for seed in range(start, start + steps):
        optimizer.zero_grad()
        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))
        criterion({"data": net(x).square().mean()}, module=net).backward()
        optimizer.step()
    return criterion


@pytest.mark.parametrize("mode", ["loss", "gradient", "decoupled"])
@pytest.mark.parametrize("how", ["initial", "given"])
def test_it_penalizes_the_distance_to_where_the_weights_were(mode, how):
    net, start = make_net(), make_net()
    by_hand = make_net()
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    for seed in range(4):
        optimizer.zero_grad()
        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))
        far = sum((by_hand[i].weight - start[i].weight.detach()).square().sum() for i in (0, 2))
        (by_hand(x).square().mean() + 0.3 * far).backward()
        optimizer.step()

    penalty = L2(0.3, mode=mode, reference="initial" if how == "initial" else start.state_dict())
    train(net, penalty)

    torch.testing.assert_close(list(net.parameters()), list(by_hand.parameters()))
    torch.testing.assert_close(penalty(net).detach(), 0.3 * distance(net, start))
    assert penalty(net) > 0


def test_the_first_call_in_training_sets_the_reference_and_evaluation_does_not():
    net, penalty = make_net(), L2(1.0, reference="initial")
    assert penalty.eval()(net) == 0
    net[0].weight.data.add_(1)

    penalty.train()(net)
    start = copy.deepcopy(net)
    net[0].weight.data.add_(1)

    torch.testing.assert_close(penalty.eval()(net).item(), 24.0)
    torch.testing.assert_close(penalty(net).detach(), distance(net, start))


@pytest.mark.parametrize("mode", ["loss", "gradient"])
@pytest.mark.parametrize("normalization", ["sum", "fan"])
def test_a_resumed_run_measures_from_where_the_first_one_started(mode, normalization):
    def penalty():
        return L2(0.3, normalization, mode=mode, reference="initial")

    whole, net = make_net(), make_net()
    train(whole, penalty(), steps=6)
    saved = train(net, penalty(), steps=3).state_dict()
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)

    resumed = penalty()
    fresh = WeightedLoss(Equal(["data"]), penalties={"sp": resumed})
    fresh.load_state_dict(torch.load(file))
    train(net, resumed, steps=3, start=3)

    torch.testing.assert_close(list(net.parameters()), list(whole.parameters()), rtol=0, atol=0)
    torch.testing.assert_close(resumed(net).detach(), penalty_of(whole, normalization))
    torch.testing.assert_close(copy.deepcopy(resumed)(net), resumed(net))


def penalty_of(net, normalization):
    start = make_net()
    scales = {"sum": (1, 1), "fan": ((4 + 6) / 24, (6 + 3) / 18)}[normalization]
    parts = [(net[i].weight - start[i].weight).square().sum() * s for i, s in zip((0, 2), scales, strict=True)]
    return 0.3 * sum(parts).detach()


def test_a_layer_that_is_new_resized_or_no_longer_frozen_starts_from_its_own_values_and_is_named():
    net, penalty = make_net(), L2(1.0, reference="initial")
    net[0].weight.requires_grad_(False)
    penalty(net)

    net[0].weight.requires_grad_(True)
    with pytest.warns(UserWarning, match=r"no tensor .* of \['0.weight'\], which are new, resized, or were frozen"):
        assert penalty(net) == 0
    net[2] = nn.Linear(6, 5)
    with pytest.warns(UserWarning, match=r"\['2.weight'\].* measured from its values now"):
        assert penalty(net) == 0
    net.append(nn.Linear(5, 2))
    with pytest.warns(UserWarning, match=r"\['3.weight'\]"):
        assert penalty(net) == 0

    net[3].weight.data.add_(0.5)
    torch.testing.assert_close(penalty(net).item(), 2.5)  # no further warning


def test_a_layer_with_a_reference_that_is_frozen_is_named():
    net = make_net()
    penalty = L2(1.0, reference=net.state_dict())
    penalty(net)
    net[0].weight.requires_grad_(False)

    with pytest.warns(UserWarning, match=r"`reference` has tensors of \['0.weight'\], which are frozen"):
        penalty(net)
    penalty(net)


def test_the_new_head_of_a_pretrained_network_is_kept_small_and_named():
    pretrained, net = make_net(1), make_net(outputs=5)
    penalty = L2(1.0, reference=pretrained.state_dict())

    with pytest.warns(UserWarning, match=r"\['2.weight'\].* the distance of each is measured from 0"):
        value = penalty(net)

    expected = (net[0].weight - pretrained[0].weight).square().sum() + net[2].weight.square().sum()
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(torch.autograd.grad(value, net[2].weight)[0], 2 * net[2].weight.detach())


def test_a_reference_that_fits_nothing_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"`reference` must have tensors .*'0.weight'.*did you mean '0.wieght'"):
        L2(1.0, reference={"0.wieght": torch.ones(6, 4)})(make_net())
    for wrong in "intial", 3, {}, {"0.weight": 1.0}:
        with pytest.raises(TypeError, match="`reference` must be 'initial' or map names of parameters to tensors, got"):
            L2(1.0, reference=wrong)


def test_wrappers_change_no_name():
    net = make_net()
    compiled = torch.compile(net, backend="eager")
    penalty = L2(1.0, reference=make_net(1).state_dict())

    torch.testing.assert_close(penalty(compiled), penalty(net))
    assert set(penalty.state_dict()) == {"reference.0/weight", "reference.2/weight"}


def test_a_step_compiles_in_one_graph_once_the_reference_is_taken():
    net, start = make_net(), make_net(1)
    criterion = WeightedLoss(Equal(["data"]), penalties={"sp": L2(0.3, reference=start.state_dict())})

    def step():
        return criterion({"data": net(torch.ones(2, 4)).square().mean()}, module=net)

    expected = step()

    torch.testing.assert_close(torch.compile(step, fullgraph=True, backend="eager")(), expected)


def test_the_reference_keeps_its_precision_and_follows_the_weights_dtype():
    net, penalty = make_net(), L2(1.0, reference="initial")
    penalty(net)
    net.bfloat16()
    penalty.bfloat16()

    assert {tensor.dtype for tensor in penalty.state_dict().values()} == {torch.float32}
    rounded = sum((net[i].weight.float() - make_net()[i].weight).square().sum() for i in (0, 2))
    torch.testing.assert_close(penalty(net).detach(), rounded.detach())
