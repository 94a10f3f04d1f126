"""Base class of penalties: regularizers on the parameters of a module."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lossbalance._utils.checks import check_positive
from lossbalance._utils.distributed import Ranks
from lossbalance._utils.fabric import partial_backward
from lossbalance.penalties.attachment import Attachment
from lossbalance.penalties.dtensor import check_not_sharded, norm, upcast
from lossbalance.penalties.normalization import check_normalization
from lossbalance.penalties.selection import Coefficients, Group, Rule, Selection
from lossbalance.penalties.settings import (
    Patterns,
    Strength,
    check_clipped,
    check_mode,
    check_module,
    check_patterns,
    check_share,
    check_strength,
)
from lossbalance.penalties.share import GradientShare
from lossbalance.penalties.value import PenaltyValue


class Penalty(nn.Module, ABC):
    r"""A regularizer on parameters: the sum over the tensors :math:`w` of a module

    .. math:: P = \sum_w \lambda_w \, \text{scale}(w) \, R(w).

    A subclass computes :math:`R` in :meth:`measure` and its derivative in :meth:`gradients`, for a list of tensors. A
    penalty on activations needs no class: it is a term, ``criterion({"data": loss, "sparsity": h.abs().mean()})``.

    Weights are penalized; biases and the parameters of normalization layers (tensors of fewer than two dimensions) are
    not, unless ``include`` or ``exclude`` select them. Frozen parameters are never penalized, tied ones once.

    Args:
        strength: :math:`\lambda`: a number, or a mapping of patterns to numbers, of which the first that matches
            a parameter's name is used; a parameter that none matches is not penalized.
        normalization: The scale of a tensor: ``"sum"``, ``"mean"``, ``"tensor_mean"`` or ``"fan"``; see
            :func:`lossbalance.penalties.normalization.scale`.
        include: Regular expressions. If given, only the parameters whose name matches one (``re.search``) count.
        exclude: Regular expressions. The parameters whose name matches one are not penalized.
        num_samples: The number of training samples, by which the penalty is divided: that of a mean loss
            (Bengio 2012, https://arxiv.org/abs/1206.5533).
        mode: ``"loss"``: it is part of the total. ``"gradient"``: its gradient is added to ``.grad`` before the
            optimizer's update, the same step without the cost. ``"decoupled"``: the learning
            rate times its gradient is subtracted from the weights, as in AdamW. ``"proximal"`` (:class:`L1`,
            :class:`ElasticNet`, :class:`GroupLasso`): after the optimizer's update, the proximal operator with the
            learning rate as its step, which sets weights to exactly zero; what is minimized then,
            :class:`~lossbalance.penalties.attachment.Attachment` says. All but the first need :meth:`attach`.
        share: In place of a number for ``strength``: the norm of the penalty's gradient as a share of the norm of the
            data's gradient over the same weights, held by a running average. Free in mode ``"gradient"``; in mode
            ``"loss"`` the criterion takes the data's gradient by a second backward pass. With a mapping for
            ``strength``, the numbers are relative to each other.
        clipped: In mode ``"gradient"``: whether the penalty's gradient is clipped together with the data's, as it is
            in mode ``"loss"``. By default it is added after clipping, as ``weight_decay`` is.

    Raises:
        TypeError: If a strength is neither a number nor a mapping, or a pattern is not a string.
        ValueError: If a strength is negative or not finite, a pattern no regular expression, ``mode`` or
            ``normalization`` unknown, ``num_samples`` or ``share`` not positive, or arguments exclude each other; when
            called, if a pattern matches no parameter.

    Example:
        >>> class Norm(Penalty):  # R(w) is the norm of w
        ...     def measure(self, weights, factors):
        ...         return factors[0] * torch.stack(torch._foreach_norm(weights)).sum()
        ...
        ...     def gradients(self, weights, factors):
        ...         return [factors[0] * weight / weight.norm() for weight in weights]
        >>> net = nn.Linear(1, 2)
        >>> net.load_state_dict({"weight": torch.tensor([[3.0], [4.0]]), "bias": torch.ones(2)})
        <All keys matched successfully>
        >>> Norm(0.1)(net).item()
        0.5
    """

    ranks = Ranks()
    """The ranks that the data's gradient is averaged over, for ``share``; a criterion sets it."""

    def __init__(
        self,
        strength: Strength | None = None,
        normalization: str = "sum",
        include: Patterns | None = None,
        exclude: Patterns | None = None,
        num_samples: float | None = None,
        mode: str = "loss",
        share: float | None = None,
        clipped: bool = False,
    ) -> None:
        super().__init__()
        self.mode = check_mode(mode, type(self).__name__, type(self).proximal is not Penalty.proximal)
        self.clipped = check_clipped(clipped, mode)
        self.strength = check_strength("strength", 1.0 if strength is None and share is not None else strength)
        self.rule = Rule(
            {"strength": self.strength},
            check_normalization(normalization),
            check_patterns("include", include),
            check_patterns("exclude", exclude) or (),
            1.0 if num_samples is None else check_positive("num_samples", num_samples),
        )
        self.share = None if share is None else GradientShare(check_share(share, strength, mode))
        self.factor = 1.0  # of a schedule, on top of the strength
        self.optimizers: list[ReferenceType[Optimizer]] = []  # the optimizers whose steps apply the penalty
        self._module: ReferenceType[nn.Module] | None = None
        self._selection: Selection | None = None

    @abstractmethod
    def measure(self, weights: list[Tensor], factors: Coefficients) -> Tensor:
        """Returns the sum over ``weights`` of factor times R, ``[]``.

        Args:
            weights: Tensors of equal factors, in fp32 or wider.
            factors: Strength times scale, one for each part of the penalty; most have one part.
        """

    @abstractmethod
    def gradients(self, weights: list[Tensor], factors: Coefficients) -> list[Tensor]:
        """Returns factor times the derivative of R by each of ``weights``, as new tensors; else as :meth:`measure`."""

    def add_gradients(self, into: list[Tensor], weights: list[Tensor], factors: Coefficients, *extras: Any) -> None:
        """Adds :meth:`gradients` to ``into``, in place; override it where one pass does."""
        torch._foreach_add_(into, self.gradients(upcast(weights), factors, *extras))

    def proximal(self, weights: list[Tensor], factors: Coefficients) -> list[Tensor]:
        r"""Returns the proximal operator of factor times R at each of ``weights``, as new tensors.

        That is :math:`\arg\min_v \tfrac12 \|v - w\|^2 + \text{factor} \cdot R(v)`. A penalty that overrides it has
        mode ``"proximal"``.
        """
        raise NotImplementedError

    def forward(self, module: nn.Module) -> Tensor:
        """Returns the penalty on the parameters of ``module``, ``[]``, differentiable, in fp32 or wider."""
        groups = self.groups(check_module(module))
        if not groups or self.factor == 0:
            return torch.zeros((), device=next((parameter.device for parameter in module.parameters()), None))
        shape = [(self.scaled(group.factors), group.extras, len(group.weights)) for group in groups]
        weights = [weight for group in groups for weight in group.weights]
        if torch.compiler.is_compiling():  # the compiler fuses by itself
            return PenaltyValue.forward(self.measure, self.gradients, shape, *weights)
        return PenaltyValue.apply(self.measure, self.gradients, shape, *weights)

    def attach(self, optimizer: Optimizer, module: nn.Module) -> Attachment:
        """Applies the penalty to ``module`` in each step of the optimizer; for the modes other than ``"loss"``.

        ::

            optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
            L2(1e-4, mode="gradient").attach(optimizer, net)
        """
        return Attachment([self], optimizer, module)

    def update_share(self, total: Tensor, module: nn.Module) -> None:
        """Updates the strength that ``share`` amounts to, if it is used, from the gradient of the total."""
        if self.share is None:
            return
        check_not_sharded(module)
        groups = self.groups(module)
        weights = [weight for group in groups for weight in group.weights]
        with partial_backward():
            gradients = torch.autograd.grad(total, weights, retain_graph=True, allow_unused=True)
        pairs = zip(weights, gradients, strict=True)
        data = norm({weight: upcast([gradient])[0] for weight, gradient in pairs if gradient is not None})
        with torch.no_grad():
            data = torch.where(total.isfinite(), data, torch.nan)  # a loss without gradient may be nan too
            self.share.observe(self.ranks.sum(data) / self.ranks.size, norm(self.gradients_by_parameter(groups)))

    @property
    def by_blocks(self) -> bool:
        """Whether whole groups of weights are penalized, rather than each weight."""
        return self.rule.block is not None

    @property
    def is_applied(self) -> bool:
        """Whether the penalty has any effect: in the total, or in the steps of an optimizer that it is attached to."""
        return self.mode == "loss" or any(optimizer() is not None for optimizer in self.optimizers)

    @property
    def effective_strength(self) -> Strength | Tensor:
        """The strength; with ``share``, the present one, ``[]``, which is 0 before the first step."""
        strength = self.strength if self.share is None else self.share.strength
        if isinstance(strength, Mapping):
            return {pattern: self.factor * value for pattern, value in strength.items()}
        return strength * self.factor

    @torch.no_grad()
    def value(self) -> Tensor:
        """Returns the present value of the penalty on the module that it was last used on, ``[]``; nan without one."""
        return torch.tensor(math.nan) if self.module is None else self(self.module)

    @property
    def module(self) -> nn.Module | None:
        """The module that the penalty was last used on, if it still exists."""
        return None if self._module is None else self._module()

    def remember_module(self, module: nn.Module) -> None:
        """Remembers the module for :meth:`value`, without keeping it alive."""
        self._module = ref(module)

    def groups(self, module: nn.Module) -> list[Group]:
        """Returns the penalized parameters of ``module``, with all that their penalty depends on."""
        return self.select(module)

    def select(self, module: nn.Module) -> list[Group]:
        """Returns the penalized parameters of ``module``, in groups of equal factors.

        Names are matched once, and again only after the module's parameters have changed.

        Raises:
            ValueError: If a pattern matches no parameter.
        """
        if torch.compiler.is_compiling():  # traced once; guards see to changes
            return self.rule.groups(module)
        self.remember_module(module)
        parameters = list(module.parameters())
        if self._selection is None or not self._selection.fits(parameters):
            self._selection = Selection(self.rule, module)
        return self._selection.groups(parameters)

    def gradients_by_parameter(self, groups: Iterable[Group]) -> dict[nn.Parameter, Tensor]:
        """Returns this rank's part of the gradient by each parameter of the groups, in fp32 or wider."""
        return {
            weight: gradient
            for group in groups
            for weight, gradient in zip(
                group.weights, self.gradients(upcast(group.weights), group.factors, *group.extras), strict=True
            )
        }

    def scaled(self, factors: Coefficients) -> Coefficients:
        """Returns the factors times the factor of a schedule and the strength that a share amounts to."""
        if self.factor != 1:
            factors = [factor * self.factor for factor in factors]
        return factors if self.share is None else [factor * self.share.strength for factor in factors]

    def extra_repr(self) -> str:
        """The settings."""
        strengths = [f"{name}={strength}" for name, strength in self.rule.strengths.items() if self.share is None]
        return ", ".join([*strengths, f"normalization={self.rule.normalization!r}, mode={self.mode!r}"])

    def __getstate__(self) -> dict[str, Any]:
        # Weak references cannot be pickled, and a copy is attached to no optimizer.
        return {**self.__dict__, "optimizers": [], "_module": None, "_selection": None}
