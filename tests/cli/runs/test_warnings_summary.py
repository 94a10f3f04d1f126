import warnings

import pytest

from lossbalance._utils.warn import warn_about, warn_user
from lossbalance.cli.runs.warnings_summary import collect_warnings, summarize_warnings


@pytest.fixture(autouse=True)
def _restore():
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield
        warn_about("")


def test_warnings_of_one_kind_are_one_line(tmp_path, capsys):
    collect_warnings(tmp_path)
    for seed in range(3):
        warn_about(f"seed={seed}")
        warn_user(f"'aux' dominates the other terms: {90 + seed} % of the total since epoch {seed}.")
    warn_user("'main' has collapsed since epoch 2.")
    first, second = summarize_warnings(tmp_path)
    assert first == (
        "warning of 3 runs, such as seed=0: 'aux' dominates the other terms: 90 % of the total since epoch 0."
    )
    assert second == "warning of 1 runs, such as seed=2: 'main' has collapsed since epoch 2."
    assert capsys.readouterr().err == ""


def test_a_sweep_without_warnings_has_no_summary_and_a_truncated_line_is_skipped(tmp_path):
    assert summarize_warnings(tmp_path) == []
    (tmp_path / ".warnings").write_text('{"run": "seed=0", "message": "a"}\n{"run": "se')
    assert summarize_warnings(tmp_path) == ["warning of 1 runs, such as seed=0: a"]
