"""Attachment to an optimizer: its steps apply penalties in the modes ``"gradient"`` and ``"decoupled"``."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lossbalance.penalties.dtensor import local, norm, upcast
from lossbalance.penalties.selection import Coefficients, Group
from lossbalance.penalties.share import GradientShare


class Attachable(Protocol):
    """The part of a penalty that an attachment uses."""

    mode: Any
    clipped: bool
    share: GradientShare | None
    optimizers: list[ReferenceType[Optimizer]]

    def groups(self, module: nn.Module) -> list[Group]:
        """Returns the penalized parameters, in groups of equal factors."""

    def gradients_by_parameter(self, groups: Iterable[Group]) -> dict[nn.Parameter, Tensor]:
        """Returns this rank's part of the gradient by each parameter of the groups."""

    def scaled(self, factors: Coefficients) -> Coefficients:
        """Returns the factors times the factor of a schedule and the strength that a share amounts to."""

    def add_gradients(self, into: list[Tensor], weights: list[Tensor], factors: Coefficients) -> None:
        """Adds the gradients to ``into``, in place."""


class Attachment:
    r"""Applies penalties to a module in each step of an optimizer, until :meth:`remove`.

    It acts right before the optimizer's update: when ``step()`` begins or, where a closure computes the gradients, at
    the end of the closure. So a penalty is applied once per step however many batches are accumulated, after a gradient
    scaler has unscaled, not in a step that the scaler skips, and alike on all ranks. Only parameters that the optimizer
    holds are touched. With the learning rate :math:`\eta` of a parameter's group, mode ``"decoupled"`` amounts to

    .. math:: w \leftarrow w - \eta \nabla P(w) - \text{update},

    both terms at the old :math:`w`, as in AdamW. An optimizer that calls its closure several times
    in a step, such as LBFGS, needs mode ``"loss"``: its line search compares values.

    Args:
        penalties: The penalties; those in mode ``"loss"``, which are in the total, are left out.
        optimizer: The optimizer.
        module: The module whose parameters are penalized.
        repeated: Makes the context of each evaluation of a closure but the first of a step.

    Raises:
        ValueError: If a penalty is attached to the optimizer already, the optimizer holds none of its weights, or a
            pattern matches no parameter.
    """

    def __init__(
        self,
        penalties: Iterable[Attachable],
        optimizer: Optimizer,
        module: nn.Module,
        repeated: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.penalties = [penalty for penalty in penalties if penalty.mode != "loss"]
        self.optimizer = optimizer
        self.module = module
        for penalty in self.penalties:
            self._check(penalty)
        for penalty in self.penalties:
            penalty.optimizers.append(ref(optimizer))
        self._repeated = repeated
        self._clipped_added = False
        self._hook = optimizer.register_step_pre_hook(self._before_step)

    @torch.no_grad()
    def before_clipping(self) -> None:
        """Adds the gradients of the penalties with ``clipped=True``; without the call they are added after clipping.

        Call it after the backward pass, or ``scaler.unscale_(optimizer)``, and before gradients are clipped.
        """
        self._add_gradients(clipped=True)
        self._clipped_added = True

    def remove(self) -> None:
        """Detaches the penalties from the optimizer; may be called more than once."""
        self._hook.remove()
        for penalty in self.penalties:
            penalty.optimizers = [known for known in penalty.optimizers if known() is not self.optimizer]

    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        closure = kwargs.get("closure") or (args[1] if len(args) > 1 else None)
        if closure is None:
            self._apply()
            return None

        context: Callable[[], AbstractContextManager[None]] = nullcontext

        def closure_and_penalties() -> Any:
            nonlocal context
            with context():
                loss = closure()
            context = self._repeated
            self._apply()
            return loss

        return args[:1], {**kwargs, "closure": closure_and_penalties}

    @torch.no_grad()
    def _apply(self) -> None:
        if not self._clipped_added:
            self._add_gradients(clipped=True)
        self._clipped_added = False
        self._add_gradients(clipped=False)
        self._decay_weights()

    def _add_gradients(self, clipped: bool) -> None:
        scale = getattr(self.optimizer, "grad_scale", None)  # a fused optimizer unscales in its own step
        adding = [
            (penalty, self._held(penalty, self.optimizer.param_groups))
            for penalty in self.penalties
            if penalty.mode == "gradient" and penalty.clipped == clipped
        ]
        for penalty, groups in adding:  # all of them before any gradient is added
            if penalty.share is not None:
                data = {weight: upcast([_gradient(weight)])[0] for group in groups for weight in group.weights}
                penalty.share.observe(
                    norm(data) if scale is None else norm(data) / scale, norm(penalty.gradients_by_parameter(groups))
                )
        for penalty, groups in adding:
            for factors, weights in groups:
                gradients, factors = (
                    [_gradient(weight) for weight in weights],
                    _multiply(penalty.scaled(factors), scale),
                )
                penalty.add_gradients([*map(local, gradients)], [*map(local, weights)], factors)

    def _decay_weights(self) -> None:
        skipped = getattr(
            self.optimizer, "found_inf", None
        )  # of a gradient scaler: a fused optimizer skips the step itself
        for penalty in self.penalties:
            for settings in self.optimizer.param_groups if penalty.mode == "decoupled" else []:
                lr = settings["lr"] if skipped is None else settings["lr"] * (1 - skipped)
                for factors, weights in self._held(penalty, [settings]):
                    parts = [local(weight) for weight in weights if weight.grad is not None]
                    penalty.add_gradients(parts, parts, _multiply(penalty.scaled(factors), -lr))

    def _held(self, penalty: Attachable, param_groups: list[dict[str, Any]]) -> list[Group]:
        """Returns the penalized parameters that the optimizer holds; none if there was no backward pass."""
        held = {id(parameter) for settings in param_groups for parameter in settings["params"]}
        groups = [
            Group(factors, [weight for weight in weights if id(weight) in held])
            for factors, weights in penalty.groups(self.module)
        ]
        stepping = any(weight.grad is not None for _, weights in groups for weight in weights)
        return [group for group in groups if group.weights] if stepping else []

    def _check(self, penalty: Attachable) -> None:
        if any(known() is self.optimizer for known in penalty.optimizers):
            raise ValueError("`optimizer` applies the penalty already: attach it once, or `remove()` the attachment.")
        held = {id(parameter) for settings in self.optimizer.param_groups for parameter in settings["params"]}
        weights = [weight for group in penalty.groups(self.module) for weight in group.weights]
        if weights and not any(id(weight) in held for weight in weights):
            raise ValueError(
                "`optimizer` must hold parameters of `module` that are penalized, and it holds none of them."
            )


def _gradient(weight: nn.Parameter) -> Tensor:
    """Returns the gradient, zeros where the loss gave none: such weights are penalized too, as in mode ``"loss"``."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad


def _multiply(factors: Coefficients, scale: float | Tensor | None) -> Coefficients:
    return factors if scale is None else [factor * scale for factor in factors]
