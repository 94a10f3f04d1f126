"""Lookup of the criteria of a training: that of ``BalanceLosses``, or those that the module owns."""

from pytorch_lightning import LightningModule, Trainer

from lossbalance.callbacks.balance_losses import BalanceLosses
from lossbalance.criterion.weighted_loss import WeightedLoss


def find_balancer(trainer: Trainer) -> BalanceLosses | None:
    """Returns the trainer's ``BalanceLosses``, if it has one."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, BalanceLosses)), None)


def find_criteria(trainer: Trainer, module: LightningModule, user: str) -> dict[str, WeightedLoss]:
    """Returns the criterion of ``BalanceLosses``, or else those that the module owns, by what precedes their terms.

    Nothing precedes the terms of a single criterion; of several, their names in the module do: ``"generator_loss/"``.

    Args:
        trainer: The trainer.
        module: The module that it trains.
        user: Name of the calling callback, for the message.

    Raises:
        ValueError: If there is none.
    """
    balancer = find_balancer(trainer)
    if balancer is not None:
        return {"": balancer.criterion}
    owned = {name: child for name, child in module.named_modules() if isinstance(child, WeightedLoss)}
    if not owned:
        raise ValueError(
            f"`{user}` needs the module to own a WeightedLoss, and found none in {type(module).__name__}: "
            "make the criterion an attribute of the module, or add `BalanceLosses(criterion)` to the callbacks."
        )
    return {"": next(iter(owned.values()))} if len(owned) == 1 else {f"{name}/": each for name, each in owned.items()}


def find_criterion(trainer: Trainer, module: LightningModule, user: str) -> WeightedLoss:
    """Returns the one criterion of a training; otherwise as :func:`find_criteria`.

    Raises:
        ValueError: If there is none, or several.
    """
    criteria = find_criteria(trainer, module, user)
    if len(criteria) > 1:
        names = [name.rstrip("/") for name in criteria]
        raise ValueError(
            f"`{user}` needs the module to own one WeightedLoss, and found {names} in {type(module).__name__}: "
            "call the methods of the criterion that is meant in the module's own hooks."
        )
    return next(iter(criteria.values()))
