"""Losses without gradient and learned weights in no optimizer are reported once; healthy loops are not warned."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

from lossbalance import WeightedLoss
from lossbalance.penalties import L2
from lossbalance.weighting import Alpha, Equal, Fixed, GradBalance, Uncertainty

TERMS = ["aux", "main"]


class Loop:
    """A trunk with two heads and a criterion, in a plain loop."""

    def __init__(self, weighting=None, *, holds=True, accumulate=1, **options):
        torch.manual_seed(0)
        self.net = nn.ModuleDict({"trunk": nn.Linear(3, 4), "aux": nn.Linear(4, 1), "main": nn.Linear(4, 1)})
        self.criterion = WeightedLoss(weighting or Uncertainty(TERMS), **options)
        groups = [{"params": self.net.parameters()}, *(self.criterion.parameter_groups() if holds else [])]
        self.optimizer = torch.optim.Adam(groups, lr=0.01)
        self.accumulate, self.count = accumulate, 0

    def losses(self):
        x = torch.randn(8, 3)
        h = self.net["trunk"](x).tanh()
        aux, main = (self.net[term](self.criterion.probe(term, h)) for term in TERMS)
        return {"aux": (aux - x[:, :1]).square().mean(), "main": (main - 1).square().mean()}

    def total(self, losses):
        return self.criterion(losses, module=self.net)

    def step(self):
        self.total(self.losses()).backward()
        self.count += 1
        if self.count % self.accumulate == 0:
            self.update()

    def update(self):
        self.optimizer.step()
        self.optimizer.zero_grad()


def train(loop, steps):
    for _ in range(steps):
        loop.step()


class Detached(Loop):
    def losses(self):
        losses = super().losses()
        return losses | {"aux": losses["aux"].detach()}


@pytest.mark.parametrize("scheme", [Equal, GradBalance, Uncertainty])
def test_a_loss_without_gradient_beside_another_is_named_once(scheme):
    loop = Detached(scheme(TERMS))
    with pytest.warns(UserWarning, match="'aux' has no gradient, while other losses have one.*Give None") as caught:
        train(loop, 3)
    assert len(caught) == 1
    assert loop.criterion.step_warnings.detached == {"aux"}


def test_learned_weights_that_no_optimizer_holds_are_named_once():
    loop = Loop(holds=False)
    message = r"no optimizer updates `Uncertainty.log_variance`.*parameter_groups\(\)`"
    with pytest.warns(UserWarning, match=message) as caught:
        train(loop, 20)
    assert len(caught) == 1


def test_fused_optimizers_which_change_no_version_hide_nothing():
    loop = Loop(holds=False)
    loop.optimizer = torch.optim.Adam(loop.net.parameters(), lr=0.01, fused=True)
    with pytest.warns(UserWarning, match=r"no optimizer updates `Uncertainty.log_variance`"):
        train(loop, 20)


class Scaled(Loop):
    """Its gradient scaler skips steps."""

    def update(self):
        if self.count > 8:
            super().update()
        else:
            self.optimizer.zero_grad()


class Closure(Loop):
    def __init__(self):
        super().__init__()
        parameters = [*self.net.parameters(), *self.criterion.parameters()]
        self.optimizer = torch.optim.LBFGS(parameters, lr=0.01, max_iter=3)
        self.criterion.attach(self.optimizer, self.net)

    def step(self):
        def closure():
            self.optimizer.zero_grad()
            total = self.total(self.losses())
            total.backward()
            return total

        self.optimizer.step(closure)


class TwoOptimizers(Loop):
    """What is learned has an optimizer of its own, as in the callback."""

    def __init__(self):
        super().__init__(holds=False)
        self.own = torch.optim.Adam(self.criterion.parameter_groups(), lr=0.01, fused=True)

    def update(self):
        self.own.step()
        self.own.zero_grad()
        super().update()


class Fused(Loop):
    """Clears gradients late; its fused optimizer changes no version."""

    def __init__(self):
        super().__init__(holds=False)
        self.own = torch.optim.Adam(self.criterion.parameter_groups(), lr=0.01, fused=True)

    def step(self):
        total = self.total(self.losses())
        for optimizer in (self.optimizer, self.own):
            optimizer.zero_grad()
        total.backward()
        for optimizer in (self.optimizer, self.own):
            optimizer.step()


class Absent(Loop):
    def losses(self):
        losses = super().losses()
        return losses | {"aux": None if self.count % 2 else losses["aux"]}


class PenaltyTerm(Loop):
    def losses(self):
        return super().losses() | {"l2": L2(1e-3)(self.net)}


class Judged(Loop):
    """Is also called in evaluation and without gradients, while it holds still."""

    def step(self):
        super().step()
        with torch.no_grad():
            self.total(self.losses())
        with self.criterion.frozen():
            self.total(self.losses() | {"aux": torch.zeros(())})
        self.criterion.eval()
        self.total(self.losses() | {"aux": torch.zeros(())})
        self.criterion.train()


def unscheduled():
    loop = Loop(Equal(TERMS))
    loop.criterion.set_factor("aux", 0.0)
    return loop


HEALTHY = {
    "uncertainty": Loop,
    "gradient balancing": lambda: Loop(GradBalance(TERMS)),
    "fixed weights": lambda: Loop(Fixed(TERMS, {"aux": 0.0, "main": 1.0})),
    "many accumulated batches": lambda: Loop(accumulate=15),
    "skipped steps": Scaled,
    "closures": Closure,
    "an optimizer of its own": TwoOptimizers,
    "a fused optimizer": Fused,
    "absent terms": Absent,
    "a penalty as a term": lambda: PenaltyTerm(Alpha([*TERMS, "l2"], 0.3)),
    "penalties": lambda: Loop(penalties={"l2": L2(1e-3)}),
    "evaluation, no gradients, held still": Judged,
    "a factor of 0": unscheduled,
}


@pytest.mark.parametrize("make", HEALTHY.values(), ids=HEALTHY)
def test_a_healthy_loop_is_not_warned(make):
    loop = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(loop, 20)


def test_nobody_is_warned_before_a_backward_pass():
    loop = Loop(holds=False)
    for _ in range(20):  # the network is trained by something else
        loop.total(loop.losses())
        sum(loop.losses().values()).backward()
        loop.update()


def test_a_copy_starts_anew():
    loop = Detached()
    with pytest.warns(UserWarning, match="'aux' has no gradient"):
        loop.step()
    for other in (copy.deepcopy(loop.criterion), pickle.loads(pickle.dumps(loop.criterion))):
        assert other.step_warnings.detached == set()
