"""A coefficient has the same size in every parallel layout."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from lossbalance import WeightedLoss
from lossbalance._utils import distributed
from lossbalance.gradients.norms import NormAccumulator
from lossbalance.weighting import Equal, GradBalance, LRAnnealing, Uncertainty
from tests.distributed.test_distributed import alone, on_ranks

TERMS = ["aux", "main"]


class Heads(nn.Module):
    """Two heads of two layers on one layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Linear(3, 8)
        for term in TERMS:
            self.add_module(term, nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)))


def train(net: Heads, enter=lambda h: h, shared=None, **options) -> torch.Tensor:
    """Returns the weights of each of four steps.

    Args:
        net: The heads.
        enter: Makes of the activation what enters the heads.
        shared: Returns tensors to take norms by, in place of probes.
        **options: Of the criterion.
    """
    criterion = WeightedLoss(GradBalance(TERMS), **options)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-2)
    weights = []
    for step in range(4):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        h = enter(net.trunk(x).tanh())
        seen = dict.fromkeys(TERMS, h) if shared else {term: criterion.probe(term, h) for term in TERMS}
        losses = {"aux": 100 * net.aux(seen["aux"]).square().mean(), "main": (net.main(seen["main"]) - 1).exp().mean()}
        criterion(losses, shared=shared(net) if shared else None).backward()
        optimizer.step()
        weights.append([weight.item() for weight in criterion.weights.values()])
    return torch.tensor(weights)


def tensor_parallel(mesh, **styles) -> Heads:
    """Returns the heads with the hidden layer of each spread over the ranks."""
    net = Heads()
    plan = {f"{term}.0": ColwiseParallel(**styles) for term in TERMS} | {f"{t}.2": RowwiseParallel() for t in TERMS}
    return parallelize_module(net, mesh, plan)


def check_tensor_parallel_heads_weigh_as_in_one_process(rank: int) -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    expected = EXPECTED["probes"]
    torch.testing.assert_close(train(tensor_parallel(mesh)), expected, rtol=1e-5, atol=0)
    alone_too = train(tensor_parallel(mesh), process_group=list(map(dist.new_group, [[0], [1]]))[rank])
    torch.testing.assert_close(alone_too, expected, rtol=1e-5, atol=0)
    for layout in (Shard(0), Replicate()):

        def enter(h, layout=layout):
            return DTensor.from_local(h, mesh, [Replicate()]).redistribute(placements=[layout])

        ours = train(tensor_parallel(mesh, input_layouts=layout), enter)
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=0)
    weights = train(tensor_parallel(mesh), shared=lambda net: [net.aux[0].weight, net.main[0].weight, net.aux[2].bias])
    torch.testing.assert_close(weights, EXPECTED["shared"], rtol=1e-5, atol=0)


def check_partial_gradients_are_added_up_before_they_are_measured(rank: int) -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for placement, part in ((Partial(), [3.0, 4.0]), (Replicate(), [6.0, 8.0]), (Shard(0), [[6.0], [8.0]][rank])):
        whole = DTensor.from_local(torch.tensor(part), mesh, [placement], run_check=False)
        accumulator = NormAccumulator([2, 2], magnitudes=False)
        accumulator.add(0, whole)
        assert accumulator.rows()[0, 0].item() == 10


def check_shared_parameters_weigh_as_on_the_whole_batch(rank: int) -> None:
    for scheme in (GradBalance, LRAnnealing):
        with alone():
            expected = train_parts(scheme, slice(None))
        ours = train_parts(scheme, slice(4 * rank, 4 * rank + 4))
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=0)


def train_parts(scheme, part: slice) -> torch.Tensor:
    """Returns the weights of each of three steps on a part of the batch; the norms are those by the trunk's weight."""
    net, criterion = Heads(), WeightedLoss(scheme(TERMS))
    weights = []
    for step in range(3):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))[part]
        h = net.trunk(x).tanh()
        losses = {"aux": 100 * net.aux(h).square().mean(), "main": (net.main(h) - 1).exp().mean()}
        criterion(losses, shared=net.trunk.weight)
        weights.append([weight.item() for weight in criterion.weights.values()])
    return torch.tensor(weights)


def check_only_the_last_rank_has_losses(rank: int) -> None:
    group = dist.new_group([1])
    scheme = Uncertainty(TERMS)
    if rank == 1:
        total = WeightedLoss(scheme, process_group=group)(losses())
        torch.testing.assert_close(total, WeightedLoss(Uncertainty(TERMS), process_group=lambda: group)(losses()))
        WeightedLoss(Equal(TERMS))(losses())  # observes nothing
    else:
        with pytest.raises(ValueError, match=r"`process_group` must hold the ranks that call the .* rank 0 is not in"):
            WeightedLoss(scheme, process_group=group)(losses())
    distributed.PATIENCE /= 30
    if rank == 1:
        with pytest.raises(RuntimeError, match=r"`process_group` must hold .* of \[0, 1\], \[0\] did not within"):
            WeightedLoss(Uncertainty(TERMS))(losses())
    dist.barrier()


def losses() -> dict[str, torch.Tensor]:
    return {term: torch.tensor(i + 1.0, requires_grad=True) for i, term in enumerate(TERMS)}


EXPECTED: dict[str, torch.Tensor] = {}


def check_all(rank: int) -> None:
    with alone():
        EXPECTED["probes"] = train(Heads())
        EXPECTED["shared"] = train(Heads(), shared=lambda net: [net.aux[0].weight, net.main[0].weight, net.aux[2].bias])
    check_tensor_parallel_heads_weigh_as_in_one_process(rank)
    check_partial_gradients_are_added_up_before_they_are_measured(rank)
    check_shared_parameters_weigh_as_on_the_whole_batch(rank)
    check_only_the_last_rank_has_losses(rank)


@pytest.mark.processes
def test_tensor_parallel_heads_weigh_as_one_process_and_ranks_without_losses_are_told(tmp_path):
    on_ranks(2, check_all, tmp_path)


def test_what_is_no_process_group_is_refused():
    with pytest.raises(TypeError, match=r"`process_group` must be a process group of torch.distributed, .* got 'dp'"):
        WeightedLoss(Equal(TERMS), process_group="dp")
