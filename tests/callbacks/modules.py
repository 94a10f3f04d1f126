"""Small modules, schemes and trainers that the tests of the callbacks share."""

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, TensorDataset

from lossbalance import WeightedLoss
from lossbalance.callbacks import BalanceLosses
from lossbalance.weighting import Weighting

TERMS = ["aux", "main"]
PROBES = {"aux": "aux_head", "main": "main_head"}
CONFIGS = Path(__file__).parents[2] / "conf" / "loss"
SCHEMES = sorted(
    path.stem for path in CONFIGS.glob("*.yaml") if path.stem != "scalarizer" or find_spec("torchjd") is not None
)


def scheme(name: str) -> Weighting:
    """Returns the scheme of ``conf/loss/<name>.yaml``."""
    settings = OmegaConf.create(
        {"task": {"terms": TERMS}, "alpha": 0.3, "loss": OmegaConf.load(CONFIGS / f"{name}.yaml")}
    )
    return instantiate(settings.loss)


class TwoHeads(pl.LightningModule):
    """A trunk of one layer, and two heads whose losses differ by orders of magnitude."""

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        self.lr = lr
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.trunk, self.aux_head, self.main_head = nn.Linear(3, 4), nn.Linear(4, 1), nn.Linear(4, 1)

    def losses(self, x: Tensor, y: Tensor) -> dict[str, Tensor | None]:
        h = self.trunk(x).tanh()
        return {
            "aux": (self.aux_head(h) - 30 * y).square().mean(),
            "main": (self.main_head(h) - y.square()).square().mean(),
        }

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        losses = self.losses(*batch)
        return {"loss": losses["aux"] + losses["main"], "losses": losses}

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class OwnsCriterion(TwoHeads):
    """Weighs its losses itself."""

    def __init__(self, weighting: Weighting, lr: float = 0.01) -> None:
        super().__init__(lr)
        self.criterion = WeightedLoss(weighting)
        self.criterion.probe_inputs({term: self.get_submodule(name) for term, name in PROBES.items()})

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.criterion(self.losses(*batch), module=self)

    def configure_optimizers(self) -> Any:
        groups = [{"params": [*self.trunk.parameters(), *self.aux_head.parameters(), *self.main_head.parameters()]}]
        groups += [group | {"eps": 1e-4} for group in self.criterion.parameter_groups(lr=0.01)]
        return torch.optim.Adam(groups, lr=self.lr)


class Drawn(TwoHeads):
    """Draws each batch from the number of the step, so that it can go on anywhere.

    Args:
        parts: Which parts of the step's batch it draws; a rank draws one.
        lacks: Steps whose batch has no ``aux``.
        breaks: Steps in which ``aux`` is not finite.
    """

    def __init__(self, parts: Sequence[int] = (0,), lacks: Sequence[int] = (), breaks: Sequence[int] = ()) -> None:
        super().__init__()
        self.parts, self.lacks, self.breaks = parts, lacks, breaks

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        x = torch.cat([draw(self.global_step, part) for part in self.parts])
        losses = self.losses(x, x.sum(1, keepdim=True))
        if self.global_step in self.lacks:
            losses["aux"] = None
        elif self.global_step in self.breaks:
            losses["aux"] = losses["aux"] + torch.nan  # a constant: the network's own gradient stays finite
        return {"loss": losses["main"], "losses": losses}


def balance(name: str = "fixed") -> BalanceLosses:
    return BalanceLosses(WeightedLoss(scheme(name)), probes=PROBES)


def assert_equal(left: nn.Module, right: nn.Module) -> None:
    for name, parameter in left.named_parameters():
        torch.testing.assert_close(parameter, right.get_parameter(name), rtol=0, atol=0)


def assert_same_state(left: Any, right: Any) -> None:
    for one, other in zip(tree_leaves(left), tree_leaves(right), strict=True):
        if isinstance(one, Tensor):
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def draw(step: int, part: int) -> Tensor:
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(10 * step + part))


def batches(samples: int, batch_size: int) -> DataLoader:
    x = torch.randn(samples, 3, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=batch_size)


def make_trainer(callbacks: Iterable[pl.Callback], folder: Path, lightning: Any = pl, **options: Any) -> Any:
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    options = {**quiet, "accelerator": "cpu", "default_root_dir": folder, **options}
    return lightning.Trainer(callbacks=list(callbacks), **options)
