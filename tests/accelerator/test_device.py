"""What the pretended accelerator refuses and counts."""

import copy
import io

import pytest
import torch
from torch import nn

from tests.accelerator.device import DEVICE, pretend


def test_it_computes_and_differentiates_as_the_cpu_does():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    x = torch.randn(5, 3)
    net(x).square().mean().backward()
    expected = [parameter.grad for parameter in net.parameters()]
    net.zero_grad()
    with pretend():
        net.to(DEVICE)(x.to(DEVICE)).square().mean().backward()
        torch.testing.assert_close([parameter.grad.cpu() for parameter in net.parameters()], expected, rtol=0, atol=0)


@pytest.mark.parametrize("operation", [torch.add, torch.dot, lambda x, y: torch.stack([x, y])])
def test_tensors_on_two_devices_do_not_mix(operation):
    with pretend(), pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        operation(torch.ones(2, device=DEVICE), torch.ones(2))


def test_a_number_on_the_cpu_may_be_added_but_not_stacked():
    with pretend():
        x = torch.ones((), device=DEVICE)
        assert (x + torch.ones(())).item() == 2
        with pytest.raises(RuntimeError, match="on the same device"):
            torch.stack([x, torch.ones(())])


WAITS = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool(x.any()),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "a mask": lambda x: x[x > 0],
    "nonzero": lambda x: x.nonzero(),
    "equal": lambda x: torch.equal(x, x),
    "a literal": lambda x: torch.tensor([1.0, 2.0], device=DEVICE),
    "a copy from the host": lambda x: x.copy_(torch.ones(2)),
    "a copy to the host": lambda x: torch.ones(2).copy_(x),
}


@pytest.mark.parametrize("ask", WAITS.values(), ids=WAITS)
def test_the_host_waits(ask):
    with pretend() as device:
        x = torch.ones(2, device=DEVICE)
        device.reset()
        ask(x)
        assert device.waits.total() == 1


def test_the_host_does_not_wait_for_what_stays_there_or_may_arrive_later():
    with pretend() as device:
        x = torch.ones(2).to(DEVICE, non_blocking=True)
        x.copy_(torch.ones(2), non_blocking=True)
        torch.where(x > 1, x, 0.0).sum().to(torch.float16)
        x.new_zeros(2), x[None], torch.zeros_like(x)
        assert device.waits.total() == 0


def test_a_view_launches_nothing():
    with pretend() as device:
        x = torch.ones(2, 3, device=DEVICE)
        device.reset()
        x.view(3, 2).t().unbind()[0].expand(2, 3).detach()
        assert device.launches.total() == 0
        x.add_(1).sum()
        assert device.launches.total() == 2


def test_without_float64_a_tensor_in_it_is_refused():
    with pretend(float64=False), pytest.raises(TypeError, match="float64"):
        torch.ones(2, device=DEVICE).double()


def test_a_copy_stays_there_and_what_is_saved_comes_back_on_the_cpu():
    with pretend():
        layer, file = nn.Linear(2, 1).to(DEVICE), io.BytesIO()
        assert {parameter.device for parameter in copy.deepcopy(layer).parameters()} == {DEVICE}
        torch.save(layer.state_dict(), file)
        file.seek(0)
        assert {value.device.type for value in torch.load(file).values()} == {"cpu"}


def test_when_nobody_pretends_it_is_not_there():
    with pretend():
        assert torch.accelerator.is_available()
    assert not torch.accelerator.is_available()
