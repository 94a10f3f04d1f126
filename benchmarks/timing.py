"""Timing of steps that take turns, so that other load on the machine affects all of them alike."""

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch
from rich.progress import track

Step = Callable[[], None]


def time_in_turn(steps: Mapping[str, Step], rounds: int, device: torch.device, title: str) -> dict[str, list[float]]:
    """Runs one step of each kind in turn, ``rounds`` times.

    Args:
        steps: What to time, by name.
        rounds: How many rounds count; a tenth as many, and at least three, go before to warm up.
        device: Where the steps run; its queue is emptied before and after each.
        title: What the progress bar says.

    Returns:
        The seconds of each step, by name, in the order of the rounds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    warm_up = max(3, rounds // 10)
    for turn in track(range(warm_up + rounds), title, transient=True):
        for name, step in steps.items():
            elapsed = _time(step, device)
            if turn >= warm_up:
                seconds[name].append(elapsed)
    return seconds


def ratio(seconds: list[float], baseline: list[float]) -> float:
    """Returns the median over rounds of the time relative to the baseline's of the same round."""
    return median(a / b for a, b in zip(seconds, baseline, strict=True))


def _time(step: Step, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    step()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    else:
        torch.get_device_module(device).synchronize()
