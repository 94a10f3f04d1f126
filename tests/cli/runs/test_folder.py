"""Directories of runs are exclusive."""

import json
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from lossbalance.cli.runs import folder as folders
from lossbalance.cli.runs.folder import claim_folder, release_folder
from lossbalance.cli.runs.record import read, write


def test_runs_of_the_same_second_get_directories_of_their_own(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda _: claim_folder("hydra.run.dir", tmp_path / "task" / "now", []), range(8)))
    assert len(set(claimed)) == 8
    assert tmp_path / "task" / "now" in claimed
    assert all(path.is_dir() for path in claimed)


def test_an_explicit_directory_in_use_is_refused(tmp_path):
    script = (
        "import sys, pathlib; from lossbalance.cli.runs.folder import claim_folder\n"
        "claim_folder('hydra.run.dir', pathlib.Path(sys.argv[1]), ['hydra.run.dir=it'])\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    arguments = [sys.executable, "-c", script, str(tmp_path / "it")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=r"`hydra.run.dir` must not be in use by another process, got '.*it'"):
            claim_folder("hydra.run.dir", tmp_path / "it", ["hydra.run.dir=it"])
        holder.communicate()
    assert claim_folder("hydra.run.dir", tmp_path / "it", ["hydra.run.dir=it"]) == tmp_path / "it"


def test_a_refused_run_leaves_no_directory_and_what_was_there_stays(tmp_path):
    release_folder(claim_folder("hydra.run.dir", tmp_path / "outputs" / "task" / "now", []))
    assert not (tmp_path / "outputs").exists()
    (tmp_path / "mine").mkdir()
    release_folder(claim_folder("hydra.run.dir", tmp_path / "mine", ["hydra.run.dir=mine"]))
    assert (tmp_path / "mine").is_dir()
    assert not folders._HELD.keys() & {tmp_path / "mine"}


def test_a_record_is_json_also_with_numbers_that_are_not_finite(tmp_path):
    write(tmp_path, {"metrics": {"val/loss": math.nan}, "pairs": [(math.inf, 1.0)], "objective": {"value": -math.inf}})
    text = (tmp_path / "summary.json").read_text()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert found == {"metrics": {"val/loss": None}, "pairs": [[None, 1.0]], "objective": {"value": None}}


def test_a_completed_record_is_kept(tmp_path):
    write(tmp_path, {"status": "completed"})
    write(tmp_path, {"status": "failed"}, keep_completed=True)
    assert read(tmp_path)["status"] == "completed"
