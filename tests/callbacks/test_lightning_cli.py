"""The callbacks by YAML, under both names of Lightning."""

import sys
from importlib import import_module

import pytest
from torch import nn

from lossbalance.weighting import GradBalance
from tests.callbacks.modules import TwoHeads, batches

CONFIG = """
trainer:
  accelerator: cpu
  max_epochs: 2
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: lossbalance.callbacks.BalanceLosses
      init_args:
        probes: {aux: aux_head, main: main_head}
        criterion:
          class_path: lossbalance.WeightedLoss
          init_args:
            weighting:
              class_path: lossbalance.weighting.GradBalance
              init_args:
                terms: [aux, main]
                ratios: {aux: 1, main: 4}
    - class_path: lossbalance.callbacks.LossMonitor
      init_args:
        pictures: false
"""


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

    cli = import_module(f"{name}.cli").LightningCLI(
        Module, run=False, seed_everything_default=False, save_config_callback=None, args=["--config", str(path)]
    )
    cli.trainer.fit(cli.model, batches(16, 4))

    balancer, monitor = cli.trainer.callbacks[:2]
    assert all(isinstance(callback, lightning.Callback) for callback in (balancer, monitor))
    assert isinstance(balancer.criterion.weighting, GradBalance)
    assert balancer.criterion.weights["aux"] < balancer.criterion.weights["main"]  # its loss is far larger
    assert list(monitor.last_epoch) == ["aux", "main"]
