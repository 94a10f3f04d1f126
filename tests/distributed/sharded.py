"""Modules of ``fully_shard`` beside the same ones under DistributedDataParallel, for two processes."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from lossbalance import WeightedLoss
from lossbalance.conflict import PCGrad
from lossbalance.penalties import L1, L2, ElasticNet, GroupLasso
from lossbalance.weighting import Equal, GradBalance, LRAnnealing, Uncertainty
from tests.distributed.test_distributed import batch

TERMS = ["aux", "main"]
Make = Callable[[], WeightedLoss]
PENALTIES = [
    *(L2(0.01, normalization=scale) for scale in ("sum", "mean", "tensor_mean", "fan")),
    *(kind(0.01, mode=mode) for kind in (L1, L2) for mode in ("loss", "gradient", "decoupled")),
    *(ElasticNet(0.01, 0.02, mode=mode) for mode in ("loss", "gradient", "decoupled")),
    L2(share=0.1, mode="gradient"),
    L2(1.0, reference="initial"),
    L1(1.0, mode="proximal"),
    *(GroupLasso(0.5, group, mode=mode) for group in ("output", "input") for mode in ("loss", "proximal")),
]


class Net(nn.Module):
    """Two heads on two layers."""

    def __init__(self, criterion: WeightedLoss, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.middle, self.aux, self.main = (nn.Linear(*size) for size in ((3, 8), (8, 4), (4, 2), (4, 1)))
        self.__dict__["criterion"], self.how = criterion, how

    def forward(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        h = self.middle(self.trunk(x).tanh()).tanh()
        if self.how == "branch":
            seen = self.criterion.branch(h)
        else:
            seen = {term: self.criterion.probe(term, h) for term in TERMS}
        losses = {
            "aux": 100 * self.aux(seen["aux"]).square().mean(),
            "main": (self.main(seen["main"]) - 1).exp().mean(),
        }
        return losses, h


def shard(net: nn.Module, whole: bool = True) -> nn.Module:
    mesh = init_device_mesh("cpu", (2,))
    for layer in net.children():
        fully_shard(layer, mesh=mesh)
    return fully_shard(net, mesh=mesh) if whole else net


def train(rank: int, make: Make, how: str, wrap: Callable[[nn.Module], nn.Module]) -> tuple[Tensor, Tensor]:
    """Returns the parameters, whole, after four steps, and the weights of each."""
    criterion = make()
    net = Net(criterion, how)
    model = wrap(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=3e-3)
    criterion.attach(optimizer, net)
    weights = []
    for step in range(4):
        optimizer.zero_grad()
        losses, h = model(batch(2 * step + rank))
        criterion(losses, module=net, shared=h if how == "shared" else None).backward()
        optimizer.step()
        weights.append(torch.stack(list(criterion.weights.values())))
    whole = [getattr(each, "full_tensor", lambda each=each: each)().detach().flatten() for each in net.parameters()]
    return torch.cat(whole), torch.stack(weights)


def averages_over_ranks(rank: int) -> bool:
    """Returns whether ``fully_shard`` averages the gradients of ranks: on a CPU, that of torch 2.8 adds them up."""
    net = shard(nn.Sequential(nn.Linear(1, 1, bias=False)))
    net(torch.full((1, 1), rank + 1.0)).sum().backward()
    return net[0].weight.grad.full_tensor().item() == 1.5


def check_sharded_follows_replicated(rank: int) -> None:
    if not averages_over_ranks(rank):
        return
    cases: list[tuple[Make, str]] = [
        (lambda: WeightedLoss(GradBalance(TERMS)), "probes"),
        (lambda: WeightedLoss(LRAnnealing(TERMS)), "probes"),
        (lambda: WeightedLoss(GradBalance(TERMS)), "shared"),
        (lambda: WeightedLoss(GradBalance(TERMS), conflict=PCGrad()), "branch"),
        *((lambda p=p: WeightedLoss(Equal(TERMS), penalties={"penalty": deepcopy(p)}), "probes") for p in PENALTIES),
    ]
    for make, how in cases:
        expected = train(rank, make, how, DistributedDataParallel)
        torch.testing.assert_close(train(rank, make, how, shard), expected, msg=f"{make().penalties} {how}")


class Learned(nn.Module):
    """Two losses of very different size, and inside of the module a criterion that learns its weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(3, 2)
        self.criterion = WeightedLoss(Uncertainty(TERMS))

    def forward(self, x: Tensor) -> Tensor:
        aux, main = self.net(x).square().mean(dim=0)
        return self.criterion({"aux": 100 * aux, "main": main})


def learn(rank: int, wrap: Callable[[nn.Module], nn.Module]) -> Tensor:
    """Returns the weights of each of ten steps, five of which are the start."""
    module = Learned()
    model = wrap(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    weights = []
    for step in range(10):
        optimizer.zero_grad()
        model(batch(2 * step + rank)).backward()
        optimizer.step()
        weights.append(torch.stack(list(module.criterion.weights.values())))
    model.eval()
    return torch.stack(weights)


def check_learned_weights_start_inside_of_shards(rank: int) -> None:
    if averages_over_ranks(rank):
        expected = learn(rank, DistributedDataParallel)
        assert (expected[-1] != expected[4]).all()
        torch.testing.assert_close(learn(rank, fully_shard), expected)


def check_what_shards_cannot_do_is_refused(rank: int) -> None:
    share = WeightedLoss(Equal(TERMS), penalties={"l2": L2(share=0.1)})
    for whole in (True, False):  # without the whole, parameters stay gathered after the forward pass
        with pytest.raises(TypeError, match=r"`share` in mode 'loss' takes .*use mode='gradient'"):
            train(rank, lambda: share, "probes", lambda net, whole=whole: shard(net, whole))

    criterion = WeightedLoss(GradBalance(TERMS))
    net = Net(criterion, "probes")
    view, branches = criterion.probe_parameters("aux", net), criterion.branch_parameters(net)
    shard(net)
    for run in (view, branches["aux"], lambda x: criterion.probe_parameters("aux", net)):
        with pytest.raises(TypeError, match="those of `fully_shard` are in parts: probe activations"):
            run(batch(0))
    with pytest.raises(ValueError, match="`shared` must be what the losses are computed from"):
        criterion(net(batch(0))[0], shared=net.middle.parameters())
