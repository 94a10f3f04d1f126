"""Terms of known weight on the command line."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from lossbalance.cli.config.schema import register
from lossbalance.cli.training.build import build_criterion

CONF = Path(__file__).parents[3] / "conf"


def criterion(*overrides):
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return build_criterion(compose("train", overrides=list(overrides)), {})


def test_a_term_of_the_task_keeps_its_weight_beside_the_scheme():
    made = criterion("fixed.aux=0.25")
    assert made.terms == ("main", "aux")
    assert made.weighting.terms == ("main",)
    assert made.weights["aux"] == 0.25
    assert criterion().terms == ("aux", "main")


def test_a_name_that_is_no_term_of_the_task_is_refused():
    with pytest.raises(ValueError, match=r"`fixed` must be one of \['aux', 'main'\], got 'axu' \(did you mean 'aux'"):
        criterion("fixed.axu=0.25")


def test_tuned_weights_are_a_setting_of_gradient_balancing():
    assert criterion("loss=gradbalance", "loss.start={aux: .1, main: 1}").weighting.start == {"aux": 0.1, "main": 1.0}
