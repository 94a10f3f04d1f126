"""Monitor of a training loop without Lightning: means of each term, diagnoses, plots."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lossbalance._utils.warn import warn_user
from lossbalance.callbacks.diagnostics import diagnose, diagnose_detached, diagnose_scheme
from lossbalance.callbacks.epochs import Epochs
from lossbalance.callbacks.html import means_table
from lossbalance.callbacks.statistics import TermStatistics
from lossbalance.criterion.weighted_loss import WeightedLoss

_EVERY = 50  # updates from one measurement of the gradients of penalties to the next


class LoopMonitor:
    """Computes the means that :class:`~lossbalance.callbacks.LossMonitor` logs, in any training loop.

    ::

        monitor = LoopMonitor(criterion)
        for epoch in range(epochs):
            for x, y in loader:
                optimizer.zero_grad()
                criterion(losses(x, y)).backward()
                monitor.update(len(x))
                optimizer.step()
            print(monitor.end_epoch())  # {"loss/aux": ..., "weight/aux": ..., "contribution/aux": ..., ...}

    Under ``torch.distributed`` the means are those of all ranks, so each rank calls :meth:`log` and :meth:`end_epoch`
    as often as the others.

    Args:
        criterion: The criterion of the loop.

    Attributes:
        last_epoch: For each term and penalty, the means over the last epoch, as in ``LossMonitor``.
        history: The means of each epoch, with its number as ``epoch``.
        diagnoses: The faults of the last epoch, a line each; each is also a warning when it first shows.

    Raises:
        TypeError: If ``criterion`` is not a :class:`WeightedLoss`.
    """

    def __init__(self, criterion: WeightedLoss) -> None:
        if not isinstance(criterion, WeightedLoss):
            raise TypeError(f"`criterion` must be a WeightedLoss, got {criterion!r}.")
        self.criterion = criterion
        self.last_epoch: dict[str, dict[str, float]] = {}
        self.history: list[dict[str, float]] = []
        self.diagnoses: list[str] = []
        self._statistics: TermStatistics | None = None
        self._validation: list[dict[str, float]] = []
        self._warned: set[str] = set()
        self._updates = 0

    def update(self, batch_size: int = 1) -> None:
        """Adds the last call of the criterion, without waiting for the device; call it right after ``backward()``.

        Args:
            batch_size: The number of samples of the batch.
        """
        statistics = self._get_statistics()
        statistics.update(batch_size)
        if self._updates % _EVERY == 0:
            statistics.measure_penalties()
        self._updates += 1

    def log(self) -> dict[str, float]:
        """Returns the means since the last call, by key; waits for the device."""
        return self._get_statistics().close_log()

    def end_epoch(self, validation: Mapping[str, float] | None = None) -> dict[str, float]:
        """Returns the means of the epoch, by key, and warns of its faults; waits for the device.

        Args:
            validation: The plain losses of a validation, by the names of the terms, if there was one.
        """
        statistics = self._get_statistics()
        means = statistics.close_epoch()
        self.last_epoch = statistics.tabulate(means)
        self.history.append({"epoch": len(self.history), **means})
        self._validation.append({term: float(loss) for term, loss in (validation or {}).items()})
        self._diagnose(statistics)
        return means

    def plot(self, title: str | None = None) -> Any:
        """Returns a figure of the epochs so far; needs matplotlib.

        Args:
            title: The title of the figure, or None.
        """
        from lossbalance.callbacks.plots import draw_history

        return draw_history(self.history, validation=self._validation, title=title)

    def save_plot(self, path: str | Path, title: str | None = None) -> None:
        """Writes :meth:`plot` to a file."""
        self.plot(title).savefig(path)

    def state_dict(self) -> dict[str, Any]:
        """The sums and the history so far."""
        statistics = self._get_statistics().state_dict()
        return {"history": self.history, "validation": self._validation, "statistics": statistics}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.history, self._validation = list(state["history"]), list(state["validation"])
        self._get_statistics().load_state_dict(state["statistics"])

    def _get_statistics(self) -> TermStatistics:
        if self._statistics is None:  # the criterion is on its device by now
            self._statistics = TermStatistics(self.criterion, self.criterion.probes.device)
        return self._statistics

    def _diagnose(self, statistics: TermStatistics) -> None:
        epochs = Epochs.of(statistics, (), self.history, self._validation)
        self.diagnoses = diagnose_detached(epochs)
        for fault, message in [*diagnose_scheme(self.criterion), *diagnose(epochs)]:
            self.diagnoses.append(message)
            if fault not in self._warned:
                self._warned.add(fault)
                warn_user(message)

    def _repr_html_(self) -> str:
        return means_table(self.last_epoch, self.diagnoses)
