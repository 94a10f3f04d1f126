"""Bias-corrected running averages, one per term; a term that was not seen keeps its own."""

import torch
from torch import Tensor

FIRST = 5  # a first loss is noisy: the mean of the first few stands for it
MOST = 10.0  # times its share that a weighted gradient may have once its norm is known
TINY = torch.finfo(torch.float32).tiny
"""In place of 0, where something is divided by it; vanishes when 1 is added."""


def start_average(count: int) -> Tensor:
    """Returns the state ``[3, terms]`` of running averages before the first value: for a buffer.

    The first row averages the values as if they had been 0 before training, the second the number 1, which the third
    holds. So the ratio of the first two is free of the bias of the start.
    """
    return torch.cat([torch.zeros(2, count), torch.ones(1, count)])


def move_average(state: Tensor, values: Tensor, seen: Tensor, decay: float) -> None:
    """Moves the averages of the terms that were seen, in place.

    Args:
        state: What :func:`start_average` returned, ``[3, terms]``.
        values: The values of the step ``[terms]``; anything where a term was not seen.
        seen: Whether the step counts for the term, ``[terms]``.
        decay: How much of the average stays from step to step, in [0, 1).
    """
    averages, ones = state[:2], state[2]
    averages.lerp_(torch.where(seen, torch.stack([values.to(state.dtype), ones]), averages), 1 - decay)


def read_average(state: Tensor) -> Tensor:
    """Returns the averages ``[terms]``; nan for a term that was never seen."""
    return state[0] / state[1]


def set_where(state: Tensor, moves: Tensor, values: Tensor) -> None:
    """Sets the state of the terms that move to their values, in place.

    Args:
        state: A buffer, ``[..., terms]``.
        moves: Whether the state of a term is set to its value, ``[terms]``.
        values: The values; anything where a term does not move.
    """
    torch.where(moves, values.to(state.dtype), state, out=state)


def start_first(count: int, steps: int = 0) -> Tensor:
    """Returns the number of steps ``[terms]`` that :func:`average_first` has seen: for a buffer."""
    return torch.full((count,), max(float(steps), TINY))


def limit_average(state: Tensor, values: Tensor, seen: Tensor, decay: float) -> None:
    """Raises averages that are below a tenth of the last value, in place: the last value over them is ten at most.

    An average of :func:`move_average` with a decay of .9 or less is never below.

    Args:
        state: The averages, from :func:`start_average`, ``[3, terms]``.
        values: The values of the step ``[terms]``, not negative; anything where a term was not seen.
        seen: Whether the step counts for the term, ``[terms]``.
        decay: How much of the average stays from step to step.
    """
    if decay > 1 - 1 / MOST:
        lowest = state[1] * values.to(state.dtype) / MOST
        torch.maximum(state[0], lowest.where(seen, 0.0), out=state[0])


def average_first(mean: Tensor, steps: Tensor, latest: Tensor, seen: Tensor, count: int = FIRST) -> Tensor:
    """Averages the first values that are seen of each term, in place.

    Args:
        mean: The averages ``[terms]``; anything finite before the first value.
        steps: How often each term was seen ``[terms]``, from :func:`start_first`.
        latest: The values of the step ``[terms]``; anything finite where a term was not seen.
        seen: Whether the step counts for the term, ``[terms]``.
        count: How many values are averaged.

    Returns:
        Whether the average of a term may still move or has just done so, ``[terms]``.
    """
    steps.add_(seen)
    moves = steps <= count
    mean.lerp_(latest.to(mean.dtype), moves / steps)
    return moves
