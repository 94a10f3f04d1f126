"""Check of optimizers: each learned weight is in one parameter group, without weight decay."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

_CURE = "put `*criterion.parameter_groups()` into the optimizer, and only there"


def check_optimizers(weighting: nn.Module, terms: Iterable[str], optimizers: Any) -> None:
    """Refuses optimizers that do not train the parameters of a scheme as they should.

    Args:
        weighting: The scheme.
        terms: Names of its losses.
        optimizers: An optimizer, or several.

    Raises:
        TypeError: If there is something else among them.
        ValueError: If a parameter is in no group, in several, or under weight decay.
    """
    several = [optimizers] if hasattr(optimizers, "param_groups") else optimizers
    if not isinstance(several, Iterable) or not all(hasattr(each, "param_groups") for each in several):
        raise TypeError(f"`optimizer` must be an optimizer or a list of optimizers, got {optimizers!r}.")
    for _, fault in find_faults(weighting, terms, several):
        raise ValueError(fault)


def find_faults(weighting: nn.Module, terms: Iterable[str], optimizers: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Yields the name of each parameter of a scheme that is not trained as it should be, and a message."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    subject = f"The weights of {list(terms)}"
    for name, parameter in weighting.named_parameters():
        full_name = f"`{type(weighting).__name__}.{name}`"
        own = [group for group in groups if any(each is parameter for each in group["params"])]
        decay = max((float(group.get("weight_decay") or 0.0) for group in own), default=0.0)
        if parameter.requires_grad and not own:
            yield (
                name,
                f"{subject} will never move, for {full_name} is in no parameter group of the optimizer: {_CURE}.",
            )
        elif len(own) > 1:
            yield (
                name,
                f"{subject} are updated {len(own)} times a step, for {full_name} is in {len(own)} groups: {_CURE}.",
            )
        elif decay:
            yield name, f"{subject} are biased, for {full_name} is under a weight decay of {decay:g}: {_CURE}."
