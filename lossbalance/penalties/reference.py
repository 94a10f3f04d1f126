"""Reference weights of L2-SP: the values from which the distance of each weight is measured."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lossbalance._utils.checks import did_you_mean
from lossbalance._utils.precision import keep_precision
from lossbalance._utils.warn import warn_user
from lossbalance.penalties.dtensor import layout, local
from lossbalance.penalties.selection import Group


class Reference(nn.Module):
    """Keeps the reference of each penalized parameter, by its name, in the state.

    They are taken at the first call in training, and never move. A parameter that has none then, or one of another
    shape, is named in a warning. Its distance is measured from its values at that time where the reference is
    ``"initial"``, and from 0 where it is a mapping, as Li et al. (2018) penalize the new layers of a network.

    Args:
        given: ``"initial"``, or a mapping of names to tensors, such as a pretrained ``state_dict()``.

    Raises:
        TypeError: If it is neither.
    """

    def __init__(self, given: str | Mapping[str, Tensor]) -> None:
        super().__init__()
        tensors = isinstance(given, Mapping) and all(isinstance(tensor, Tensor) for tensor in given.values())
        if given != "initial" and not (tensors and given):
            raise TypeError(f"`reference` must be 'initial' or map names of parameters to tensors, got {given!r}.")
        self.given = None if isinstance(given, str) else dict(given)
        self._names: list[list[str]] | None = None  # of the parameters at the last call

    def add_to(self, groups: list[Group], module: nn.Module) -> list[Group]:
        """Returns the groups with the reference of each parameter; takes those that are missing.

        Raises:
            ValueError: If a mapping has no tensor for any of the parameters.
        """
        names = [[_plain(name, module) for name in group.names] for group in groups]
        found = [list(zip(row, group.weights, strict=True)) for row, group in zip(names, groups, strict=True)]
        if not torch.compiler.is_compiling() and names != self._names:
            self._warn_frozen(module)
            self._names = names
        missing = [pair for pairs in found for pair in pairs if not self._has(*pair)]
        if missing and not torch.compiler.is_compiling():
            self._take(dict(missing), all_missing=len(missing) == sum(map(len, found)))
        return [
            group._replace(references=[self._find(*pair) for pair in pairs])
            for group, pairs in zip(groups, found, strict=True)
        ]

    @torch.no_grad()
    def _take(self, weights: Mapping[str, nn.Parameter], all_missing: bool) -> None:
        """Takes the references of parameters that have none, and warns where this is no ordinary first call."""
        if self.given is None:
            if self.training:
                self._warn([*weights] if self._buffers else [], "its values now")
                self._keep((name, weight.detach().clone()) for name, weight in weights.items())
            return
        given = {name: self.given[name] for name, weight in weights.items() if self._is_given(name, weight)}
        if not given and all_missing:
            raise ValueError(
                "`reference` must have tensors of the names and shapes of penalized parameters, and has none of "
                f"{[*weights]}{did_you_mean(next(iter(weights)), self.given)}."
            )
        self._warn([name for name in weights if name not in given], "0")
        zero = torch.zeros(())
        self._keep((name, _place(given.get(name, zero), weight)) for name, weight in weights.items())

    def _is_given(self, name: str, weight: Tensor) -> bool:
        return self.given is not None and name in self.given and self.given[name].shape == weight.shape

    def _warn_frozen(self, module: nn.Module) -> None:
        known = {key.replace("/", ".") for key in self._buffers} | set(self.given or ())
        frozen = [_plain(name, module) for name, weight in module.named_parameters() if not weight.requires_grad]
        names = [name for name in frozen if name in known]
        if names:
            warn_user(f"`reference` has tensors of {names}, which are frozen: they stay, and are not penalized.")

    def _warn(self, names: list[str], origin: str) -> None:
        if names:
            warn_user(
                f"`reference` has no tensor of the name and shape of {names}, which are new, resized, or were frozen "
                f"before: the distance of each is measured from {origin}. Leave them out by `exclude`, or give "
                "`reference` their tensors."
            )

    def _keep(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        for name, tensor in tensors:
            self.register_buffer(_key(name), tensor)

    def _has(self, name: str, weight: Tensor) -> bool:
        kept = self._buffers.get(_key(name))
        return kept is not None and kept.shape in (weight.shape, ())

    def _find(self, name: str, weight: Tensor) -> Tensor:
        kept = self._buffers.get(_key(name))
        if kept is None:  # in evaluation before the first step: the weight is where it starts
            return weight.detach()
        if kept.device != weight.device:
            kept = kept.to(weight.device)
            self._buffers[_key(name)] = kept
        return kept

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        self._buffers.clear()
        for key, tensor in state_dict.items():
            if key.startswith(prefix):
                self.register_buffer(key[len(prefix) :], tensor.detach().clone())
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Reference":
        return super()._apply(keep_precision(fn), recurse)

    def extra_repr(self) -> str:
        """Where the references come from."""
        return repr("initial") if self.given is None else f"{len(self.given)} tensors"


def _key(name: str) -> str:
    return name.replace(".", "/")  # a buffer has no dot in its name


def _plain(name: str, module: nn.Module) -> str:
    """Returns the name of a parameter without the prefixes of wrappers."""
    name = name.replace("_orig_mod.", "")
    return name.removeprefix("module.") if isinstance(module, DistributedDataParallel) else name


def _place(tensor: Tensor, weight: Tensor) -> Tensor:
    """Returns a copy of the tensor on the device of the weight, and sharded like it."""
    tensor = tensor.detach().clone().to(weight.device)
    if layout(weight) is None or layout(tensor) is not None or tensor.ndim == 0:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, *layout(weight))


def differences(weights: list[Tensor], references: list[Tensor]) -> list[Tensor]:
    """Returns each weight minus its reference, in the weight's precision."""
    parts = [local(reference).to(weight.dtype) for weight, reference in zip(weights, references, strict=True)]
    return list(torch._foreach_sub(weights, parts))
