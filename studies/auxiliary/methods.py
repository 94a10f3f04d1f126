"""Methods that are compared: fixed weights or GradBalance, each with or without an aggregator."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from lossbalance.conflict import Aggregator, Gate, PCGrad, Protect
from studies.auxiliary.smoothed_gate import SmoothedGate
from studies.one_run.stacked_schemes import StackedGradBalance

TERMS = ("main", "first", "second", "third")
ALONE, PLAIN, BALANCED = "main alone", "plain sum", "GradBalance 1:4"
SMOOTHED, HELD_OUT = "smoothed gate", "smoothed gate, held-out rows"
ALPHAS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.97)
_SHARES = (4.0, 1.0, 1.0, 1.0)  # of the gradient, under GradBalance
_AGGREGATORS: dict[str, Callable[[], Aggregator]] = {
    "Protect": lambda: Protect("main"),
    "Gate": lambda: Gate("main"),
    "PCGrad": PCGrad,
}


class Method(NamedTuple):
    """A way to combine a main loss with three auxiliary ones."""

    weights: tuple[float, ...] | None
    """Fixed weights; None for GradBalance."""
    aggregator: Callable[[], Aggregator | SmoothedGate] | None = None


def name_alpha(alpha: float) -> str:
    """Returns the name of the method that gives the main loss the weight alpha, and the others an equal part each."""
    return f"alpha {alpha:g}"


METHODS: dict[str, Method] = {
    ALONE: Method((1.0, 0.0, 0.0, 0.0)),
    PLAIN: Method((1.0, 1.0, 1.0, 1.0)),
    **{name_alpha(alpha): Method((alpha, *((1 - alpha) / 3,) * 3)) for alpha in ALPHAS},
    BALANCED: Method(None),
    **{name: Method((1.0, 1.0, 1.0, 1.0), make) for name, make in _AGGREGATORS.items()},
    **{f"{BALANCED}, {name}": Method(None, make) for name, make in _AGGREGATORS.items()},
    SMOOTHED: Method((1.0, 1.0, 1.0, 1.0), SmoothedGate),
    HELD_OUT: Method((1.0, 1.0, 1.0, 1.0), SmoothedGate),
}
"""The methods by name."""


class StackedMethods:
    """Weights and multipliers of stacked copies, one for each method.

    Args:
        methods: The methods by name, in the order of the copies.
    """

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self.copies = len(methods)
        self.held_out = [index for index, name in enumerate(methods) if name == HELD_OUT]
        """The copies whose gate goes by gradients of held-out rows."""
        self._fixed = torch.tensor([method.weights or _SHARES for method in methods.values()])
        self._is_balanced = torch.tensor([method.weights is None for method in methods.values()]).unsqueeze(1)
        self._balanced = StackedGradBalance(torch.tensor(_SHARES).repeat(len(methods), 1))
        self._aggregators = {
            index: _prepare(method.aggregator()) for index, method in enumerate(methods.values()) if method.aggregator
        }

    def weigh(self, gramians: Tensor) -> Tensor:
        """Returns the weights ``[copies, terms]`` for the inner products ``[copies, terms, terms]`` of the step."""
        norms = gramians.diagonal(dim1=1, dim2=2).sqrt()
        self._balanced.observe(norms, norms > 0)
        return torch.where(self._is_balanced, self._balanced.weights(), self._fixed)

    def aggregate(self, gramians: Tensor, cosines: Mapping[int, Tensor]) -> Tensor:
        """Returns the multipliers ``[copies, terms]``.

        Args:
            gramians: The inner products of the weighted gradients, ``[copies, terms, terms]``.
            cosines: Those with the main gradient by which a smoothed gate decides, ``[terms]``, by copy; those of the
                batch for a copy that is not among them.
        """
        multipliers = torch.ones_like(gramians[:, 0])
        for index, aggregator in self._aggregators.items():
            arguments = (cosines[index],) if index in cosines else ()
            multipliers[index] = aggregator(gramians[index], *arguments)
        return multipliers


def _prepare(aggregator: Aggregator | SmoothedGate) -> Aggregator | SmoothedGate:
    if isinstance(aggregator, Aggregator):
        aggregator.set_terms(TERMS)
    return aggregator
