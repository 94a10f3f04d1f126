"""The lasso on the command line, against scikit-learn's on the same rows."""

import numpy as np
import torch
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Lasso

from lossbalance.tasks.table import TableData
from tests.cli.in_process import run_here


def test_a_linear_model_with_proximal_steps_has_the_zeros_of_the_lasso(tmp_path):
    path = tmp_path / "diabetes.csv"
    load_diabetes(as_frame=True, scaled=False).frame.to_csv(path, index=False)
    table = ["task=table", f"task.path={path}", "task.targets=[target]", "task.depth=0", "task.batch_size=1000"]
    sgd = ["optimizer=sgd", "optimizer.lr=0.2", "optimizer.momentum=0"]
    epochs = ["trainer.max_epochs=100", "trainer.check_val_every_n_epoch=100", "test=false"]

    penalty = ["penalty=l1", "penalty.mode=proximal", "penalty.strength=0.2"]
    summary = run_here(tmp_path / "run", *table, *sgd, *epochs, *penalty, "loss=equal")

    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    (found,) = state["net.heads.0.weight"].numpy()
    rows = next(iter(TableData(str(path), ["target"], batch_size=1000).train_dataloader()))
    expected = Lasso(alpha=0.1, tol=1e-10).fit(rows.features.double().numpy(), rows.labels[:, 0].double().numpy()).coef_
    np.testing.assert_array_equal(found == 0, expected == 0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert summary["metrics"]["zeros/l1"] == (expected == 0).sum() == summary["last_epoch"]["l1"]["zeros"]
    assert summary["last_epoch"]["l1"]["size"] == 10
