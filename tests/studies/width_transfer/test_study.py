import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from lossbalance.penalties import L2
from studies import width_transfer
from studies.common.study import report_study, train_study
from studies.width_transfer.study import NORMALIZATIONS, Settings, grid, make_net, read_digits
from studies.width_transfer.summary import conclude, find_edges, summarize

TINY = Settings(widths=(4, 8), seeds=2, pictures=40, steps=5)


def test_the_digits_of_training_validation_and_test_are_disjoint_and_all_of_them():
    parts = read_digits(200, seed=3)
    assert [len(part.labels) for part in parts] == [200, 798, 799]
    assert len(torch.cat([part.images for part in parts]).unique(dim=0)) == 1797


@pytest.mark.parametrize("normalization", ["sum", "mean", "tensor_mean", "fan"])
def test_grids_are_laid_around_strengths_that_weigh_the_smallest_network_alike(normalization):
    torch.manual_seed(0)
    net = make_net(16)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)  # of one size in all tensors, as the grid takes them
    middle = grid(normalization, 16)[4]
    torch.testing.assert_close(L2(middle, normalization)(net), L2(3e-3)(net), rtol=0.1, atol=0)


def test_a_table_solved_by_hand():
    rows = [
        # width, seed, strength, validation loss, test loss
        (4, 0, 1.0, 0.2, 0.30),
        (4, 0, 10.0, 0.5, 0.50),
        (8, 0, 1.0, 0.4, 0.45),
        (8, 0, 10.0, 0.1, 0.15),  # ten times as strong is best, and saves .30
        (4, 1, 1.0, 0.3, 0.35),
        (4, 1, 10.0, np.nan, np.nan),  # diverged
        (8, 1, 1.0, 0.2, 0.25),  # the strength stays, at no price
        (8, 1, 10.0, 0.6, 0.65),
    ]
    results = pd.DataFrame(rows, columns=["width", "seed", "strength", "validation_loss", "test_loss"])
    results = results.assign(normalization="mean", value_share=0.5, gradient_share=results["strength"] / 100)

    summary = summarize(results).loc["mean"]

    assert summary["best"] == pytest.approx(10**0.5)
    assert summary["kept_loss"] == pytest.approx((0.45 + 0.25) / 2)
    assert summary["tuned_loss"] == pytest.approx((0.15 + 0.25) / 2)
    assert summary["price"] == pytest.approx(0.15)
    assert summary["price_se"] == pytest.approx(0.15)  # of .30 and 0
    assert summary["wide_gradient_share"] == pytest.approx(0.01)
    assert find_edges(results) == ["mean at width 4", "mean at width 8"]  # a grid of two has nothing but edges


def test_a_study_that_was_stopped_trains_only_what_is_missing(tmp_path, monkeypatch):
    whole = train_study(width_transfer, TINY, tmp_path)
    assert len(whole) == len(NORMALIZATIONS) * 2 * 2 * 13
    (tmp_path / "cells" / "fan-8-1.csv").unlink()
    trained = []
    train_cell = width_transfer.train_cell
    monkeypatch.setattr(width_transfer, "train_cell", lambda *cell: trained.append(cell[1:]) or train_cell(*cell))

    again = train_study(width_transfer, TINY, tmp_path)

    assert trained == [("fan", 8, 1)]
    pd.testing.assert_frame_equal(again, whole)


def test_the_report_is_a_table_a_picture_and_the_results(tmp_path):
    console = Console(record=True, width=160)

    conclusion = report_study(width_transfer, TINY, tmp_path, console=console)

    results = pd.read_csv(tmp_path / "results.csv")
    summary = summarize(results)
    assert list(summary.index) == list(NORMALIZATIONS)
    assert conclusion == conclude(results, summary)
    assert f"{summary['price'].idxmin()} loses least" in conclusion
    text = console.export_text()
    assert "From width 4 to 8, 2 seeds" in text
    assert f"{summary.loc['fan', 'kept_loss']:.3f}" in text
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    assert len(results) == 260


def test_a_folder_with_other_settings_is_refused_and_what_differs_is_said(tmp_path):
    train_study(width_transfer, Settings(widths=(4,), seeds=1, pictures=40, steps=1), tmp_path)
    with pytest.raises(ValueError, match=r"`folder` must .* with steps 1 there, 2 here: choose another folder"):
        train_study(width_transfer, Settings(widths=(4,), seeds=1, pictures=40, steps=2), tmp_path)


@pytest.mark.parametrize("widths", [(), (8, 4), (4, 4), (0, 4)])
def test_widths_ascend_from_one(widths):
    with pytest.raises(ValueError, match="`widths` must be"):
        Settings(widths=widths)
