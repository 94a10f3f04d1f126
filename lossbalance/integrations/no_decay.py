"""Exemption of some parameters of an optimizer from weight decay, without a change of its groups between steps."""

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer


class NoDecay:
    """Moves parameters to a group without weight decay for the time of each step of an optimizer.

    Between steps the groups are those that were given, so that states saved before or after fit, and so do learning
    rate schedulers.

    Args:
        optimizer: The optimizer.
        parameters: The parameters.
    """

    def __init__(self, optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> None:
        self._exempt = {id(parameter) for parameter in parameters}
        self._groups: list[dict[str, Any]] = []
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def remove(self) -> None:
        """Removes the hooks."""
        for hook in self._hooks:
            hook.remove()

    def _before_step(self, optimizer: Optimizer, *_: Any) -> None:
        self._groups = optimizer.param_groups
        optimizer.param_groups = [part for group in self._groups for part in self._split(group)]

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        optimizer.param_groups = self._groups

    def _split(self, group: dict[str, Any]) -> list[dict[str, Any]]:
        exempt = [each for each in group["params"] if id(each) in self._exempt]
        if not exempt or not group.get("weight_decay"):
            return [group]
        others = [each for each in group["params"] if id(each) not in self._exempt]
        return [{**group, "params": others}, {**group, "params": exempt, "weight_decay": 0.0}]
