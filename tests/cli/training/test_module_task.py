"""``task=module``: somebody else's module and data, by name."""

import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.cli.in_process import run_here
from tests.cli.program import command, surroundings

pytestmark = pytest.mark.filterwarnings("ignore:.*dominates the other terms")
MINE = "tests.cli.my_project"
PROBES = "task.probes={aux: net.aux_head, main: net.head}"


def words(module=f"{MINE}.Net", data=f"{MINE}.Data", objective="val/loss/main"):
    return [
        "task=module",
        f"task.module._target_={module}",
        f"task.data._target_={data}",
        "task.terms=[aux,main]",
        f"task.objective.name={objective}",
        "task.max_epochs=4",
    ]


def test_a_module_is_weighed_watched_and_summed_up(tmp_path):
    summary = run_here(tmp_path, *words(), PROBES, "loss=gradbalance", "task.module.widths=[6]")
    assert summary["status"] == "completed"
    assert summary["terms"] == ["aux", "main"]
    assert summary["weights"]["main"] > summary["weights"]["aux"] > 0
    assert summary["gradient_shares"]["aux"] == pytest.approx(0.5, abs=0.1)
    assert summary["objective"] == {
        "name": "val/loss/main",
        "direction": "minimize",
        "value": summary["metrics"]["val/loss/main"],
    }
    assert {"val/loss/aux", "val/loss/main", "total"} == summary["metrics"].keys()
    assert pd.read_csv(tmp_path / "metrics.csv")["weight/aux"].notna().sum() >= 4
    assert (tmp_path / "losses.png").exists()
    assert torch.load(tmp_path / "checkpoints" / "best.ckpt")["hyper_parameters"]["widths"] == [6]


def test_a_module_without_probes_is_balanced_by_all_its_parameters(tmp_path, caplog):
    with caplog.at_level("INFO", logger="lossbalance.cli.training.build"):
        summary = run_here(tmp_path, *words())
    assert summary["loss"] == "gradbalance"  # the default
    assert summary["gradient_shares"]["aux"] == pytest.approx(0.5, abs=0.1)
    assert "one more backward pass for each term; `task.probes` would need none" in caplog.text


@pytest.mark.parametrize("loss", ["gradnorm", "uncertainty"])
def test_a_module_that_goes_on_ends_as_one_that_never_stopped(tmp_path, loss):
    asked = [*words(), PROBES, f"loss={loss}"]
    straight = run_here(tmp_path / "straight", *asked)
    run_here(tmp_path / "first", *asked, "task.max_epochs=2")
    last = tmp_path / "first" / "checkpoints" / "last.ckpt"
    resumed = run_here(tmp_path / "first", *asked, f"ckpt_path={last}")
    assert resumed["metrics"] == straight["metrics"]
    assert resumed["weights"] == straight["weights"]


@pytest.mark.parametrize("loss", ["gradbalance", "alpha"])
def test_a_penalty_can_be_a_term_of_a_module(tmp_path, loss):
    asked = [*words(f"{MINE}.Tested", f"{MINE}.loaders"), PROBES, f"loss={loss}"]
    summary = run_here(tmp_path, *asked, "penalty=l2", "penalty.strength=1", "penalty.as_term=true")
    assert summary["terms"] == ["aux", "main", "l2"]
    assert summary["weights"]["l2"] > 0
    assert summary["metrics"]["test/loss/l2"] > 0
    if loss == "gradbalance":
        assert summary["gradient_shares"]["l2"] == pytest.approx(1 / 3, abs=0.1)


def test_gradients_are_combined_at_the_branch_of_a_module(tmp_path):
    branch = ["task.branch=net.trunk", PROBES]
    plain = run_here(tmp_path / "plain", *words(), *branch, "loss=uncertainty")
    settled = run_here(tmp_path / "settled", *words(), *branch, "loss=uncertainty", "conflict=mgda")
    assert settled["metrics"] != plain["metrics"]


def test_loaders_are_data_too_and_the_third_one_is_tested(tmp_path):
    summary = run_here(tmp_path, *words(f"{MINE}.Tested", f"{MINE}.loaders"), "loss=gradbalance", PROBES)
    assert summary["metrics"]["test/loss/aux"] == summary["metrics"]["val/loss/aux"]


