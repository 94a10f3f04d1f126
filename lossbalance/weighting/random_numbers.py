"""Random numbers whose state is a tensor: saved with the scheme, the same on every rank, drawn without the host."""

import torch
from torch import Tensor

_FACTOR, _INCREMENT = 6364136223846793005, 1442695040888963407  # of a linear congruential generator modulo 2^64
_UNIT = (1 - 2**-20) / 2**63  # so that -1 and 1 are never reached


def start_random(seed: int, count: int) -> Tensor:
    """Returns the states ``[count]`` of as many generators: for a buffer."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-(2**62), 2**62, (count,), generator=generator)


def draw(state: Tensor, moves: Tensor) -> Tensor:
    """Returns numbers from -1 to 1, evenly distributed, in the shape of the state, and moves it in place.

    Args:
        state: What :func:`start_random` returned.
        moves: Whether each generator moves; one that does not returns what it returned last.
    """
    state.copy_(torch.where(moves, state * _FACTOR + _INCREMENT, state))
    return state * _UNIT
