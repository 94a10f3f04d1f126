"""Blocks of weights: the groups of a group lasso within one tensor, also where ranks hold parts of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lossbalance.penalties.dtensor import layout

Block = Literal["output", "input"]


@dataclass(frozen=True)
class Blocks:
    """The blocks of a weight, seen as ``[parts, rows, columns, kernel]``: its rows or its columns, in each part.

    Args:
        parts: The number of groups of a convolution; 1 for all other layers.
        by_row: Whether a block is a row, rather than a column.
        size: The number of weights in a block.
        layout: The mesh and the placements of a DTensor; None for an ordinary tensor.
    """

    parts: int
    by_row: bool
    size: int
    layout: Any

    def norms(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """Returns the norm of each block of which this rank holds a part, ``[parts, blocks]``, for each weight."""
        dims = (2, 3) if self.by_row else (1, 3)
        norms = [torch.linalg.vector_norm(self._view(weight), dim=dims) for weight in weights]
        if not self._split_dims():
            return norms
        squares = torch.cat([norm.flatten() for norm in norms]).square()
        for dim in self._split_dims():
            dist.all_reduce(squares, group=self.layout[0].get_group(dim))
        sizes = [norm.numel() for norm in norms]
        return [part.view_as(norm) for part, norm in zip(squares.sqrt().split(sizes), norms, strict=True)]

    def expand(self, values: Tensor, weight: Tensor) -> Tensor:
        """Returns a value for each block, ``[parts, blocks]``, in a shape that is broadcast against ``weight``."""
        rows, columns, _ = _dimensions(weight)
        shape = (rows, 1) if self.by_row else (1, columns)
        if self.parts > 1 and not self.by_row:
            values, shape = values.repeat_interleave(rows // self.parts, dim=0), (rows, columns)
        return values.reshape((*shape, *[1] * (weight.ndim - 2))[: weight.ndim])

    @property
    def share(self) -> float:
        """1 over the number of ranks that know the norm of the same block."""
        return 1 / prod(self.layout[0].size(dim) for dim in self._split_dims()) if self.layout else 1.0

    def _split_dims(self) -> list[int]:
        """Returns the dimensions of the mesh over which blocks are split."""
        if self.layout is None:
            return []
        whole = 0 if self.by_row else 1  # the dimension of the weight along which blocks stay whole
        return [i for i, placement in enumerate(self.layout[1]) if placement.is_shard() and placement.dim != whole]

    def _view(self, weight: Tensor) -> Tensor:
        rows, columns, kernel = _dimensions(weight)
        return weight.reshape(self.parts, rows // self.parts, columns, kernel)


def find_blocks(block: Block, weight: Tensor, owner: nn.Module) -> Blocks:
    """Returns the blocks of a weight.

    Args:
        block: ``"output"``: all weights of one output unit or filter; ``"input"``: all weights of one input or input
            channel.
        weight: The weight; one of fewer than two dimensions, such as a bias, is the column of a constant input of 1.
        owner: The module that uses it.

    Raises:
        TypeError: If the blocks are the input channels of a convolution with groups that is sharded over ranks.
    """
    parts = owner.groups if isinstance(owner, _ConvNd) and weight.ndim >= 2 else 1
    inputs_first = isinstance(owner, _ConvTransposeNd | nn.Embedding | nn.EmbeddingBag) and weight.ndim >= 2
    by_row = (block == "input") == inputs_first
    rows, columns, kernel = _dimensions(weight)
    if parts > 1 and not by_row and layout(weight) is not None:
        raise TypeError(
            f"`group` must not be {block!r} for a convolution with groups whose weight is sharded over ranks, got "
            f"groups={parts}: leave it out by `exclude`."
        )
    return Blocks(parts, by_row, (columns if by_row else rows // parts) * kernel, layout(weight))


def _dimensions(weight: Tensor) -> tuple[int, int, int]:
    """Returns the number of rows, of columns, and of weights for one row and column."""
    rows, columns, *kernel = (*weight.shape, *[1] * (2 - weight.ndim))
    return rows, columns, prod(kernel)
