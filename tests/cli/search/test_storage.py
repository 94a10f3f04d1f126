"""Several processes may open one storage at the same moment."""

from multiprocessing import get_context

import optuna
import pytest
from optuna.study import StudyDirection

from lossbalance.cli.search.space import parse
from lossbalance.cli.search.study import open_study, search_definition

WORKERS = 8


def open_and_add_a_trial(url, folder, barrier):
    definition = search_definition(*parse(["alpha=interval(0,1)"]), {"val/accuracy": StudyDirection.MAXIMIZE})
    barrier.wait(timeout=60)
    sampler, pruner = optuna.samplers.RandomSampler(seed=0), optuna.pruners.NopPruner()
    study = open_study("mine", definition, url, folder, sampler, pruner)
    study.add_trial(optuna.trial.create_trial(value=0.5))


def open_at_once(url, folder):
    """Returns the exit codes of eight processes that open the storage together."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["lossbalance.cli.search.study", __name__])
    barrier = context.Barrier(WORKERS)
    arguments = url, folder, barrier
    workers = [context.Process(target=open_and_add_a_trial, args=arguments) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    return [worker.exitcode for worker in workers]


@pytest.mark.processes
@pytest.mark.parametrize("url", ["sqlite:///{}/study.db"])
def test_eight_processes_open_a_fresh_storage_at_once(tmp_path, url):
    url = url.format(tmp_path)
    assert open_at_once(url, tmp_path / "folder") == [0] * WORKERS
    storage = optuna.storages.get_storage(url) if "://" in url else optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(url)
    )  # fmt: skip
    assert len(optuna.load_study(study_name="mine", storage=storage).trials) == WORKERS
