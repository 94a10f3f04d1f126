"""What a penalty is."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from lossbalance.checks import check_number
from lossbalance.penalties.normalization import check_normalization
from lossbalance.penalties.selection import Group, Patterns, Rule, Selection, Strength, check_patterns, check_strength

Factors = Sequence[float | Tensor]
Shape = list[tuple[tuple[float, ...], int]]  # of each group: its factors, and how many tensors it has


class Penalty(nn.Module, ABC):
    r"""A regularizer on parameters: the sum over the tensors :math:`w` of a module

    .. math:: P = \sum_w \lambda_w \, \text{scale}(w) \, R(w).

    A new one is one small class that says what :math:`R` is, by :meth:`measure`, and its derivative, by
    :meth:`gradients`, both for many tensors at a time. A penalty on activations needs no class: it is a term like any
    other, ``criterion({"data": loss, "sparsity": h.abs().mean()})``.

    Weights count; biases and the parameters of norms do not (tensors of fewer than two dimensions), unless ``include``
    or ``exclude`` say so. Frozen parameters never count, and tied ones count once.

    Args:
        strength: :math:`\lambda`: a number, or a mapping of patterns to numbers, in which the first pattern that
            matches a parameter's name counts; a parameter that none matches is not penalized.
        normalization: The scale of a tensor: ``"sum"``, ``"mean"``, ``"tensor_mean"`` or ``"fan"``; see
            :func:`lossbalance.penalties.normalization.scale`.
        include: Regular expressions. If given, exactly the parameters of whose names one matches (``re.search``) count.
        exclude: Regular expressions. The parameters of whose names one matches do not count.
        num_samples: The number of training samples, by which the penalty is divided: that of a mean loss
            (Bengio 2012, https://arxiv.org/abs/1206.5533).

    Raises:
        TypeError: If a strength is neither a number nor a mapping, or a pattern is not a string.
        ValueError: If a strength is negative or not finite, a pattern no regular expression, ``normalization``
            unknown, or ``num_samples`` not positive; when called, if a pattern matches no parameter.

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

    def __init__(
        self,
        strength: Strength,
        normalization: str = "sum",
        include: Patterns | None = None,
        exclude: Patterns | None = None,
        num_samples: float | None = None,
    ) -> None:
        super().__init__()
        self.rule = Rule(
            {"strength": check_strength("strength", strength)},
            check_normalization(normalization),
            check_patterns("include", include),
            check_patterns("exclude", exclude) or (),
            1.0 if num_samples is None else _check_num_samples(num_samples),
        )
        self._selection: Selection | None = None

    @abstractmethod
    def measure(self, weights: list[Tensor], factors: Factors) -> Tensor:
        """Returns the sum over ``weights`` of factor times R, ``[]``.

        Args:
            weights: Tensors that are counted alike, in fp32 or wider.
            factors: Strength times scale, one for each part of the penalty; the most have one part.
        """

    @abstractmethod
    def gradients(self, weights: list[Tensor], factors: Factors) -> list[Tensor]:
        """Returns factor times the derivative of R by each of ``weights``, as new tensors; else as :meth:`measure`."""

    def forward(self, module: nn.Module) -> Tensor:
        """Returns the penalty on the parameters of ``module``, ``[]``, differentiable, in fp32 or wider."""
        groups = self.groups(module)
        if not groups:
            return torch.zeros((), device=next((parameter.device for parameter in module.parameters()), None))
        shape = [(factors, len(weights)) for factors, weights in groups]
        weights = [weight for group in groups for weight in group.weights]
        value = _Value.forward if torch.compiler.is_compiling() else _Value.apply  # the compiler fuses by itself
        return value(self, shape, *weights)

    def groups(self, module: nn.Module) -> list[Group]:
        """Returns the parameters of ``module`` that count, in groups of equal factors.

        They are looked up by name once, and again only after the module's parameters have changed.

        Raises:
            ValueError: If a pattern matches no parameter.
        """
        if torch.compiler.is_compiling():  # the compiler looks them up once, and guards what it has seen
            return self.rule.groups(module)
        parameters = list(module.parameters())
        if self._selection is None or not self._selection.fits(parameters):
            self._selection = Selection(self.rule, module)
        return self._selection.groups(parameters)

    def extra_repr(self) -> str:
        """The settings."""
        strengths = ", ".join(f"{name}={strength}" for name, strength in self.rule.strengths.items())
        return f"{strengths}, normalization={self.rule.normalization!r}"

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_selection": None}  # weak references cannot be pickled


class _Value(torch.autograd.Function):
    """The value of all groups, as one node of the graph."""

    @staticmethod
    def forward(penalty: Penalty, shape: Shape, *weights: Tensor) -> Tensor:
        values = [penalty.measure(_widen(group), factors) for factors, group in _split(shape, weights)]
        return sum(values[1:], start=values[0])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.penalty, ctx.shape, *weights = inputs
        ctx.save_for_backward(*weights)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients: list[Tensor] = []
        for factors, weights in _split(ctx.shape, ctx.saved_tensors):
            found = ctx.penalty.gradients(_widen(weights), [factor * grad for factor in factors])
            gradients += [gradient.to(weight.dtype) for gradient, weight in zip(found, weights, strict=True)]
        return None, None, *gradients


def _split(shape: Shape, weights: Sequence[Tensor]) -> Iterator[tuple[tuple[float, ...], list[Tensor]]]:
    remaining = iter(weights)
    return ((factors, list(islice(remaining, count))) for factors, count in shape)


def _widen(weights: list[Tensor]) -> list[Tensor]:
    """Returns the weights in fp32 or wider, in which the squares of bf16 and fp16 neither vanish nor overflow."""
    return [weight.to(torch.promote_types(weight.dtype, torch.float32)) for weight in weights]


def _check_num_samples(value: object) -> float:
    kind = "a positive, finite number of training samples, or None"
    return check_number("num_samples", value, kind, lambda number: 0 < number < math.inf)
