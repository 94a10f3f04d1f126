"""Training of stacked copies of a network, each under fixed weights or a weighting scheme of the library."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lossbalance import WeightedLoss
from lossbalance.weighting import Observation, Weighting
from studies.multitask import Heads, MultiTaskNet, Parameters, forward, stack

_DECAY = 0.99  # of the averages of the losses, as in WeightedLoss


class StackedWeights:
    """The weights of stacked copies: first those with fixed weights, then those with a scheme.

    Args:
        fixed: The weights of each copy that keeps them, ``[fixed copies, terms]``.
        schemes: The scheme of each other copy; those that use gradients are the last.
        matched: Whether a copy's weights are rescaled as by ``WeightedLoss(loss_sum=terms)``, ``[copies]``.
    """

    def __init__(self, fixed: Tensor, schemes: Sequence[Weighting], matched: Sequence[bool]) -> None:
        self.fixed, self.schemes = fixed, schemes
        self.matched = torch.tensor(matched)
        self._last = [scheme for scheme in schemes if scheme.uses_gradients]
        self.with_gradients = slice(len(matched) - len(self._last), len(matched))
        """The copies whose scheme uses gradients."""
        self._average = torch.zeros(2, len(matched), fixed.shape[1])  # of the losses shown, and of 1
        self._measured: list[Tensor] = []  # what the schemes that use gradients have not been shown yet
        self._begun = False

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Returns what the optimizer must hold of the schemes."""
        return [group for scheme in self.schemes for group in WeightedLoss(scheme).parameter_groups()]

    def weigh(self, losses: Tensor, present: Tensor, measured: Tensor) -> tuple[Tensor, Tensor]:
        """Shows each scheme the step as :class:`WeightedLoss` does, and asks it for its weights.

        Args:
            losses: The losses ``[copies, terms]``, detached.
            present: Whether the step has the term, ``[terms]``.
            measured: What :func:`measure` returns.

        Returns:
            The weights ``[copies, terms]``, and a scalar ``[]`` with the gradient of the schemes' own parameters.
        """
        with torch.no_grad():
            self._observe(losses, present, measured)
        rows = losses[len(self.fixed) :].unbind()
        weighed = [scheme.weigh(row, present) for scheme, row in zip(self.schemes, rows, strict=True)]
        weights = torch.cat([self.fixed * present, *(row.unsqueeze(0) for _, row in weighed)])
        sums = (weights * (self._average[0] / self._average[1])).nansum(1)
        factors = torch.where(self.matched, losses.shape[1] / sums, 1.0)
        totals = [total * factor for (total, _), factor in zip(weighed, factors[len(self.fixed) :], strict=True)]
        return weights * factors.unsqueeze(1), sum(totals, start=torch.zeros(()))

    def _observe(self, losses: Tensor, present: Tensor, measured: Tensor) -> None:
        """Shows losses at once, and gradients one step later, but for the first, which are shown ahead."""
        seen = present & losses.isfinite().all(1, keepdim=True)
        shown = torch.stack([losses, seen])
        self._measured.append(torch.cat([shown[:, self.with_gradients], measured * seen[self.with_gradients]]))
        if self._begun and len(self._measured) == 1:
            shown[1, self.with_gradients] = 0.0
        else:
            late = self._measured.pop(0)
            shown[:, self.with_gradients] = late[:2]
            for scheme, (row, known, *found) in zip(self._last, late.unbind(1), strict=True):
                scheme.observe(Observation(row, found[0], known > 0, found[1], found[2]))
        self._begun = True
        for scheme, row, known in zip(self.schemes, *shown[:, len(self.fixed) :], strict=True):
            if not scheme.uses_gradients:
                scheme.observe(Observation(row, row, known > 0))
        latest = torch.where(shown[1] > 0, torch.stack([shown[0].abs(), shown[1]]), self._average)
        self._average.lerp_(latest, 1 - _DECAY)


def measure(heads: Heads, losses: Tensor, outputs: Tensor, head: Tensor, copies: slice) -> Tensor:
    """Measures the gradients by the shared activation of the copies whose scheme uses them.

    Returns:
        Norm, largest and mean magnitude, ``[3, copies asked for, terms]``.
    """
    found = []
    for gradient in heads.gradients(losses, outputs, head, copies):
        magnitudes = gradient.flatten(1).abs()
        found.append(torch.stack([magnitudes.norm(dim=1), magnitudes.amax(1), magnitudes.mean(1)]))
    return torch.stack(found, dim=2)


def train(
    net: MultiTaskNet,
    heads: Heads,
    inputs: Tensor,
    labels: Tensor,
    weights: StackedWeights,
    batches: Iterable[Tensor],
    lr: float,
    checkpoints: Collection[int],
) -> Iterator[Parameters]:
    """Trains copies of a network by Adam.

    Args:
        net: What every copy starts as.
        heads: What its outputs are asked.
        inputs: ``[rows, features]``.
        labels: ``[rows, columns]``, nan where one is missing.
        weights: The weights of the copies.
        batches: The rows of each step.
        lr: The learning rate.
        checkpoints: The steps, from 1 on, after which to yield.

    Yields:
        The parameters of the copies at a checkpoint; the training goes on in these tensors.
    """
    parameters = {name: parameter.requires_grad_() for name, parameter in stack(net, len(weights.matched)).items()}
    optimizer = torch.optim.Adam([{"params": list(parameters.values())}, *weights.parameter_groups()], lr, fused=True)
    for step, rows in enumerate(batches, start=1):
        outputs = forward(parameters, inputs[rows])
        losses = heads.losses(outputs, labels[rows])
        measured = measure(heads, losses, outputs, parameters["head.weight"], weights.with_gradients)
        weighed, learned = weights.weigh(losses.detach(), heads.present(labels[rows]), measured)
        optimizer.zero_grad()
        ((weighed * losses).sum() + learned).backward()
        optimizer.step()
        if step in checkpoints:
            yield {name: parameter.detach() for name, parameter in parameters.items()}


def draw_batches(rows: Tensor, size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Yields batches of rows, each row once in every epoch.

    Args:
        rows: The rows to draw.
        size: Rows in a batch; all of them, if there are fewer.
        steps: How many batches.
        seed: Of the order.
    """
    generator, left = torch.Generator().manual_seed(seed), rows[:0]
    for _ in range(steps):
        if len(left) < min(size, len(rows)):
            left = torch.cat([left, rows[torch.randperm(len(rows), generator=generator)]])
        yield left[:size]
        left = left[size:]
