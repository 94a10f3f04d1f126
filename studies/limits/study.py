"""Limits on one loss (dual ascent) against the weights of a sweep.

``task=raw_pixels`` is trained by the command line: under limits on the reconstruction, under a sweep of alpha, by the
plain sum and with balanced gradients. Each ends with a digit that is read and a picture that is drawn, both on test
data; a limit is good if no alpha does better in both.
"""

from dataclasses import dataclass

import pandas as pd

from lossbalance._utils.checks import check_integer, check_positive
from studies.common.command_line import train

LIMIT, ALPHA, PLAIN, BALANCED = "Constrained", "alpha", "plain sum", "GradBalance"
CELL = ["method", "setting", "seed"]
_MEASURED = {"accuracy": "test/main/accuracy", "r2": "test/aux/r2", "reconstruction": "test/loss/aux"}


@dataclass(frozen=True)
class Settings:
    """What the study trains.

    Args:
        limits: On the reconstruction, in its own unit.
        alphas: Weights of the reconstruction; the digit gets the remainder to 1.
        seeds: How many; each draws the pictures and the initial weights.
        epochs: Of a training.

    Raises:
        TypeError: If a number is not one.
        ValueError: If it is out of range.
    """

    limits: tuple[float, ...] = (1300.0, 1150.0, 1000.0, 850.0, 700.0)
    alphas: tuple[float, ...] = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1)
    seeds: int = 3
    epochs: int = 40

    def __post_init__(self) -> None:
        for name, numbers in (("limits", self.limits), ("alphas", self.alphas)):
            for number in numbers:
                check_positive(name, number)
        check_integer("seeds", self.seeds, 1)
        check_integer("epochs", self.epochs, 1)


def list_cells(settings: Settings) -> list[tuple[str, float, int]]:
    """Returns the cells: methods with their settings, from every seed."""
    swept = [(LIMIT, limit) for limit in settings.limits] + [(ALPHA, alpha) for alpha in settings.alphas]
    methods = [*swept, (PLAIN, 0.0), (BALANCED, 0.0)]
    return [(method, setting, seed) for method, setting in methods for seed in range(settings.seeds)]


def train_cell(settings: Settings, method: str, setting: float, seed: int) -> pd.DataFrame:
    """Trains one network.

    Returns:
        A row: accuracy, R² and reconstruction loss on test data, the reconstruction loss of the last epoch in training,
        and its last weight.
    """
    overrides = {
        LIMIT: ["loss=constrained", f"loss.limits.aux={setting}"],
        ALPHA: ["loss=alpha", f"alpha={setting}"],
        PLAIN: ["loss=equal"],
        BALANCED: ["loss=gradbalance"],
    }
    rest = [f"seed={seed}", f"trainer.max_epochs={settings.epochs}", "callbacks=loss_monitor", "logger=none"]
    summary = train(["task=raw_pixels", *overrides[method], *rest])
    row = {name: summary["metrics"][metric] for name, metric in _MEASURED.items()}
    row |= {"training": summary["last_epoch"]["aux"]["loss"], "weight": summary["weights"]["aux"]}
    return pd.DataFrame([row]).assign(method=method, setting=setting, seed=seed)


def summarize(results: pd.DataFrame) -> pd.DataFrame:
    """Returns the means over seeds by method and setting, and the standard deviations in columns ``..._sd``.

    Args:
        results: The rows of all cells.
    """
    groups = results.drop(columns="seed").groupby(["method", "setting"], sort=False)
    return groups.mean().join(groups.std(ddof=1).fillna(0.0).add_suffix("_sd"))


def conclude(_: pd.DataFrame, summary: pd.DataFrame) -> str:
    """Says which limits an alpha beats and the reverse, in both accuracy and loss, and which were out of reach.

    Args:
        _: The results.
        summary: What :func:`summarize` returned.
    """
    limits, alphas = summary.loc[LIMIT], summary.loc[ALPHA]
    said = f"In both accuracy and loss, an alpha beats {_count_beaten(limits, alphas)} of {len(limits)} limits, and a "
    said += f"limit {_count_beaten(alphas, limits)} of {len(alphas)} alphas"
    missed = limits[limits["training"] > 1.05 * limits.index.to_numpy(dtype=float)]
    reached = ", ".join(f"{limit:g} (reached {row['training']:.0f})" for limit, row in missed.iterrows())
    return f"{said}; out of reach in this time: {reached}." if reached else f"{said}."


def _count_beaten(rows: pd.DataFrame, others: pd.DataFrame) -> int:
    """Returns how many of the rows another is better than, in both accuracy and reconstruction."""
    more = others["accuracy"].to_numpy() > rows["accuracy"].to_numpy()[:, None]
    less = others["reconstruction"].to_numpy() < rows["reconstruction"].to_numpy()[:, None]
    return int((more & less).any(axis=1).sum())


def tabulate(results: pd.DataFrame, summary: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Formats the means and deviations over seeds."""
    named = {(method, setting): _label(method, setting) for method, setting in summary.index}
    rows = {
        label: {
            "right digit": f"{summary.loc[key, 'accuracy']:.3f} ± {summary.loc[key, 'accuracy_sd']:.3f}",
            "R²": f"{summary.loc[key, 'r2']:.3f}",
            "loss": f"{summary.loc[key, 'reconstruction']:.0f} ± {summary.loc[key, 'reconstruction_sd']:.0f}",
            "in training": f"{summary.loc[key, 'training']:.0f}",
            "weight": f"{summary.loc[key, 'weight']:.2g}",
        }
        for key, label in named.items()
    }
    title = f"raw_pixels on test data, mean ± deviation of {results['seed'].nunique()} seeds"
    return {title: pd.DataFrame.from_dict(rows, orient="index")}


def _label(method: str, setting: float) -> str:
    name = "limit" if method == LIMIT else method
    return f"{name} {setting:g}" if setting else name
