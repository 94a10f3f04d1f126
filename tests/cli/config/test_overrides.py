import pytest

from lossbalance.cli.config.overrides import complete


@pytest.mark.parametrize(
    ("given", "completed"),
    [
        (["alpha=0.3"], ["alpha=0.3", "loss=alpha"]),
        (["hydra/launcher=joblib", "-m", "seed=0,1"], ["-m", "hydra/launcher=joblib", "seed=0,1"]),
        (
            ["loss=fixed", "loss.weights={y: 1, z: 2}"],
            ["loss=fixed", "loss.weights=null", "+loss.weights={y: 1, z: 2}"],
        ),
        (["loss.limits={}"], ["loss.limits=null", "+loss.limits={}"]),
        (["loss.weights.aux=2"], ["loss.weights.aux=2"]),
    ],
)
def test_overrides_are_completed(given, completed):
    assert complete(given) == completed


def test_a_schedule_of_another_term_replaces_that_of_the_example():
    key = "callbacks.weight_schedule.schedules"
    example, added, given = complete([f"{key}.y.over=5 epochs"])
    assert example == f"~{key}.aux"
    assert added.startswith(f"+{key}.y={{_target_:lossbalance.callbacks.Schedule,")
    assert given == f"{key}.y.over=5 epochs"
