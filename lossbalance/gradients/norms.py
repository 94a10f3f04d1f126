"""Norms of gradients."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_NARROW = {torch.float16, torch.bfloat16}
_LONG, _ROW = 2**17, 2**10  # a dot product of more entries than that loses digits in fp32; the norms of rows do not


def squared_norm(tensor: Tensor) -> Tensor:
    """Returns the square of the L2 norm ``[]``, detached, in fp32 or wider."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    flat = tensor.reshape(-1)
    if not flat.is_contiguous():
        flat = flat.contiguous()  # the gradient of a sum is one number, repeated: of such, a dot product is inexact
    wide = torch.float32 if flat.dtype in _NARROW else None
    if flat.numel() > _LONG:
        even = flat.numel() // _ROW * _ROW
        norms = torch.linalg.vector_norm(flat[:even].view(-1, _ROW), dim=1, dtype=wide)
        square = norms.dot(norms)
        return square if even == flat.numel() else square + squared_norm(flat[even:])
    if wide:
        flat = flat.to(wide)
    return flat.dot(flat)


def squared_norms(
    losses: Sequence[Tensor | None],
    inputs: Sequence[Sequence[Tensor]],
    factors: Sequence[float] = (1.0,),
    read: Callable[[Tensor], Tensor] = squared_norm,
) -> Tensor:
    """Returns the squared norm of each loss's gradient, ``[terms]``, by ``torch.autograd.grad``; 0 where there is none.

    Args:
        losses: The losses, or None for an absent term.
        inputs: What the gradient of each loss is taken with respect to, all together.
        factors: Multiples of the loss to try; the largest whose gradient is finite and not zero counts.
        read: The squared norm ``[]`` that the gradient by one input stands for.
    """
    squares = []
    for loss, wanted in zip(losses, inputs, strict=True):
        square = torch.zeros((), device=wanted[0].device)
        for factor in factors:
            if loss is None or not loss.requires_grad:
                break
            seed = torch.full_like(loss, factor)
            grads = torch.autograd.grad(loss, wanted, seed, retain_graph=True, allow_unused=True)
            found = sum((read(grad) for grad in grads if grad is not None), start=torch.zeros_like(square)) / factor**2
            square = torch.where(found.isfinite() & (found > 0), found, square) if len(factors) > 1 else found
        squares.append(square)
    return torch.stack(squares)
