"""Inner products of the gradients of K terms, and combinations of them."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

_LONG, _PIECE = 2**16, 2**12  # a sum of more entries than that loses digits in fp32; the sums of pieces do not

Gradients = Sequence[Sequence[Tensor | None]]
"""By term, and by what they were taken with respect to; None where there is none."""


def flatten(gradients: Gradients, shapes: Sequence[torch.Size], like: Tensor) -> Tensor:
    """Returns the gradients of each term as one row, ``[terms, entries]``, in fp32 or wider; 0 where there is none."""
    flat = [
        like.new_zeros(shape.numel()) if gradient is None else gradient.reshape(-1)
        for each in gradients
        for gradient, shape in zip(each, shapes, strict=True)
    ]
    rows = torch.cat(flat).view(len(gradients), -1)
    return rows if rows.dtype == torch.float64 else rows.float()


def multiply(rows: Tensor) -> Tensor:
    """Returns the inner products of rows ``[terms, entries]``, in fp32 or wider."""
    # A product of matrices in fp32 may be rounded to fewer digits on a GPU, if the user allows it: not in fp64.
    if rows.is_cuda and torch.get_float32_matmul_precision() != "highest":
        rows = rows.double()
    with _without_autocast(rows.device):
        if rows.size(1) <= _LONG:
            return rows @ rows.T
        even = rows.size(1) // _PIECE * _PIECE
        pieces = rows[:, :even].view(len(rows), -1, _PIECE).transpose(0, 1)
        products = (pieces @ pieces.mT).sum(dim=0)
        return products if even == rows.size(1) else products + rows[:, even:] @ rows[:, even:].T


def combine(
    multipliers: Tensor, rows: Tensor, shapes: Sequence[torch.Size], dtypes: Sequence[torch.dtype]
) -> list[Tensor]:
    """Returns the sum of multiplier times row, in the shapes and types that the rows were made of."""
    with _without_autocast(rows.device):
        result = multipliers.to(rows.dtype) @ rows
    pieces = result.split([shape.numel() for shape in shapes])
    return [piece.view(shape).to(dtype) for piece, shape, dtype in zip(pieces, shapes, dtypes, strict=True)]


def pair_cosines(products: Tensor) -> Tensor:
    """Returns the cosine of each pair of gradients ``[..., pairs]`` from their inner products ``[..., terms, terms]``.

    Pairs are in the order of ``itertools.combinations``; nan where one has no gradient.
    """
    norms = products.diagonal(dim1=-2, dim2=-1).sqrt()
    first, second = torch.triu_indices(products.size(-1), products.size(-1), 1, device=products.device)
    return products[..., first, second] / norms[..., first] / norms[..., second]


def cosines(products: Tensor, terms: Sequence[str]) -> dict[tuple[str, str], Tensor]:
    """Returns the cosine between the gradients of each pair of terms; nan where one has none."""
    return dict(zip(combinations(terms, 2), pair_cosines(products).unbind(), strict=True))


def add_up(gradients: Gradients) -> list[Tensor | None]:
    """Returns the plain sum over terms; None where no term has a gradient."""
    return [_sum([gradient for gradient in each if gradient is not None]) for each in zip(*gradients, strict=True)]


def _sum(given: list[Tensor]) -> Tensor | None:
    if len(given) < 2:
        return given[0] if given else None
    if any(gradient.requires_grad for gradient in given):
        return sum(given[1:], start=given[0])
    total = given[0] + given[1]
    for gradient in given[2:]:
        total += gradient
    return total


def _without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Lets products keep their type where the backward pass is called under autocast."""
    enabled = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if enabled else nullcontext()
