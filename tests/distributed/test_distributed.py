"""Two processes that train together agree on every weight, to the last bit."""

import copy
import math
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing import spawn
from torch.nn.parallel import DistributedDataParallel

from lossbalance import WeightedLoss
from lossbalance.weighting import Alpha, GradBalance, GradNorm, LRAnnealing, Uncertainty, Weighting
from tests.helpers.recorder import Recorder

TERMS = ["aux", "main"]
SCHEMES: list[Callable[[], Weighting]] = [
    lambda: Alpha(TERMS, alpha=0.25),
    lambda: GradBalance(TERMS),
    lambda: GradNorm(TERMS),
    lambda: LRAnnealing(TERMS),
    lambda: Uncertainty(TERMS),
]


class Net(nn.Module):
    """Two heads on one layer; the criterion inside, where DistributedDataParallel finds its parameters."""

    def __init__(self, criterion: WeightedLoss) -> None:
        super().__init__()
        self.trunk, self.aux, self.main = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 1)
        self.criterion = criterion

    def forward(self, x: Tensor, lacks_aux: bool = False, factor: float = 1.0) -> Tensor:
        h = self.trunk(x).tanh()
        aux = 100 * self.aux(self.criterion.probe("aux", h)).square().mean()
        main = self.main(self.criterion.probe("main", h)).exp().mean()
        return self.criterion({"aux": None if lacks_aux else factor * aux, "main": main})


def make(scheme: Callable[[], Weighting]) -> Net:
    torch.manual_seed(0)
    return Net(WeightedLoss(scheme()))


def batch(step: int) -> Tensor:
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(step))


def train(model: nn.Module, inputs: list[tuple], lr: float = 0.01) -> list[list[float]]:
    """Returns the weights of each step."""
    net = model.module if isinstance(model, DistributedDataParallel) else model
    weights = []
    for arguments in inputs:
        model.zero_grad()
        total = model(*arguments)
        total.backward()
        if all(everybody(total.isfinite().item()) if dist.is_initialized() else [total.isfinite()]):
            with torch.no_grad():
                for parameter in net.parameters():
                    parameter -= lr * (0 if parameter.grad is None else parameter.grad)
        weights.append([weight.item() for weight in net.criterion.weights.values()])
    return weights


def on_ranks(count: int, check: Callable[[int], None], tmp_path: Path) -> None:
    spawn(_rank, args=(count, check, str(tmp_path / "store")), nprocs=count)


def _rank(rank: int, count: int, check: Callable[[int], None], store: str) -> None:
    torch.set_num_threads(1)
    limit = timedelta(seconds=120)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count, timeout=limit)
    try:
        check(rank)
    finally:
        dist.destroy_process_group()


def everybody(value: object) -> list:
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def check_all(rank: int) -> None:
    for scheme in SCHEMES:
        check_ranks_agree(rank, scheme)
        check_a_resumed_run_goes_on(rank, scheme)
    check_halves_follow_the_whole(rank, lambda: Uncertainty(TERMS))
    check_halves_follow_the_whole(rank, lambda: Alpha(TERMS, alpha=0.25))
    check_norms_are_those_of_the_whole_batch(rank)
    check_one_collective_a_step(rank)
    check_a_static_graph_has_the_criterion_inside(rank)
    check_learned_weights_outside_of_the_wrapped_module_are_equal_on_all_ranks(rank)


def check_ranks_agree(rank: int, scheme: Callable[[], Weighting]) -> None:
    """Also where a rank lacks a term, from the first step or later, and where a loss of one rank is not finite."""
    model = DistributedDataParallel(make(scheme), find_unused_parameters=True)  # the head of an absent term is unused
    inputs = [(10 * batch(2 * step + rank),) for step in range(6)]
    inputs[0] = (*inputs[0], rank == 1)
    inputs[2] = (*inputs[2], rank == 0)
    inputs[4] = (*inputs[4], False, math.nan if rank == 1 else 1.0)
    weights = train(model, inputs)

    for step, (ours, theirs) in enumerate(zip(*everybody(weights), strict=True)):
        assert ours == theirs or step in (0, 2), (scheme(), step, ours, theirs)
        assert all(math.isfinite(weight) for weight in ours)
    states = everybody({name: value.tolist() for name, value in model.module.criterion.weighting.state_dict().items()})
    assert states[0] == states[1]


