import math

import torch
from torch import nn

from lossbalance import WeightedLoss
from lossbalance.penalties import L1, GroupLasso
from lossbalance.penalties.sparsity import count_zeros
from lossbalance.weighting import Equal


def test_zeros_are_counted_by_weight_and_by_group():
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    net[0].weight.data.copy_(torch.tensor([[1.0, 0.0, 0.0], [2.0, 0.0, 3.0]]))
    penalties = {"l1": L1(0.1), "inputs": GroupLasso(0.1, "input"), "units": GroupLasso(0.1, "output", include="^0.w")}
    criterion = WeightedLoss(Equal(["data"]), penalties=penalties)

    criterion({"data": net(torch.ones(1, 3)).sum()}, module=net).backward()
    report = criterion.report_penalties()

    assert {name: (each.zeros.item(), each.size.item()) for name, each in report.items()} == {
        "l1": (3, 6 + 4),
        "inputs": (1, 3 + 2),
        "units": (0, 2),
    }


def test_a_penalty_that_was_never_used_has_none():
    assert all(math.isnan(number) for number in count_zeros(L1(0.1)))
