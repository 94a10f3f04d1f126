"""What only a GPU can show: graphs, streams, half precision, the fused optimizer, and a Trainer on it."""

import pytest
import torch

from lossbalance.conflict import MGDA, PCGrad
from tests.accelerator.conflict_step import PLACES, ConflictStep, make_net
from tests.accelerator.runs import SAVED_AT, assert_same_run, evaluate, train
from tests.accelerator.schemes import SCHEMES
from tests.accelerator.step import Step
from tests.callbacks.modules import batches
from tests.cli.in_process import run_here

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:(The (probe of|penalty|loss of|weight of) )?'(aux|main|l2)':UserWarning"),
]
CAPTURED = [name for name in SCHEMES if name not in ("famo", "scalarizer")]  # these run what is not ours
GPU = {"accelerator": "gpu", "devices": 1}


@pytest.mark.parametrize("name", SCHEMES)
def test_no_step_waits_for_the_device(name):
    step = Step(name, "cuda", capturable=True)
    step()  # the first one may: it starts the schemes
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", CAPTURED)
def test_a_captured_step_goes_on_as_the_plain_one(name):
    plain, captured = Step(name, "cuda", capturable=True), Step(name, "cuda", capturable=True)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            captured()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    captured.optimizer.zero_grad()
    with torch.cuda.graph(graph):
        captured()
    for _ in range(5):
        graph.replay()
    for _ in range(8):
        plain()
    torch.testing.assert_close(captured.weights(), plain.weights(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(captured.net["trunk"].weight, plain.net["trunk"].weight, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", SCHEMES)
def test_half_precision_with_a_gradient_scaler_weighs_as_single_precision_does(name):
    half, single = Step(name, "cuda", half=True), Step(name, "cuda")
    for _ in range(3):
        half()
        single()
    torch.testing.assert_close(half.weights(), single.weights(), rtol=5e-3, atol=1e-4)


@pytest.mark.parametrize("name", SCHEMES)
def test_on_a_stream_of_its_own_a_step_is_the_same(name):
    here, there = Step(name, "cuda"), Step(name, "cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(4):
            there()
    for _ in range(4):
        here()
    torch.cuda.synchronize()
    torch.testing.assert_close(there.weights(), here.weights())
    torch.testing.assert_close(there.net["trunk"].weight, here.net["trunk"].weight)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("aggregator", [PCGrad, MGDA])
def test_conflicts_are_settled_as_on_the_cpu_and_no_step_waits_for_the_device(aggregator, place):
    net = make_net()
    expected, step = (ConflictStep(net, aggregator(), place, where) for where in ("cpu", "cuda"))
    batches = torch.randn(4, 16, 3).unbind()
    there = [x.cuda() for x in batches]
    step(there[0])  # the first one may wait: it starts the scheme
    torch.cuda.set_sync_debug_mode("error")
    try:
        for x in there[1:]:
            step(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for x in batches:
        expected(x)
    for ours, theirs in zip(step.net.parameters(), expected.net.parameters(), strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("place", PLACES)
def test_a_captured_step_settles_conflicts_as_the_plain_one_does(place):
    net, x = make_net(), torch.randn(16, 3).cuda()
    plain, captured = (ConflictStep(net, PCGrad(), place, "cuda") for _ in range(2))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            captured(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    captured.optimizer.zero_grad()
    with torch.cuda.graph(graph):
        captured(x)
    for _ in range(5):
        graph.replay()
    for _ in range(8):
        plain(x)
    for ours, theirs in zip(captured.net.parameters(), plain.net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("mode", ["loss", "gradient", "decoupled"])
def test_the_fused_optimizer_applies_penalties_as_the_plain_one_does(mode, half):
    fused, plain = (Step("gradbalance", "cuda", half, mode, fused=is_fused) for is_fused in (True, False))
    for _ in range(4):
        fused()
        plain()
    torch.testing.assert_close(fused.net["trunk"].weight, plain.net["trunk"].weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
@pytest.mark.parametrize("name", SCHEMES)
def test_a_trainer_fits_validates_tests_and_resumes(name, precision, tmp_path):
    options = {"precision": precision, **GPU}
    whole = train(name, "share in gradient", tmp_path / "whole", enable_checkpointing=True, **options)
    validated = evaluate(whole, "validate")["val/loss/aux"]
    assert evaluate(whole, "test")["test/loss/aux"] == validated > 0

    path = tmp_path / "whole" / f"step={SAVED_AT}.ckpt"
    resumed = train(name, "share in gradient", tmp_path / "resumed", path, **options)

    for run in (whole, resumed):
        run.module.cpu(), run.balancer.criterion.cpu()
    assert_same_run(resumed, whole)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_checkpoint_of_the_gpu_resumes_on_the_cpu_and_the_reverse(name, tmp_path):
    for saved_on, resumed_on in ((GPU, {}), ({}, GPU)):
        folder = tmp_path / str(len(saved_on))
        whole = train(name, "loss", folder, enable_checkpointing=True, **saved_on)
        resumed = train(name, "loss", folder / "resumed", folder / f"step={SAVED_AT}.ckpt", **resumed_on)
        x, _ = next(iter(batches(4, 2)))
        outputs = [run.module.cpu().trunk(x) for run in (whole, resumed)]
        torch.testing.assert_close(*outputs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("task", ["two_digits", "raw_pixels", "deep_supervision"])
def test_a_task_of_the_command_line_ends_with_its_table(task, tmp_path, capsys):
    summary = run_here(tmp_path, f"task={task}", "trainer=gpu", "trainer.max_epochs=2", "loss=gradbalance")
    assert summary["status"] == "completed"
    assert "The last epoch of training" in capsys.readouterr().out
