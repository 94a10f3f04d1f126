"""Probes on the inputs and on the parameters of modules, by hooks and functional calls."""

from collections.abc import Callable, Mapping, MutableMapping
from copy import copy
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lossbalance._utils.checks import check_choice
from lossbalance.gradients.probes import Probes

Probe = Callable[[Tensor], Tensor]


class ProbeHandle:
    """Probes on what enters some modules, until :meth:`remove`.

    Args:
        modules: The module in which the branch of each term begins.
        probes: What measures.

    Raises:
        TypeError: If ``modules`` does not map terms to modules.
        ValueError: If a term is unknown, or a module begins with a layer that works in place.
    """

    def __init__(self, modules: Mapping[str, nn.Module], probes: Probes) -> None:
        if not isinstance(modules, Mapping):
            raise TypeError(f"`modules` must map terms to the modules in which they begin, got {modules!r}.")
        for term, module in modules.items():
            _check_module(check_choice("modules", term, probes.terms), module)
        probes.placed.update(modules)
        self._hooks: list[RemovableHandle] = [
            module.register_forward_pre_hook(
                partial(_probe_arguments, partial(probes.attach_probe, term)), with_kwargs=True
            )
            for term, module in modules.items()
        ]

    def remove(self) -> None:
        """Takes the probes away; may be called more than once."""
        for hook in self._hooks:
            hook.remove()


class ProbedModule:
    """A module that sees its parameters through probes of one term.

    Args:
        module: The module.
        term: The name of the term.
        probes: What measures.

    Raises:
        TypeError: If it is not a module, or one whose parameters are in parts on several ranks.
        ValueError: If no parameter requires a gradient.
    """

    def __init__(self, module: nn.Module, term: str, probes: Probes) -> None:
        check_parameters(module)
        self.module, self.term, self.probes = module, check_choice("term", term, probes.terms), probes

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the module; in training, with aliases of its parameters that all calls of a step have in common."""
        if not (torch.is_grad_enabled() and self.probes.training):
            return self.module(*args, **kwargs)
        parameters = trained_parameters(self.module)
        return torch.func.functional_call(self.module, self.probes.alias(self.term, parameters), args, kwargs)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.module}, term={self.term!r})"


def check_parameters(module: nn.Module) -> None:
    """Checks that ``module`` has parameters whose gradients can be measured."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"`module` must be the module whose parameters are probed, got {module!r}.")
    if not trained_parameters(module):
        raise ValueError(f"`module` must have parameters that require a gradient, got {type(module).__name__} without.")


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the parameters that require a gradient, by name, once each rank has them whole."""
    parameters = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    if any(hasattr(parameter, "full_tensor") for parameter in parameters.values()):
        raise TypeError(
            "`module` must have whole parameters on each rank to be probed, and those of `fully_shard` are in "
            "parts: probe activations."
        )
    return parameters


def _probe_arguments(
    probe: Probe, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return _probe_all(probe, args), _probe_all(probe, kwargs)


def _probe_all(probe: Probe, value: Any) -> Any:
    """Returns what enters a module with a probe on each tensor that requires a gradient, however deep it lies."""
    if isinstance(value, Tensor):
        return probe(value) if value.requires_grad else value
    if isinstance(value, Mapping):
        parts = dict(value)
    elif isinstance(value, list | tuple):
        parts = dict(enumerate(value))
    elif is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
    else:
        return value
    probed = {key: _probe_all(probe, part) for key, part in parts.items()}
    return value if all(probed[key] is parts[key] for key in parts) else _rebuild(value, probed)


def _rebuild(value: Any, parts: dict[Any, Any]) -> Any:
    """Returns a container like ``value`` with other parts."""
    if isinstance(value, MutableMapping):
        value = copy(value)
        value.update(parts)
        return value
    if isinstance(value, Mapping):
        return parts
    if isinstance(value, list | tuple):
        is_named = hasattr(value, "_fields")  # as a packed sequence is
        return type(value)(*parts.values()) if is_named else type(value)(parts.values())
    return replace(value, **parts)


def _check_module(term: str, module: object) -> None:
    if not isinstance(module, nn.Module):
        raise TypeError(f"`modules[{term!r}]` must be the module in which the branch begins, got {module!r}.")
    first = module
    while isinstance(first, nn.Sequential) and len(first):
        first = first[0]
    if getattr(first, "inplace", False):
        raise ValueError(
            f"`modules[{term!r}]` must not begin with a layer that works in place, got {first}: it would overwrite "
            "what the other terms see, and cannot be probed; set `inplace=False`."
        )
