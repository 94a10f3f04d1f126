"""Copies of a criterion and averages of a module that has one."""

import pickle
from copy import deepcopy

import pytest
import torch
from pytorch_lightning.callbacks import StochasticWeightAveraging
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.callbacks.modules import (
    SCHEMES,
    OwnsCriterion,
    TwoHeads,
    assert_equal,
    assert_same_state,
    balance,
    batches,
    draw,
    make_trainer,
    scheme,
)


class Loop:
    """Trains a module that owns its criterion, from a step on."""

    def __init__(self, module: OwnsCriterion) -> None:
        self.module = module
        self.optimizer = module.configure_optimizers()

    def run(self, steps: range, after=lambda module: None) -> OwnsCriterion:
        for step in steps:
            x = draw(step, 0)
            self.optimizer.zero_grad()
            self.module.training_step([x, x.sum(1, keepdim=True)], step).backward()
            self.optimizer.step()
            after(self.module)
        return self.module


@pytest.mark.parametrize("copy", [deepcopy, lambda loop: pickle.loads(pickle.dumps(loop))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("name", SCHEMES)
def test_a_copy_goes_on_as_the_original_and_apart_from_it(name, copy):
    loop = Loop(OwnsCriterion(scheme(name)))
    loop.run(range(3))
    other = copy(loop)
    expected = loop.run(range(3, 6))
    state = deepcopy(expected.state_dict())

    assert_equal(other.run(range(3, 6)), expected)
    assert_same_state(other.module.criterion.state_dict(), expected.criterion.state_dict())

    other.run(range(6, 8))
    assert_same_state(expected.state_dict(), state)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_mean_teacher_and_its_validation_leave_no_trace(name):
    module = OwnsCriterion(scheme(name))
    teacher = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    x = draw(99, 0)

    def follow(module):
        teacher.update_parameters(module)
        teacher.eval()
        with torch.no_grad():
            teacher.module.training_step([x, x.sum(1, keepdim=True)], 0)

    Loop(module).run(range(5), follow)

    alone = Loop(OwnsCriterion(scheme(name))).run(range(5))
    assert_equal(module, alone)
    assert_same_state(module.criterion.state_dict(), alone.criterion.state_dict())
    assert not torch.equal(teacher.module.trunk.weight, module.trunk.weight)


@pytest.mark.filterwarnings("ignore:Swapping scheduler")
@pytest.mark.parametrize("name", ["gradbalance", "fixed", "gradnorm"])
def test_stochastic_weight_averaging_ends_the_same_whoever_weighs_the_losses(name, tmp_path):
    stranger, owner = TwoHeads(), OwnsCriterion(scheme(name))

    for module, callbacks in ((stranger, [balance(name)]), (owner, [])):
        averaging = StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=2)
        make_trainer([*callbacks, averaging], tmp_path, max_epochs=4).fit(module, batches(8, 2))

    assert_equal(stranger, owner)
