"""The wheel: what it holds, and what it can do where nothing else of this project is in reach."""

import compileall
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("lossbalance", "conf", "hydra_plugins")
FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
BUILD = "from setuptools import build_meta; build_meta.build_wheel('..')"

TEN_LINES = """
import time
import torch

start = time.process_time()  # not that of others
from lossbalance import WeightedLoss
from lossbalance.weighting import GradBalance

print("seconds", time.process_time() - start)
trunk, aux_head, head = torch.nn.Linear(8, 16), torch.nn.Linear(16, 4), torch.nn.Linear(16, 1)
criterion = WeightedLoss(GradBalance(["aux", "main"]))
optimizer = torch.optim.Adam([*trunk.parameters(), *aux_head.parameters(), *head.parameters()])
for _ in range(3):
    h = trunk(torch.randn(32, 8)).tanh()
    aux = aux_head(criterion.probe("aux", h)).square().sum()
    main = (head(criterion.probe("main", h)) - 1).square().mean()
    optimizer.zero_grad()
    criterion({"aux": aux, "main": main}).backward()
    optimizer.step()
print("shares", sum(criterion.last.gradient_shares.values()).item())
"""
WITHOUT_EXTRAS = """
import sys
import pytorch_lightning  # imports of these what is there

for name in ("jinja2", "markupsafe", "matplotlib", "optuna", "pandas", "rich", "scipy", "sklearn"):
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[module]
    sys.modules[name] = None  # its import fails, as if it were not installed

import lossbalance
from lossbalance.callbacks import BalanceLosses, LossMonitor
from lossbalance.cli.main import main

print("from", lossbalance.__file__)
print(main(["report", "."]))
print(main(["search"]))
main(["train", "trainer.max_epochs=1"])
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The folder that the wheel unpacks to, built from a copy so that the checkout stays as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-c", BUILD], cwd=source, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "installed")
    compileall.compile_dir(folder / "installed", quiet=1)  # as pip does
    return folder / "installed"


def run(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in an empty folder with the unpacked wheel."""
    environment = os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=180
    )


def files(folder: Path, pattern: str = "*") -> set[Path]:
    found = (path.relative_to(folder) for path in folder.rglob(pattern) if path.is_file())
    return {path for path in found if "__pycache__" not in path.parts}


def test_the_wheel_holds_the_package_its_plugins_and_the_configuration_and_nothing_else(installed):
    assert files(installed / "lossbalance" / "conf") == files(ROOT / "conf")
    assert files(installed / "lossbalance") - {Path("conf") / path for path in files(ROOT / "conf")} == files(
        ROOT / "lossbalance"
    )
    assert files(installed / "hydra_plugins") == files(ROOT / "hydra_plugins")
    folders = {path.name for path in installed.iterdir()}
    assert {name for name in folders if not name.endswith(".dist-info")} == {"lossbalance", "hydra_plugins"}


def test_the_wheel_names_its_command_and_asks_for_five_packages(installed):
    (info,) = installed.glob("*.dist-info")
    assert "lossbalance = lossbalance.cli.main:main" in (info / "entry_points.txt").read_text()
    needed = re.findall(r"^Requires-Dist: ([\w-]+)(?!.*extra ==)", (info / "METADATA").read_text(), re.MULTILINE)
    brought = {"lightning-utilities"}  # comes with pytorch-lightning
    assert set(needed) - brought == {"torch", "pytorch-lightning", "torchmetrics", "hydra-core", "omegaconf"}


def test_without_any_extra_it_trains_and_names_the_extra_that_a_command_needs(installed, tmp_path):
    done = run(installed, tmp_path, "-c", TEN_LINES + WITHOUT_EXTRAS)
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines()[:3])
    assert float(said["seconds"]) < 0.2
    assert float(said["shares"]) == pytest.approx(1)
    assert said["from"].startswith(str(installed))
    report, search = done.stdout.splitlines()[3:5]
    assert report.startswith("error: the package `")
    assert report.endswith('pip install "lossbalance[train]"')
    assert (
        search == 'error: the package `optuna` is needed here and is not installed: pip install "lossbalance[search]"'
    )
    assert done.returncode == 1
    assert 'is not installed: pip install "lossbalance[train]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_trains_from_an_empty_folder(installed, tmp_path):
    done = run(installed, tmp_path, "-m", "lossbalance", "train", "loss=gradbalance", "trainer.max_epochs=1")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob("summary.json"))) == 1


def test_another_hydra_application_weighs_its_losses_by_the_groups_of_the_wheel(installed, tmp_path):
    app = ROOT / "examples" / "hydra_app" / "app.py"
    choices = ["loss@criterion.weighting=alpha", "criterion.weighting.alpha=0.25", "criterion.penalty.strength=0.01"]
    done = run(installed, tmp_path, str(app), *choices)
    assert done.returncode == 0, done.stderr
    weights = {line.split()[0]: line.split("'weight': '")[1].split("'")[0] for line in done.stdout.splitlines()[-3:]}
    assert weights == {"aux": "0.25", "main": "0.75", "l2": "0.01"}
