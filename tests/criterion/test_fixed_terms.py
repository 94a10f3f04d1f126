"""Terms of known weight beside a scheme."""

import io

import pytest
import torch
from torch import nn

from lossbalance import WeightedLoss
from lossbalance.conflict import PCGrad
from lossbalance.criterion import make_criterion
from lossbalance.penalties import L2
from lossbalance.weighting import Equal, Fixed, GradBalance, LRAnnealing, Uncertainty, UncertaintySoftmax


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.aux, self.main, self.code = (nn.Linear(4, 4) for _ in range(4))

    def losses(self, criterion, step, probed=("aux", "main")):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        h = self.trunk(x).tanh()
        seen = {term: criterion.probe(term, h) if term in probed else h for term in ("aux", "main", "kl")}
        return {
            "aux": 100 * (self.aux(seen["aux"]) - x).square().mean(),
            "main": (self.main(seen["main"]) - x).square().mean(),
            "kl": self.code(seen["kl"]).square().mean(),
        }


def train(criterion, steps, probed=("aux", "main"), net=None):
    net = net or Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for step in range(steps):
        optimizer.zero_grad()
        criterion(net.losses(criterion, step, probed)).backward()
        optimizer.step()
    return net


def test_a_term_of_known_weight_adds_its_weight_times_its_loss():
    criterion = WeightedLoss(Equal(["recon"]), fixed={"kl": 0.25})
    total = criterion({"kl": torch.tensor(4.0), "recon": torch.tensor(3.0)})
    assert total.item() == 4.0
    assert criterion.terms == ("recon", "kl")
    last = criterion.last
    assert {term: value.item() for term, value in last.weights.items()} == {"recon": 1.0, "kl": 0.25}
    assert {term: value.item() for term, value in last.contributions.items()} == {"recon": 3.0, "kl": 1.0}
    assert {term: value.item() for term, value in last.losses.items()} == {"recon": 3.0, "kl": 4.0}


@pytest.mark.parametrize("scheme", [GradBalance, Uncertainty, UncertaintySoftmax])
def test_no_scheme_weighs_it_and_it_moves_no_scheme(scheme):
    alone, beside = WeightedLoss(scheme(["aux", "main"])), WeightedLoss(scheme(["aux", "main"]), fixed={"kl": 0.0})
    for criterion in (alone, beside):
        net = Net()
        optimizer = torch.optim.SGD([*net.parameters(), *criterion.parameters()], lr=0.01)
        for step in range(4):
            losses = net.losses(criterion, step)
            optimizer.zero_grad()
            criterion({term: losses[term] for term in criterion.terms}).backward()
            optimizer.step()
    for term in ("aux", "main"):
        torch.testing.assert_close(beside.weights[term], alone.weights[term], rtol=0, atol=0)


@pytest.mark.parametrize("scale", [{"weight_sum": 7.0}, {"loss_sum": 7.0}])
def test_no_sum_rescales_it(scale):
    criterion = WeightedLoss(Equal(["aux", "main"]), fixed={"kl": 0.25}, **scale)
    losses = {"aux": torch.tensor(1.0), "main": torch.tensor(1.0), "kl": torch.tensor(1000.0)}
    criterion(losses)
    assert [weight.item() for weight in criterion.weights.values()] == pytest.approx([3.5, 3.5, 0.25])


def test_an_absent_one_weighs_nothing_and_the_scheme_goes_as_with_it():
    criterion = WeightedLoss(Equal(["recon"]), weight_sum=1.0, fixed={"kl": 0.25})
    total = criterion({"recon": torch.tensor(3.0), "kl": None})
    assert total.item() == 3.0
    assert criterion.last.weights["kl"] == 0
    assert criterion.last.losses["kl"].isnan()


def test_a_factor_multiplies_its_weight():
    criterion = WeightedLoss(Equal(["recon"]), fixed={"kl": 0.25})
    criterion.set_factor("kl", 2.0)
    assert criterion({"recon": torch.tensor(3.0), "kl": torch.tensor(4.0)}).item() == 5.0
    assert criterion.factors == {"recon": 1.0, "kl": 2.0}


@pytest.mark.parametrize("scheme", [GradBalance, LRAnnealing, Equal])
def test_probed_it_has_a_gradient_share_and_unprobed_none(scheme):
    for probed in (("aux", "main"), ("aux", "main", "kl")):
        criterion = WeightedLoss(scheme(["aux", "main"]), fixed={"kl": 0.5})
        train(criterion, 3, probed)
        shares = criterion.last.gradient_shares
        assert shares["kl"].isfinite() == ("kl" in probed)
        assert shares["aux"] > 0


