"""Diagnostics of ``loss_sum``."""

import pytest
import torch

from lossbalance import WeightedLoss
from lossbalance.callbacks.loss_sum_diagnostics import diagnose_loss_sum
from lossbalance.weighting import GradBalance


@pytest.mark.parametrize(
    ("optimizer", "has_schedule", "clips", "found"),
    [
        (torch.optim.SGD, False, False, ["give `weight_sum` in place of `loss_sum`"]),
        (torch.optim.SGD, True, False, []),
        (torch.optim.Adam, False, False, []),
        (torch.optim.Adam, False, True, ["`gradient_clip_val` cancels that"]),
    ],
)
def test_loss_sum_is_diagnosed_under_sgd_at_a_constant_rate_and_under_clipping(optimizer, has_schedule, clips, found):
    optimizers = [optimizer([torch.zeros(1, requires_grad=True)], lr=0.1)]
    criterion = WeightedLoss(GradBalance(["a", "b"]), loss_sum=2)
    messages = [message for _, message in diagnose_loss_sum(criterion, optimizers, has_schedule, clips)]
    assert len(messages) == len(found)
    assert all(part in message for part, message in zip(found, messages, strict=True))
    plain = WeightedLoss(GradBalance(["a", "b"]))
    assert list(diagnose_loss_sum(plain, optimizers, has_schedule, clips)) == []
