"""Training of stacked copies of a network, each under fixed weights or a weighting scheme of the library."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lossbalance import WeightedLoss
from lossbalance.gradients.first_steps import FIRST_STEPS, find_near_minimum
from lossbalance.weighting import Observation, Weighting
from lossbalance.weighting.averages import limit_average, move_average, read_average, start_average
from studies.one_run.multitask import Heads, MultiTaskNet, Parameters, forward, stack
from studies.one_run.optimizers import Stepper

_DECAY = 0.99  # of the averages of the losses, as in WeightedLoss


class StackedGradBalance:
    """Copies of :class:`~lossbalance.weighting.GradBalance` in one tensor, with ratios of their own.

    Args:
        ratios: The ratios of each copy, ``[copies, terms]``.
        decay: Of the averages of the norms.
    """

    def __init__(self, ratios: Tensor, decay: float = 0.9) -> None:
        self.decay, self.shares = decay, ratios / ratios.sum(1, keepdim=True)
        self._average = start_average(ratios.shape[1]).unsqueeze(1).repeat(1, len(ratios), 1)

    def observe(self, norms: Tensor, seen: Tensor) -> None:
        """Moves the averages of the terms that were seen, ``[copies, terms]`` each."""
        seen = seen & (norms > 0)
        move_average(self._average, norms, seen, self.decay)
        limit_average(self._average, norms, seen, self.decay)

    def weights(self) -> Tensor:
        """Returns the weights ``[copies, terms]``."""
        return (self.shares / read_average(self._average)).nan_to_num(1.0, 1.0)


class StackedWeights:
    """Weights of stacked copies: fixed ones first, then schemes, then those of :class:`GradBalance` in one tensor.

    Args:
        fixed: The weights of each copy that keeps them, ``[fixed copies, terms]``.
        schemes: The scheme of each further copy; those that use gradients are the last.
        scales: Of each copy: ``"own"``; or ``"loss_sum"`` or ``"weight_sum"``, its weights are rescaled as
            :class:`WeightedLoss` does by this argument and the number of terms.
        balanced: Weighs the last copies; None if there are none of it.
    """

    def __init__(
        self,
        fixed: Tensor,
        schemes: Sequence[Weighting],
        scales: Sequence[str],
        balanced: StackedGradBalance | None = None,
    ) -> None:
        self.fixed, self.schemes, self.balanced = fixed, schemes, balanced
        self.copies = len(scales)
        self._by_loss = torch.tensor([scale == "loss_sum" for scale in scales])
        self._by_weight = torch.tensor([scale == "weight_sum" for scale in scales])
        self._with_norms = [scheme for scheme in schemes if scheme.uses_gradients]
        first = len(fixed) + len(schemes) - len(self._with_norms)
        self.with_gradients = slice(first, self.copies)
        """The copies whose scheme uses gradients."""
        self._average = torch.zeros(2, self.copies, fixed.shape[1])  # of the losses shown, and of 1
        self._measured: list[Tensor] = []  # what the schemes that use gradients have not been shown yet
        self._begun = False
        self._early: dict[int, int] = {}  # steps so far of each term that started near its minimum

    def parameter_groups(self, rates: Tensor) -> list[dict[str, Any]]:
        """Returns the parameter groups of the schemes.

        Args:
            rates: The learning rate of each copy, ``[copies]``.
        """
        rates = rates[len(self.fixed) :]
        pairs = [(scheme, rate.item()) for scheme, rate in zip(self.schemes, rates, strict=False)]
        return [{"lr": rate} | group for scheme, rate in pairs for group in WeightedLoss(scheme).parameter_groups()]

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
        first, count = len(self.fixed), len(self.schemes)
        rows = losses[first : first + count].unbind()
        weighed = [scheme.weigh(row, present) for scheme, row in zip(self.schemes, rows, strict=True)]
        weights = [self.fixed * present, *(row.unsqueeze(0) for _, row in weighed)]
        if self.balanced is not None:
            weights.append(self.balanced.weights() * present)
        stacked = torch.cat(weights)
        factors = self._rescale(stacked)
        scaled = [total * factor for (total, _), factor in zip(weighed, factors[first : first + count], strict=True)]
        return stacked * factors.unsqueeze(1), sum(scaled, start=torch.zeros(()))

    def _rescale(self, weights: Tensor) -> Tensor:
        """Returns the factor of each copy's weights, ``[copies]``."""
        of_losses = (weights * (self._average[0] / self._average[1])).nansum(1)
        sums = torch.where(self._by_loss, of_losses, weights.sum(1))
        return torch.where(self._by_loss | self._by_weight, weights.shape[1] / sums, 1.0)

    def _observe(self, losses: Tensor, present: Tensor, measured: Tensor) -> None:
        """Shows losses at once, and gradients one step later, but for the first ones, which are shown ahead."""
        seen = present & losses.isfinite().all(1, keepdim=True)
        shown = torch.stack([losses, seen])
        self._measured.append(torch.cat([shown[:, self.with_gradients], measured * seen[self.with_gradients]]))
        ahead = self._is_ahead(losses, present, measured)
        if ahead:
            del self._measured[:-1]
        if len(self._measured) == 1 and not ahead:
            shown[1, self.with_gradients] = 0.0
        else:
            late = self._measured.pop(0)
            shown[:, self.with_gradients] = late[:2]
            self._show_norms(late)
        first, last = len(self.fixed), len(self.fixed) + len(self.schemes)
        for scheme, row, known in zip(self.schemes, *shown[:, first:last], strict=True):
            if not scheme.uses_gradients:
                scheme.observe(Observation(row, row, known > 0))
        latest = torch.where(shown[1] > 0, torch.stack([shown[0].abs(), shown[1]]), self._average)
        self._average.lerp_(latest, 1 - _DECAY)

    def _is_ahead(self, losses: Tensor, present: Tensor, measured: Tensor) -> bool:
        """Returns whether the library measures this step ahead: the first, and those of terms near their minimum."""
        if not self._begun:
            self._begun = True
            if measured.shape[1]:  # all copies start alike, so one stands for all
                near = find_near_minimum(losses[-1].tolist(), measured[0, -1].tolist())
                self._early = {i: 1 for i, is_near in enumerate(near) if is_near and present[i]}
            return True
        early = [i for i in self._early if present[i]]
        for i in early:
            self._early[i] += 1
            if self._early[i] == FIRST_STEPS:
                del self._early[i]
        return bool(early)

    def _show_norms(self, late: Tensor) -> None:
        """Shows losses, presence, norms, largest and mean magnitudes, ``[5, copies, terms]``, to these schemes."""
        count = len(self._with_norms)
        for scheme, (row, known, *found) in zip(self._with_norms, late[:, :count].unbind(1), strict=True):
            scheme.observe(Observation(row, found[0], known > 0, found[1], found[2]))
        if self.balanced is not None:
            self.balanced.observe(late[2, count:], late[1, count:] > 0)


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
    batches: Sequence[Tensor],
    optimizer: str,
    rates: Tensor,
    checkpoints: Collection[int],
) -> Iterator[Parameters]:
    """Trains copies of a network.

    Args:
        net: What every copy starts as.
        heads: What its outputs are asked.
        inputs: ``[rows, features]``.
        labels: ``[rows, columns]``, nan where one is missing.
        weights: The weights of the copies.
        batches: The rows of each step.
        optimizer: One of :data:`studies.one_run.optimizers.OPTIMIZERS`.
        rates: The learning rate of each copy, ``[copies]``.
        checkpoints: The steps, from 1 on, after which to yield.

    Yields:
        The parameters of the copies at a checkpoint; the training continues in these tensors.
    """
    parameters = {name: parameter.requires_grad_() for name, parameter in stack(net, weights.copies).items()}
    stepper = Stepper(list(parameters.values()), weights.parameter_groups(rates), optimizer, rates, len(batches))
    for step, rows in enumerate(batches, start=1):
        outputs = forward(parameters, inputs[rows])
        losses = heads.losses(outputs, labels[rows])
        measured = measure(heads, losses, outputs, parameters["head.weight"], weights.with_gradients)
        weighed, learned = weights.weigh(losses.detach(), heads.present(labels[rows]), measured)
        stepper.optimizer.zero_grad()
        ((weighed * losses).sum() + learned).backward()
        stepper.step()
        if step in checkpoints:
            yield {name: parameter.detach() for name, parameter in parameters.items()}


def draw_batches(rows: Tensor, size: int, steps: int, seed: int) -> list[Tensor]:
    """Returns batches of rows, each row once in every epoch.

    Args:
        rows: The rows to draw.
        size: Rows in a batch; all of them, if there are fewer.
        steps: How many batches.
        seed: Of the order.
    """
    generator, remaining = torch.Generator().manual_seed(seed), rows[:0]
    batches = []
    for _ in range(steps):
        if len(remaining) < min(size, len(rows)):
            remaining = torch.cat([remaining, rows[torch.randperm(len(rows), generator=generator)]])
        batches.append(remaining[:size])
        remaining = remaining[size:]
    return batches
