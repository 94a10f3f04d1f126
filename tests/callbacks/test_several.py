"""Several loaders, and several criteria in a module."""

import pytest
import torch
from torch import nn

from lossbalance import WeightedLoss
from lossbalance.callbacks import AlphaSchedule, LossMonitor
from lossbalance.weighting import Alpha, Equal
from tests.callbacks.modules import OwnsCriterion, TwoHeads, balance, batches, make_trainer, scheme


class Evaluated(TwoHeads):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        return {"losses": self.losses(*batch)}

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        return {"losses": self.losses(*batch)}


def expected(module, loader):
    losses = [torch.stack(list(module.losses(*batch).values())) for batch in loader]
    return torch.stack(losses).mean(dim=0).tolist()


def test_each_loader_has_a_mean_of_its_own_under_the_name_that_lightning_gives_it(tmp_path):
    module, trainer = Evaluated(lr=0.0), make_trainer([LossMonitor(), balance()], tmp_path, max_epochs=1)
    first, second = batches(4, 2), batches(8, 4)

    trainer.fit(module, batches(4, 2), [first, second])

    for loader, data in enumerate((first, second)):
        found = [trainer.callback_metrics[f"val/loss/{term}/dataloader_idx_{loader}"] for term in ("aux", "main")]
        assert [value.item() for value in found] == pytest.approx(expected(module, data))
    assert "val/loss/aux" not in trainer.callback_metrics
    trainer.test(module, [first, second], verbose=False)
    assert trainer.callback_metrics["test/loss/aux/dataloader_idx_1"] == found[0]


def test_of_each_loader_what_the_module_logs_itself_is_not_logged_again(tmp_path):
    class Logs(OwnsCriterion):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            self.criterion(self.losses(*batch))
            self.log("val/loss/aux", 100.0 + dataloader_idx)

    trainer = make_trainer([LossMonitor()], tmp_path, max_epochs=2)
    trainer.fit(Logs(scheme("gradbalance")), batches(4, 2), [batches(4, 2), batches(4, 2)])

    assert trainer.callback_metrics["val/loss/aux/dataloader_idx_1"] == 101.0
    assert trainer.callback_metrics["val/loss/main/dataloader_idx_1"] > 0


class Adversaries(TwoHeads):
    """Two criteria, two optimizers, optimized by hand."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator_loss = WeightedLoss(Equal(["adversarial", "reconstruction"]))
        self.critic_loss = WeightedLoss(Alpha(["real", "fake"], alpha=0.25))
        self.critic = nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        generate, criticize = self.optimizers()
        losses = self.losses(*batch)
        made = self.main_head(self.trunk(batch[0]))
        adversarial = -self.critic(made).mean()
        total = self.generator_loss({"adversarial": adversarial, "reconstruction": losses["main"]})
        generate.zero_grad()
        self.manual_backward(total)
        generate.step()
        real, fake = self.critic(batch[1]).square().mean(), self.critic(made.detach()).square().mean()
        criticize.zero_grad()
        self.manual_backward(self.critic_loss({"real": real, "fake": fake}))
        criticize.step()

    def configure_optimizers(self):
        heads = [*self.trunk.parameters(), *self.main_head.parameters()]
        return torch.optim.SGD(heads, lr=0.01), torch.optim.SGD(self.critic.parameters(), lr=0.01)


def test_the_terms_of_two_criteria_are_shown_under_the_names_of_theirs(tmp_path):
    monitor = LossMonitor()
    trainer = make_trainer([monitor], tmp_path, max_epochs=2, log_every_n_steps=3)

    trainer.fit(Adversaries(), batches(8, 2))

    names = ["generator_loss/adversarial", "generator_loss/reconstruction", "critic_loss/real", "critic_loss/fake"]
    assert list(monitor.last_epoch) == names
    assert monitor.last_epoch["critic_loss/real"]["weight"] == 0.25
    assert trainer.callback_metrics["loss/critic_loss/fake"] > 0
    assert len(monitor.history) == 2
    assert (tmp_path / "losses.png").exists()


def test_one_criterion_of_several_has_to_be_named_in_the_module(tmp_path):
    with pytest.raises(ValueError, match=r"one WeightedLoss, and found \['generator_loss', 'critic_loss'\]"):
        make_trainer([AlphaSchedule(0.5)], tmp_path, max_epochs=1).fit(Adversaries(), batches(4, 2))


def test_a_criterion_with_a_single_term_is_watched(tmp_path):
    class Single(TwoHeads):
        def __init__(self):
            super().__init__(lr=0.0)
            self.criterion = WeightedLoss(Equal(["only"]))

        def training_step(self, batch, batch_idx):
            return self.criterion({"only": self.losses(*batch)["main"]})

        validation_step = training_step

    monitor, trainer = LossMonitor(), make_trainer([], tmp_path, max_epochs=1)
    trainer.callbacks.append(monitor)
    trainer.fit(Single(), batches(4, 2), batches(4, 2))
    assert trainer.callback_metrics["val/loss/only"].item() == pytest.approx(monitor.last_epoch["only"]["loss"])


def test_a_callback_shows_its_settings():
    assert repr(LossMonitor(pictures=False)) == "LossMonitor(pictures=False, title=None)"
    assert repr(AlphaSchedule(0.5, "constant")).startswith("AlphaSchedule(points=")
    assert "Fixed('aux', 'main'" in repr(balance())
