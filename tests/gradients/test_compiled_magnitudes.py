"""In a compiled step, the largest magnitude of several probes of a term is the largest of all, not their sum."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lossbalance import WeightedLoss
from lossbalance.gradients.traced import COLUMNS
from lossbalance.weighting import LRAnnealing
from tests.helpers.compiler import skip_where_the_compiler_cannot_differentiate

TERMS = ["first", "other"]
Losses = dict[str, Tensor]
X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


class Parameters(nn.Module):
    """Terms with forward passes of their own, probed at a weight and a bias."""

    def __init__(self, criterion: WeightedLoss) -> None:
        super().__init__()
        self.net = nn.Linear(3, 1)
        self.views = {term: criterion.probe_parameters(term, self.net) for term in TERMS}

    def forward(self, x: Tensor) -> Losses:
        return {
            "first": 50 * self.views["first"](x).square().mean(),
            "other": (self.views["other"](x) - 1).exp().mean(),
        }

    def measured(self, x: Tensor) -> tuple[Losses, list[list[Tensor]]]:
        losses = {"first": 50 * self.net(x).square().mean(), "other": (self.net(x) - 1).exp().mean()}
        return losses, [list(self.net.parameters())] * 2


class Activations(nn.Module):
    """Two layers that the first term sees by a probe and a branch, the other by two probes and the branch."""

    def __init__(self, criterion: WeightedLoss) -> None:
        super().__init__()
        self.criterion = criterion
        self.lower, self.upper = nn.Linear(3, 8), nn.Linear(8, 8)
        self.heads = nn.ModuleList([nn.Linear(16, 1), nn.Linear(19, 1)])

    def forward(self, x: Tensor) -> Losses:
        low, high = self.layers(x)
        parts, probe = self.criterion.branch(high), self.criterion.probe
        return self.losses(probe("first", low), parts["first"], probe("other", low), probe("other", x), parts["other"])

    def layers(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low = self.lower(x).tanh()
        return low, self.upper(low).tanh()

    def losses(self, *seen: Tensor) -> Losses:
        first, other = self.heads[0](torch.cat(seen[:2], 1)), self.heads[1](torch.cat(seen[2:], 1).square())
        return {"first": 50 * first.square().mean(), "other": (other - 1).exp().mean()}

    def measured(self, x: Tensor) -> tuple[Losses, list[list[Tensor]]]:
        low, high = (h.detach() for h in self.layers(x))
        seen = [h.clone().requires_grad_() for h in (low, high, low, x, high)]
        return self.losses(*seen), [seen[:2], seen[2:]]


def ratio(net: Parameters | Activations, x: Tensor) -> Tensor:
    """The largest magnitude of the first term over the mean of the other's, by autograd."""
    losses, places = net.measured(x)
    first, other = (
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, at, retain_graph=True)])
        for loss, at in zip(losses.values(), places, strict=True)
    )
    return first.abs().max() / other.abs().mean()


@pytest.mark.parametrize("make", [Parameters, Activations])
def test_the_weight_is_that_of_autograd(make: Callable[[WeightedLoss], Parameters | Activations]):
    skip_where_the_compiler_cannot_differentiate()
    torch.manual_seed(0)
    criterion = WeightedLoss(LRAnnealing(TERMS, decay=0.0))
    net = make(criterion)
    step = torch.compile(lambda x: criterion(net(x)), fullgraph=True, backend="aot_eager")
    for shown in (X, X, 3 * X):  # measured ahead, then in the pass of the step before
        step(shown).backward()
        torch.testing.assert_close(criterion.weights["other"], ratio(net, X).detach())


def test_more_probes_than_a_compiled_graph_can_distinguish_are_refused():
    criterion = WeightedLoss(LRAnnealing(TERMS))

    @torch.compile(fullgraph=True, backend="eager")
    def probe_often(x: Tensor) -> list[Tensor]:
        return [criterion.probe("first", x) for _ in range(COLUMNS + 1)]

    # Older compilers tell the type of an error alone.
    with pytest.raises(Exception, match=f"the largest magnitudes of {COLUMNS} probes of one term|ValueError"):
        probe_often(X.clone().requires_grad_())
