"""Attachment to an optimizer: its steps apply penalties in all modes but ``"loss"``."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lossbalance.penalties.dtensor import local, norm, upcast
from lossbalance.penalties.selection import Coefficients, Group
from lossbalance.penalties.settings import check_module, check_optimizer
from lossbalance.penalties.share import GradientShare


class Attachable(Protocol):
    """The part of a penalty that an attachment uses; see :class:`~lossbalance.penalties.base.Penalty`."""

    mode: Any
    clipped: bool
    share: GradientShare | None
    optimizers: list[ReferenceType[Optimizer]]

    @property
    def by_blocks(self) -> bool: ...  # noqa: D102
    @property
    def add_gradients(self) -> Callable[..., None]: ...  # noqa: D102
    @property
    def proximal(self) -> Callable[..., list[Tensor]]: ...  # noqa: D102
    def select(self, module: nn.Module) -> list[Group]: ...  # noqa: D102
    def groups(self, module: nn.Module) -> list[Group]: ...  # noqa: D102
    def gradients_by_parameter(self, groups: Iterable[Group]) -> dict[nn.Parameter, Tensor]: ...  # noqa: D102
    def scaled(self, factors: Coefficients) -> Coefficients: ...  # noqa: D102


class Attachment:
    r"""Applies penalties to a module in each step of an optimizer, until :meth:`remove`.

    It acts right before the optimizer's update: when ``step()`` begins or, where a closure computes the gradients, at
    the end of the closure. So a penalty is applied once per step however many batches are accumulated, after a gradient
    scaler has unscaled, not in a step that the scaler skips, and alike on all ranks. Only parameters that the optimizer
    holds are touched. With the learning rate :math:`\eta` of a parameter's group, mode ``"decoupled"`` amounts to

    .. math:: w \leftarrow w - \eta \nabla P(w) - \text{update},

    both terms at the old :math:`w`, as in AdamW. An optimizer that calls its closure several times in a step, such as
    LBFGS, needs mode ``"loss"``: its line search compares values.

    Mode ``"proximal"`` acts right after the update, with the learning rate as the step of the proximal operator:

    .. math:: w \leftarrow \text{prox}_{\eta P}(w - \text{update}), \quad
        \text{prox}_{\eta P}(w) = \arg\min_v \tfrac12 \|v - w\|^2 + \eta P(v).

    What is minimized depends on the optimizer:

    - Plain SGD: :math:`L + P`, as in mode ``"loss"``, with exact zeros (the proximal gradient method).
    - SGD with momentum :math:`\mu`: :math:`L + (1 - \mu) P`, since its steps are :math:`1 / (1 - \mu)` times as
      long; with ``dampening`` :math:`= \mu` it is :math:`L + P`.
    - Adam and its kind: no fixed function; the penalty is decoupled, as weight decay is in AdamW. Every weight has the
      threshold :math:`\eta \lambda`, as if its penalty were multiplied by :math:`\sqrt{v} + \epsilon`: a weight becomes
      zero where the mean of its gradient is below about :math:`\lambda` times the root mean square. A proximal operator
      in the metric of the preconditioner (ProxGen, Yun et al. 2021) would minimize :math:`L + P`, but has no closed
      form for groups. For the lasso itself use SGD.

    Of several penalties on the same weights those on groups come last: for L1 and a group lasso this is the proximal
    operator of their sum, the sparse group lasso.

    Args:
        penalties: The penalties; those in mode ``"loss"``, which are in the total, are left out.
        optimizer: The optimizer.
        module: The module whose parameters are penalized.
        repeated: Makes the context of each evaluation of a closure but the first of a step.

    Raises:
        TypeError: If ``optimizer`` is no optimizer, or ``module`` no module.
        ValueError: If a penalty is attached to the optimizer already, the optimizer holds none of its weights or cannot
            apply it, or a pattern matches no parameter.

    Source:
        Proximal gradient: Beck and Teboulle (2009), https://doi.org/10.1137/080716542. Sparse group lasso: Simon et al.
        (2013), https://doi.org/10.1080/10618600.2012.681250. Decoupled: Zhuang et al. (2022), section 3,
        https://arxiv.org/abs/2202.00089. ProxGen: https://arxiv.org/abs/2007.07484.
    """

    def __init__(
        self,
        penalties: Iterable[Attachable],
        optimizer: Optimizer,
        module: nn.Module,
        repeated: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        penalties = sorted(penalties, key=lambda penalty: penalty.by_blocks)
        check_optimizer(penalties, optimizer)
        self.penalties = [penalty for penalty in penalties if penalty.mode != "loss"]
        self.optimizer = optimizer
        self.module = check_module(module)
        for penalty in self.penalties:
            self._check(penalty)
        for penalty in self.penalties:
            penalty.optimizers.append(ref(optimizer))
        self._repeated = repeated
        self._clipped_added = False
        self._hooks = [optimizer.register_step_pre_hook(self._before_step)]
        if any(penalty.mode == "proximal" for penalty in self.penalties):
            self._hooks.append(optimizer.register_step_post_hook(self._after_step))

    @torch.no_grad()
    def before_clipping(self) -> None:
        """Adds the gradients of the penalties with ``clipped=True``; without the call they are added after clipping.

        Call it after the backward pass, or ``scaler.unscale_(optimizer)``, and before gradients are clipped.
        """
        self._add_gradients(clipped=True)
        self._clipped_added = True

    def remove(self) -> None:
        """Detaches the penalties from the optimizer; may be called more than once."""
        for hook in self._hooks:
            hook.remove()
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
        for penalty, lr, group in self._stepped("decoupled"):
            parts = [local(weight) for weight in group.weights]
            penalty.add_gradients(parts, parts, _multiply(penalty.scaled(group.factors), -lr), *group.extras)

    @torch.no_grad()
    def _after_step(self, *_: Any) -> None:
        for penalty, lr, group in self._stepped("proximal"):
            factors = _multiply(penalty.scaled(group.factors), lr)
            shrunk = penalty.proximal(upcast(group.weights), factors, *group.extras)
            torch._foreach_copy_([local(weight) for weight in group.weights], shrunk)

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
                own = norm(penalty.gradients_by_parameter(groups))
                penalty.share.observe(norm(data) if scale is None else norm(data) / scale, own)
        for penalty, groups in adding:
            for group in groups:
                gradients, factors = map(_gradient, group.weights), _multiply(penalty.scaled(group.factors), scale)
                penalty.add_gradients([*map(local, gradients)], [*map(local, group.weights)], factors, *group.extras)

    def _stepped(self, mode: str) -> Iterator[tuple[Attachable, float | Tensor, Group]]:
        """Yields the parameters that have a gradient, with their penalty in this mode and their learning rate."""
        skipped = getattr(self.optimizer, "found_inf", None)  # of a gradient scaler: a fused optimizer skips by itself
        for penalty in self.penalties:
            for settings in self.optimizer.param_groups if penalty.mode == mode else []:
                lr = settings["lr"] if skipped is None else settings["lr"] * (1 - skipped)
                for held in self._held(penalty, [settings]):
                    group = held.where(lambda weight: weight.grad is not None)
                    if group.weights:
                        yield penalty, lr, group

    def _held(self, penalty: Attachable, param_groups: list[dict[str, Any]]) -> list[Group]:
        """Returns the penalized parameters that the optimizer holds; none if there was no backward pass."""
        held = {id(parameter) for settings in param_groups for parameter in settings["params"]}
        groups = [group.where(lambda weight: id(weight) in held) for group in penalty.groups(self.module)]
        stepping = any(weight.grad is not None for group in groups for weight in group.weights)
        return [group for group in groups if group.weights] if stepping else []

    def _check(self, penalty: Attachable) -> None:
        if any(known() is self.optimizer for known in penalty.optimizers):
            raise ValueError("`optimizer` applies the penalty already: attach it once, or `remove()` the attachment.")
        held = {id(parameter) for settings in self.optimizer.param_groups for parameter in settings["params"]}
        weights = [weight for group in penalty.select(self.module) for weight in group.weights]
        if weights and not any(id(weight) in held for weight in weights):
            raise ValueError(
                "`optimizer` must hold parameters of `module` that are penalized, and it holds none of them."
            )


def _gradient(weight: nn.Parameter) -> Tensor:
    """Returns the gradient, dense, and zeros where the loss gave none: as in mode ``"loss"``."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    elif weight.grad.is_sparse:
        weight.grad = weight.grad.to_dense()
    return weight.grad


def _multiply(factors: Coefficients, scale: float | Tensor | None) -> Coefficients:
    return factors if scale is None else [factor * scale for factor in factors]
