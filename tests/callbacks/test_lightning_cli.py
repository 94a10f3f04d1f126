"""The callbacks by YAML, under both names of Lightning."""

import re
import sys
from importlib import import_module
from pathlib import Path

import pytest
from torch import nn

from lossbalance.weighting import GradBalance
from tests.callbacks.modules import TwoHeads, batches

PAGE = Path(__file__).parents[2] / "docs" / "start_lightning.md"
CONFIG = re.search(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
QUIET = ["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of how Lightning calls jsonargparse
@pytest.mark.parametrize("name", ["pytorch_lightning", "lightning.pytorch"])
def test_the_callbacks_are_made_from_yaml_by_either_lightning(name, tmp_path, monkeypatch):
    pytest.importorskip("jsonargparse")
    lightning = pytest.importorskip(name)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.aux_head, self.main_head = nn.Linear(3, 4), nn.Linear(4, 1), nn.Linear(4, 1)

        losses, configure_optimizers, training_step = (
            TwoHeads.losses,
            TwoHeads.configure_optimizers,
            TwoHeads.training_step,
        )
        lr = 0.01

    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    monkeypatch.setattr(sys, "argv", ["program"])

    args = ["--config", str(path), "--trainer.accelerator=cpu", *(f"--trainer.{key}=false" for key in QUIET)]
    args.append(f"--trainer.default_root_dir={tmp_path}")
    cli = import_module(f"{name}.cli").LightningCLI(
        Module, run=False, seed_everything_default=False, save_config_callback=None, args=args
    )
    cli.trainer.fit(cli.model, batches(16, 4))

    balancer, monitor = cli.trainer.callbacks[:2]
    assert all(isinstance(callback, lightning.Callback) for callback in (balancer, monitor))
    assert isinstance(balancer.criterion.weighting, GradBalance)
    assert balancer.criterion.weights["aux"] < balancer.criterion.weights["main"]  # its loss is far larger
    assert list(monitor.last_epoch) == ["aux", "main"]
    assert (tmp_path / "losses.png").exists()
