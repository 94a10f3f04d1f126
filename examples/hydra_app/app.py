"""A Hydra application of one's own, whose losses are weighed as lossbalance's configuration groups say.

python examples/hydra_app/app.py loss@criterion.weighting=uncertainty penalty@criterion.penalty=none
"""

import hydra
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Regression(pl.LightningModule):
    """A trunk with two heads, whose losses differ by orders of magnitude."""

    def __init__(self, criterion: nn.Module, lr: float) -> None:
        super().__init__()
        self.trunk, self.aux_head, self.head = nn.Linear(8, 16), nn.Linear(16, 4), nn.Linear(16, 1)
        self.criterion, self.lr = criterion, lr
        criterion.probe_inputs({"aux": self.aux_head, "main": self.head})

    def training_step(self, batch, batch_idx):
        """Returns the weighted total."""
        x, y = batch
        h = self.trunk(x).tanh()
        aux = (self.aux_head(h) - 30 * x[:, :4]).square().sum(1).mean()
        main = (self.head(h) - y).square().mean()
        return self.criterion({"aux": aux, "main": main}, module=self)

    def configure_optimizers(self):
        """Gives the criterion's parameters, if it has any, a group of their own."""
        network = [*self.trunk.parameters(), *self.aux_head.parameters(), *self.head.parameters()]
        return torch.optim.Adam([{"params": network}, *self.criterion.parameter_groups()], lr=self.lr)


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(config: DictConfig) -> None:
    """Trains, and prints what each term weighed."""
    pl.seed_everything(0, verbose=False)
    x = torch.randn(512, 8)
    data = DataLoader(TensorDataset(x, x.prod(1, keepdim=True)), batch_size=64)
    callbacks = [instantiate(callback) for callback in config.callbacks.values()]
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_epochs=config.epochs, callbacks=callbacks, accelerator="cpu", **quiet)
    module = Regression(instantiate(config.criterion), config.lr)
    trainer.fit(module, data)
    print(module.criterion)
    for term, means in callbacks[0].last_epoch.items():
        print(term, {name: f"{value:.3g}" for name, value in means.items()})


if __name__ == "__main__":
    main()
