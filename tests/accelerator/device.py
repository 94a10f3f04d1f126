"""A pretended accelerator: what is on it computes on the CPU, and is refused what an accelerator refuses.

::

    with pretend() as device:
        net, criterion = net.to(DEVICE), criterion.to(DEVICE)
        step()
        assert device.waits.total() == 0

- Tensors on two devices in one operation raise; a number on the CPU may stand beside the tensors of pointwise ones.
- Whenever the host would wait for the device, ``waits`` counts it; every operation that would launch a kernel,
  ``launches`` does.
- With ``pretend(float64=False)`` a tensor in float64 raises, as on Apple's GPUs.
- A Trainer runs on it: ``Trainer(accelerator=NAME, strategy=NAME, devices=1)``.

Outside of ``pretend()`` no such device is there. What is pickled comes back on the CPU, as a Trainer loads it.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, ClassVar

import torch
from pytorch_lightning.accelerators import AcceleratorRegistry, CPUAccelerator
from pytorch_lightning.strategies import SingleDeviceStrategy, StrategyRegistry
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from tests.accelerator.operations import launches, waits

NAME = "pretended"
_COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default, torch.ops.aten._foreach_copy_.default}


class Device:
    """What the device can do, and what it has been asked for.

    Args:
        float64: Whether it has numbers of 64 bits.
    """

    current: ClassVar["Device | None"] = None

    def __init__(self, float64: bool) -> None:
        self.float64 = float64
        self.reset()

    def reset(self) -> None:
        """Starts to count anew."""
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()


class DeviceTensor(Tensor):
    """A tensor on the device; ``raw`` is the tensor on the CPU that computes for it."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> "DeviceTensor":
        if raw.dtype == torch.float64 and not _device().float64:
            raise TypeError(f"Cannot convert a tensor to float64: the device {NAME!r} does not support it.")
        layout = {"strides": raw.stride(), "storage_offset": raw.storage_offset(), "dtype": raw.dtype}
        with torch.inference_mode(False):  # a view of an ordinary tensor must be one
            tensor = Tensor._make_wrapper_subclass(cls, raw.size(), device=DEVICE, **layout)
        tensor.raw = raw
        return tensor

    def __repr__(self) -> str:
        return f"{self.raw} on {NAME}"

    def tolist(self) -> Any:
        _device().waits["tolist"] += 1
        return self.raw.tolist()

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"can't convert {NAME} device type tensor to numpy. Use Tensor.cpu() to copy it first.")

    numpy = __array__

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            copy = self.detach().clone().requires_grad_(self.requires_grad)
            memo[id(self)] = torch.nn.Parameter(copy, self.requires_grad) if hasattr(self, "_is_param") else copy
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.raw.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        wanted = _pop_device(kwargs)
        _check_one_device(func, given)
        _count(func, args, given, wanted, kwargs)
        results = func(*tree_map(_to_raw, args), **tree_map(_to_raw, kwargs))
        if wanted == "cpu" or (func is torch.ops.aten.copy_.default and not isinstance(args[0], cls)):
            return results if wanted == "cpu" else args[0]
        mine = {
            id(x.raw): x for x in given if isinstance(x, cls)
        }  # what works in place returns the tensor it was given
        return tree_map(lambda x: mine[id(x)] if id(x) in mine else _to_device(x), results)


def _device() -> Device:
    assert Device.current is not None, "the pretended device is there within `pretend()` alone"
    return Device.current


def _to_raw(x: Any) -> Any:
    return x.raw if isinstance(x, DeviceTensor) else x


def _to_device(x: Any) -> Any:
    return DeviceTensor(x) if isinstance(x, Tensor) and not isinstance(x, DeviceTensor) else x


def _pop_device(kwargs: dict[str, Any]) -> str | None:
    """Replaces the device that an operation is asked to put its result on by the CPU; returns which one it was."""
    if kwargs.get("device") is None:
        return None
    wanted = torch.device(kwargs["device"]).type
    kwargs["device"] = torch.device("cpu")
    kwargs.pop("pin_memory", None)
    return wanted


