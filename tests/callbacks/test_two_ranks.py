"""Data parallel training: two processes run once, and each test looks at what they left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning_fabric.plugins.environments.lightning import find_free_network_port

from tests.callbacks.modules import (
    SCHEMES,
    Drawn,
    OwnsCriterion,
    assert_same_state,
    balance,
    batches,
    make_trainer,
    scheme,
)
from tests.callbacks.two_ranks import STEPS

pytestmark = pytest.mark.processes
ROOT = Path(__file__).parents[2]
SEE_VALUES = [name for name in SCHEMES if not scheme(name).uses_gradients]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    settings = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_network_port()), "NODE_RANK": "0"}
    command = [sys.executable, "-m", "tests.callbacks.two_ranks", str(folder)]
    environments = [os.environ | settings | {"LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"} for rank in "01"]
    processes = [
        subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for env in environments
    ]
    try:
        said = [process.communicate(timeout=150)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    return [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("setting", ["ddp", "faults"])
@pytest.mark.parametrize("name", SCHEMES)
def test_ranks_agree_to_the_last_bit_also_when_one_lacks_a_term_or_breaks_down(name, setting, ranks):
    one, other = (rank[setting][name]["whole"] for rank in ranks)

    assert_same_state(one["state"], other["state"])
    assert_same_state(one["parameters"], other["parameters"])
    assert all(value.isfinite().all() for value in one["parameters"].values())
    assert all(value.isfinite().all() for value in one["state"].values() if isinstance(value, torch.Tensor))
    if setting == "ddp":  # with faults, each rank reports a weight of 0 for what it lacks
        assert_same_state(one["weights"], other["weights"])


@pytest.mark.parametrize("setting", ["ddp", "faults"])
@pytest.mark.parametrize("name", SCHEMES)
def test_two_ranks_go_on_from_a_checkpoint_as_if_they_had_never_stopped(name, setting, ranks):
    for rank in ranks:
        for kind in ("parameters", "state"):
            assert_same_state(rank[setting][name]["whole"][kind], rank[setting][name]["resumed"][kind])


@pytest.mark.parametrize("name", SCHEMES)
def test_a_module_that_owns_its_criterion_goes_on_alike_beside_a_monitor(name, ranks):
    assert_same_state(ranks[0]["owned"][name]["whole"], ranks[1]["owned"][name]["whole"])
    assert_same_state(ranks[0]["owned"][name]["whole"], ranks[0]["owned"][name]["resumed"])


@pytest.mark.parametrize("name", SEE_VALUES)
def test_two_ranks_with_half_the_batch_each_follow_one_process_with_all_of_it(name, ranks, tmp_path):
    module, callback = Drawn(parts=[0, 1]), balance(name)
    make_trainer([callback], tmp_path, max_steps=STEPS).fit(module, batches(STEPS, 1))

    for parameter, value in ranks[0]["ddp"][name]["whole"]["parameters"].items():
        torch.testing.assert_close(value, module.get_parameter(parameter).detach(), rtol=1e-4, atol=1e-6)


def test_the_monitor_counts_every_sample_of_all_ranks_once(ranks):
    module = OwnsCriterion(scheme("fixed"), lr=0.0)
    losses = module.losses(*batches(10, 3).dataset.tensors)

    assert ranks[0]["monitor"] == ranks[1]["monitor"]
    for term, loss in losses.items():
        assert ranks[0]["monitor"][term]["loss"] == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["alpha", "gradbalance", "uncertainty"])
def test_a_sharded_module_is_balanced_as_a_replicated_one(name, ranks):
    assert_same_state(ranks[0]["sharded"][name], ranks[1]["sharded"][name])
    torch.testing.assert_close(ranks[0]["sharded"][name]["weights"], ranks[0]["ddp"][name]["whole"]["weights"])


def test_spawned_processes_agree_and_leave_the_module_trained(ranks, tmp_path):
    module, callback = SpawnedDrawn(), balance("uncertainty")
    trainer = make_trainer(
        [callback], tmp_path, max_steps=STEPS, strategy="ddp_spawn", devices=2, use_distributed_sampler=False
    )
    trainer.fit(module, batches(STEPS, 1))

    for name, value in ranks[0]["ddp"]["uncertainty"]["whole"]["parameters"].items():
        torch.testing.assert_close(module.get_parameter(name).detach(), value, rtol=0, atol=0)


class SpawnedDrawn(Drawn):
    """Draws the part of its rank."""

    def training_step(self, batch, batch_idx):
        self.parts = [self.global_rank]
        return super().training_step(batch, batch_idx)
