"""Optimizers of the study of one run, with grids of learning rates for each."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from lossbalance._utils.checks import check_choice

_ADAM_RATES = (1e-3, 3e-3, 1e-2, 3e-2)
_SGD_RATES = (3e-3, 1e-2, 3e-2, 1e-1)

OPTIMIZERS: dict[str, tuple[float, ...]] = {
    "adam": _ADAM_RATES,
    "adamw_cosine": _ADAM_RATES,
    "sgd": _SGD_RATES,
    "sgd_cosine": _SGD_RATES,
    "sgd_clipped": _SGD_RATES,
}
"""The learning rates of the grid of each optimizer, in half decades. ``_cosine``: the rate falls to 0 along half a
cosine; ``_clipped``: each training's gradient is clipped at norm 1."""


class Stepper:
    """An optimizer of :data:`OPTIMIZERS` with a learning rate for each stacked copy.

    The update of each of these optimizers is linear in the learning rate, so it is computed at rate 1 and scaled.

    Args:
        parameters: Stacked parameters of networks, ``[copies, ...]`` each.
        others: Parameter groups of schemes, with their own rates.
        name: The optimizer: Adam, AdamW with weight decay .01, or SGD with momentum .9.
        rates: The learning rate of the first step of each copy, ``[copies]``.
        steps: Steps of the training.

    Raises:
        ValueError: If the name is unknown.
    """

    def __init__(
        self, parameters: list[Tensor], others: list[dict[str, Any]], name: str, rates: Tensor, steps: int
    ) -> None:
        check_choice("optimizer", name, list(OPTIMIZERS))
        self.parameters = parameters
        self._rates = [rates.view(-1, *[1] * (parameter.ndim - 1)) for parameter in parameters]
        self._clips = name.endswith("_clipped")
        self.optimizer = _make_optimizer([{"params": parameters, "lr": 1.0}, *others], name.partition("_")[0])
        self._schedule = CosineAnnealingLR(self.optimizer, steps) if name.endswith("_cosine") else None

    @torch.no_grad()
    def step(self) -> None:
        """Moves the parameters, and the learning rates if they have a schedule."""
        if self._clips:
            _clip_each(self.parameters)
        before = [parameter.clone() for parameter in self.parameters]
        self.optimizer.step()
        torch._foreach_sub_(self.parameters, before)
        torch._foreach_mul_(self.parameters, self._rates)
        torch._foreach_add_(self.parameters, before)
        if self._schedule is not None:
            self._schedule.step()


def _make_optimizer(groups: list[dict[str, Any]], name: str) -> Optimizer:
    if name == "adam":
        return Adam(groups, fused=True)
    return AdamW(groups, fused=True) if name == "adamw" else SGD(groups, momentum=0.9)


def _clip_each(parameters: list[Tensor]) -> None:
    """Clips the gradient of each copy at norm 1."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
    for gradient in gradients:
        gradient.mul_((1 / norm.clamp(min=1.0)).view(-1, *[1] * (gradient.ndim - 1)))
