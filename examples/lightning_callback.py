"""A LightningModule that is not edited, weighed and watched by callbacks.

python examples/lightning_callback.py
"""

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lossbalance import WeightedLoss
from lossbalance.callbacks import BalanceLosses, LossMonitor
from lossbalance.weighting import GradBalance


class Net(pl.LightningModule):
    """Knows nothing of this library; it returns its plain losses beside its own loss."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.aux_head, self.head = nn.Linear(8, 16), nn.Linear(16, 4), nn.Linear(16, 1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> dict:
        """Returns the loss that trains the module without callbacks, and the losses that the callbacks look at."""
        x, y = batch
        h = self.trunk(x).tanh()
        aux = (self.aux_head(h) - 30 * x[:, :4]).square().sum(1).mean()
        main = (self.head(h) - y).square().mean()
        return {"loss": aux + main, "losses": {"aux": aux, "main": main}}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Trains all parameters by Adam."""
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def main(epochs: int = 5) -> dict[str, dict[str, float]]:
    """Trains, prints what each term did in the last epoch, and returns it."""
    pl.seed_everything(0, verbose=False)
    x = torch.randn(512, 8)
    data = DataLoader(TensorDataset(x, x[:, :2].prod(dim=1, keepdim=True)), batch_size=64, shuffle=True)
    balance = BalanceLosses(WeightedLoss(GradBalance(["aux", "main"])), probes={"aux": "aux_head", "main": "head"})
    monitor = LossMonitor()
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    pl.Trainer(max_epochs=epochs, callbacks=[balance, monitor], accelerator="cpu", **quiet).fit(Net(), data)
    for term, means in monitor.last_epoch.items():
        print(term, {name: f"{value:.3g}" for name, value in means.items()})
    return monitor.last_epoch


if __name__ == "__main__":
    main()
