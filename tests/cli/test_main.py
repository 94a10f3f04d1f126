"""The command ``lossbalance``, and its help."""

import sys

import pytest
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException, MissingConfigException

from lossbalance import __version__
from lossbalance._utils.extras import named_extras
from lossbalance.cli import train
from lossbalance.cli.config.schema import register
from lossbalance.cli.explain import explain
from lossbalance.cli.main import main


def test_help_names_every_command(capsys):
    assert main(["--help"]) == main([]) == 0
    printed = capsys.readouterr().out
    for name in ("train", "eval", "search", "report"):
        assert f"\n  {name} " in printed


def test_the_version_is_told(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lossbalance {__version__}\n"


def test_a_mistyped_command_is_answered_by_the_nearest():
    assert str(main(["trian", "loss=alpha"])).endswith("got 'trian' (did you mean 'train'?).")


def test_words_without_a_command_are_for_training(monkeypatch):
    given = []
    monkeypatch.setattr(train, "main", given.extend)
    main(["loss=alpha", "-m"])
    assert given == ["loss=alpha", "-m"]


def test_the_help_of_train_shows_settings_with_their_comments(capsys):
    main(["train", "loss=gradbalance", "penalty=l2", "logger=[csv,tensorboard]", "--help"])
    printed = capsys.readouterr().out
    for line in (
        "seed: 0  # data, initial weights, order of the batches",
        "exclude: null  # likewise: these are not penalized",
        "normalization: sum  # sum | mean | tensor_mean | fan",
        "num_nodes: 1  # Number of GPU nodes for distributed training",
        "# Each loss gets its ratio of the gradient's norm (Defossez et al. 2022), in one backward pass.",
        "== logger=csv,tensorboard, by logger.key=value ==",
    ):
        assert line in printed.splitlines()


def test_the_help_of_a_mistyped_choice_is_one_message():
    with pytest.raises(SystemExit, match=r"did you mean 'gradnorm'\?"):
        main(["train", "loss=gradnrm", "--help"])


def test_a_launcher_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    register()
    monkeypatch.setitem(ConfigStore.instance().repo["hydra"], "launcher", {})
    with initialize_config_module("lossbalance.conf", version_base="1.3"):
        with pytest.raises(MissingConfigException) as missing:
            compose("train", ["hydra/launcher=joblib"])
        config = compose("train", ["hydra/launcher=submitit_slurm"], return_hydra_config=True)
    assert explain(missing.value).endswith('pip install "lossbalance[joblib]"')

    plugins = Plugins.instance()
    monkeypatch.setattr(plugins, "class_name_to_class", {})
    with pytest.raises(RuntimeError) as unknown:
        plugins._instantiate(config.hydra.launcher)
    assert explain(unknown.value) == (
        '`hydra/launcher` needs a package that is not installed: pip install "lossbalance[slurm]"'
    )


def test_a_setting_of_one_value_says_how_it_is_made_an_object():
    register()
    with (
        initialize_config_module("lossbalance.conf", version_base="1.3"),
        pytest.raises(ConfigCompositionException) as refused,
    ):
        compose("train", ["trainer.strategy._target_=my.Strategy"])
    assert explain(refused.value).endswith("write 'trainer.strategy={_target_: ..., key: value}'.")


@pytest.mark.parametrize(("package", "extra"), [("torchjd", "torchjd"), ("matplotlib", "train"), ("optuna", "search")])
def test_a_missing_package_is_named_with_the_extra_that_has_it(package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    said = rf"`{package}` .*: pip install \"lossbalance\[{extra}\]\""
    with pytest.raises(ModuleNotFoundError, match=said), named_extras():
        __import__(package)
