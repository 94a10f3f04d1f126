r"""First steps of a term: its norm is measured ahead of the backward pass.

The first step of each term is measured ahead, for its weights need the norm. So are the next ones of a term that starts
near its minimum, a KL to a frozen copy or a policy loss of 0: there the norm of the last step says nothing about this
one, for the first step of the optimizer may multiply it by millions. With L the loss and n the norm of its gradient,
:math:`L / n` is about the distance to the minimum, whatever the unit of the loss. A term is near its minimum if that is
below a hundredth of the largest one of all terms, or its norm below a ten-thousandth of the largest.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from lossbalance._utils.fabric import partial_backward
from lossbalance.gradients.measurement import Measurement
from lossbalance.gradients.norms import NormAccumulator, measure_each
from lossbalance.gradients.traced import sizes_of, trace_autograd

FIRST_STEPS = 20
"""How many steps of a term that starts near its minimum are measured ahead: some have a learning rate of 0."""
_NEAR, _SMALL = 1e-2, 1e-4


def find_near_minimum(losses: Sequence[float], norms: Sequence[float]) -> list[bool]:
    """Returns whether each term is near its minimum, from its loss and norm.

    Example:
        >>> find_near_minimum([2.5, 1e-14, 300.0], [2.2, 2e-7, 150.0])
        [False, True, False]
    """
    distances = [abs(loss) / norm if norm else 0.0 for loss, norm in zip(losses, norms, strict=True)]
    far, large = _NEAR * max(distances), _SMALL * max(norms)
    return [not norm or distance < far or norm < large for distance, norm in zip(distances, norms, strict=True)]


def measure_ahead(
    losses: Sequence[Tensor | None], step: Measurement, leaf: Tensor, terms: Sequence[str], magnitudes: bool, half: bool
) -> Tensor:
    """Returns the norms and, if asked for, magnitudes at the probes, ``[1 or 3, terms]``, before the backward pass.

    It takes one partial backward pass for each loss, which ends at the probes.

    Args:
        losses: The losses, or None for an absent term.
        step: The step.
        leaf: What all probes can be reached by.
        terms: Names of the losses.
        magnitudes: Whether to take magnitudes, too.
        half: Whether a probe has met an activation of fp16, in which small gradients vanish.

    Raises:
        ValueError: If a loss depends on none of its probes, on a derivative of what was probed, or on what was probed
            for another term.
    """

    def differentiate(index: int, loss: Tensor, factor: Tensor, accumulator: NormAccumulator) -> None:
        traced = _differentiate(index, loss, factor, accumulator, step, leaf)
        if traced is not None:
            accumulator.add_measured(index, sizes_of(traced)[index].unbind())
        _check_sight(index, accumulator, step, terms)

    compiling = torch.compiler.is_compiling()
    if compiling:
        trace_autograd(True)
    rows = measure_each(losses, differentiate, step.entries, magnitudes, (1.0, 2.0**8, 2.0**16) if half else (1.0,))
    if compiling:
        trace_autograd(False)
    return rows


def _differentiate(
    index: int, loss: Tensor, factor: Tensor, accumulator: NormAccumulator, step: Measurement, leaf: Tensor
) -> Tensor | None:
    """Differentiates a loss up to its probes; returns the gradient of the leaf, which a compiled graph has."""
    step.accumulator, step.only, step.differentiated = accumulator, index, False
    step.crossed = []
    step.running.append(step)
    try:
        with nullcontext() if torch.compiler.is_compiling() else partial_backward():
            return torch.autograd.grad(loss, [leaf], factor, retain_graph=True, allow_unused=True)[0]
    finally:
        step.running.remove(step)
        step.accumulator = step.only = None


def _check_sight(index: int, accumulator: NormAccumulator, step: Measurement, terms: Sequence[str]) -> None:
    term = terms[index]
    if step.differentiated or not accumulator.has(index):
        why = "on a derivative of what was probed" if step.differentiated else "on nothing that was probed for it"
        raise ValueError(
            f"the probes of {term!r} cannot see the gradient of its loss, which depends {why}: run the module by "
            f'`criterion.probe_parameters("{term}", module)` and compute the loss from what that returns.'
        )
    crossed, step.crossed = step.crossed, []
    others = sorted({other for other, gradient in crossed if gradient.any()})  # asks the device, where there are some
    if others:
        other = terms[others[0]]
        raise ValueError(
            f"the probe of {other!r} must see the gradient of {other!r} alone, and the loss of {term!r} depends on "
            f"what it returned, too: place it where the branch of {other!r} begins, behind all that {term!r} uses; "
            "or run the modules by `criterion.probe_parameters`, one callable for each term."
        )
