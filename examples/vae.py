"""Variational autoencoder: the KL is a prior of weight 1 beside the scheme, annealed from 0 over the first epochs.

python examples/vae.py
"""

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lossbalance import WeightedLoss
from lossbalance.callbacks import BalanceLosses, Schedule, WeightSchedule
from lossbalance.weighting import Equal


class VAE(pl.LightningModule):
    """Encodes vectors of 16 numbers as Gaussians of 2."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
        self.decoder = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 16))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> dict:
        """Returns the two losses; their sum trains the module where no callback weighs them."""
        (x,) = batch
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        reconstruction = (self.decoder(z) - x).square().sum(1).mean()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        return {"loss": reconstruction + kl, "losses": {"reconstruction": reconstruction, "kl": kl}}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Trains all parameters by Adam."""
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def main(epochs: int = 20) -> dict[str, float]:
    """Trains, prints, and returns the last weights."""
    pl.seed_everything(0, verbose=False)
    codes = torch.randn(512, 2)
    data = DataLoader(TensorDataset(codes @ torch.randn(2, 16)), batch_size=64, shuffle=True)
    criterion = WeightedLoss(Equal(["reconstruction"]), fixed={"kl": 1.0})
    schedule = WeightSchedule({"kl": Schedule(start=0.0, end=1.0, over=f"{epochs // 2} epochs", shape="linear")})
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = pl.Trainer(max_epochs=epochs, callbacks=[BalanceLosses(criterion), schedule], accelerator="cpu", **quiet)
    trainer.fit(VAE(), data)
    last = criterion.last
    for term in criterion.terms:
        print(f"{term:>14}  loss {last.losses[term]:.3g}  weight {last.weights[term]:.3g}")
    return {term: weight.item() for term, weight in last.weights.items()}


if __name__ == "__main__":
    main()