def test_a_conflict_method_combines_its_gradient_too():
    criterion = WeightedLoss(Equal(["main"]), fixed={"kl": 0.5}, conflict=PCGrad())
    h = torch.ones(2, requires_grad=True)
    parts = criterion.branch(h * 1)
    criterion({"main": parts["main"].sum(), "kl": -parts["kl"].sum()}).backward()
    assert criterion.last.cosines["main", "kl"].item() == pytest.approx(-1.0)


@pytest.mark.parametrize("kl", [float("nan"), float("inf")])
@pytest.mark.parametrize("scheme", [GradBalance, UncertaintySoftmax])
def test_one_that_is_not_finite_leaves_the_scheme_as_it_was(scheme, kl):
    criterion = WeightedLoss(scheme(["aux", "main"]), fixed={"kl": 0.5})
    net = train(criterion, 3)
    criterion(net.losses(criterion, 3)).backward()  # observes what the last backward pass measured
    before = {name: value.clone() for name, value in criterion.weighting.state_dict().items()}
    losses = net.losses(criterion, 4)
    total = criterion(losses | {"kl": losses["kl"] * kl})
    assert not total.isfinite()
    torch.testing.assert_close(criterion.weighting.state_dict(), before, rtol=0, atol=0, equal_nan=True)


def test_a_resumed_run_equals_an_uninterrupted_one_in_any_order_of_names():
    criterion = WeightedLoss(GradBalance(["aux", "main"]), loss_sum=2.0, fixed={"kl": 0.5, "other": 1.0})
    other = WeightedLoss(GradBalance(["main", "aux"]), loss_sum=2.0, fixed={"other": 1.0, "kl": 0.5})
    net = Net()
    for step in range(3):
        criterion(net.losses(criterion, step) | {"other": None}).backward()
    file = io.BytesIO()
    torch.save(criterion.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    totals = [each(net.losses(each, 3) | {"other": None}).item() for each in (criterion, other)]
    assert totals[0] == pytest.approx(totals[1], rel=1e-6)
    with pytest.raises(ValueError, match=r"terms of known weight \[\], got one with \['kl', 'other'\]"):
        WeightedLoss(GradBalance(["main", "aux"]), loss_sum=2.0).load_state_dict(criterion.state_dict())


def test_the_weights_of_the_last_call_become_constants():
    criterion = WeightedLoss(GradBalance(["aux", "main"]), {"l2": L2(0.1)}, loss_sum=2.0, fixed={"kl": 0.5})
    criterion.set_factor("main", 3.0)
    net = Net()
    total = criterion(net.losses(criterion, 0), module=net)
    fixed = criterion.to_fixed()
    assert isinstance(fixed.weighting, Fixed)
    assert fixed.terms == criterion.terms
    assert fixed.weighting.weights == pytest.approx({k: v.item() for k, v in criterion.weights.items()})
    torch.testing.assert_close(fixed(net.losses(fixed, 0), module=net), total)


def test_weights_become_constants_after_a_step_that_lacks_a_term_and_not_before_the_first_call():
    criterion = WeightedLoss(UncertaintySoftmax(["aux", "main"]), fixed={"kl": 0.5})
    with pytest.raises(RuntimeError, match="`to_fixed` takes the weights of the last call, and there was none"):
        criterion.to_fixed()
    criterion({"aux": torch.tensor(1.0), "main": torch.tensor(4.0), "kl": torch.tensor(1.0)})
    criterion({"aux": torch.tensor(1.0), "main": None, "kl": None})
    assert criterion.to_fixed().weighting.weights == pytest.approx({"aux": 2 / 3, "main": 1 / 3, "kl": 0.5})


def test_the_factory_takes_it():
    criterion = make_criterion(Equal(["recon"]), fixed={"kl": 0.25}, terms=["recon"])
    assert criterion.terms == ("recon", "kl")
    assert make_criterion(Equal(["recon"]), fixed={}).terms == ("recon",)


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        ({"aux": 1.0}, r"`fixed` must name terms beside those of the scheme, \['aux', 'main'\], got \['aux'\]"),
        ({"kl": -1.0}, r"`fixed\['kl'\]` must be a number, finite and not negative, got -1.0"),
        ({"kl": "1"}, r"`fixed\['kl'\]` must be a number"),
        ({"": 1.0}, "`fixed` must map names of terms to their weights"),
        (["kl"], r"`fixed` must map terms to their weights, such as \{'kl': 0.25\}, got \['kl'\]"),
    ],
)
def test_what_cannot_be_a_fixed_weight_is_refused(fixed, message):
    with pytest.raises((TypeError, ValueError), match=message):
        WeightedLoss(Equal(["aux", "main"]), fixed=fixed)
