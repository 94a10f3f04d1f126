"""Extras: maps missing packages to the extras that install them."""

from collections.abc import Iterator
from contextlib import contextmanager

_EXTRAS = {
    "train": ("jinja2", "markupsafe", "matplotlib", "numpy", "pandas", "rich", "scipy", "sklearn"),
    "search": ("optuna",),
    "joblib": ("hydra_joblib_launcher", "joblib"),
    "slurm": ("hydra_submitit_launcher", "submitit"),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "torchjd": ("torchjd",),
    "torchjd-solvers": ("cvxpy", "ecos", "qpsolvers", "quadprog"),
}


def install_command(package: str) -> str | None:
    """Returns the command that installs the extra with this package, or None if no extra has it."""
    for extra, packages in _EXTRAS.items():
        if package in packages:
            return f'pip install "lossbalance[{extra}]"'
    return None


def explain_missing(error: ImportError) -> str | None:
    """Returns which package is missing and what installs it; None where no extra has it."""
    candidates = (error.name or "").split(".") + str(error).replace("`", " ").replace("'", " ").split()
    for candidate in candidates:
        command = install_command(candidate)
        if command is not None:
            return f"the package `{candidate}` is needed here and is not installed: {command}"
    return None


@contextmanager
def named_extras() -> Iterator[None]:
    """Lets an import that fails for want of an extra say which command installs it.

    Raises:
        ModuleNotFoundError: With that command, where a package of an extra is missing.
    """
    try:
        yield
    except Exception as error:
        missing = error if isinstance(error, ImportError) else error.__cause__  # Hydra wraps what a constructor raises
        message = explain_missing(missing) if isinstance(missing, ImportError) else None
        if message is None:
            raise
        raise ModuleNotFoundError(message) from error
