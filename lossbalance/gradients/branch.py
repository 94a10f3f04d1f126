r"""Where the terms part: one node that meets all their gradients at once.

A branch is the identity with one output for each term. Its backward pass starts when the gradients of all terms have
arrived, :math:`g_1, \dots, g_K`, so it can hand on any combination of them:

1. It computes the matrix of their inner products :math:`G_{ij} = g_i \cdot g_j`.
2. It averages the matrix over ranks, by one collective. Every rank takes part, also one that lacks terms, for each
   total is connected to its branches by an *anchor*, an output that is always 0.
3. An aggregator makes multipliers :math:`m` of it, and :math:`\sum_i m_i g_i` is handed on.
4. The matrix is left behind as the gradient of a leaf, for norms and cosines: so it is in a compiled graph, too.

Only the backward pass of the total is combined, which is told by the anchor. A derivative on the way to a loss, and one
that is differentiated in its turn, gets the plain sum.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lossbalance._utils.distributed import sum_over_ranks, world_size

Aggregate = Callable[[Tensor], Tensor]
"""Makes multipliers ``[terms]`` of the inner products ``[terms, terms]``."""

_LONG, _PIECE = 2**16, 2**12  # a sum of more entries than that loses digits in fp32; the sums of pieces do not


class Branches(nn.Module):
    """The branches of one step, and the inner products that its backward pass leaves behind.

    Args:
        terms: Names of the losses, in the order of the row.
    """

    def __init__(self, terms: Sequence[str]) -> None:
        super().__init__()
        self.terms = tuple(terms)
        self._record = torch.zeros(len(terms), len(terms), requires_grad=True)
        self._anchors: list[Tensor] = []  # of the open step
        self._aliases: dict[int, list[dict[str, Tensor]]] = {}  # of the open step, by module and term

    def split(self, h: Tensor, aggregate: Aggregate | None) -> dict[str, Tensor]:
        """Returns ``h`` for each term, and combines what comes back; None for ``aggregate`` is the plain sum."""
        if not (self.training and torch.is_grad_enabled()):
            return dict.fromkeys(self.terms, h)
        return {term: part for term, (part,) in zip(self.terms, self._apply_node([h], aggregate), strict=True)}

    def split_parameters(self, module: nn.Module, aggregate: Aggregate | None) -> dict[str, Callable[..., Any]]:
        """Returns, for each term, what runs ``module`` with its parameters as the term sees them in the open step."""
        return {term: partial(self._run, i, module, aggregate) for i, term in enumerate(self.terms)}

    def close(self, total: Tensor) -> Tensor:
        """Ends the open step: returns its total, connected to its branches, and forgets the matrix that was."""
        anchors, self._anchors = self._anchors, []
        self._aliases.clear()
        self._record.grad = None
        for anchor in anchors:
            total = total + anchor
        return total

    def products(self) -> Tensor | None:
        """Returns the inner products of the weighted gradients in the last backward pass; None if there are none."""
        return self._record.grad

    def _run(self, index: int, module: nn.Module, aggregate: Aggregate | None, *args: Any, **kwargs: Any) -> Any:
        if not (self.training and torch.is_grad_enabled()):
            return module(*args, **kwargs)
        aliases = self._aliases.get(id(module))
        if aliases is None:
            parameters = {name: each for name, each in module.named_parameters() if each.requires_grad}
            parts = self._apply_node(list(parameters.values()), aggregate)
            aliases = self._aliases[id(module)] = [dict(zip(parameters, part, strict=True)) for part in parts]
        return torch.func.functional_call(module, aliases[index], args, kwargs)

    def _apply_node(self, tensors: list[Tensor], aggregate: Aggregate | None) -> list[tuple[Tensor, ...]]:
        """Returns the tensors once for each term."""
        *parts, anchor = _Branch.apply(self._record, aggregate, len(self.terms), *tensors)
        if not _runs_again():
            self._anchors.append(anchor)
        size = len(tensors)
        return [tuple(parts[i : i + size]) for i in range(0, len(parts), size)]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Branches":
        device = fn(self._record.detach()).device
        if device != self._record.device:
            self._record = torch.zeros_like(self._record, device=device, requires_grad=True)
        return super()._apply(fn, recurse)


def _runs_again() -> bool:
    """Returns whether this is what a checkpoint runs again, within a backward pass."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def cosines(products: Tensor, terms: Sequence[str]) -> dict[tuple[str, str], Tensor]:
    """Returns the cosine between the gradients of each pair of terms; nan where one has none."""
    norms = products.diagonal().sqrt()
    matrix = products / norms / norms.unsqueeze(1)
    pairs = ((i, j) for i in range(len(terms)) for j in range(i + 1, len(terms)))
    return {(terms[i], terms[j]): matrix[i, j] for i, j in pairs}