def check_a_resumed_run_goes_on(rank: int, scheme: Callable[[], Weighting]) -> None:
    """From the checkpoint of rank 0 alone."""
    inputs = [(batch(2 * step + rank),) for step in range(6)]
    model = DistributedDataParallel(make(scheme))
    train(model, inputs[:3])
    model.module.criterion.synchronize()
    state = everybody(copy.deepcopy(model.module.state_dict()))[0]
    resumed = DistributedDataParallel(make(scheme))
    resumed.module.load_state_dict(state)

    assert train(resumed, inputs[3:]) == train(model, inputs[3:])


def check_halves_follow_the_whole(rank: int, scheme: Callable[[], Weighting]) -> None:
    whole, half = make(scheme), DistributedDataParallel(make(scheme))
    ours = train(half, [(batch(step)[4 * rank : 4 * rank + 4],) for step in range(5)])
    with alone():
        expected = train(whole, [(batch(step),) for step in range(5)])
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(expected))


def check_norms_are_those_of_the_whole_batch(rank: int) -> None:
    def recorder() -> Recorder:
        return Recorder(TERMS, [0.5, 2.0])

    whole, half = make(recorder), DistributedDataParallel(make(recorder))
    train(half, [(batch(step)[4 * rank : 4 * rank + 4],) for step in range(3)])
    with alone():
        train(whole, [(batch(step),) for step in range(3)])
    ours = [shown.norms for shown in half.module.criterion.weighting.shown if shown.seen.all()]
    expected = [shown.norms for shown in whole.criterion.weighting.shown if shown.seen.all()]
    torch.testing.assert_close(torch.stack(ours), torch.stack(expected))


def check_a_static_graph_has_the_criterion_inside(rank: int) -> None:
    inputs = [(batch(step)[4 * rank : 4 * rank + 4],) for step in range(4)]
    static = DistributedDataParallel(make(lambda: GradBalance(TERMS)), static_graph=True)
    assert train(static, inputs) == train(DistributedDataParallel(make(lambda: GradBalance(TERMS))), inputs)
    gradients = everybody([parameter.grad for parameter in static.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))

    criterion, net = WeightedLoss(GradBalance(TERMS)), nn.Linear(3, 2)
    handle = criterion.probe_inputs(dict.fromkeys(TERMS, net))
    outside = DistributedDataParallel(net, static_graph=True)
    aux, main = outside(*inputs[0]).mean(dim=0)
    for shared in (None, net.weight):
        message = r"`DistributedDataParallel\(static_graph=True\)`.* inside the wrapped module"
        with pytest.raises(ValueError, match=message):
            criterion({"aux": aux, "main": main}, shared=shared)
    handle.remove()


def check_learned_weights_outside_of_the_wrapped_module_are_equal_on_all_ranks(rank: int) -> None:
    def learn(inside: bool) -> list[float]:
        net, criterion = nn.Linear(3, 2), WeightedLoss(Uncertainty(TERMS, initial_log_variance=0.0))
        with torch.no_grad():
            net.weight.fill_(0.5), net.bias.fill_(0.1)
        holder = nn.ModuleDict({"net": net, "criterion": criterion}) if inside else net
        holder.forward = net.forward
        model = DistributedDataParallel(holder)
        parameters = [*net.parameters(), *criterion.parameters()]
        optimizer = torch.optim.SGD(parameters, lr=0.05)
        for step in range(10):
            optimizer.zero_grad()
            aux, main = (rank + 1) * model(batch(2 * step + rank)).square().mean(dim=0)
            criterion({"aux": 100 * aux, "main": main}).backward()
            optimizer.step()
        return [weight.item() for weight in criterion.weights.values()]

    outside = everybody(learn(inside=False))
    assert outside[0] == outside[1]
    torch.testing.assert_close(torch.tensor(outside), torch.tensor(everybody(learn(inside=True))))


class alone:  # noqa: N801 - used like a function
    """Within it, there is but one process."""

    def __enter__(self) -> None:
        self.is_initialized, dist.is_initialized = dist.is_initialized, lambda: False

    def __exit__(self, *_: object) -> None:
        dist.is_initialized = self.is_initialized


def check_one_collective_a_step(rank: int) -> None:
    sizes = []
    all_reduce = dist.all_reduce
    dist.all_reduce = lambda tensor, *args, **kwargs: (
        sizes.append(tensor.numel()),
        all_reduce(tensor, *args, **kwargs),
    )
    try:
        train(make(lambda: GradBalance(TERMS)), [(batch(step), rank == 0 and step == 1) for step in range(4)])
    finally:
        dist.all_reduce = all_reduce
    assert len(sizes) == 4
    assert max(sizes) <= 6 * len(TERMS) + 1


@pytest.mark.processes
def test_ranks_agree_resume_and_follow_the_whole_batch_with_one_collective_a_step(tmp_path):
    on_ranks(2, check_all, tmp_path)
