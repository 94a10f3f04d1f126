"""Where a callback finds the criterion of a training."""

from pytorch_lightning import LightningModule, Trainer

from lossbalance.weighted_loss import WeightedLoss


def find_criterion(trainer: Trainer, module: LightningModule, user: str) -> WeightedLoss:
    """Returns the criterion of ``BalanceLosses``, or else the one that the module owns.

    Args:
        trainer: What trains.
        module: What is trained.
        user: Name of the callback that asks, for the message.

    Raises:
        ValueError: If there is none, or the module owns more than one.
    """
    owned = {name: child for name, child in module.named_modules() if isinstance(child, WeightedLoss)}
    if len(owned) != 1:
        found = f"{len(owned)} ({', '.join(owned)})" if owned else "none"
        raise ValueError(
            f"`{user}` needs one WeightedLoss to look at, found {found} in {type(module).__name__}: "
            "make it an attribute of the module, or add `BalanceLosses(criterion)` to the callbacks."
        )
    return next(iter(owned.values()))
