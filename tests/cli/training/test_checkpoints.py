import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from lossbalance.cli.training.checkpoints import BestAndLast


class Drifts(pl.LightningModule):
    """Counts its epochs, and logs a score that falls with them."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("score", -float(self.current_epoch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, direction):
    callback = BestAndLast(str(folder), "score", direction)
    data = DataLoader(torch.ones(2, 1))
    trainer = pl.Trainer(
        max_epochs=3, callbacks=[callback], logger=False, accelerator="cpu", num_sanity_val_steps=0,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Drifts(), data, data)
    return [torch.load(folder / name, weights_only=True) for name in ("best.ckpt", "last.ckpt")]


@pytest.mark.parametrize(("direction", "best_step"), [("maximize", 2), ("minimize", 6)])
def test_the_last_checkpoint_is_of_the_last_epoch_wherever_the_best_one_was(tmp_path, direction, best_step):
    best, last = fit(tmp_path, direction)
    assert (best["global_step"], last["global_step"]) == (best_step, 6)
    (state,) = last["callbacks"].values()
    assert state["best_model_score"] == {"maximize": 0.0, "minimize": -2.0}[direction]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt"]


def test_a_direction_is_one_of_two_words():
    with pytest.raises(ValueError, match=r"`direction` must be one of .*'minimise' \(did you mean 'minimize'\?\)"):
        BestAndLast("folder", "score", "minimise")
