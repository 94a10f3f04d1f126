"""A term may be a row: one tensor of losses, each column a term of its own."""

import copy

import pytest
import torch
from torch import nn

from lossbalance import WeightedLoss
from lossbalance.weighting import Equal, Fixed, GradBalance, GradNorm, LRAnnealing, Uncertainty

COUNT = 500
SINGLE = [*(f"channel/{i}" for i in range(COUNT)), "main"]


class Net(nn.Module):
    """Predicts 500 channels and one more number."""

    def __init__(self, count):
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.channels, self.main = nn.Linear(4, 8), nn.Linear(8, count), nn.Linear(8, 1)


def losses_of(net, criterion, step, is_row, count):
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
    h = net.trunk(x).tanh()
    main = (net.main(criterion.probe("main", h)) - 1).square().mean()
    prediction, scales = net.channels(h), torch.logspace(-2, 2, count)
    if is_row:
        row = (criterion.probe_columns("channel", prediction) * scales - 1).square().mean(dim=0)
        return {"channel": row, "main": main}
    columns = [criterion.probe(f"channel/{i}", column) for i, column in enumerate(prediction.unbind(dim=1))]
    single = [(column * scale - 1).square().mean() for column, scale in zip(columns, scales, strict=True)]
    return {f"channel/{i}": loss for i, loss in enumerate(single)} | {"main": main}


def train(criterion, is_row, count=COUNT, steps=3):
    """Returns the weights of each step ``[steps, terms]``, and the parameters at the end."""
    net = Net(count)
    optimizer = torch.optim.SGD([*net.parameters(), *criterion.parameters()], lr=1e-4)
    weights = []
    for step in range(steps):
        optimizer.zero_grad()
        criterion(losses_of(net, criterion, step, is_row, count)).backward()
        optimizer.step()
        weights.append(torch.cat([weight.view(-1) for weight in criterion.weights.values()]))
    return torch.stack(weights), torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


@pytest.mark.parametrize("scheme", [GradBalance, GradNorm, LRAnnealing, Uncertainty, Equal])
def test_a_row_weighs_as_so_many_single_terms(scheme):
    count = 40
    single = train(WeightedLoss(scheme([*SINGLE[:count], "main"])), False, count)
    row = train(WeightedLoss(scheme({"channel": count, "main": 1})), True, count)
    torch.testing.assert_close(row, single, rtol=1e-5, atol=1e-7)


def test_five_hundred_columns_equal_five_hundred_terms():
    single = train(WeightedLoss(GradBalance(SINGLE)), False, steps=2)
    row = train(WeightedLoss(GradBalance({"channel": COUNT, "main": 1})), True, steps=2)
    torch.testing.assert_close(row, single, rtol=1e-6, atol=1e-9)


def test_the_norms_at_a_last_layer_are_those_of_single_terms_that_enter_it():
    net, weights = Net(5), []
    x = torch.randn(16, 4)
    criterion = WeightedLoss(GradBalance({"channel": 5}))
    h = net.trunk(x).tanh()
    prediction = criterion.probe_columns("channel", net.channels(h), weight=net.channels.weight)
    criterion({"channel": prediction.square().mean(dim=0)})
    weights.append(criterion.weights["channel"])

    criterion = WeightedLoss(GradBalance(SINGLE[:5]))
    h = net.trunk(x).tanh()
    columns = [net.channels(criterion.probe(term, h))[:, i] for i, term in enumerate(SINGLE[:5])]
    criterion({term: column.square().mean() for term, column in zip(SINGLE, columns, strict=False)})
    weights.append(torch.stack(list(criterion.weights.values())))
    torch.testing.assert_close(*weights)


def test_columns_may_have_names_and_the_breakdown_has_rows():
    criterion = WeightedLoss(Fixed({"level": ["500", "850"], "main": 1}, {"level": [2.0, 3.0], "main": 1.0}))
    assert criterion.terms == ("level/500", "level/850", "main")
    total = criterion({"main": torch.tensor(10.0), "level": torch.tensor([1.0, 2.0])})
    assert total.item() == 18
    assert criterion.last.losses["level"].tolist() == [1, 2]
    assert criterion.last.contributions["level"].tolist() == [2, 6]
    assert criterion.weights["main"].item() == 1
    criterion.set_factor("level", 0.5)
    assert criterion({"main": torch.tensor(10.0), "level": torch.tensor([1.0, 2.0])}).item() == 14
    assert criterion({"main": torch.tensor(10.0), "level": None}).item() == 10


def test_a_row_stands_beside_terms_of_known_weight():
    criterion = WeightedLoss(Equal({"level": 2}), fixed={"kl": 0.25})
    total = criterion({"level": torch.tensor([1.0, 2.0]), "kl": torch.tensor(4.0)})
    assert total.item() == 4
    assert criterion.last.contributions["kl"].item() == 1
    assert criterion.to_fixed()({"level": torch.tensor([1.0, 2.0]), "kl": torch.tensor(4.0)}).item() == 4


def test_a_ratio_of_a_row_is_that_of_each_column():
    scheme = GradBalance({"channel": 3, "main": 1}, ratios={"channel": 1.0, "main": 3.0})
    _, weights = scheme(torch.ones(4), norms=torch.ones(4))
    torch.testing.assert_close(weights, torch.tensor([1 / 6, 1 / 6, 1 / 6, 1 / 2]))


def test_a_resumed_row_goes_on():
    criterion = WeightedLoss(GradBalance({"channel": 4, "main": 1}))
    train(criterion, True, 4)
    resumed = WeightedLoss(GradBalance({"channel": 4, "main": 1}))
    resumed.load_state_dict(criterion.state_dict())
    for each in (resumed, copy.deepcopy(criterion)):
        assert torch.equal(train(each, True, 4)[0], train(copy.deepcopy(criterion), True, 4)[0])


@pytest.mark.parametrize(
    ("terms", "error", "message"),
    [
        ({"channel": 0}, TypeError, r"`terms\['channel'\]` must be the number of the columns of a row, .* got 0"),
        ({"channel": "abc"}, TypeError, r"or a list of their names, got 'abc'"),
        ({"channel": ["a", "a"]}, ValueError, r"must name each column once"),
        ({"a": ["b"], "a/b": 1}, ValueError, r"must name each term once"),
    ],
)
def test_what_is_no_row_is_refused(terms, error, message):
    with pytest.raises(error, match=message):
        Equal(terms)


def test_losses_and_probes_of_another_shape_are_refused():
    criterion = WeightedLoss(GradBalance({"channel": 3, "main": 1}))
    with pytest.raises(
        ValueError, match=r"`losses\['channel'\]` must be a row of the losses of its 3 columns, got sha"
    ):
        criterion({"channel": torch.ones(16, 3), "main": torch.tensor(1.0)})
    with pytest.raises(ValueError, match=r"`losses` must name each term of \['channel', 'main'\] once: missing"):
        criterion({"main": torch.tensor(1.0)})
    with pytest.raises(ValueError, match=r"`x` must have a column .* got 'channel' with shape \[16, 4\]"):
        criterion.probe_columns("channel", torch.ones(16, 4))
    with pytest.raises(ValueError, match=r"'channel' is a row of terms: probe the prediction by `criterion.probe_colu"):
        criterion.probe("channel", torch.ones(16, 3))
