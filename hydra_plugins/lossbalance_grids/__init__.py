"""A Hydra sweeper for sweeps that are no single grid."""

from collections.abc import Mapping, Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override


class GridsSweeper(BasicSweeper):
    """Sweeps over several grids, one after the other, so that alphas need not be multiplied with schemes.

    With one grid without keys it is Hydra's own sweeper, but sooner under way.

    Args:
        grids: Each a mapping from keys to what they take, such as ``{"loss": "alpha", "alpha": "range(0,1.01,0.1)"}``.
        params: What all grids have in common. Both yield to the command line.
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
            (batch,) = super().split_arguments([*own, *overrides], None)
            jobs |= dict.fromkeys(map(tuple, batch))
        return [[list(job) for job in jobs]]

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Composes as many of the jobs as it takes to meet every choice once; each takes a tenth of a second."""
        met: set[str] = set()
        telling = []
        for job in batch:
            if not met.issuperset(job):
                telling.append(job)
                met.update(job)
        super().validate_batch_is_legal(telling)
