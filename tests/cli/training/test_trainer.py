"""The trainer, its loggers and its progress bar."""

import inspect
import pickle
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Checkpoint, RichProgressBar

from lossbalance import WeightedLoss
from lossbalance.callbacks.plots import send_picture
from lossbalance.cli.config.schema import register
from lossbalance.cli.config.trainer_schema import Trainer, trainer_comments
from lossbalance.cli.training.build import build_callbacks
from lossbalance.cli.training.progress_bar import describe
from lossbalance.cli.training.trainer import build_trainer
from lossbalance.weighting import Fixed
from tests.callbacks.modules import TwoHeads
from tests.cli.in_process import run_here

CRITERION = WeightedLoss(Fixed(["aux", "main"], {"aux": 0.5, "main": 2.0}))


@pytest.fixture
def composed(tmp_path, monkeypatch):
    """Composes the configuration of the command line, for a run in an empty folder."""
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)  # as it is where no Hydra application runs

    def composed(*words: str) -> DictConfig:
        register()
        with initialize_config_module("lossbalance.conf", version_base="1.3"):
            return compose("train", [f"output_dir={tmp_path}", *words])

    return composed


def test_every_argument_of_the_trainer_is_a_key_with_its_default():
    arguments = dict(inspect.signature(pl.Trainer).parameters)
    del arguments["logger"], arguments["callbacks"]  # groups
    schema = vars(Trainer())
    assert schema.pop("_target_") == "pytorch_lightning.Trainer"
    assert schema == {name: argument.default for name, argument in arguments.items()}
    assert trainer_comments().keys() >= schema.keys()


def test_the_configuration_travels_to_other_processes(composed):
    config = composed()
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("trainer.precision=single", "`trainer.precision`, got 'single': Precision 'single' is invalid"),
        ("trainer.strategy=dpp", "`trainer.strategy`, got 'dpp': You selected an invalid strategy"),
        ("trainer.limit_val_batches=-1", "`trainer.limit_val_batches`, got -1: "),
        ("trainer.gradient_clip_algorithm=norms", "`trainer.gradient_clip_algorithm`, got 'norms': "),
        ("trainer.max_time=soon", "`trainer.max_time`, got 'soon': "),
    ],
)
def test_a_wrong_value_is_named_by_its_argument(composed, word, message):
    with pytest.raises(ValueError, match=r"^`trainer") as refusal:
        build_trainer(composed(word), TwoHeads(), CRITERION, [])
    assert str(refusal.value).startswith(message)


def test_strategy_and_profiler_may_be_objects(composed):
    profiler = "trainer.profiler={_target_: pytorch_lightning.profilers.SimpleProfiler, extended: false}"
    strategy = "trainer.strategy={_target_: pytorch_lightning.strategies.SingleDeviceStrategy, device: cpu}"
    trainer = build_trainer(composed(profiler, strategy), TwoHeads(), CRITERION, [])
    assert trainer.profiler.extended is False
    assert type(trainer.strategy).__name__ == "SingleDeviceStrategy"


@pytest.mark.parametrize(("word", "kept"), [("callbacks=none", False), ("callbacks=early_stopping", True)])
def test_checkpoints_are_kept_where_a_callback_keeps_them(composed, word, kept):
    config = composed(word, "logger=none")
    trainer = build_trainer(config, TwoHeads(), CRITERION, build_callbacks(config))
    assert any(isinstance(callback, Checkpoint) for callback in trainer.callbacks) == kept


def test_several_loggers_at_once(composed):
    config = composed("logger=[csv,tensorboard]")
    pytest.importorskip("tensorboard")
    loggers = build_trainer(config, TwoHeads(), CRITERION, []).loggers
    assert [type(logger).__name__ for logger in loggers] == ["ContinuedCSVLogger", "TensorBoardLogger"]


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_every_optimizer_follows_the_learning_rate_of_the_task(composed, optimizer):
    assert composed(f"optimizer={optimizer}", "task.lr=0.25").optimizer.lr == 0.25


