"""Two processes that settle conflicts together agree on every parameter, to the last bit."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lossbalance import WeightedLoss
from lossbalance.conflict import MGDA, Aggregator, PCGrad, Protect
from lossbalance.weighting import Equal, GradBalance, Weighting
from tests.distributed.test_distributed import alone, batch, everybody, on_ranks

TERMS = ["a", "b", "c"]


class Net(nn.Module):
    """Three heads on one layer, which are pulled in different directions."""

    def __init__(self, weighting: Weighting, conflict: Aggregator, at_parameters: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.heads = nn.Linear(3, 4), nn.ModuleDict({term: nn.Linear(4, 1) for term in TERMS})
        self.criterion = WeightedLoss(weighting, conflict=conflict)
        self.run = self.criterion.branch_parameters(self.trunk) if at_parameters else None

    def forward(self, x: Tensor, absent: str = "", factor: float = 1.0) -> Tensor:
        if self.run is None:
            h = self.criterion.branch(self.trunk(x).tanh())
        else:
            h = {term: self.run[term](x).tanh() for term in TERMS}
        targets = {"a": x[:, :1], "b": -2 * x[:, :1], "c": 5 * x[:, 1:2]}
        losses = {t: (self.heads[t](h[t]) - targets[t]).square().mean() for t in TERMS if t not in absent}
        return self.criterion({term: factor * losses[term] if term in losses else None for term in TERMS})


def train(model: nn.Module, inputs: list[tuple]) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    for arguments in inputs:
        optimizer.zero_grad()
        model(*arguments).backward()
        if all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters()):
            optimizer.step()


def parameters(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def check_all(rank: int) -> None:
    check_ranks_agree(rank, lambda: Net(Equal(TERMS), PCGrad()), 300)
    check_ranks_agree(rank, lambda: Net(GradBalance(TERMS), MGDA()), 30)
    check_ranks_agree(rank, lambda: Net(Equal(TERMS), PCGrad(), at_parameters=True), 30)
    check_ranks_agree(rank, lambda: Net(Equal(TERMS), Protect("b"), at_parameters=True), 30)
    check_halves_follow_the_whole(rank)
    check_one_collective_a_pass(rank)


def check_ranks_agree(rank: int, make: Callable[[], Net], count: int) -> None:
    """Also where a rank lacks a term, or all of them, and where a loss of one rank is not finite."""
    model = DistributedDataParallel(make(), find_unused_parameters=True)
    absent = ["", "a", "bc", "", "c", "abc", "", "b"]
    inputs = [
        (batch(2 * step + rank), absent[(3 * step + 5 * rank) % 8], math.nan if step % 11 == 5 + rank else 1.0)
        for step in range(count)
    ]
    start = parameters(model)
    train(model, inputs)
    ours, theirs = everybody([parameters(model), model.module.criterion.conflict.state_dict()])
    assert torch.equal(ours[0], theirs[0])
    assert ours[1] == theirs[1]
    assert parameters(model).isfinite().all()
    assert not torch.equal(parameters(model), start)


def check_halves_follow_the_whole(rank: int) -> None:
    half, whole = DistributedDataParallel(Net(Equal(TERMS), MGDA())), Net(Equal(TERMS), MGDA())
    train(half, [(batch(step)[4 * rank : 4 * rank + 4],) for step in range(5)])
    with alone():
        train(whole, [(batch(step),) for step in range(5)])
    torch.testing.assert_close(parameters(half), parameters(whole))
    ours, expected = half.module.criterion.last.cosines, whole.criterion.last.cosines
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def check_one_collective_a_pass(rank: int) -> None:
    sizes = []
    all_reduce = dist.all_reduce
    dist.all_reduce = lambda tensor, *args, **kwargs: (sizes.append(tensor.numel()), all_reduce(tensor))
    try:
        train(Net(Equal(TERMS), PCGrad()), [(batch(step), "abc" if rank == step else "") for step in range(4)])
    finally:
        dist.all_reduce = all_reduce
    assert sizes == [len(TERMS) ** 2] * 4


@pytest.mark.processes
def test_ranks_agree_over_ragged_steps_and_follow_the_whole_batch_with_one_collective_a_pass(tmp_path):
    on_ranks(2, check_all, tmp_path)
