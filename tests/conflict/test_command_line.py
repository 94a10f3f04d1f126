from hydra import compose, initialize_config_dir

from lossbalance.cli.config.schema import register
from lossbalance.cli.training.build import build_criterion
from lossbalance.conflict import MGDA
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
