"""The same inner products give what TorchJD makes of them, wherever both have a method."""

import pytest
import torch
from torch import Tensor

from lossbalance.conflict import IMTLG, MGDA, AlignedMTL, CAGrad, ConFIG, FromTorchJD, PCGrad

peers = pytest.importorskip("torchjd.aggregation")


def gradients(count: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, 9, generator=draw, dtype=torch.float64)
    return rows * torch.logspace(0, 1, count, dtype=torch.float64).unsqueeze(1)


@pytest.mark.parametrize("count", [2, 3, 8])
@pytest.mark.parametrize(("ours", "theirs"), [(IMTLG, peers.IMTLG), (AlignedMTL, peers.AlignedMTL)])
def test_multipliers_by_eigenvalues(ours, theirs, count):
    for seed in range(5):
        gramian = gradients(count, seed) @ gradients(count, seed).T
        torch.testing.assert_close(ours()(gramian), theirs().gramian_weighting(gramian), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_config_gives_the_same_gradient(count):
    for seed in range(5):
        rows = gradients(count, seed)
        torch.testing.assert_close(ConFIG()(rows @ rows.T) @ rows, peers.ConFIG()(rows), rtol=1e-6, atol=1e-9)


def test_mgda_of_two_terms():
    for seed in range(20):
        gramian = gradients(2, seed) @ gradients(2, seed).T
        torch.testing.assert_close(MGDA()(gramian), peers.MGDA().gramian_weighting(gramian), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_pcgrad_in_the_same_order(count, monkeypatch):
    for seed in range(5):
        gramian = gradients(count, seed) @ gradients(count, seed).T
        aggregator = PCGrad(seed)
        orders = iter(torch.stack(aggregator._order(count), dim=1))
        monkeypatch.setattr(torch, "randperm", lambda _, orders=orders: next(orders))
        expected = peers.PCGrad().gramian_weighting(gramian)
        torch.testing.assert_close(aggregator(gramian), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("c", [0.2, 0.9])
def test_cagrad_to_the_precision_of_their_solver(c):
    pytest.importorskip("cvxpy")
    for seed in range(5):
        gramian = gradients(3, seed) @ gradients(3, seed).T
        theirs = peers.CAGrad(c).gramian_weighting(gramian)
        torch.testing.assert_close(CAGrad(c)(gramian), theirs, rtol=1e-3, atol=1e-4)


def test_any_of_theirs_by_inner_products_or_by_gradients():
    gramian = gradients(3, 0) @ gradients(3, 0).T
    for weighting in (peers.MGDA(), peers.MGDAWeighting()):
        expected = peers.MGDAWeighting()(gramian)
        torch.testing.assert_close(FromTorchJD(weighting)(gramian), expected, rtol=1e-3, atol=1e-6)

    class ByLength(peers.Weighting):
        def forward(self, matrix: Tensor) -> Tensor:
            return 1 / matrix.norm(dim=1)

    by_gradients = FromTorchJD(peers.WeightedAggregator(ByLength()))
    lengths = gramian.diagonal().sqrt()
    torch.testing.assert_close(by_gradients(gramian), lengths.max() / lengths)


def test_upgrad_gives_the_same_gradient():
    pytest.importorskip("quadprog")
    rows = gradients(3, 1)
    torch.testing.assert_close(FromTorchJD(peers.UPGradWeighting())(rows @ rows.T) @ rows, peers.UPGrad()(rows))
