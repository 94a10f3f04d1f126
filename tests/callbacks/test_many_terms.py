"""A training of many terms stays readable."""

import math

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lossbalance import WeightedLoss
from lossbalance.callbacks import LossMonitor
from lossbalance.callbacks.keys import names_of
from lossbalance.callbacks.many_terms import MANY, Pairs, extremes, quantiles
from lossbalance.callbacks.plots import draw_history
from lossbalance.weighting import Equal

COUNT = 60
TERMS = [f"t{i}" for i in range(COUNT)]


class Columns(pl.LightningModule):
    """One target a term, of one layer."""

    def __init__(self):
        super().__init__()
        self.net, self.criterion = nn.Linear(4, 8), WeightedLoss(Equal(TERMS))
        self.heads = nn.Linear(8, COUNT)

    def training_step(self, batch, index):
        (x,) = batch
        h = self.criterion.branch(self.net(x).tanh())
        outputs = {term: nn.functional.linear(h[term], self.heads.weight[i]) for i, term in enumerate(TERMS)}
        return self.criterion(
            {t: (y - i * x.sum(dim=1) / COUNT).square().mean() for i, (t, y) in enumerate(outputs.items())}
        )

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of pairs in conflict
def test_at_most_ten_columns_a_term_are_logged_and_the_pairs_are_those_with_the_lowest_cosines(tmp_path):
    torch.manual_seed(0)
    monitor = LossMonitor()
    loader = DataLoader(TensorDataset(torch.randn(8, 4)), batch_size=4)
    options = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(
        max_epochs=3, callbacks=[monitor], logger=False, default_root_dir=tmp_path, log_every_n_steps=1, **options
    )
    trainer.fit(Columns(), loader)

    columns = {name for row in [*monitor.history, *monitor._steps] for name in row}
    assert len(columns) <= 10 * COUNT
    pairs = names_of("cosine", monitor.history[-1])
    assert 10 <= len(pairs) <= COUNT // 2
    assert all(monitor.history[-1][f"cosine/{pair}"] < 0 for pair in pairs)
    assert set(names_of("loss", monitor.history[-1])) == set(TERMS)
    assert (tmp_path / "losses.png").exists()
    assert len(monitor.diagnoses) < COUNT


def test_the_worst_pairs_are_chosen_by_their_cosines():
    pairs = Pairs([f"t{i}" for i in range(MANY + 4)], "")
    means = torch.linspace(1, -1, pairs.count).repeat(2)
    found = pairs.read(means)
    assert len(pairs.by_name) == 10
    last = f"t{MANY + 2}/t{MANY + 3}"
    assert found[f"cosine/{last}"] == found[f"conflict/{last}"] == -1


def test_few_terms_have_all_their_pairs():
    assert list(Pairs(["a", "b", "c"], "net/").by_name) == ["net/a/b", "net/a/c", "net/b/c"]


def test_quantiles_are_those_over_terms():
    found = quantiles({f"loss/t{i}": float(i) for i in range(11)})
    assert [found[f"quantile/loss/{q}"] for q in ("0", "0.1", "0.5", "0.9", "1")] == [0, 1, 5, 9, 10]


def test_the_ten_largest_and_the_ten_smallest_are_shown_in_their_order():
    values = {f"t{i}": float(-i) for i in range(30)}
    assert list(extremes(values)) == [f"t{i}" for i in [*range(10), *range(20, 30)]]
    assert list(extremes({"a": math.nan, "b": 1.0})) == ["a", "b"]


def test_a_plot_of_many_terms_draws_twenty_and_the_range_of_all():
    losses = {f"loss/t{i}": float(i + 1) for i in range(50)}
    figure = draw_history([{"epoch": epoch} | losses | quantiles(losses) for epoch in range(2)])
    assert len(figure.axes[0].lines) == 20
    assert len(figure.axes[0].collections) == 1
