import pandas as pd
import pytest
from pytorch_lightning.loggers import CSVLogger

from lossbalance.callbacks import LossMonitor
from lossbalance.weighting import Fixed
from tests.callbacks.modules import OwnsCriterion, batches, train


def test_the_means_of_an_epoch_count_every_sample_once(tmp_path):
    monitor = LossMonitor()
    module = OwnsCriterion(Fixed(["aux", "main"], {"aux": 0.5, "main": 2.0}), lr=0.0)

    train(module, [monitor], batches(7, batch_size=3), tmp_path, logger=CSVLogger(tmp_path, "", ""), max_epochs=1)

    x, y = batches(7, batch_size=3).dataset.tensors
    expected = {name: loss.item() for name, loss in module.losses(x, y).items()}
    logged = pd.read_csv(tmp_path / "metrics.csv")
    for term, weight in (("aux", 0.5), ("main", 2.0)):
        assert logged[f"loss/{term}"].dropna().tolist() == [pytest.approx(expected[term])]
        assert monitor.last_epoch[term]["loss"] == pytest.approx(expected[term])
        assert monitor.last_epoch[term]["contribution"] == pytest.approx(weight * expected[term])
    assert (tmp_path / "losses.png").exists()
