"""Norms of the gradients of K terms, in batches."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

_WAITING, _WAITING_ON_CPU = 2**26, 2**16  # bytes of gradients that may wait; on a CPU they wait in vain
_LONG, _LONG_SUM = 2**17, 2**12  # a CPU's norm or sum of more entries loses digits in fp32; that of pieces does not
_WIDE = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
_NORM, _LARGEST, _SUM = 2.0, torch.inf, 1.0  # orders: the norm of the norms of pieces is the norm of the whole


class NormAccumulator:
    """Takes the norms of the gradients that a backward pass brings, of K terms.

    Gradients wait, up to a bound on their bytes, and are measured together: on short steps it is the number of
    operations that counts. All gradients of a term are measured as one.

    Args:
        entries: How many entries the gradient of each term has.
        magnitudes: Whether to take the largest and the mean magnitude of the entries, too.
    """

    def __init__(self, entries: Sequence[int], magnitudes: bool) -> None:
        self.entries = entries
        self.orders = (_NORM, _LARGEST, _SUM) if magnitudes else (_NORM,)
        self._waiting: list[tuple[int, Tensor]] = []
        self._bytes = 0
        self._longest = _LONG_SUM if magnitudes else _LONG
        self._columns: list[tuple[float, int, Tensor]] = []  # order, first term, sizes of the columns
        self._norms: dict[float, list[list[Tensor]]] = {order: [[] for _ in entries] for order in self.orders}

    def add(self, index: int, gradient: Tensor) -> None:
        """Takes a gradient of the term at ``index``."""
        self._waiting.append((index, gradient))
        self._bytes += gradient.numel() * gradient.itemsize
        if self._bytes > (_WAITING_ON_CPU if gradient.is_cpu else _WAITING):
            self._measure()

    def add_measured(self, index: int, sizes: Iterable[Tensor]) -> None:
        """Takes sizes that were measured elsewhere: norm and, if asked for, largest magnitude and sum of magnitudes."""
        for order, size in zip(self.orders, sizes, strict=False):
            self._norms[order][index].append(size)

    def add_columns(self, first: int, gradient: Tensor, scale: Tensor | None = None) -> None:
        """Takes a gradient whose columns, in its last dimension, are those of the terms from ``first`` on."""
        gradient = getattr(gradient.detach(), "full_tensor", gradient.detach)()
        columns = gradient.reshape(-1, gradient.size(-1))
        columns = columns.to(_WIDE.get(columns.dtype, columns.dtype))
        sizes = {_NORM: columns.square().sum(dim=0).sqrt()}  # a vector norm over the first dimension is slow on a CPU
        if _LARGEST in self.orders:
            sizes |= {_LARGEST: columns.abs().amax(dim=0), _SUM: columns.abs().sum(dim=0)}
        for order, each in sizes.items():
            self._columns.append((order, first, each if scale is None else each * scale))

    def has(self, index: int) -> bool:
        """Returns whether something has been taken of the term at ``index``."""
        return (
            bool(self._norms[_NORM][index])
            or any(index == first for _, first, _ in self._columns)
            or any(index == waiting for waiting, _ in self._waiting)
        )

    def rows(self) -> Tensor | None:
        """Returns the norms and, if asked for, the largest and the mean magnitudes, ``[1 or 3, terms]``.

        In fp32 or wider; 0 for a term of which no gradient has arrived, None if none has arrived at all.
        """
        self._measure()
        if self._columns:
            return self._rows_with_columns()
        some = next((norms[0] for norms in self._norms[_NORM] if norms), None)
        if some is None:
            return None
        nothing = [] if all(self._norms[_NORM]) else [torch.zeros_like(some)]
        cells = []
        for order, norms in self._norms.items():
            row = _combine([each or nothing for each in norms], order)
            if order == _SUM:
                row = list(torch._foreach_div(row, [max(count, 1) for count in self.entries]))
            cells += row
        return torch.stack(cells).view(len(self.orders), -1)

    def _rows_with_columns(self) -> Tensor:
        like = self._columns[0][2]
        rows = like.new_zeros(len(self.orders), len(self.entries))
        found = [i for i, norms in enumerate(self._norms[_NORM]) if norms]
        for row, (order, norms) in zip(rows, self._norms.items(), strict=True):
            if found:
                single = torch.stack(_combine([norms[i] for i in found], order)).to(row.dtype)
                row.index_copy_(0, torch.tensor(found, device=row.device), single)
            for each, first, sizes in self._columns:
                if each == order:
                    part = row[first : first + len(sizes)]
                    part.copy_(_merge(part, sizes.to(row.dtype), order))
        if _SUM in self.orders:
            rows[-1] /= torch.tensor(self.entries, device=rows.device).clamp(min=1)
        return rows

    def _measure(self) -> None:
        """Takes the norms of the gradients that wait, of each type together, and lets go of them."""
        by_type: dict[torch.dtype, tuple[list[int], list[Tensor]]] = {}
        for index, gradient in self._waiting:
            for piece in _pieces(gradient, self._longest):
                indices, pieces = by_type.setdefault(piece.dtype, ([], []))
                indices.append(index)
                pieces.append(piece)
        self._waiting, self._bytes = [], 0
        for indices, pieces in by_type.values():
            for order, norms in _norms(pieces, self.orders).items():
                for index, norm in zip(indices, norms, strict=True):
                    self._norms[order][index].append(norm)


def measure_each(
    losses: Sequence[Tensor | None],
    bring: Callable[[int, Tensor, Tensor, NormAccumulator], None],
    entries: Sequence[int],
    magnitudes: bool,
    factors: Sequence[float] = (1.0,),
    device: torch.device | None = None,
) -> Tensor:
    """Returns the sizes of the gradient of each loss by itself, as :meth:`NormAccumulator.rows`.

    Args:
        losses: The losses, or None for an absent term.
        bring: Brings the gradient of a loss, by its index, itself, and what it is multiplied by, to an accumulator.
        entries: How many entries the gradient of each term has.
        magnitudes: Whether to take magnitudes, too.
        factors: Multiples of the losses to try; the largest whose gradient is finite and not zero counts.
        device: Where the result is, if all terms are absent.
    """
    given = [(i, loss) for i, loss in enumerate(losses) if loss is not None]
    if not given:
        return torch.zeros(3 if magnitudes else 1, len(losses), device=device, dtype=torch.float32)
    best = torch.zeros(3 if magnitudes else 1, len(losses), device=given[0][1].device, dtype=torch.float32)
    for factor in factors:
        accumulator = NormAccumulator(entries, magnitudes)
        for i, loss in given:
            if loss.requires_grad:
                bring(i, loss, torch.full_like(loss, factor), accumulator)
        rows = accumulator.rows()
        if rows is not None:
            rows = rows / factor
            best = torch.where(rows.isfinite() & (rows > 0), rows, best) if len(factors) > 1 else rows
    return best


def _norms(gradients: list[Tensor], orders: Sequence[float]) -> dict[float, Sequence[Tensor]]:
    wide = _WIDE.get(gradients[0].dtype)
    norms: dict[float, Sequence[Tensor]] = {_NORM: torch._foreach_norm(gradients, _NORM, dtype=wide)}
    if _LARGEST in orders:
        magnitudes = torch._foreach_abs(gradients)
        norms[_LARGEST] = torch._foreach_max(magnitudes)
        norms[_SUM] = torch._foreach_norm(magnitudes, _SUM, dtype=wide)
    return norms


def _combine(groups: Sequence[list[Tensor]], order: float) -> list[Tensor]:
    """Returns the norm of the norms of each group."""
    if all(len(group) == 1 for group in groups):
        return [norm for (norm,) in groups]
    norms = torch.stack([norm for group in groups for norm in group])
    return list(torch._foreach_norm(norms.split([len(group) for group in groups]), order))


def _merge(first: Tensor, second: Tensor, order: float) -> Tensor:
    """Returns the norms of gradients of which the first and the second are parts."""
    if order == _NORM:
        return torch.hypot(first, second)
    return torch.maximum(first, second) if order == _LARGEST else first + second


def _pieces(gradient: Tensor, longest: int) -> Sequence[Tensor]:
    """Returns the gradient as dense, real tensors on this rank, none of them empty, nor too long for a CPU."""
    if gradient.layout != torch.strided:
        raise TypeError(f"gradients must be dense to be measured, got {gradient.layout}: use `sparse=False`.")
    if gradient.requires_grad:
        gradient = gradient.detach()
    if hasattr(gradient, "full_tensor"):
        gradient = gradient.full_tensor()
    if gradient.is_complex():
        gradient = torch.view_as_real(gradient.resolve_conj())
    size = gradient.numel()
    if size > _LONG_SUM and gradient.is_cpu:
        gradient = gradient.contiguous()  # a sum of one number, repeated by its strides, loses digits, too
        return gradient.view(-1).split(longest) if size > longest else [gradient]
    return [gradient] if size else []
