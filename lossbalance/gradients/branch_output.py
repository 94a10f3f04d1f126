"""Branch between a trunk and its heads, by hooks."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lossbalance._utils.checks import check_choice
from lossbalance.gradients.branch import Branches
from lossbalance.gradients.measurement import is_in_backward

Split = Callable[[Tensor], Mapping[str, Tensor]]


class BranchHandle:
    """Places a branch at what enters the heads after each call of a module, until :meth:`remove`.

    Args:
        module: What all terms share.
        heads: The module in which each term's own branch begins, by term.
        split: Makes one activation for each term of one.
        branches: Remember what has been split in the open step.
    """

    def __init__(self, module: nn.Module, heads: Mapping[str, nn.Module], split: Split, branches: Branches) -> None:
        for term in heads:
            check_choice("heads", term, branches.probes.terms)
        branches.probes.placed.update(heads)
        self._split, self._branches = split, branches
        self._hooks = [module.register_forward_hook(self._forget)]
        for term, head in heads.items():
            self._hooks.append(head.register_forward_pre_hook(partial(self._enter, term), with_kwargs=True))

    def remove(self) -> None:
        """Takes the branch away; may be called more than once."""
        for hook in self._hooks:
            hook.remove()

    def _forget(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Lets the next head branch what the module has returned now."""
        self._branches.probes.open.remembered = None

    def _enter(
        self, term: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Returns the arguments of a head with the term's own part in place of the activation."""
        if not self._branches.splits:
            return args, kwargs
        place, x = _find_activation(term, module, [*enumerate(args), *kwargs.items()])
        step = self._branches.probes.join()
        known = step.remembered
        if known is None:
            parts = self._split(x)
            if step.anchors and not (torch.compiler.is_compiling() or is_in_backward()):
                step.remembered = x, parts
        elif known[0] is x:
            parts = known[1]
        else:
            raise ValueError(
                f"the heads must all be entered by one tensor, and that of {term!r}, {type(module).__name__}, is "
                "entered by another: compute what they take once, or call `criterion.branch` where the terms part."
            )
        if isinstance(place, str):
            return args, {**kwargs, place: parts[term]}
        return (*args[:place], parts[term], *args[place + 1 :]), kwargs


def _find_activation(term: str, module: nn.Module, given: list[tuple[Any, Any]]) -> tuple[Any, Tensor]:
    """Returns the one tensor in floating point among the arguments, and its position or name."""
    found = [(place, x) for place, x in given if isinstance(x, Tensor) and x.is_floating_point()]
    if len(found) != 1:
        raise ValueError(
            f"the head of {term!r}, {type(module).__name__}, must be entered by one activation to be branched, got "
            f"{len(found)} tensors in floating point: call `criterion.branch` where the terms part."
        )
    return found[0]