def _check_one_device(func: Any, given: list[Tensor]) -> None:
    strangers = [x for x in given if not isinstance(x, DeviceTensor)]
    numbers_may = torch.Tag.pointwise in func.tags or func.overloadpacket.__name__ in ("fill_", "index", "index_put_")
    if func in _COPIES or all(x.ndim == 0 and numbers_may for x in strangers):
        return
    raise RuntimeError(
        f"Expected all tensors to be on the same device, but found at least two devices, {NAME}:0 and cpu! ({func})"
    )


def _count(func: Any, args: Any, given: list[Tensor], wanted: str | None, kwargs: dict[str, Any]) -> None:
    device, name = _device(), func.overloadpacket.__name__
    device.launches[name] += launches(func)
    by_mask = name in ("index", "index_put_") and any(
        x.dtype == torch.bool for x in tree_leaves(args[1]) if x is not None
    )
    crosses = func in _COPIES and (wanted == "cpu" or not all(isinstance(x, DeviceTensor) for x in given))
    non_blocking = kwargs.get("non_blocking", False) or (func is torch.ops.aten.copy_.default and args[2:] == (True,))
    device.waits[name] += waits(func) or by_mask or (crosses and not non_blocking)


class _Factories(TorchDispatchMode):
    """Makes what is asked for on the device: ``torch.zeros(..., device=DEVICE)`` and ``x.to(DEVICE)``."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        wanted = kwargs.get("device")
        if torch.is_inference_mode_enabled() and func._can_decompose():  # without autograd, nobody has done so
            with self:
                return func.decompose(*args, **kwargs)
        if any(isinstance(x, DeviceTensor) for x in given) or wanted is None or torch.device(wanted).type != NAME:
            return func(*args, **kwargs)
        _pop_device(kwargs)
        _count(func, args, given, NAME, kwargs)
        return tree_map(_to_device, func(*args, **kwargs))


class _Literals(TorchFunctionMode):
    """Moves there what ``torch.tensor(data, device=DEVICE)`` and the like, which pass no dispatcher, are to make."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        literal = func in (torch.tensor, torch.as_tensor, torch.asarray)
        if literal and kwargs.get("device") is not None and torch.device(kwargs["device"]).type == NAME:
            return func(*args, **kwargs | {"device": "cpu"}).to(DEVICE)
        if func is Tensor.new_tensor and isinstance(args[0], DeviceTensor):
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype} | kwargs).to(DEVICE)
        return func(*args, **kwargs)


class _Backend:
    """What PyTorch asks about a kind of device."""

    def is_available(self) -> bool:
        return Device.current is not None

    def device_count(self) -> int:
        return int(self.is_available())

    def is_initialized(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def synchronize(self) -> None:
        pass  # nothing is ever under way

    def manual_seed_all(self, seed: int) -> None:
        pass  # random numbers are the CPU's

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)


class PretendedAccelerator(CPUAccelerator):
    """What Lightning asks about a kind of device."""

    def setup_device(self, device: torch.device) -> None:
        """Takes any device."""


class pretend(ExitStack):  # noqa: N801
    """Within it the machine has the device; gives the :class:`Device`."""

    def __init__(self, float64: bool = True) -> None:
        super().__init__()
        self.device = Device(float64)

    def __enter__(self) -> Device:
        super().__enter__()
        Device.current = self.device
        self.callback(setattr, Device, "current", None)
        for mode in (_Factories(), _Literals()):
            self.enter_context(mode)
        return self.device


_setup_privateuseone_for_python_backend(NAME, _Backend())
DEVICE = torch.device(NAME, 0)
AcceleratorRegistry.register(NAME, PretendedAccelerator)
StrategyRegistry.register(NAME, SingleDeviceStrategy, device=DEVICE)