class _Branch(torch.autograd.Function):
    """The identity on the tensors, once for each term; the gradient of the record is the matrix of inner products."""

    @staticmethod
    def forward(ctx: Any, record: Tensor, aggregate: Aggregate | None, count: int, *tensors: Tensor) -> tuple[Any, ...]:
        ctx.set_materialize_grads(False)
        ctx.aggregate, ctx.count = aggregate, count
        ctx.shapes, ctx.dtypes = [tensor.shape for tensor in tensors], [tensor.dtype for tensor in tensors]
        # The compiler rebuilds a view that leaves its graph from the base, and would lose the node.
        compiling = torch.compiler.is_compiling()
        parts = [x.clone() if compiling else x.view_as(x) for _ in range(count) for x in tensors]
        return *parts, torch.zeros((), device=record.device)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        *parts, anchor = gradients
        size = len(ctx.shapes)
        by_term = [parts[i : i + size] for i in range(0, len(parts), size)]
        if anchor is None or torch.is_grad_enabled():
            return None, None, None, *(_sum(given) for given in zip(*by_term, strict=True))
        rows = _flatten(by_term, ctx.shapes, anchor)
        products = sum_over_ranks(multiply(rows)) / world_size()
        if ctx.aggregate is None:
            combined = [_sum(given) for given in zip(*by_term, strict=True)]
        else:
            result = ctx.aggregate(products).to(rows.dtype) @ rows
            pieces = result.split([shape.numel() for shape in ctx.shapes])
            combined = [x.view(s).to(dtype) for x, s, dtype in zip(pieces, ctx.shapes, ctx.dtypes, strict=True)]
        return products, None, None, *combined


def multiply(rows: Tensor) -> Tensor:
    """Returns the inner products of gradients ``[terms, entries]``, in fp32 or wider."""
    # A product of matrices in fp32 may be rounded to fewer digits on a GPU, if the user allows it: not in fp64.
    if rows.is_cuda and torch.get_float32_matmul_precision() != "highest":
        rows = rows.double()
    with torch.autocast(rows.device.type, enabled=False):
        if rows.size(1) <= _LONG:
            return rows @ rows.T
        pieces, rest = rows.split([even := rows.size(1) // _PIECE * _PIECE, rows.size(1) - even], dim=1)
        pieces = pieces.view(len(rows), -1, _PIECE).transpose(0, 1)
        return (pieces @ pieces.mT).sum(dim=0) + rest @ rest.T


def _flatten(by_term: list[list[Tensor | None]], shapes: list[torch.Size], like: Tensor) -> Tensor:
    """Returns the gradients of each term as one row, ``[terms, entries]``, in fp32 or wider; 0 where there is none."""
    flat = [
        like.new_zeros(shape.numel()) if gradient is None else gradient.reshape(-1)
        for gradients in by_term
        for gradient, shape in zip(gradients, shapes, strict=True)
    ]
    rows = torch.cat(flat).view(len(by_term), -1)
    return rows if rows.dtype == torch.float64 else rows.float()


def _sum(gradients: Sequence[Tensor | None]) -> Tensor | None:
    given = [gradient for gradient in gradients if gradient is not None]
    return sum(given[1:], start=given[0]) if given else None
