from copy import deepcopy
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils._pytree import tree_leaves

from lossbalance import WeightedLoss
from lossbalance.callbacks import BalanceLosses
from lossbalance.weighting import Equal, Uncertainty
from tests.callbacks.modules import SCHEMES, Drawn, assert_equal, assert_same_state, balance, batches, make_trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]


def checkpoints(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)


def test_a_plain_checkpoint_loads_with_the_callback_and_one_of_it_loads_without(tmp_path):
    make_trainer([checkpoints(tmp_path / "plain")], tmp_path, max_steps=2, enable_checkpointing=True).fit(
        Drawn(), batches(8, 1)
    )
    make_trainer(
        [balance("uncertainty"), checkpoints(tmp_path / "balanced")], tmp_path, max_steps=2, enable_checkpointing=True
    ).fit(Drawn(), batches(8, 1))

    with_callback = make_trainer([balance("uncertainty")], tmp_path, max_steps=4)
    with_callback.fit(Drawn(), batches(8, 1), ckpt_path=tmp_path / "plain" / "step=2.ckpt")
    without = make_trainer([], tmp_path, max_steps=4)
    without.fit(Drawn(), batches(8, 1), ckpt_path=tmp_path / "balanced" / "step=2.ckpt")

    assert with_callback.global_step == without.global_step == 4


def test_a_checkpoint_of_other_terms_is_refused():
    state = balance("equal").state_dict()
    with pytest.raises(
        ValueError, match=r"one of the criterion's terms, \['aux', 'man'\], got one of \['aux', 'main'\]"
    ):
        BalanceLosses(WeightedLoss(Equal(["aux", "man"]))).load_state_dict(state)


def test_the_same_terms_in_another_order_go_on_under_their_own_names(tmp_path):
    def make(terms):
        return BalanceLosses(WeightedLoss(Uncertainty(terms)), lr=0.1)

    make_trainer([make(["aux", "main"]), checkpoints(tmp_path)], tmp_path, max_steps=2, enable_checkpointing=True).fit(
        Drawn(), batches(8, 1)
    )
    runs = []
    for terms in (["aux", "main"], ["main", "aux"]):
        module, balancer = Drawn(), make(terms)
        trainer = make_trainer([balancer], tmp_path, max_steps=4)
        trainer.fit(module, batches(8, 1), ckpt_path=tmp_path / "step=2.ckpt")
        runs.append((module, balancer.criterion.weights))
    assert runs[0][1]["aux"] == pytest.approx(runs[1][1]["aux"].item(), rel=1e-6)
    torch.testing.assert_close(runs[0][0].trunk.weight, runs[1][0].trunk.weight)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_run_resumed_after_any_step_ends_as_one_that_never_stopped(name, tmp_path):
    whole, callback = Drawn(lacks=[2], breaks=[4]), balance(name)
    saving = [callback, checkpoints(tmp_path)]
    make_trainer(saving, tmp_path, max_steps=6, enable_checkpointing=True).fit(whole, batches(8, 1))

    for step in (1, 3, 5):
        module, resumed = Drawn(lacks=[2], breaks=[4]), balance(name)
        trainer = make_trainer([resumed], tmp_path, max_steps=6)
        trainer.fit(module, batches(8, 1), ckpt_path=tmp_path / f"step={step}.ckpt")
        assert_equal(module, whole)
        assert_same_state(resumed.state_dict(), callback.state_dict())


@pytest.mark.parametrize("name", SCHEMES)
def test_a_step_that_is_not_finite_leaves_the_state_of_the_scheme_as_it_was(name, tmp_path):
    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step in (3, 4):
                states.append(deepcopy(callback.criterion.weighting.state_dict()))

    states, callback = [], balance(name)
    make_trainer([Watch(), callback], tmp_path, max_steps=6).fit(Drawn(breaks=[3]), batches(8, 1))

    if not callback.criterion.weighting.uses_gradients:  # those learn in a step from the one before
        assert_same_state(*states)
    final = callback.criterion.weighting.state_dict()
    assert all(value.isfinite().all() for value in tree_leaves(final) if isinstance(value, torch.Tensor))
