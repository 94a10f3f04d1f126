import optuna
import pytest

from lossbalance.cli.search.space import DEFAULT_SPACE, check_space, parse, suggest
from tests.cli.program import configurations


def test_what_a_choice_makes_idle_is_not_suggested():
    _, space = parse(DEFAULT_SPACE[::-1])
    equal = {"loss": "equal", "penalty": "none"}
    tuned = {"loss": "alpha", "alpha": 0.25, "penalty": "l2", "penalty.strength": 0.001}
    assert sorted(suggest(optuna.trial.FixedTrial(equal), space)) == ["loss=equal", "penalty=none"]
    words = sorted(f"{key}={value}" for key, value in tuned.items())
    assert sorted(suggest(optuna.trial.FixedTrial(tuned), space)) == words


def test_the_default_space_can_be_composed():
    with configurations():
        check_space(*parse([]))


def test_a_pattern_stands_for_the_files_of_a_group():
    with configurations():
        _, space = parse(["loss=glob(grad*)"])
        assert suggest(optuna.trial.FixedTrial({"loss": "gradnorm"}), space) == ["loss=gradnorm"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "alpha=interval(1,0)",
            "`alpha` must be an interval from a smaller number to a larger, finite one",
        ),
        ("alpha=interval(1,1)", "`alpha` must be an interval from a smaller number"),
        ("alpha=tag(log,interval(0,1))", "`alpha` must be an interval above 0"),
        ("alpha=range(0,0)", r"`alpha` must have at least one value to choose from, got range\(0,0\)"),
        ("loss=glob(zzz*)", "`loss` must have at least one value"),
    ],
)
def test_a_space_without_a_choice_is_refused(word, message):
    with configurations(), pytest.raises(ValueError, match=message):
        check_space(*parse([word]))
