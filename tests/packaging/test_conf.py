"""The groups of ``lossbalance.conf`` in another Hydra application."""

import tomllib
from pathlib import Path

import pytest
import pytorch_lightning as pl
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

import lossbalance
from lossbalance import WeightedLoss
from lossbalance.penalties import Penalty

ROOT = Path(__file__).parents[2]
HYDRA = "hydra: {searchpath: [pkg://lossbalance.conf]}\n"


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))


@pytest.fixture
def application(tmp_path):
    """Composes the configuration of an application that knows no task of ours, with everything resolved."""

    def application(text: str, *words: str, hydra: bool = False) -> DictConfig:
        (tmp_path / "config.yaml").write_text(text + HYDRA)
        with initialize_config_dir(str(tmp_path), version_base="1.3"):
            config = compose("config", list(words), return_hydra_config=hydra)
        if not hydra:
            OmegaConf.resolve(config)
        return config

    return application


@pytest.mark.parametrize("scheme", choices("loss"))
def test_every_scheme_is_part_of_a_criterion(application, scheme):
    if scheme == "scalarizer":
        pytest.importorskip("torchjd")
    text = "defaults: [criterion: weighted_loss, _self_]\ncriterion: {terms: [aux, main]}\n"
    config = application(text, f"loss@criterion.weighting={scheme}", "penalty@criterion.penalty=l2")
    criterion = instantiate(config.criterion)
    assert isinstance(criterion, WeightedLoss)
    assert criterion.terms == ("aux", "main")
    assert list(criterion.penalties) == ["l2"]


@pytest.mark.parametrize("conflict", choices("conflict"))
def test_every_aggregator_is_part_of_a_criterion(application, conflict):
    if conflict == "upgrad":
        pytest.importorskip("torchjd")
        pytest.importorskip("quadprog")
    text = "defaults: [criterion: weighted_loss, _self_]\ncriterion: {terms: [aux, main]}\n"
    criterion = instantiate(application(text, f"conflict@criterion.conflict={conflict}").criterion)
    assert (criterion.conflict is None) == (conflict == "none")


@pytest.mark.parametrize("penalty", [name for name in choices("penalty") if name != "none"])
def test_every_penalty_stands_by_itself(application, penalty):
    assert isinstance(instantiate(application("defaults: [_self_]\n", f"+penalty={penalty}").penalty), Penalty)


@pytest.mark.parametrize("choice", [name for name in choices("callbacks") if name not in ("balance_losses", "none")])
def test_every_choice_of_callbacks_resolves_by_itself(application, choice):
    made = [
        instantiate(callback) for callback in application("alpha: 0.3\n", f"+callbacks={choice}").callbacks.values()
    ]
    assert all(isinstance(callback, pl.Callback) for callback in made)


def test_the_callback_that_balances_takes_the_criterion_beside_it(application):
    text = (
        "defaults: [criterion: weighted_loss, callbacks: [balance_losses, loss_monitor], _self_]\n"
        "criterion: {terms: [aux, main]}\n"
    )
    callbacks = application(text, "callbacks.balance_losses.probes={aux: net.aux}").callbacks
    balancer = instantiate(callbacks.balance_losses)
    assert balancer.criterion.terms == ("aux", "main")
    assert balancer.probes == {"aux": "net.aux"}
    assert list(callbacks) == ["balance_losses", "loss_monitor"]


@pytest.mark.filterwarnings("ignore::UserWarning")  # Hydra's own, of a file with the name of what a plugin brings
@pytest.mark.parametrize("launcher", choices("hydra/launcher"))
def test_the_launchers_are_whole_in_another_application(application, launcher):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    config = application("defaults: [_self_, override hydra/launcher: " + launcher + "]\n", hydra=True)
    assert Plugins.instance()._instantiate(config.hydra.launcher).params["timeout_min"] == 60


def test_a_group_reads_terms_and_alpha_from_beside_it(application):
    config = application("terms: [a, b]\nalpha: 0.25\n", "+loss=alpha")
    assert instantiate(config.loss).terms == ("a", "b")
    assert config.loss.alpha == 0.25


def test_terms_that_are_nowhere_are_asked_for(application):
    with pytest.raises(
        InstantiationException, match=r"`terms` must be a list of names, got None: in a configuration set"
    ):
        instantiate(application("defaults: [_self_]\n", "+loss=equal").loss)


def test_the_version_is_known_also_where_nothing_is_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "lossbalance.__version__"}
    assert lossbalance.__version__[0].isdigit()


def test_all_that_is_offered_exists():
    assert "WeightedLoss" in lossbalance.__all__
    assert all(getattr(lossbalance, name) is not None for name in dir(lossbalance))
