"""Adapter for any function from a row of losses to a scalar, such as TorchJD's scalarizers."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lossbalance._utils.checks import check_number, check_positive
from lossbalance.weighting.averages import set_where
from lossbalance.weighting.base import Observation, Weighting


class Scalarizer(Weighting):
    r"""Makes a scheme of any callable that maps a row of losses to a scalar.

    .. math:: T = f(L_1, \dots, L_K), \qquad w_i = \partial f / \partial L_i.

    So everything in ``torchjd.scalarization`` is a scheme (``pip install lossbalance[torchjd]``), and so is a function
    such as ``torch.max``. The row is averaged over ranks, so that all have the same weights. What changes while a
    module is trained works as follows:

    - Parameters (UW, IMTLL) belong to the optimizer: ``WeightedLoss.parameter_groups``.
    - In training the module is called once per step for its state, and a second time, without a trace, for the total.
    - A module with ``step()``, to be called once per epoch (DWA), has it called every ``period`` steps, before the
      first step of the next epoch is weighed.
    - A module with ``update(losses)``, to be called with the losses after the optimizer's step (FAMO), is given those
      of the next batch, which stand for a second pass over the same one. ``lossbalance.weighting.FAMO`` does better.
    - A step in which nothing was seen, because it is not finite, moves no state. With either method the host waits for
      the device in each step, to know that.
    - An absent term stands at its last loss, with weight 0, and so does one that is not finite in what the module sees.
      A parameter ``[terms]`` gets no gradient for the terms that are absent.

    Attributes of the module that are tensors, numbers or lists of them are saved with the buffers. An optimizer inside
    it is not: after a resume FAMO begins with fresh moments. Modules that count or branch in Python (DWA, FAMO,
    GeometricMean) do not compile into one graph, and GeometricMean waits for the device in each step; Random draws
    weights of its own on each rank.

    Args:
        terms: Names of the losses, in the order of the row.
        module: The callable: a ``torch.nn.Module`` or a function, differentiable.
        period: Training steps between two calls of the module's ``step()``, such as the batches of an epoch.
        lr: Learning rate of the module's parameters, for ``WeightedLoss.parameter_groups``; None is the optimizer's
            own.

    Shape:
        ``losses`` and ``weights`` are ``[terms]``; ``total`` is ``[]``.

    Raises:
        TypeError: If ``module`` is not callable, or ``period`` not a number.
        ValueError: If ``period`` is not a positive integer; in a call, if the module returns no scalar. In the first
            training step, and when the scheme is switched by ``train()`` or ``eval()``, if the gradient of the module
            by a loss is not finite, as that of a logarithm at 0.

    Example:
        >>> total, weights = Scalarizer(["small", "large"], torch.max)(torch.tensor([1.0, 3.0]))
        >>> total.item(), weights.tolist()
        (3.0, [0.0, 1.0])
    """

    latest: Tensor

    def __init__(
        self,
        terms: Iterable[str],
        module: Callable[[Tensor], Tensor],
        period: int = 100,
        lr: float | None = None,
    ) -> None:
        super().__init__(terms)
        self.lr = self.learning_rate = None if lr is None else check_positive("lr", lr)
        if not callable(module):
            raise TypeError(f"`module` must be callable with a row of losses, got {module!r}.")
        kind = "a positive number of training steps"
        self.period = int(
            check_number("period", period, kind, lambda number: 1 <= number < 2**53 and number.is_integer())
        )
        self.module: Any = module  # which registers a torch.nn.Module
        self.register_buffer("latest", torch.ones(len(self.terms)))
        self._initial = _attributes(module)
        self._is_checked = False  # whether a step was observed
        self._steps = 0  # counted only for a module with `step` or `update`

    def weigh(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Calls the module, and differentiates it."""
        sound = losses.isfinite()
        row = self.latest.to(losses.dtype) if self.training else torch.where(present & sound, losses, self.latest)
        row = row.detach()
        slope, value = torch.func.grad_and_value(self._call)(row, present)
        weights = slope.detach() * present
        value = torch.where(sound.all(), value, value.detach())
        return value + (weights * (losses - row)).sum(), weights  # adds 0, and the gradient of the losses

    def observe(self, observation: Observation) -> None:
        """Calls the module for its state."""
        seen = observation.seen
        set_where(self.latest, seen, observation.losses)
        if not (self._is_checked or torch.compiler.is_compiling()):
            self._is_checked = True
            self.check()
        if hasattr(self.module, "update") or hasattr(self.module, "step"):
            if seen.any():  # what such a module keeps on the host cannot be taken back
                self._advance(self.latest.clone())
        elif isinstance(self.module, nn.Module):
            before = [buffer.clone() for buffer in self.module.buffers()]
            self.module(self.latest.clone())
            for buffer, was in zip(self.module.buffers(), before, strict=True):
                buffer.copy_(torch.where(seen.any(), buffer, was))

    def check(self) -> None:
        """Checks that the module has a finite gradient by the last losses; synchronizes with the device.

        Raises:
            ValueError: If it has not; the message names the terms.
        """
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            slope = torch.func.grad(self._call)(self.latest, torch.ones_like(self.latest, dtype=torch.bool)).tolist()
        losses = self.latest.tolist()
        refused = {term: loss for term, loss, part in zip(self.terms, losses, slope, strict=True) if part - part != 0}
        if refused:
            raise ValueError(
                f"`losses` must be where {type(self.module).__name__} has a finite gradient, got {refused}: add to "
                "such a term what makes its smallest value positive, or leave it out (None) where it is 0."
            )

    def train(self, mode: bool = True) -> "Scalarizer":
        """Switches between training and evaluation, and calls :meth:`check` once a step was observed."""
        if self._is_checked:
            self.check()
        super().train(mode)
        return self

    def _advance(self, losses: Tensor) -> None:
        """Closes the previous step and epoch where they are complete, and starts this step."""
        if hasattr(self.module, "step") and self._steps > 0 and self._steps % self.period == 0:
            self.module.step()
        if hasattr(self.module, "update") and self._steps > 0:
            self.module.update(losses)
        self.module(losses)
        self._steps += 1

    def get_extra_state(self) -> dict[str, Any]:
        """The attributes that the module keeps outside its buffers and has changed."""
        now = _attributes(self.module)
        changed = {name: value for name, value in now.items() if not _is_same(value, self._initial.get(name))}
        return {"attributes": changed, "steps": self._steps}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`get_extra_state` returned."""
        self._steps = state["steps"]
        _set_attributes(self.module, _moved(self._initial | state["attributes"], self.latest.device))

    def _call(self, row: Tensor, present: Tensor) -> Tensor:
        """Calls the module and leaves its state as it was."""
        if not isinstance(self.module, nn.Module):
            return _check_value(self.module(row))
        tensors = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        for name, parameter in self.module.named_parameters():
            per_term = parameter.shape == present.shape
            tensors[name] = torch.where(present, parameter, parameter.detach()) if per_term else parameter
        before = _attributes(self.module)
        value = torch.func.functional_call(self.module, tensors, (row,))
        _set_attributes(self.module, before)
        return _check_value(value)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Scalarizer":
        super()._apply(fn, recurse)
        _set_attributes(self.module, _moved(_attributes(self.module), self.latest.device))
        return self


def _check_value(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.ndim != 0:
        got = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"`module` must return a scalar tensor, got {got}: reduce it with `.sum()` or `.mean()`.")
    return value


def _attributes(module: object) -> dict[str, Any]:
    """Returns what a module keeps in attributes of its own: tensors, numbers and lists of them."""
    if not isinstance(module, nn.Module):
        return {}
    own = vars(module).keys() - vars(nn.Module()).keys()
    return {name: getattr(module, name) for name in sorted(own) if _is_plain(getattr(module, name))}


def _set_attributes(module: object, attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        setattr(module, name, value)


def _is_same(value: Any, other: Any) -> bool:
    return value is other or (isinstance(value, int | float) and value == other)  # a pickled number is another object


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, Tensor | int | float)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        return {name: _moved(part, device) for name, part in value.items()}
    if isinstance(value, list):
        return [_moved(part, device) for part in value]
    return value.to(device) if isinstance(value, Tensor) else value
