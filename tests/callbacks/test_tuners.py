"""Trainings that are tried out before the real one, and checkpoints that were saved before any."""

from copy import deepcopy

import pytest
import torch
from pytorch_lightning.callbacks import BatchSizeFinder, LearningRateFinder
from pytorch_lightning.tuner import Tuner
from torch.utils.data import DataLoader, TensorDataset

from lossbalance import WeightedLoss
from lossbalance.callbacks import BalanceLosses, LossMonitor
from lossbalance.penalties import L2
from tests.callbacks.modules import PROBES, SCHEMES, TwoHeads, assert_equal, assert_same_state, make_trainer, scheme

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create"),
    pytest.mark.filterwarnings("ignore:(The (probe of|penalty|loss of|weight of) )?'(aux|main|l2)':UserWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have a"),  # BatchSizeFinder on validation
]


class Loads(TwoHeads):
    """Makes its own loader, as the finder of a batch size wants it."""

    def __init__(self, batch_size: int = 2) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self):
        x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=self.batch_size)

    def validation_step(self, batch, batch_idx):
        return {"losses": self.losses(*batch)}

    val_dataloader = train_dataloader

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def make_balancer(name):
    penalties = {"l2": L2(share=0.1, mode="gradient")}
    return BalanceLosses(WeightedLoss(scheme(name), penalties), probes=PROBES)


def untouched(name, tmp_path, **settings):
    """Returns a run that nothing was tried before."""
    module, balancer = Loads(settings.get("batch_size", 2)), make_balancer(name)
    module.lr = settings.get("lr", module.lr)
    make_trainer([balancer, LossMonitor(pictures=False)], tmp_path, max_steps=6).fit(module)
    return module, balancer


def assert_no_trace(run, name, tmp_path, **settings):
    module, balancer = untouched(name, tmp_path / "untouched", **settings)
    assert_equal(run[0], module)
    assert_same_state(run[1].state_dict(), balancer.state_dict())


@pytest.mark.parametrize("name", SCHEMES)
def test_the_finder_of_a_learning_rate_leaves_no_trace(name, tmp_path):
    module, balancer = Loads(), make_balancer(name)
    finder = LearningRateFinder(num_training_steps=8, update_attr=True)
    callbacks = [finder, balancer, LossMonitor(pictures=False)]

    make_trainer(callbacks, tmp_path, max_steps=6).fit(module)

    assert_no_trace((module, balancer), name, tmp_path, lr=module.lr)


@pytest.mark.parametrize("name", ["gradbalance", "uncertainty"])
def test_the_finder_of_a_batch_size_leaves_no_trace(name, tmp_path):
    module, balancer = Loads(), make_balancer(name)
    finder = BatchSizeFinder(max_trials=3, steps_per_trial=2)

    make_trainer([finder, balancer, LossMonitor(pictures=False)], tmp_path, max_steps=6).fit(module)

    assert_no_trace((module, balancer), name, tmp_path, batch_size=module.batch_size)


@pytest.mark.parametrize("name", ["gradnorm", "uncertainty"])
def test_a_tuner_leaves_no_trace(name, tmp_path):
    module, balancer = Loads(), make_balancer(name)
    trainer = make_trainer([balancer, LossMonitor(pictures=False)], tmp_path, max_steps=6)
    before = deepcopy(balancer.criterion.state_dict())

    Tuner(trainer).lr_find(module, num_training=8, update_attr=False)
    assert_same_state(balancer.criterion.state_dict(), before)
    Tuner(trainer).scale_batch_size(module, max_trials=2, steps_per_trial=2)
    assert_same_state(balancer.criterion.state_dict(), before)
    trainer.fit(module)

    assert_no_trace((module, balancer), name, tmp_path, batch_size=module.batch_size)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_checkpoint_that_was_saved_before_any_training_starts_one(name, tmp_path):
    module, balancer = Loads(), make_balancer(name)
    trainer = make_trainer([balancer, LossMonitor(pictures=False)], tmp_path, max_steps=6)
    trainer.validate(module, verbose=False)
    trainer.save_checkpoint(tmp_path / "start.ckpt")

    trainer.fit(module, ckpt_path=tmp_path / "start.ckpt")

    assert_no_trace((module, balancer), name, tmp_path)


def test_a_manual_optimization_weighs_by_a_criterion_of_its_own(tmp_path):
    class Manual(Loads):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.criterion = WeightedLoss(scheme("uncertainty"))

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.criterion(self.losses(*batch)))
            optimizer.step()

        def configure_optimizers(self):
            net = [*self.trunk.parameters(), *self.aux_head.parameters(), *self.main_head.parameters()]
            return torch.optim.Adam([{"params": net}, *self.criterion.parameter_groups()], lr=0.01)

    module, monitor = Manual(), LossMonitor(pictures=False)
    make_trainer([monitor], tmp_path, max_epochs=2).fit(module)
    assert monitor.last_epoch["aux"]["loss"] < monitor.history[0]["loss/aux"]
