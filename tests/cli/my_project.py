"""What somebody else wrote: a module and data that know nothing of this library."""

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset


class Body(nn.Module):
    def __init__(self, widths):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, widths[0]), nn.ReLU())
        self.aux_head = nn.Linear(widths[0], 1)
        self.head = nn.Linear(widths[0], 3)

    def forward(self, x):
        h = self.trunk(x)
        return self.aux_head(h).squeeze(1), self.head(h)


class Net(pl.LightningModule):
    def __init__(self, widths=(8,), lr=0.01):
        super().__init__()
        assert isinstance(widths, tuple | list)
        self.save_hyperparameters()
        self.net = Body(widths)

    def losses(self, batch):
        x, size, kind = batch
        aux, main = self.net(x)
        return {"aux": mse_loss(aux, size), "main": cross_entropy(main, kind)}

    def training_step(self, batch, batch_idx):
        losses = self.losses(batch)
        return {"loss": sum(losses.values()), "losses": losses}

    def validation_step(self, batch, batch_idx):
        losses = self.losses(batch)
        self.log("total", sum(losses.values()))
        return {"losses": losses}

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)


class Silent(Net):
    def training_step(self, batch, batch_idx):
        return sum(self.losses(batch).values())


class Tested(Net):
    def test_step(self, batch, batch_idx):
        return {"losses": self.losses(batch)}


class Idle(Net):
    def configure_optimizers(self):
        return None


class Lost(Net):
    def validation_step(self, batch, batch_idx):
        return {"losses": {name: loss * torch.nan for name, loss in self.losses(batch).items()}}


class Clumsy(Net):
    def training_step(self, batch, batch_idx):
        return {}["pixel"]


class Data(pl.LightningDataModule):
    def __init__(self, samples=96):
        super().__init__()
        self.samples = samples

    def train_dataloader(self):
        return DataLoader(_drawn(self.samples), 32)

    def val_dataloader(self):
        return DataLoader(_drawn(self.samples), 96)


def loaders():
    return [DataLoader(_drawn(96), 32) for _ in range(3)]


def no_batches():
    return DataLoader(_drawn(8), 32, drop_last=True), DataLoader(_drawn(8), 32)


def lost_file():
    return open("/nowhere/data.csv")


def _drawn(samples):
    x = torch.randn(samples, 4, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, 100 * x[:, 0], x[:, :3].argmax(1))
