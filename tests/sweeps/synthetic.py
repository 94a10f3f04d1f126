"""Summaries of runs that nobody trained, with known answers."""

import json
from pathlib import Path
from typing import Any


def write_run(folder: Path, score: float, seed: int = 0, **summary: Any) -> Path:
    """Leaves what a run of ``scripts/train.py`` leaves: ``score`` is the objective; keywords replace what it holds."""
    choices = {"task": "two_digits", "loss": "alpha"} | summary.pop("choices", {})
    metrics = {"val/main/accuracy": score, "val/aux/accuracy": 1 - score, "val/loss/main": 2 - score} | summary.pop(
        "metrics", {}
    )
    whole = {
        "task": choices["task"],
        "loss": choices["loss"],
        "seed": seed,
        "overrides": [f"{key}={value}" for key, value in choices.items()] + [f"seed={seed}"],
        "terms": ["aux", "main"],
        "metrics": metrics,
        "weights": {"aux": 0.5, "main": 0.5},
        "objective": {"name": "val/main/accuracy", "value": score},
        "seconds": 2.0,
        "status": "completed",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(whole | summary))
    return folder


def write_alpha_sweep(folder: Path, scores: dict[float, list[float]]) -> Path:
    """One run for each score of each alpha; the position in the list is the seed."""
    runs = [(alpha, seed, score) for alpha, row in scores.items() for seed, score in enumerate(row)]
    for job, (alpha, seed, score) in enumerate(runs):
        write_run(folder / str(job), score, seed, choices={"alpha": alpha}, weights={"aux": alpha, "main": 1 - alpha})
    return folder
