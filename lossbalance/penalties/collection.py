"""Collection of the penalties of a criterion, by name."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from lossbalance._utils.warn import warn_user
from lossbalance.penalties.base import Penalty


class Penalties(nn.ModuleDict):
    """Computes the penalties in mode ``"loss"``, and warns if no optimizer applies one of the others.

    Args:
        penalties: By name; None for none.
        terms: Names of the losses, which are not allowed as names of penalties.

    Raises:
        TypeError: If ``penalties`` is not a mapping to penalties.
        ValueError: If a name is that of a term, or no valid key of a module.
    """

    def __init__(self, penalties: Mapping[str, Penalty] | None, terms: tuple[str, ...]) -> None:
        super().__init__(_check_penalties(penalties, terms))

    @property
    def by_name(self) -> dict[str, Penalty]:
        """The penalties."""
        return cast("dict[str, Penalty]", dict(self.items()))

    def in_total(self, total: Tensor, module: nn.Module | None, warn: bool) -> dict[str, Tensor]:
        """Returns the values of the penalties in mode ``"loss"``, by name.

        Args:
            total: The weighted losses; a penalty with a share takes their gradient.
            module: The module whose parameters are penalized.
            warn: Whether to warn of a penalty that is attached to no optimizer.

        Raises:
            TypeError: If ``module`` is not a module.
            ValueError: If it is missing.
        """
        if module is not None and not isinstance(module, nn.Module):
            raise TypeError(f"`module` must be the module whose parameters are penalized, got {module!r}.")
        values = {}
        for name, penalty in self.by_name.items():
            if penalty.mode != "loss":
                self._check_applied(name, penalty, module, warn)
                continue
            if module is None:
                raise ValueError(f"`module` must be given for the penalty {name!r}, got None.")
            if self.training and total.requires_grad:
                penalty.update_share(total, module)
            values[name] = penalty(module)
        return values

    def _check_applied(self, name: str, penalty: Penalty, module: nn.Module | None, warn: bool) -> None:
        if torch.compiler.is_compiling():
            return
        if module is not None:
            penalty.remember_module(module)
        if self.training and warn and not penalty.is_applied:
            warn_user(
                f"penalty {name!r} has mode={penalty.mode!r} but is attached to no optimizer: call "
                "`criterion.attach(optimizer, module)` once, after making the optimizer.",
            )


def _check_penalties(penalties: object, terms: tuple[str, ...]) -> dict[str, Penalty]:
    if penalties is None:
        return {}
    if not isinstance(penalties, Mapping):
        raise TypeError(f"`penalties` must map names to penalties, such as {{'l2': L2(1e-4)}}, got {penalties!r}.")
    for name, penalty in penalties.items():
        if not isinstance(penalty, Penalty):
            raise TypeError(f"`penalties[{name!r}]` must be a penalty such as L2(1e-4), got {penalty!r}.")
        if name in terms:
            raise ValueError(f"`penalties` must have names of their own, got {name!r}, which is a term.")
        if not isinstance(name, str) or not name or "." in name or hasattr(nn.ModuleDict, name) or name == "training":
            raise ValueError(
                f"`penalties` must have names that can be keys of a module's state, got {name!r}: no dot, not empty, "
                "and no name of an attribute; such as 'l2_head'."
            )
    return dict(penalties)
