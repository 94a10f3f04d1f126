"""Soft threshold: the proximal operator of the sum of absolute values, for real and complex tensors."""

import torch
from torch import Tensor


def signs(weights: list[Tensor]) -> list[Tensor]:
    """Returns the sign of each weight, w / abs(w) of a complex one, and 0 at 0."""
    if any(weight.is_complex() for weight in weights):
        return [weight.sgn() for weight in weights]
    return list(torch._foreach_sign(weights))


def soft_threshold(weights: list[Tensor], threshold: float | Tensor) -> list[Tensor]:
    """Returns sign(w) max(0, abs(w) - threshold) of each weight."""
    magnitudes = torch._foreach_add(torch._foreach_abs(weights), -threshold)
    return list(torch._foreach_mul(signs(weights), torch._foreach_clamp_min(magnitudes, 0.0)))
