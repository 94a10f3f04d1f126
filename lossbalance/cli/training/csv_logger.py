"""CSV logger that continues the table of a resumed run."""

import csv
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter

from lossbalance._utils.files import replacing


class ContinuedCSVLogger(CSVLogger):
    """Writes ``metrics.csv``; a run that is resumed in its own folder continues its table.

    Lightning's logger deletes an existing table. Rows from the checkpoint's step on are dropped: the resumed run
    writes them again.

    Args:
        save_dir: The folder.
        ckpt_path: The checkpoint that the run is resumed from, if any.
    """

    def __init__(self, save_dir: str, ckpt_path: str | None = None) -> None:
        super().__init__(save_dir, name="", version="")
        self.ckpt_path = ckpt_path

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer of the table."""
        if self._experiment is None:
            self._experiment = _Table(self.log_dir, self._first_step())
        return self._experiment

    def _first_step(self) -> int:
        if self.ckpt_path is None:
            return 0
        return torch.load(self.ckpt_path, weights_only=True, map_location="cpu")["global_step"]


class _Table(ExperimentWriter):
    """Keeps the rows before the first step unchanged; rewrites are atomic."""

    def __init__(self, log_dir: str, first_step: int) -> None:
        path = Path(log_dir) / self.NAME_METRICS_FILE
        rows = [row for row in _read(path) if row["step"].isdecimal() and int(row["step"]) < first_step]
        self._kept = [key for key in rows[0] if any(row[key] for row in rows)] if rows else []
        if rows:
            _write(path, self._kept, rows)
        super().__init__(log_dir)
        self.metrics_keys = list(self._kept)

    def _check_log_dir_exists(self) -> None:
        if not self._kept:
            Path(self.metrics_file_path).unlink(missing_ok=True)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        _write(Path(self.metrics_file_path), fieldnames, _read(Path(self.metrics_file_path)))


def _read(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file, restval=""))  # a truncated line has no step


def _write(path: Path, keys: list[str], rows: list[dict[str, str]]) -> None:
    with replacing(path) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, keys, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
