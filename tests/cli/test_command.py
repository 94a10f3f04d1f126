"""Whatever is wrong with what was typed ends in one message, an exit code, and no traceback."""

import subprocess
import sys

import pytest

from lossbalance.cli.config.overrides import add_default_scheme
from tests.cli.program import command, surroundings, train


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["loss=alpah"], r"`loss` must be one of ['alpha', "),
        (["task=two_digit"], "got 'two_digit' (did you mean 'two_digits'?)"),
        (["alpha=abc"], "`alpha`: Value 'abc' of type 'str' could not be converted to Float"),
        (["alhpa=0.3"], "`alhpa` is not a setting (did you mean 'alpha'?)"),
        (["trainer.max_epoch=3"], "did you mean 'max_epochs'?"),
        (["alpha=1.5"], "`alpha` must be a number in [0, 1], got 1.5"),
        (["penalty=l2", "penalty.normalization=men"], "`normalization` must be one of"),
        (["task.batch_size=0"], "`batch_size` must be"),
        (["trainer.max_epochs=-3"], "`max_epochs` must be"),
        (["fold=9"], "`fold` must be"),
        (["optimizer.lr=abc"], "`optimizer.lr` must be a number, 0 or more, got 'abc'"),
        (["threads=0"], "`threads` must be a whole number, 1 or more, got 0"),
        (["trainer.devices=999"], "`trainer.devices` must be at most"),
        (["penalty.normalization=men"], "`penalty.normalization` is not a setting yet: choose `penalty=...` first"),
        (["weight_sum=-1"], "`weight_sum` must be a positive, finite number or None, got -1.0"),
        (["ckpt_path=nowhere.ckpt"], "`ckpt_path` must be a checkpoint, got 'nowhere.ckpt'"),
        (["loss=fixed", "+loss.weights.axu=1"], "unknown 'axu' (did you mean 'aux'?)"),
    ],
)
def test_a_wrong_word_is_answered_by_one_message(words, message, tmp_path):
    done = train(*words, f"hydra.run.dir={tmp_path}")
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("folder", ["/dev/null/run", "/proc/run"])
def test_a_folder_that_cannot_be_written_is_named(folder):
    done = train(f"hydra.run.dir={folder}")
    assert done.returncode == 1
    assert f"`hydra.run.dir`, in a sweep `hydra.sweep.dir`, must be a folder that can be written, got '{folder}" in (
        done.stderr
    )
    assert "Traceback" not in done.stderr


def test_whoever_wants_the_traceback_gets_it(tmp_path):
    done = train("alpha=1.5", f"hydra.run.dir={tmp_path}", environment={"HYDRA_FULL_ERROR": "1"})
    assert done.returncode != 0
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("words", [["--help"], ["alhpa=0.3"], ["loss=alpah"]])
def test_no_answer_waits_for_torch(words):
    program = command(*words)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *program[1:]], capture_output=True, text=True, env=surroundings()
    )
    assert "hydra" in done.stderr
    assert "torch" not in done.stderr


@pytest.mark.parametrize(
    ("words", "implied"),
    [
        (["alpha=0.3", "seed=1"], ["loss=alpha"]),
        (["-m", "alpha=range(0,1,0.1)"], ["loss=alpha"]),
        (["alpha=0.3", "loss=equal"], []),
        (["alpha=0.3", "experiment=alpha_cv"], []),
        (["seed=1"], []),
    ],
)
def test_an_alpha_alone_chooses_the_scheme_that_reads_it(words, implied):
    assert add_default_scheme(words) == [*words, *implied]


def test_an_alpha_that_nobody_uses_is_told(tmp_path):
    done = train("loss=equal", "alpha=0.3", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0
    assert "`alpha` has no effect with loss=equal" in done.stdout + done.stderr
