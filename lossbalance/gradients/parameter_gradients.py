"""Gradients of K terms by parameters under data parallelism: averaged over ranks before their norm is taken.

Ranks have activations of their own, whose gradients stand side by side. Of a parameter they have copies, whose
gradients are averaged: the norm of a mean does not follow from norms. So the gradients are summed, by one collective.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lossbalance._utils.distributed import Ranks


class ParameterGradients:
    """The gradients of K terms by those tensors that are parameters, where ranks have different data.

    Args:
        tensors: What the gradients are taken with respect to, parameters and activations.
        count: K.
        ranks: The ranks.
    """

    def __init__(self, tensors: Sequence[Tensor], count: int, ranks: Ranks) -> None:
        self.ranks = ranks
        parameters = [tensor for tensor in tensors if tensor.is_leaf] if ranks.size > ranks.replicas else []
        sizes = [tensor.numel() for tensor in parameters]
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        self._places = {id(tensor): slice(i, i + n) for tensor, i, n in zip(parameters, starts, sizes, strict=True)}
        like = torch.promote_types(parameters[0].dtype, torch.float32) if parameters else torch.float32
        self._rows = torch.zeros(count, sum(sizes), dtype=like, device=tensors[0].device)

    def take(self, index: int, tensor: Tensor, gradient: Tensor) -> bool:
        """Takes the gradient of the term at ``index`` if it is one by a parameter; returns whether it is."""
        place = self._places.get(id(tensor))
        if place is not None:
            whole = getattr(gradient, "full_tensor", lambda: gradient)()
            self._rows[index, place] = whole.flatten().to(self._rows.dtype)
        return place is not None

    def add_to(self, rows: Tensor, entries: int) -> Tensor:
        """Returns losses, norms and perhaps magnitudes ``[2 or 4, terms]``, with those by the parameters.

        Args:
            rows: Those by the other tensors, averaged over ranks.
            entries: How many entries the whole gradient has.
        """
        if not self._places:
            return rows
        means = (self.ranks.sum(self._rows) / self.ranks.size).to(rows.dtype)
        rows = rows.clone()
        rows[1] = torch.hypot(rows[1], torch.linalg.vector_norm(means, dim=1))
        if len(rows) > 2:
            rows[2] = torch.maximum(rows[2], means.abs().amax(dim=1))
            rows[3] += means.abs().sum(dim=1) / entries
        return rows
