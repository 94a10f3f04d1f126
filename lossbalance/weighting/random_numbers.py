"""Random number generators with a tensor as state: saved with the scheme, equal on all ranks, without host sync."""

import torch
from torch import Tensor

from lossbalance.weighting.averages import set_where

_FACTOR = 3202034522624059733  # of a multiplicative congruential generator modulo 2^64: L'Ecuyer (1999), table 4
_UNIT = (1 - 2**-20) / 2**63  # so that -1 and 1 are never reached


def start_random(seed: int, count: int) -> Tensor:
    """Returns the states ``[count]`` of as many generators: for a buffer."""
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randint(-(2**62), 2**62, (count,), generator=generator) + 1  # odd: the period is 2^62


def draw(state: Tensor, moves: Tensor) -> None:
    """Moves the generators, in place.

    Args:
        state: What :func:`start_random` returned.
        moves: Whether each generator moves.
    """
    set_where(state, moves, state * _FACTOR)


def read_random(state: Tensor) -> Tensor:
    """Returns what was drawn last: numbers from -1 to 1, evenly distributed, in the shape of the state."""
    return state.to(torch.promote_types(torch.get_default_dtype(), torch.float32)) * _UNIT
