"""Where a callback finds the criterion of a training."""

from pytorch_lightning import LightningModule, Trainer

from lossbalance.callbacks.balance_losses import BalanceLosses
from lossbalance.weighted_loss import WeightedLoss


def find_balancer(trainer: Trainer) -> BalanceLosses | None:
    """Returns the trainer's ``BalanceLosses``, if it has one."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, BalanceLosses)), None)


def find_criterion(trainer: Trainer, module: LightningModule, user: str) -> WeightedLoss:
    """Returns the criterion of ``BalanceLosses``, or else the one that the module owns.

    Args:
        trainer: What trains.
        module: What is trained.
        user: Name of the callback that asks, for the message.

    Raises:
        ValueError: If there is none, or the module owns more than one.
    """
    balancer = find_balancer(trainer)
    if balancer is not None:
        return balancer.criterion
    owned = {name: child for name, child in module.named_modules() if isinstance(child, WeightedLoss)}
    if len(owned) != 1:
        raise ValueError(
            f"`{user}` needs the module to own one WeightedLoss, and found {list(owned)} in {type(module).__name__}: "
            "make the criterion an attribute of the module, or add `BalanceLosses(criterion)` to the callbacks."
        )
    return next(iter(owned.values()))
