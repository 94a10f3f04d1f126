"""In each host the small model ends where the plain loop ends, resumes, and has its faults named."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader

from lossbalance.callbacks import LossMonitor
from tests.callbacks.modules import make_trainer
from tests.integrations.lightning_task import LightningTask
from tests.integrations.small import EPOCHS, Dataset, Task, assert_equal, batches, make_optimizer, plain_loop, reference

accelerate = pytest.importorskip("accelerate", reason="pip install 'lossbalance[transformers]'")


def plain(task, optimizer, epochs, folder, resume):
    if resume:
        saved = torch.load(folder / "plain.pt")
        task.load_state_dict(saved["task"])
        optimizer.load_state_dict(saved["optimizer"])
    for x, y in batches() * epochs:
        optimizer.zero_grad()
        task(x, y)["loss"].backward()
        optimizer.step()
    torch.save({"task": task.state_dict(), "optimizer": optimizer.state_dict()}, folder / "plain.pt")


def fabric(task, optimizer, epochs, folder, resume, precision="32-true"):
    host = Fabric(accelerator="cpu", devices=1, precision=precision)
    module, optimizer = host.setup(task, optimizer)
    if resume:
        host.load(folder / "fabric.ckpt", {"task": module, "optimizer": optimizer})
    for x, y in batches() * epochs:
        optimizer.zero_grad()
        host.backward(module(x, y)["loss"])
        optimizer.step()
    host.save(folder / "fabric.ckpt", {"task": module, "optimizer": optimizer})


def accelerated(task, optimizer, epochs, folder, resume, precision="no"):
    accelerate.state.AcceleratorState._reset_state()  # precision is of the process
    host = accelerate.Accelerator(cpu=True, mixed_precision=precision)
    module, optimizer = host.prepare(task, optimizer)
    if resume:
        host.load_state(folder / "accelerate")
    for x, y in batches() * epochs:
        with host.accumulate(module):
            optimizer.zero_grad()
            host.backward(module(x, y)["loss"])
            optimizer.step()
    host.save_state(folder / "accelerate")


def lightning(task, optimizer, epochs, folder, resume):
    path = folder / "lightning.ckpt"
    trainer = make_trainer([LossMonitor(pictures=False)], folder, max_epochs=epochs + (EPOCHS // 2 if resume else 0))
    loader = DataLoader(Dataset(), batch_size=None)
    trainer.fit(LightningTask(task, optimizer), loader, ckpt_path=path if resume else None, weights_only=False)
    trainer.save_checkpoint(path)


DECAYED = r"is under a weight decay of 0\.1"
HOSTS = {"plain": plain, "fabric": fabric, "accelerate": accelerated, "lightning": lightning}


@pytest.fixture(params=HOSTS.values(), ids=HOSTS)
def host(request):
    return request.param


def test_the_weights_are_those_of_the_plain_loop_also_when_it_is_resumed(host, tmp_path):
    for resume in (False, True):
        task = Task()
        host(task, make_optimizer(task), EPOCHS // 2, tmp_path, resume)
    assert_equal(task, reference())


def test_a_loss_without_gradient_is_named(host, tmp_path):
    task = Task(detach=True)
    with pytest.warns(UserWarning, match="'aux' has no gradient"):
        host(task, make_optimizer(task), 1, tmp_path, resume=False)


def test_learned_weights_in_no_optimizer_are_named(host, tmp_path):
    task = Task()
    with pytest.warns(UserWarning, match=r"`Uncertainty.log_variance`.*criterion.parameter_groups\(\)"):
        host(task, make_optimizer(task, "unheld"), 1, tmp_path, resume=False)


def test_learned_weights_under_decay_are_named(tmp_path):
    task = Task()
    optimizer = make_optimizer(task, "decayed")
    wrapped = accelerate.Accelerator(cpu=True).prepare(optimizer)
    for each in (optimizer, wrapped, Fabric(accelerator="cpu", devices=1).setup(task, optimizer)[1]):
        with pytest.raises(ValueError, match=DECAYED):
            task.criterion.check(each)
    task = Task()
    with pytest.warns(UserWarning, match=DECAYED):
        lightning(task, make_optimizer(task, "decayed"), 1, tmp_path, resume=False)


@pytest.mark.parametrize(("run", "precision"), [(fabric, "bf16-mixed"), (accelerated, "bf16")])
def test_mixed_precision_keeps_the_criterion_in_fp32(run, precision, tmp_path):
    task = Task()
    run(task, make_optimizer(task), EPOCHS, tmp_path, resume=False, precision=precision)
    learned = task.criterion.weighting.log_variance
    assert learned.dtype == torch.float32
    torch.testing.assert_close(learned, reference()["criterion.weighting.log_variance"], rtol=0, atol=0.05)


@pytest.mark.processes
def test_two_ranks_under_torchrun_end_where_the_plain_loop_ends(tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    program = Path(__file__).with_name("two_ranks.py")
    done = subprocess.run([*launcher, str(program), str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    expected = plain_loop()
    for name in ("torchrun", "fabric", "accelerate"):
        task = Task()
        task.load_state_dict(torch.load(tmp_path / f"{name}.pt"))
        for (key, value), other in zip(task.named_parameters(), expected.parameters(), strict=True):
            if "log_variance" not in key:  # of several ranks, its start is a buffer
                torch.testing.assert_close(value, other, rtol=1e-6, atol=1e-6)
        ours, theirs = task.criterion.weighting.read(), expected.criterion.weighting.read()
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert "'aux' has no gradient" in done.stderr
    assert "no optimizer updates `Uncertainty.log_variance`" in done.stderr
    assert "is under a weight decay of 0.1" in done.stderr
