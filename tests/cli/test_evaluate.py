"""The test of a run, at its end or later."""

import pytest
import torch

from lossbalance.cli.evaluate import evaluate, main
from tests.cli.in_process import run_here
from tests.tasks.table.tables import TARGETS, write

pytestmark = pytest.mark.filterwarnings("ignore:.*(dominates the other terms|has collapsed)")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs that differ in what is tested."""
    folder = tmp_path_factory.mktemp("runs")
    words = ["task=table", f"task.path={write(folder)}", f"task.targets=[{','.join(TARGETS)}]", "loss=uncertainty"]
    words += ["task.max_epochs=3", "task.objective.direction=minimize"]  # the best network is the first
    return {
        test: (folder / test, run_here(folder / test, *words, f"test={test}")) for test in ("last", "best", "false")
    }


def metrics_of_test(summary):
    return {name: value for name, value in summary["metrics"].items() if name.startswith("test/")}


def test_the_last_network_or_the_best_is_tested_and_the_table_says_which(runs, capsys):
    (_, last), (_, best), (_, untested) = runs.values()
    assert last["metrics"]["val/score"] > float(best["tested"].rpartition(" ")[2].rstrip(")"))
    assert metrics_of_test(last) != metrics_of_test(best)
    assert not metrics_of_test(untested)
    assert last["tested"] == "the last epoch"
    assert best["tested"].startswith("the best checkpoint (val/score ")


@pytest.mark.parametrize("name", ["last", "best"])
def test_a_checkpoint_is_tested_later_as_it_was_at_the_end(runs, name, capsys):
    folder, summary = runs[name]
    metrics = evaluate(str(folder / "checkpoints" / f"{name}.ckpt"))
    assert metrics == pytest.approx(metrics_of_test(summary))
    printed = capsys.readouterr().out
    assert "The test of" in printed
    assert "price/r2" in printed


def test_settings_may_differ_from_those_of_the_run(runs):
    folder, summary = runs["last"]
    metrics = evaluate(str(folder / "checkpoints" / "last.ckpt"), ["trainer.limit_test_batches=1", "threads=2"])
    assert metrics == pytest.approx(metrics_of_test(summary))  # one batch is all there is


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ckpt_path={folder}/checkpoints/bets.ckpt"], "`ckpt_path` must be a checkpoint, got "),
        (["trainer.accelerator=cpu"], "`ckpt_path` must be given"),
        (["{folder}"], "the arguments must be key=value, got ["),
        (
            ["ckpt_path={folder}/checkpoints/last.ckpt", "thread=2"],
            "(did you mean 'threads'?)",
        ),
        (["ckpt_path={folder}/../moved.ckpt"], "`ckpt_path` must lie in the folder of its run"),
    ],
)
def test_what_is_wrong_is_told(runs, words, message):
    folder, _ = runs["last"]
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save(checkpoint, folder.parent / "moved.ckpt")
    assert message in main([word.format(folder=folder) for word in words])


def test_a_word_that_is_no_choice_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("LOSSBALANCE_EXPLAIN", raising=False)
    with pytest.raises(ValueError, match=r"`test` must be one of .* got 'bets' \(did you mean 'best'"):
        run_here(tmp_path, "test=bets")
