"""A linear variational autoencoder against its closed form, probabilistic PCA (Tipping and Bishop 1999)."""

import torch
from torch import nn

from lossbalance import WeightedLoss
from lossbalance.weighting import Uncertainty

DIMENSIONS, FACTORS, NOISE = 10, 2, 0.25


def test_a_learned_noise_beside_a_kl_of_known_weight_ends_at_the_closed_form():
    torch.manual_seed(0)
    codes, mixing = torch.randn(1000, FACTORS), 2 * torch.randn(DIMENSIONS, FACTORS)
    x = codes @ mixing.T + NOISE**0.5 * torch.randn(1000, DIMENSIONS)
    expected = torch.linalg.eigvalsh(x.T.cov())[:-FACTORS].mean()  # of the noise
    encoder, decoder = nn.Linear(DIMENSIONS, 8), nn.Linear(4, DIMENSIONS)
    criterion = WeightedLoss(Uncertainty(["recon"]), fixed={"kl": 1 / DIMENSIONS})
    groups = [{"params": [*encoder.parameters(), *decoder.parameters()]}, *criterion.parameter_groups()]
    optimizer = torch.optim.Adam(groups, lr=5e-2)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    for _ in range(400):
        mean, log_variance = encoder(x).chunk(2, dim=1)
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        optimizer.zero_grad()
        criterion({"recon": (decoder(z) - x).square().mean(), "kl": kl}).backward()
        optimizer.step()
        decay.step()
    torch.testing.assert_close(criterion.weighting.log_variance.exp()[0], expected, rtol=0.03, atol=0)
    assert (log_variance.exp().mean(0) < 0.5).sum() == FACTORS  # dimensions in use
