"""Diagnostics of ``loss_sum``: SGD at a constant learning rate, and clipping."""

from collections.abc import Iterator, Sequence

from torch.optim import SGD, Optimizer

from lossbalance.criterion.weighted_loss import WeightedLoss


def diagnose_loss_sum(
    criterion: WeightedLoss, optimizers: Sequence[Optimizer], has_schedule: bool, clips: bool
) -> Iterator[tuple[str, str]]:
    """Yields a message where ``loss_sum`` meets SGD at a constant learning rate, or clipping."""
    if criterion.loss_sum is None:
        return
    if not has_schedule and any(isinstance(optimizer, SGD) for optimizer in optimizers):
        yield (
            "loss_sum sgd",
            (
                "`loss_sum` multiplies the weights as the losses fall, and so the steps of SGD, whose learning rate is "
                "constant here: let the rate fall by a schedule, or give `weight_sum` in place of `loss_sum`."
            ),
        )
    if clips:
        yield (
            "loss_sum clipping",
            (
                "`loss_sum` multiplies the weights as the losses fall, and `gradient_clip_val` cancels that: the norm "
                "of the clipped gradient stays the same. Leave out one of the two."
            ),
        )
