"""Probes on what enters a module, whatever it comes in."""

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from lossbalance import WeightedLoss
from lossbalance.weighting import Equal, GradBalance
from tests.helpers.recorder import Recorder

Pair = namedtuple("Pair", ["x", "boxes"])


@dataclass(frozen=True)
class Features:
    x: Tensor
    size: int = 3
    count: int = field(init=False, default=0)


class Head(nn.Module):
    """Takes the one tensor that it is to work on out of whatever it gets."""

    def __init__(self, find: Any) -> None:
        super().__init__()
        self.find = find

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return (3 * self.find(*args, **kwargs)).sum()


FORMS = {
    "argument": (lambda x, y: ((x,), {}), lambda x: x),
    "keyword": (lambda x, y: ((), {"x": x}), lambda x: x),
    "mapping": (lambda x, y: (({"x": x, "boxes": y},), {}), lambda d: d["x"]),
    "ordered": (lambda x, y: ((OrderedDict(x=x, boxes=y),), {}), lambda d: d["x"]),
    "other mapping": (lambda x, y: ((UserDict({1: x}),), {}), lambda d: d[1]),
    "read only": (lambda x, y: ((MappingProxyType({"x": x}),), {}), lambda d: d["x"]),
    "list in a tuple": (lambda x, y: ((([x], y),), {}), lambda t: t[0][0]),
    "named tuple": (lambda x, y: ((Pair(x, y),), {}), lambda t: t.x),
    "dataclass": (lambda x, y: ((Features(x),), {}), lambda f: f.x),
    "packed sequence": (lambda x, y: ((pack_sequence([x]),), {}), lambda p: p.data),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_tensor_is_measured_in_any_container_and_data_beside_it_is_not(form):
    pack, find = FORMS[form]
    criterion, head, x = WeightedLoss(Recorder(["a"], [1.0])), Head(find), torch.ones(4, requires_grad=True)
    handle = criterion.probe_inputs({"a": head})
    args, kwargs = pack(x * 1, torch.full((9,), 100.0))
    criterion({"a": head(*args, **kwargs)})
    assert criterion.weighting.shown[0].norms.item() == pytest.approx(6.0)
    handle.remove()
    assert not head._forward_pre_hooks


def test_what_holds_no_tensor_with_a_gradient_goes_in_as_it_is():
    criterion, seen = WeightedLoss(Equal(["a"])), []
    head = Head(lambda *args: seen.extend(args) or torch.zeros(1))
    criterion.probe_inputs({"a": head})
    given = [torch.ones(2), {"x": torch.ones(1)}, (1, "two"), None]
    head(*given)
    assert all(one is other for one, other in zip(given, seen, strict=True))
    assert not criterion.probes.probed


def test_a_complex_activation_is_measured_by_its_modulus():
    criterion, x = WeightedLoss(Recorder(["a"], [1.0])), torch.tensor([3 + 4j, 1j], requires_grad=True)
    head = Head(lambda z: z.abs().square() / 6)  # of gradient z, as torch has it
    criterion.probe_inputs({"a": head})
    criterion({"a": head(x)})
    assert criterion.weighting.shown[0].norms.item() == pytest.approx(26**0.5)


@pytest.mark.parametrize(
    ("modules", "error", "message"),
    [
        ({"a": "net"}, TypeError, r"`modules\['a'\]` must be the module in which the branch begins, got 'net'"),
        ([nn.Linear(1, 1)], TypeError, "`modules` must map terms to the modules in which they begin"),
        ({"b": nn.Linear(1, 1)}, ValueError, r"`modules` must be one of \['a'\], got 'b'"),
        (
            {"a": nn.Sequential(nn.Sequential(nn.ReLU(inplace=True)), nn.Linear(1, 1))},
            ValueError,
            "must not begin with a layer that works in place",
        ),
    ],
)
def test_what_cannot_be_probed_is_refused(modules, error, message):
    with pytest.raises(error, match=message):
        WeightedLoss(Equal(["a"])).probe_inputs(modules)


def test_shared_measures_complex_parameters_and_refuses_sparse_gradients():
    criterion, z = WeightedLoss(Recorder(["a"], [1.0])), torch.tensor([3 + 4j, 0j], requires_grad=True)
    criterion({"a": z.abs().square().sum() / 2}, shared=z)
    assert criterion.weighting.shown[0].norms.item() == pytest.approx(5.0)
    embedding = nn.Embedding(4, 2, sparse=True)
    with pytest.raises(TypeError, match="gradients must be dense"):
        criterion({"a": embedding(torch.tensor([1])).sum()}, shared=embedding.weight)


def test_shared_tensors_that_a_loss_does_not_depend_on_are_an_error():
    criterion, net = WeightedLoss(GradBalance(["a", "b"])), nn.Linear(2, 2)
    a, b = net(torch.ones(1, 2)).sum(), nn.Linear(1, 1)(torch.ones(1)).sum()
    with pytest.raises(ValueError, match="`shared` must be what the losses are computed from, and 'b' depends on none"):
        criterion({"a": a, "b": b}, shared=net.parameters())


@pytest.mark.parametrize("shared", [nn.Linear(1, 1), 3])
def test_shared_must_be_tensors(shared):
    with pytest.raises(TypeError, match=r"`shared` must be one or more tensors, got .*: give the parameters"):
        WeightedLoss(GradBalance(["a"]))({"a": torch.ones((), requires_grad=True)}, shared=shared)
