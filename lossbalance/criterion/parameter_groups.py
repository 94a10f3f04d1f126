"""Parameter groups of an optimizer for schemes that learn their weights."""

from typing import Any

from torch import nn

from lossbalance._utils.checks import check_not_negative


def parameter_groups(parameters: list[nn.Parameter], lr: float | None, default: float | None) -> list[dict[str, Any]]:
    """Returns one group without weight decay; none where there is nothing to learn.

    Args:
        parameters: What the scheme learns.
        lr: The group's own learning rate, or None.
        default: That of the scheme, in its place; None for the optimizer's.

    Raises:
        TypeError: If ``lr`` is not a number.
        ValueError: If it is not positive, or not finite.
    """
    if lr is not None and check_not_negative("lr", lr) == 0:
        cure = "to hold the weights, take Fixed, or criterion.requires_grad_(False)"
        raise ValueError(f"`lr` must be a positive, finite number, got {lr!r}: {cure}.")
    if not parameters:
        return []
    lr = default if lr is None else lr
    return [{"params": parameters, "weight_decay": 0.0} | ({} if lr is None else {"lr": lr})]
