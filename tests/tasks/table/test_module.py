from functools import partial

import pytest
import torch

from lossbalance import WeightedLoss
from lossbalance.tasks.table import TableData, TableModule, TableNet
from lossbalance.tasks.table.data import Rows
from lossbalance.weighting import GradBalance
from tests.tasks.table.tables import TARGETS, write


@pytest.fixture
def module(tmp_path):
    data = TableData(write(tmp_path), TARGETS)
    torch.manual_seed(0)
    criterion = WeightedLoss(GradBalance(TARGETS))
    made = TableModule(
        partial(TableNet, width=8), criterion=criterion, optimizer=torch.optim.Adam, **TableModule.arguments_from(data)
    )
    return made, next(iter(data.train_dataloader()))


def test_each_head_has_a_probe(module):
    trained, batch = module
    trained.training_step(batch, 0).backward()
    shares = trained.criterion.last.gradient_shares
    assert {term: share.item() for term, share in shares.items()} == pytest.approx(
        dict.fromkeys(TARGETS, 1 / 3), abs=1e-4
    )


def test_a_target_without_a_label_in_the_batch_is_absent(module):
    trained, batch = module
    labels = batch.labels.clone()
    labels[:, 1] = torch.nan
    batch = Rows(batch.features, labels, [batch.counts[0], 0, batch.counts[2]])
    assert trained.losses(trained.predict(batch), batch)["sold"] is None
    trained.training_step(batch, 0).backward()
    assert trained.criterion.weights["sold"].item() == 0
    assert trained.net.heads[1].weight.grad is None or not trained.net.heads[1].weight.grad.any()


def test_the_score_is_the_mean_of_the_skills_of_all_targets(module):
    trained, batch = module
    trained.score(trained.predict(batch), batch)
    metrics = {name: value.item() for name, value in trained.compute_metrics().items()}
    most = trained.heads["grade.of"].most
    skills = [
        metrics["price/r2"],
        2 * metrics["sold/auc"] - 1,
        (metrics["grade.of/accuracy"] - most) / (1 - most),
    ]
    assert metrics["score"] == pytest.approx(sum(skills) / 3)
    assert metrics["r2"] == metrics["price/r2"]
