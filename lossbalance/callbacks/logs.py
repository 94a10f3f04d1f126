"""Output of the means of an epoch: to loggers, to other callbacks, and into a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer

from lossbalance._utils.extras import explain_missing
from lossbalance._utils.warn import warn_user
from lossbalance.callbacks.keys import names_of

Rows = Sequence[Mapping[str, float]]


def publish(trainer: Trainer, means: Mapping[str, float]) -> None:
    """Sends the means of an epoch to loggers and to other callbacks."""
    values = {name: torch.tensor(mean) for name, mean in means.items()}
    trainer.callback_metrics.update(values)
    trainer.logged_metrics.update(values)
    log(trainer, means)


def log(trainer: Trainer, means: Mapping[str, float]) -> None:
    """Sends means to the loggers."""
    step = max(trainer.global_step - 1, 0)  # as Lightning counts
    for logger in trainer.loggers if means else []:
        logger.log_metrics({"epoch": trainer.current_epoch, **means}, step=step)
        logger.save()


def find_folder(trainer: Trainer) -> Path | None:
    """Returns the folder of the logger, or the trainer's ``default_root_dir``; None where nobody has chosen one.

    Call it on all ranks, which agree on the folder.
    """
    folder = Path(trainer.log_dir or trainer.default_root_dir)
    chosen = trainer.loggers or folder.resolve() != Path.cwd()
    return folder if chosen else None


def draw(trainer: Trainer, folder: Path, history: Rows, steps: Rows, validation: Rows, title: str | None) -> None:
    """Draws ``losses.png`` into the folder and sends it to the loggers; a training of one epoch is drawn by steps."""
    try:
        from lossbalance.callbacks.plots import draw_history, send_picture  # need matplotlib
    except ImportError as error:
        warn_user(f"`LossMonitor` draws no losses.png: {explain_missing(error) or error}.")
        return
    if len(history) == 1 and steps and names_of("loss", steps[-1]):
        figure = draw_history(steps, "step", title=title)
    else:
        figure = draw_history(history, "epoch", validation, title)
    folder.mkdir(parents=True, exist_ok=True)
    saved = _save(figure, folder / "losses.png")
    for logger in trainer.loggers if saved else ():
        send_picture(logger, folder / "losses.png", figure, trainer.global_step)


def _save(figure: Any, path: Path) -> bool:
    """Saves a picture, its names as they are, and returns whether that succeeded: a picture decides no training."""
    for text in figure.findobj(lambda artist: hasattr(artist, "set_parse_math")):
        text.set_parse_math(False)  # names may hold dollars
    try:
        figure.savefig(path)
    except Exception as error:
        warn_user(
            f"{path} cannot be drawn ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})."
        )
        return False
    return True
