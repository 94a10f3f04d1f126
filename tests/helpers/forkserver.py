"""Processes that have imported everything, and have none of this one's threads."""

from multiprocessing import get_context

_PRELOADED = ["lossbalance.cli.training.train", "tests.callbacks.modules", "tests.cli.program"]  # by the first who asks


def forkserver():
    """Returns a context whose processes are forks of one that has imported what trains."""
    context = get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context
