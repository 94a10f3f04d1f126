"""Several processes that train together: ragged batches, uneven data, shards, the death of one."""

import math
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lossbalance import WeightedLoss
from lossbalance.gradients import data_parallel
from lossbalance.weighting import Fixed, GradBalance, GradNorm, Uncertainty
from tests.distributed.sharded import (
    check_learned_weights_start_inside_of_shards,
    check_sharded_follows_replicated,
    check_what_shards_cannot_do_is_refused,
)
from tests.distributed.test_distributed import batch, everybody, on_ranks

TERMS = ["a", "b", "c"]
ABSENT = ["", "a", "bc", "", "c", "abc", "", "b"]
Make = Callable[[], WeightedLoss]


class Heads(nn.Module):
    """Three heads on one layer, and how a step calls the criterion: inside, or outside of what is wrapped."""

    def __init__(self, criterion: WeightedLoss, place: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.heads = nn.Linear(3, 4), nn.ModuleDict({term: nn.Linear(4, 1) for term in TERMS})
        self.place = place
        if place == "inside":
            self.criterion = criterion
        else:
            self.__dict__["criterion"] = criterion  # not a part of the module
        if place == "probe_inputs":
            criterion.probe_inputs(dict(self.heads))

    def forward(self, x: Tensor, absent: str = "", factor: float = 1.0) -> Any:
        h = self.trunk(x).tanh()
        seen = dict.fromkeys(TERMS, h)
        if self.place != "probe_inputs":
            seen = {term: self.criterion.probe(term, h) for term in TERMS}
        losses = {t: 10**i * (self.heads[t](seen[t]) - 1).square().mean() for i, t in enumerate(TERMS)}
        given = {term: None if term in absent else factor * loss for term, loss in losses.items()}
        return self.criterion(given) if self.place == "inside" else given


def ragged(step: int, rank: int) -> tuple[Tensor, str, float]:
    """A batch that lacks terms on some ranks, and now and then all; one rank's losses are not finite at times."""
    factor = math.nan if step % 11 == 5 + rank else 1.0
    return batch(4 * step + rank), ABSENT[(3 * step + 5 * rank) % 8], factor


def train(model: nn.Module, criterion: WeightedLoss, inputs: list[tuple], accumulate: Any = None) -> None:
    module = model.module if isinstance(model, DistributedDataParallel) else model
    parameters = {id(each): each for each in [*module.parameters(), *criterion.parameters()]}
    optimizer = torch.optim.SGD(parameters.values(), lr=1e-3)
    for step, arguments in enumerate(inputs):
        last = accumulate is None or step % 2 == 1
        with nullcontext() if last else accumulate():
            out = model(*arguments)
            total = criterion(out, module=model) if isinstance(out, dict) else out
            total.backward()
        if last and all(each.grad is None or each.grad.isfinite().all() for each in parameters.values()):
            optimizer.step()
        if last:
            optimizer.zero_grad()


def run(make: Make, place: str, inputs: list[tuple], **options: Any) -> tuple[DistributedDataParallel, WeightedLoss]:
    accumulate = options.pop("accumulate", None)
    criterion = make()
    model = DistributedDataParallel(Heads(criterion, place), **options)
    train(model, criterion, inputs, getattr(model, accumulate) if accumulate else None)
    return model, criterion


def flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def check_ragged_steps(rank: int, count: int, make: Make) -> None:
    start = flat(Heads(make(), "inside"))
    model, criterion = run(make, "inside", [ragged(step, rank) for step in range(count)])
    assert flat(model).isfinite().all()
    assert (flat(model) - start).norm() > 0.01
    states = everybody([flat(model), criterion.weighting.state_dict()])
    for parameters, state in states[1:]:
        assert torch.equal(parameters, states[0][0])
        assert all(torch.equal(value, states[0][1][name]) for name, value in state.items())


def check_absent_heads_need_no_search(rank: int) -> None:
    """A head that a rank, or every rank, does not use gets zeros, as where the wrapper searches for it."""
    absent = ["", "a", "bc", "", "c", "ab", "", "b"]  # a search finds nothing where all are absent, and waits for ever
    inputs = [(batch(2 * step + rank), absent[(3 * step + 5 * rank) % 8]) for step in range(8)] + [(batch(9), "ac")]
    for place in ("inside", "outside", "probe_inputs"):
        searching, _ = run(lambda: WeightedLoss(GradBalance(TERMS)), "inside", inputs, find_unused_parameters=True)
        model, _ = run(lambda: WeightedLoss(GradBalance(TERMS)), place, inputs)
        torch.testing.assert_close(flat(model), flat(searching), rtol=0, atol=0)

    alone = Heads(WeightedLoss(GradBalance(TERMS)), "inside")
    alone(batch(0), "a").backward()
    assert alone.heads["a"].weight.grad is None  # nobody waits for it


def check_complete_steps_walk_no_graph(rank: int) -> None:
    walks, walk = [], data_parallel.walk
    data_parallel.walk = lambda nodes: (walks.append(1), walk(nodes))[1]
    try:
        run(lambda: WeightedLoss(Uncertainty(TERMS)), "inside", [(batch(step),) for step in range(3)])
        assert not walks
        run(lambda: WeightedLoss(Uncertainty(TERMS)), "inside", [(batch(0), "a" if rank else "")])
        assert len(walks) == rank
    finally:
        data_parallel.walk = walk


def check_accumulation_without_synchronization(rank: int) -> None:
    inputs = [(batch(2 * step + rank), "b" if step == 2 + rank else "") for step in range(6)]
    for make in (lambda: WeightedLoss(GradNorm(TERMS)), lambda: WeightedLoss(Uncertainty(TERMS))):
        plain, expected = run(make, "inside", inputs, accumulate="_always_synchronizes")
        model, criterion = run(make, "inside", inputs, accumulate="no_sync")
        torch.testing.assert_close(criterion.weights, expected.weights)
        torch.testing.assert_close(flat(model), flat(plain))


DistributedDataParallel._always_synchronizes = lambda self: nullcontext()


def check_uneven_inputs(rank: int) -> None:
    inputs = [(batch(2 * step + rank),) for step in range(2 + 2 * rank)]
    for place in ("inside", "outside", "probe_inputs"):
        for make in (lambda: WeightedLoss(GradBalance(TERMS)), lambda: WeightedLoss(Uncertainty(TERMS))):
            criterion = make()
            model = DistributedDataParallel(Heads(criterion, place))
            with pytest.raises(ValueError, match=r"a rank that is out of data .*`drop_last=True`"), model.join():
                train(model, criterion, inputs)
            with pytest.raises(RuntimeError, match="exhausted"), model.join(throw_on_early_termination=True):
                train(model, criterion, inputs)
    criterion = WeightedLoss(Fixed(TERMS, dict.fromkeys(TERMS, 0.5)))  # has nothing to bring together
    model = DistributedDataParallel(Heads(criterion, "inside"))
    with model.join():
        train(model, criterion, inputs)
    assert torch.equal(*everybody(flat(model)))


def check_a_rank_that_dies_ends_the_others(rank: int) -> None:
    criterion = WeightedLoss(GradBalance(TERMS))
    model = Heads(criterion, "inside")  # without a wrapper: the criterion's own collective
    train(model, criterion, [(batch(rank),)])
    if rank == 1:
        os._exit(0)
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=r"(?i)connection|peer|closed"):
        train(model, criterion, [(batch(step),) for step in range(3)])
    assert time.monotonic() - start < 60
    os._exit(0)  # to take down a group without one of its ranks may abort the process: this check is the last


def check_two(rank: int) -> None:
    check_ragged_steps(rank, 1000, lambda: WeightedLoss(Uncertainty(TERMS)))
    check_absent_heads_need_no_search(rank)
    check_complete_steps_walk_no_graph(rank)
    check_accumulation_without_synchronization(rank)
    check_uneven_inputs(rank)
    check_sharded_follows_replicated(rank)
    check_learned_weights_start_inside_of_shards(rank)
    check_what_shards_cannot_do_is_refused(rank)
    check_a_rank_that_dies_ends_the_others(rank)


def check_four(rank: int) -> None:
    check_ragged_steps(rank, 300, lambda: WeightedLoss(GradNorm(TERMS)))


@pytest.mark.processes
def test_two_ranks_stay_equal_whatever_a_step_lacks_and_report_uneven_data_and_a_death(tmp_path):
    on_ranks(2, check_two, tmp_path)


@pytest.mark.processes
def test_four_ranks_stay_equal_too(tmp_path):
    on_ranks(4, check_four, tmp_path)
