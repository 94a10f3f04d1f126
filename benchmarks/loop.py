"""Cost of the training loop of ``scripts/train.py``, relative to the same loop in plain PyTorch."""

import copy
import csv
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from torch import Tensor

from benchmarks.timing import ratio, time_in_turn
from lossbalance.callbacks import LossMonitor
from lossbalance.cli.config.schema import register
from lossbalance.cli.training.build import build, build_callbacks
from lossbalance.cli.training.train import filter_warnings
from lossbalance.cli.training.trainer import build_trainer
from lossbalance.tasks import Head

_ALPHA = 0.3


def benchmark_loop(conf: Path, epochs: int = 25, rounds: int = 9, console: Console | None = None) -> float:
    """Times whole trainings of the default task.

    Both loops train the network on the weighted sum, validate it after each epoch with the same metrics, note the mean
    loss of each term, and keep the last and the best checkpoint. Only one also measures the gradient of each term.

    Args:
        conf: The folder of the configuration.
        epochs: Of a training.
        rounds: Trainings of each kind.
        console: Where to show the result.

    Returns:
        The time of the loop relative to that in plain PyTorch, median over rounds.
    """
    register()
    filter_warnings()
    overrides = ["loss=alpha", f"alpha={_ALPHA}", f"trainer.max_epochs={epochs}", "trainer.enable_progress_bar=false"]
    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        config = compose("train", [*overrides, "output_dir=."])
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    loops = {"plain": partial(_in_new_folder, _train_plainly, config), "ours": partial(_in_new_folder, _train, config)}
    seconds = time_in_turn(loops, rounds, torch.device("cpu"), "trainings")
    torch.set_num_threads(threads)
    times = ratio(seconds["ours"], seconds["plain"])
    (console or Console()).print(
        f"The training loop takes {times:.2f} times as long as the same loop in plain PyTorch "
        f"({median(seconds['ours']):.2f} s and {median(seconds['plain']):.2f} s for {epochs} epochs)."
    )
    return times


def _in_new_folder(train: Callable[[DictConfig], None], config: DictConfig) -> None:
    with tempfile.TemporaryDirectory() as folder:
        mine = copy.deepcopy(config)
        mine.output_dir = folder
        train(mine)


def _train(config: DictConfig) -> None:
    data, module, criterion, _ = build(config)
    callbacks = build_callbacks(config)
    for callback in callbacks:
        if isinstance(callback, LossMonitor):
            callback.pictures = False
    build_trainer(config, module, criterion, callbacks).fit(module, data)


def _train_plainly(config: DictConfig) -> None:
    torch.manual_seed(config.seed)
    data = instantiate(config.task.data)
    data.setup("fit")
    heads: dict[str, Head] = instantiate(config.task.module.heads)
    net = instantiate(config.task.module.net)({term: head.outputs for term, head in heads.items()})
    optimizer = instantiate(config.optimizer)(net.parameters())
    training, validation = data.train_dataloader(), data.val_dataloader()
    best, folder = 0.0, Path(config.output_dir)
    with (folder / "plain.csv").open("w") as file:
        table = csv.writer(file)
        for epoch in range(config.trainer.max_epochs):
            training.sampler.set_epoch(epoch)
            means = torch.zeros(len(heads))
            for batch in training:
                losses = _losses(heads, net(batch["image"]), batch)
                optimizer.zero_grad()
                (_ALPHA * losses["aux"] + (1 - _ALPHA) * losses["main"]).backward()
                optimizer.step()
                means += torch.stack(list(losses.values())).detach() / len(training)
            metrics = _validate(heads, net, validation)
            table.writerow([*means.tolist(), *metrics])
            state = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
            torch.save(state, folder / "plain_last.ckpt")
            if metrics[-1] > best:
                best = metrics[-1]
                torch.save(state, folder / "plain_best.ckpt")


@torch.no_grad()
def _validate(heads: Mapping[str, Head], net: torch.nn.Module, batches: torch.utils.data.DataLoader) -> list[float]:
    net.eval()
    means = torch.zeros(len(heads))
    for batch in batches:
        outputs = net(batch["image"])
        means += torch.stack(list(_losses(heads, outputs, batch).values())) / len(batches)
        for term, head in heads.items():
            head.score(outputs[term], batch[term])
    scores = [head.metric.compute().item() for head in heads.values()]
    for head in heads.values():
        head.metric.reset()
    net.train()
    return [*means.tolist(), *scores, sum(scores) / len(scores)]


def _losses(heads: Mapping[str, Head], outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {term: head.loss(outputs[term], batch[term]) for term, head in heads.items()}
