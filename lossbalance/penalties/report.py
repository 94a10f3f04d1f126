"""Penalty report: each penalty's share of the value and of the gradient, and its zeros."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lossbalance.penalties.base import Penalty
from lossbalance.penalties.dtensor import norm, upcast
from lossbalance.penalties.sparsity import count_zeros


class PenaltyReport(NamedTuple):
    """The size of one penalty in a step: 0-d tensors."""

    value: Tensor
    value_share: Tensor
    """Its share of the sum of the magnitudes of all contributions and penalties."""
    gradient_norm: Tensor
    gradient_share: Tensor
    """The norm of its gradient over the sum of this and the norm of the data's gradient, over the penalized weights."""
    zeros: Tensor
    """How many penalized weights are exactly zero; of a group lasso, how many groups are."""
    size: Tensor
    """How many there are in all."""


@torch.no_grad()
def report(penalties: Mapping[str, Penalty], contributions: Tensor) -> dict[str, PenaltyReport]:
    """Compares the gradient of each penalty with that of the data, on the modules that the penalties were last used on.

    Call it after the backward pass and before the optimizer's step, when ``.grad`` holds the gradient of the data and
    of the penalties in mode ``"loss"``. It costs a few passes over the weights, and no host-device synchronization.

    Args:
        penalties: The penalties by name.
        contributions: Weight times loss of each term, ``[terms]``.
    """
    values = {name: penalty.value() for name, penalty in penalties.items()}
    gradients = {name: _gradients(penalty) for name, penalty in penalties.items()}
    in_total = [gradients[name] for name, penalty in penalties.items() if penalty.mode == "loss"]
    magnitude = contributions.abs().nansum() + sum(value.abs() for value in values.values())
    reports = {}
    for name, value in values.items():
        own = norm(gradients[name])
        data = norm({weight: _data_gradient(weight, in_total) for weight in gradients[name]})
        reports[name] = PenaltyReport(value, value / magnitude, own, own / (own + data), *count_zeros(penalties[name]))
    return reports


def _gradients(penalty: Penalty) -> dict[nn.Parameter, Tensor]:
    groups = [] if penalty.module is None else penalty.groups(penalty.module)
    return penalty.gradients_by_parameter([group._replace(factors=penalty.scaled(group.factors)) for group in groups])


def _data_gradient(weight: nn.Parameter, in_total: list[dict[nn.Parameter, Tensor]]) -> Tensor:
    gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
    return upcast([gradient])[0] - sum(gradients[weight] for gradients in in_total if weight in gradients)
