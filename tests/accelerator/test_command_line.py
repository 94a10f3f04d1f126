"""Every task of the command line on an accelerator, with and without float64."""

from pathlib import Path

import pytest
import torch

from tests.accelerator.device import NAME
from tests.cli.in_process import ROOT, run_here

pytestmark = pytest.mark.filterwarnings("ignore:.*dominates the other terms")
TASKS = sorted(path.stem for path in (ROOT / "conf" / "task").glob("*.yaml"))
WORDS = {
    "module": [
        "task.module._target_=tests.cli.my_project.Tested",
        "task.data._target_=tests.cli.my_project.loaders",
        "task.terms=[aux,main]",
        "task.objective.name=val/loss/main",
        "task.probes={aux: net.aux_head, main: net.head}",
    ],
    "table": ["task.path=table.csv", "task.targets=[a,b]"],
}
ON_DEVICE = [f"trainer.accelerator={NAME}", f"trainer.strategy={NAME}"]


@pytest.mark.parametrize("task", TASKS)
def test_a_task_trains_goes_on_and_is_tested(task, device, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)).tolist()
    Path("table.csv").write_text("x,y,a,b\n" + "\n".join(",".join(map(str, row)) for row in rows))
    words = [f"task={task}", "loss=gradbalance", *ON_DEVICE, *WORDS.get(task, [])]

    run_here(tmp_path, *words, "trainer.max_epochs=1")
    last = tmp_path / "checkpoints" / "last.ckpt"
    summary = run_here(tmp_path, *words, "trainer.max_epochs=2", f"ckpt_path={last}")

    assert summary["status"] == "completed"
    assert summary["weights"].keys() == set(summary["terms"])
    assert (tmp_path / "losses.png").exists()
