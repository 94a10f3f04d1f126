"""What each penalty weighs: in the value and in the gradient, which say different things."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lossbalance.penalties.base import Penalty
from lossbalance.penalties.dtensor import norm, upcast
from lossbalance.penalties.selection import Group


class PenaltyReport(NamedTuple):
    """What one penalty weighs in a step: 0-d tensors."""

    value: Tensor
    value_share: Tensor
    """Its part of the sum of the magnitudes of all contributions and penalties."""
    gradient_norm: Tensor
    gradient_share: Tensor
    """The norm of its gradient, as part of the sum of this and the norm of the data's, over the penalized weights."""


@torch.no_grad()
def report(penalties: Mapping[str, Penalty], contributions: Tensor) -> dict[str, PenaltyReport]:
    """Measures each penalty against the gradients that a backward pass has left in the module it was last used on.

    Its place is before the optimizer's step, where ``.grad`` holds the data's gradient and that of the penalties in
    mode ``"loss"``. It costs a few passes over the weights, and does not wait for the device.

    Args:
        penalties: The penalties by name.
        contributions: Weight times loss of each term, ``[terms]``.
    """
    values = {name: penalty.value() for name, penalty in penalties.items()}
    slopes = {name: _slopes(penalty) for name, penalty in penalties.items()}
    in_total = [slopes[name] for name, penalty in penalties.items() if penalty.mode == "loss"]
    magnitude = contributions.abs().nansum() + sum(value.abs() for value in values.values())
    reports = {}
    for name, value in values.items():
        own = norm(slopes[name])
        data = norm({weight: _data_gradient(weight, in_total) for weight in slopes[name]})
        reports[name] = PenaltyReport(value, value / magnitude, own, own / (own + data))
    return reports


def _slopes(penalty: Penalty) -> dict[nn.Parameter, Tensor]:
    groups = [] if penalty.module is None else penalty.groups(penalty.module)
    return penalty.slopes([Group(penalty.scaled(factors), weights) for factors, weights in groups])


def _data_gradient(weight: nn.Parameter, in_total: list[dict[nn.Parameter, Tensor]]) -> Tensor:
    gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
    return upcast([gradient])[0] - sum(slopes[weight] for slopes in in_total if weight in slopes)
