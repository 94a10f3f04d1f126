import pytest
from hydra import compose, initialize_config_dir

from lossbalance.cli.config.schema import register
from lossbalance.cli.training.build import build_criterion
from lossbalance.conflict import MGDA, Protect
from tests.conflict.test_every_aggregator import CONF


def test_conflict_selects_the_aggregator_on_the_command_line():
    register()
    with initialize_config_dir(str(CONF.parent), version_base="1.3"):
        plain = compose("train", overrides=["loss=equal"])
        shortest = compose("train", overrides=["loss=equal", "conflict=mgda", "conflict.normalize=true"])
    assert build_criterion(plain, {}).conflict is None
    conflict = build_criterion(shortest, {}).conflict
    assert isinstance(conflict, MGDA)
    assert conflict.normalize


def test_the_main_term_of_protect_is_named_on_the_command_line():
    register()
    with initialize_config_dir(str(CONF.parent), version_base="1.3"):
        pinn = compose("train", overrides=["task=pinn", "loss=equal", "conflict=protect", "conflict.main=residual"])
        unknown = compose("train", overrides=["loss=equal", "conflict=gate", "conflict.main=mian"])
    conflict = build_criterion(pinn, {}).conflict
    assert isinstance(conflict, Protect)
    assert conflict.main.name == "residual"
    with pytest.raises(ValueError, match=r"`main` must be one of \['aux', 'main'\], got 'mian' \(did you mean 'main'"):
        build_criterion(unknown, {})