def test_a_module_of_the_other_library_is_trained_by_its_trainer(tmp_path, monkeypatch):
    pytest.importorskip("lightning")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    text = Path(__file__).parents[1].joinpath("my_project.py").read_text()
    Path("other_library.py").write_text(text.replace("import pytorch_lightning", "import lightning.pytorch"))
    ours = run_here("ours", *words(f"{MINE}.Tested", f"{MINE}.loaders"), PROBES, "loss=gradbalance")
    theirs = run_here("theirs", *words("other_library.Tested", "other_library.loaders"), PROBES, "loss=gradbalance")
    assert theirs["metrics"] == ours["metrics"]
    assert theirs["weights"] == ours["weights"]
    assert sorted(path.name for path in Path("theirs/checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["task=module"], "['task.terms', 'task.objective.name', 'task.data._target_', 'task.module._target_'] must"),
        (words("tests.cli.my_projct.Net"), "tests.cli has no 'my_projct'"),
        (words(f"{MINE}.Nett"), f"`task.module._target_` must be a name that can be imported, got '{MINE}.Nett': "),
        (words(f"{MINE}.Nett"), "has no 'Nett' (did you mean 'Net'?)"),
        (words("nowhere.Net"), "there is no module 'nowhere', neither installed nor in "),
        (words("Net"), "must be the full name of a LightningModule, such as my_project.Net, got 'Net'"),
        (words(f"{MINE}.__doc__"), "which is str"),
        ([*words(), "task.module.lrr=1"], "`task.module.lrr` is not an argument of tests.cli.my_project.Net (did you"),
        ([*words(), "task.data.sample=1"], "(did you mean 'samples'?): it takes ['samples']"),
        ([*words(f"{MINE}.Body"), "task.module.widths=[3]"], "must make a LightningModule, got an object of tests.cli"),
        (words(data=f"{MINE}.Net"), "`task.data._target_` must make a LightningDataModule of pytorch_lightning"),
        ([*words(), "task.probes={aux: net.aux_hed}"], "got 'net.aux_hed' (did you mean 'net.aux_head'?)"),
        ([*words(), "task.probes={axu: net.aux_head}"], "got 'axu' (did you mean 'aux'?)"),
        ([*words(), "task.terms=[aux,mian]"], "missing ['mian']; unknown 'main' (did you mean 'mian'?)"),
        (words(objective="val/loss/man"), "got 'val/loss/man' (did you mean 'val/loss/main'?): it logs ["),
        (words(f"{MINE}.Silent"), "    losses = {'aux': aux_loss, 'main': main_loss}\n    return {\"loss\": sum("),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_message(tmp_path, monkeypatch, asked, message):
    monkeypatch.delenv("LOSSBALANCE_EXPLAIN", raising=False)
    with pytest.raises((ValueError, TypeError)) as refusal:
        run_here(tmp_path, *asked)
    assert message in str(refusal.value)


def test_what_has_no_effect_on_a_module_is_told(tmp_path, caplog):
    words_of_folds = ["fold=1", "folds=3", "+task.data.samples=32"]
    run_here(tmp_path, *words(), PROBES, "loss=gradbalance", "optimizer.lr=0.1", *words_of_folds, "task.max_epochs=1")
    assert "`optimizer` has no effect: Net has its own `configure_optimizers`" in caplog.text
    assert "`fold` has no effect: the data do not use it; 'task.data.fold=${fold}' would." in caplog.text
    assert "`folds` has no effect" in caplog.text


def test_the_module_is_one_of_the_settings_that_tell_runs_apart(tmp_path):
    settings = run_here(tmp_path, *words(), PROBES, "loss=gradbalance", "task.max_epochs=1")["config"]
    assert settings["task.module._target_"] == f"{MINE}.Net"
    assert settings["task.data._target_"] == f"{MINE}.Data"


@pytest.mark.processes
def test_a_sweep_over_a_module_of_an_empty_folder_ends_in_a_report(tmp_path):
    shutil.copy(Path(__file__).parents[1].joinpath("my_project.py"), tmp_path / "project_of_mine.py")
    asked = words("project_of_mine.Net", "project_of_mine.Data")
    done = subprocess.run(
        command("-m", *asked, PROBES, "loss=equal,gradbalance", "seed=0,1"),
        capture_output=True, text=True, cwd=tmp_path, env=surroundings(), timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "The whole report" in done.stdout
    (page,) = tmp_path.glob("multirun/module/*/report.html")
    assert "loss=gradbalance" in page.read_text()
