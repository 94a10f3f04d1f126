"""A callback that kills its own process, once for each marker."""

import os
import signal
from pathlib import Path

from pytorch_lightning import Callback


class DieOnce(Callback):
    def __init__(self, marker: str) -> None:
        self.marker = Path(marker)

    def on_train_start(self, trainer, pl_module):
        if not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
