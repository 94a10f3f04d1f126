import json
from pathlib import Path

import pytest

from lossbalance.sweeps.runs import NoRunsError, read_runs
from tests.sweeps.synthetic import write_alpha_sweep, write_run


def test_runs_are_found_at_any_depth_in_the_order_of_their_jobs(tmp_path):
    for job in (10, 2, 0):
        write_run(tmp_path / "sweep" / str(job), 0.5, choices={"alpha": job / 10})

    runs = read_runs([tmp_path])

    assert [Path(folder).name for folder in runs.info["folder"]] == ["0", "2", "10"]
    assert runs.info["setting"].tolist() == ["alpha=0", "alpha=0.2", "alpha=1"]


def test_a_folder_named_twice_is_read_once(tmp_path):
    write_run(tmp_path / "0", 0.5)
    assert len(read_runs([tmp_path, tmp_path / "0"]).info) == 1


def test_numbers_that_differ_in_the_last_digits_or_came_as_text_are_one_setting(tmp_path):
    write_run(tmp_path / "0", 0.5, seed=0, choices={"alpha": 0.7000000000000001})
    write_run(tmp_path / "1", 0.5, seed=1, choices={"alpha": "0.7"})
    write_run(tmp_path / "2", 0.5, seed=2, choices={"alpha": "1e-4"})

    assert read_runs([tmp_path]).info["setting"].tolist() == ["alpha=0.7", "alpha=0.7", "alpha=0.0001"]


def test_settings_group_everything_but_seed_and_fold(tmp_path):
    for job, (seed, fold) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        config = {"loss": "alpha", "alpha": 0.3, "seed": seed, "fold": fold, "task.data.seed": seed}
        write_run(tmp_path / str(job), 0.5, seed, fold=fold, folds=2, config=config)

    runs = read_runs([tmp_path])

    assert runs.info["setting"].nunique() == 1
    assert len(runs.info) == 4


def test_the_name_of_a_setting_holds_no_choice_that_says_nothing_new(tmp_path):
    for job, (loss, target) in enumerate([("equal", "Equal"), ("gradnorm", "GradNorm")]):
        write_run(tmp_path / str(job), 0.5, config={"loss._target_": target, "task": "two_digits", "loss": loss})

    runs = read_runs([tmp_path])

    assert runs.info["setting"].tolist() == ["loss=equal", "loss=gradnorm"]
    assert runs.common == {"task": "two_digits"}


def test_what_differs_between_machines_makes_no_setting(tmp_path):
    for job, (path, threads) in enumerate([("/home/ann/hour.csv", 1), ("D:\\data\\hour.csv", 8)]):
        config = {"alpha": 0.3, "task.path": path, "threads": threads, "trainer.accelerator": "cpu" if job else "gpu"}
        write_run(tmp_path / str(job), 0.5, seed=job, config=config)
    runs = read_runs([tmp_path])
    assert runs.info["setting"].nunique() == 1
    assert runs.common["task.path"] == "hour.csv"


def test_alpha_is_no_choice_of_a_scheme_that_does_not_read_it(tmp_path):
    for job, alpha in enumerate([0.1, 0.2]):
        write_run(tmp_path / str(job), 0.5, seed=job, choices={"loss": "equal", "alpha": alpha})
    assert read_runs([tmp_path]).info["setting"].nunique() == 1


def test_of_a_run_that_was_done_again_the_completed_one_counts(tmp_path):
    write_run(tmp_path / "again" / "0", 0.9, choices={"alpha": 0.5})
    write_run(tmp_path / "first" / "0", 0.1, choices={"alpha": 0.5}, status="failed", message="out of memory")

    runs = read_runs([tmp_path])

    assert runs.info["status"].tolist() == ["completed"]


def test_a_run_that_hydra_began_and_nothing_finished_is_unfinished(tmp_path):
    write_alpha_sweep(tmp_path, {0.1: [0.5, 0.6], 0.2: [0.7]})
    (tmp_path / "3" / ".hydra").mkdir(parents=True)
    (tmp_path / "3" / ".hydra" / "overrides.yaml").write_text("- alpha=0.2\n- seed=1\n")

    lost = read_runs([tmp_path]).failed.info

    assert lost[["setting", "seed", "status"]].to_numpy().tolist() == [["alpha=0.2", 1, "unfinished"]]


def test_a_completed_run_without_a_finite_objective_has_diverged(tmp_path):
    write_run(tmp_path / "0", float("nan"))
    assert read_runs([tmp_path]).info["message"].tolist() == ["val/main/accuracy is nan"]


@pytest.mark.parametrize("broken", ["{", "[1]", '{"metrics": 3}', '{"metrics": {"a": "b"}}', "\udcff"])
def test_a_broken_summary_spoils_no_other_run(tmp_path, broken):
    write_run(tmp_path / "0", 0.5)
    write_run(tmp_path / "1", 0.5)
    (tmp_path / "1" / "summary.json").write_bytes(broken.encode(errors="surrogateescape"))

    runs = read_runs([tmp_path])

    assert runs.info["status"].tolist() == ["completed", "broken"]
    assert "`summary.json` cannot be read" in runs.failed.info["message"].iloc[0]


def test_where_there_is_nothing_to_read_the_error_says_where_it_looked(tmp_path):
    with pytest.raises(NoRunsError, match="no such folder: 'nowhere'"):
        read_runs(["nowhere"])
    with pytest.raises(NoRunsError, match=r"no run in '.*': a run leaves a `summary.json`"):
        read_runs([tmp_path])
    (tmp_path / "summary.json").write_text(json.dumps([]))
    with pytest.raises(NoRunsError, match=r"can be read.*must be a mapping, got list"):
        read_runs([tmp_path])


def test_an_unknown_metric_is_answered_with_those_that_exist(tmp_path):
    write_run(tmp_path, 0.5)
    with pytest.raises(
        ValueError, match=r"'val/main/acuracy' \(did you mean 'val/main/accuracy'\?\).*val/aux/accuracy"
    ):
        read_runs([tmp_path]).check_metric("val/main/acuracy")