@pytest.mark.parametrize("choice", ["fast", "limit", "overfit", "profile"])
def test_a_debug_choice_changes_the_trainer_and_nothing_else(composed, choice):
    plain, changed = (OmegaConf.to_container(composed(*words)) for words in ([], [f"debug={choice}"]))
    assert plain.pop("trainer") != changed.pop("trainer")
    assert plain == changed


def test_the_progress_bar_shows_losses_weights_and_the_objective(composed):
    trainer = build_trainer(composed("trainer.enable_progress_bar=true"), TwoHeads(), CRITERION, [])
    (bar,) = (callback for callback in trainer.callbacks if isinstance(callback, RichProgressBar))
    CRITERION({"aux": torch.tensor(0.25), "main": torch.tensor(3.0)})
    assert bar.get_metrics(trainer, None) == {"aux": "0.25 x 0.5", "main": "3 x 2"}
    metrics = {"val/accuracy": torch.tensor(0.875)}
    assert describe(CRITERION, "val/accuracy", metrics)["val/accuracy"] == "0.875"


def test_a_picture_goes_to_each_logger_in_the_way_it_takes_one(tmp_path):
    got = []
    kinds = {
        "tensorboard": SimpleNamespace(experiment=SimpleNamespace(add_figure=lambda *given: got.append(given))),
        "wandb": SimpleNamespace(log_image=lambda *given: got.append(given)),
        "mlflow": SimpleNamespace(
            run_id="run", experiment=SimpleNamespace(log_artifact=lambda *given: got.append(given))
        ),
        "csv": SimpleNamespace(experiment=SimpleNamespace()),
    }
    path = Path("folder/losses.png")
    for logger in kinds.values():
        send_picture(logger, path, "figure", 7)
    assert got == [("losses", "figure", 7), ("losses", [str(path)]), ("run", str(path))]


@pytest.fixture
def without_hydra(monkeypatch):
    """Leaves no trace of a run in this process."""
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)


@pytest.mark.usefixtures("without_hydra")
@pytest.mark.parametrize(("words", "told"), [([], True), (["optimizer.lr=0.05"], False), (["task.lr=0.05"], False)])
def test_that_sgd_takes_a_rate_that_suits_another_is_told(tmp_path, caplog, words, told):
    record = run_here(tmp_path, "optimizer=sgd", "debug=fast", "callbacks=none", *words)
    assert record["status"] == "completed"
    assert ("optimizer=sgd takes `task.lr`" in caplog.text) == told


@pytest.mark.usefixtures("without_hydra")
def test_early_stopping_goes_with_checkpoints_and_the_monitor(tmp_path):
    record = run_here(
        tmp_path,
        "callbacks=early_stopping",
        "callbacks.early_stopping.min_delta=1",
        "callbacks.early_stopping.patience=1",
    )
    assert record["status"] == "completed"
    assert len(pd.read_csv(tmp_path / "metrics.csv")["val/accuracy"].dropna()) == 2  # the second was no better
    assert (tmp_path / "checkpoints" / "best.ckpt").is_file()
    assert record["last_epoch"]


def test_a_logger_whose_package_is_missing_is_told_with_what_installs_it(composed, monkeypatch):
    def make(**settings):
        raise ModuleNotFoundError("Neither `tensorboard` nor `tensorboardX` is available.")

    monkeypatch.setattr("pytorch_lightning.loggers.TensorBoardLogger", make)
    with pytest.raises(ModuleNotFoundError, match=r"`tensorboard` is needed .* \"lossbalance\[tensorboard\]\""):
        build_trainer(composed("logger=tensorboard"), pl.LightningModule(), None, [])


def test_an_error_that_is_about_no_argument_is_not_its_own_cause(composed):
    config = composed()
    config.trainer.plugins = {"_target_": "tests.cli.training.test_trainer.fail"}
    with pytest.raises(Exception, match="about nothing that was typed") as refused:
        build_trainer(config, pl.LightningModule(), None, [])
    assert refused.value.__cause__ is not refused.value


def fail():
    raise RuntimeError("about nothing that was typed")
