"""Hydra sweeper over a union of grids."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from lossbalance._utils.files import write_text


class GridsSweeper(BasicSweeper):
    """Sweeps over several grids, one after the other, so that alphas need not be multiplied with schemes.

    With a single empty grid it equals Hydra's BasicSweeper, with a faster start.

    Args:
        grids: Each maps keys to their values, such as ``{"loss": "alpha", "alpha": "range(0,1.01,0.1)"}``.
        params: Overrides of all grids. The command line takes precedence over both.
    """

    def __init__(self, grids: Sequence[Mapping[str, str]], params: Mapping[str, str] | None = None) -> None:
        super().__init__(max_batch_size=None, params=dict(params or {}))
        self.grids = grids

    def split_arguments(self, overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:
        """Returns the jobs of all grids as one batch, none of them twice."""
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        jobs: dict[tuple[str, ...], None] = {}
        for grid in self.grids:
            own = parser.parse_overrides([f"{key}={values}" for key, values in grid.items()])
            for override in (*own, *overrides):
                _check_not_empty(override)
            (batch,) = super().split_arguments([*own, *overrides], None)
            jobs |= dict.fromkeys(map(tuple, batch))
        return [[list(job) for job in jobs]]

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Composes only as many jobs as cover every override once; each takes a tenth of a second."""
        met: set[str] = set()
        representative = []
        for job in batch:
            if not met.issuperset(job):
                representative.append(job)
                met.update(job)
        super().validate_batch_is_legal(representative)
        write_plan(Path(self.config.hydra.sweep.dir), batch)


def _check_not_empty(override: Override) -> None:
    key, given = override.get_key_element(), str(override.input_line).partition("=")[2]
    if override.is_sweep_override() and not override.is_discrete_sweep():
        raise ValueError(f"`{key}` must be a list or a range in a sweep, got {given}: a search chooses from intervals.")
    if override.is_sweep_override() and not any(True for _ in override.sweep_string_iterator()):
        raise ValueError(f"`{key}` must have at least one value in a sweep, got {given}, which has none.")


def write_plan(folder: Path, jobs: Sequence[Sequence[str]]) -> None:
    """Writes the plan of a sweep, which ``lossbalance.cli.runs.progress`` reads: a job is a list of overrides."""
    shared = set(jobs[0]).intersection(*jobs)
    varying = sorted({override.partition("=")[0] for job in jobs for override in job if override not in shared})
    write_text(folder / ".plan.json", json.dumps({"runs": len(jobs), "started": time.time(), "varying": varying}))
    (folder / ".events").unlink(missing_ok=True)
    print(f"{len(jobs)} runs, in {folder}", flush=True)
