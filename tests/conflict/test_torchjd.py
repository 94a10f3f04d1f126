"""Parity with TorchJD."""

import pytest
import torch
from torch import Tensor

from lossbalance._utils.extras import explain_missing
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


def test_weightings_of_inner_products_and_of_gradients_are_adapted():
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


@pytest.mark.parametrize(
    ("solver", "make"),
    [
        ("quadprog", peers.UPGrad),
        ("quadprog", peers.DualProj),
        ("scipy", lambda: peers.FairGrad(alpha=1.0)),
        ("scipy", lambda: peers.FairGrad(alpha=2.0)),
        ("ecos", lambda: peers.NashMTL(n_tasks=3)),
        ("ecos", lambda: peers.NashMTL(n_tasks=3, max_norm=0.0)),
        ("cvxpy", lambda: peers.CAGrad(c=0.5)),
    ],
)
@pytest.mark.filterwarnings("ignore:You are solving a parameterized problem:UserWarning")
def test_weightings_with_a_solver_give_the_same_gradient(solver, make):
    pytest.importorskip(solver)
    for seed in range(3):
        rows = gradients(3, seed)
        rows /= rows.norm(dim=1).max()
        torch.testing.assert_close(FromTorchJD(make())(rows @ rows.T) @ rows, make()(rows), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("make", [peers.ConFIG, getattr(peers, "ExcessMTL", peers.ConFIG), peers.GradDrop])
def test_weightings_that_need_more_than_inner_products_are_refused(make):
    with pytest.raises(TypeError, match="`weighting` must be a weighting of TorchJD that goes by inner products"):
        FromTorchJD(make())


@pytest.mark.parametrize("make", [peers.GradVacWeighting, peers.MoDoWeighting, peers.SDMGradWeighting])
def test_buffers_of_a_weighting_are_in_the_state_and_a_non_finite_step_leaves_no_trace(make, tmp_path):
    whole, resumed = FromTorchJD(make()), FromTorchJD(make())
    steps = [gradients(3, seed) @ gradients(3, seed).T for seed in range(4)]
    for gramian in steps[:2]:
        whole(gramian)
    torch.save(whole.state_dict(), tmp_path / "state.pt")
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed(torch.full((3, 3), torch.nan)).tolist() == [1.0, 1.0, 1.0]
    for gramian in steps[2:]:
        ours, theirs = (torch.manual_seed(0) and each(gramian) for each in (resumed, whole))
        assert torch.equal(ours, theirs)
    assert whole.weighting.state_dict()
    for ours, theirs in zip(resumed.weighting.buffers(), whole.weighting.buffers(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_missing_solver_is_named_with_the_extra_that_brings_it(monkeypatch):
    pytest.importorskip("torchjd._mixins")
    monkeypatch.setattr("torchjd._mixins.find_spec", lambda package: None if package == "quadprog" else package)
    with pytest.raises(ImportError, match=r"requires .*quadprog") as raised:
        peers.UPGradWeighting()
    assert explain_missing(raised.value).endswith('pip install "lossbalance[torchjd-solvers]"')
