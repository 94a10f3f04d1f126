"""The table of a run that may go on."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import CSVLogger


class ContinuedCSVLogger(CSVLogger):
    """Writes ``metrics.csv``, and where a run goes on in its own folder, goes on in its table.

    Lightning's logger deletes the table that it finds. Rows from the checkpoint's step on are dropped, for that is
    where the run goes on from.

    Args:
        save_dir: The folder.
        ckpt_path: The checkpoint that the run goes on from, if it does.
    """

    def __init__(self, save_dir: str, ckpt_path: str | None = None) -> None:
        super().__init__(save_dir, name="", version="")
        self.ckpt_path = ckpt_path

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """What writes the table."""
        if self._experiment is None:
            earlier = self._earlier()
            writer = super().experiment
            if not earlier.empty:
                earlier.to_csv(writer.metrics_file_path, index=False)
                writer.metrics_keys = list(earlier)
        return self._experiment

    def _earlier(self) -> pd.DataFrame:
        path = Path(self.log_dir) / "metrics.csv"
        if self.ckpt_path is None or not path.is_file():
            return pd.DataFrame()
        table = pd.read_csv(path)
        step = torch.load(self.ckpt_path, weights_only=True, map_location="cpu")["global_step"]
        return table[table["step"] < step].dropna(axis="columns", how="all")
