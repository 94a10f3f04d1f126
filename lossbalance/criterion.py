"""Makes a criterion of what a configuration describes."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from lossbalance.penalties import Penalty
from lossbalance.weighted_loss import WeightedLoss
from lossbalance.weighting.base import Weighting


def make_criterion(
    weighting: Weighting,
    penalty: Penalty | Mapping[str, Any] | None = None,
    conflict: nn.Module | Mapping[str, Any] | None = None,
    terms: Iterable[str] | None = None,
    **settings: Any,
) -> WeightedLoss:
    """Returns a :class:`WeightedLoss` with at most one penalty, which gets the name of its class in small letters.

    It is what the group ``criterion`` of ``lossbalance.conf`` names by ``_target_``::

        criterion = hydra.utils.instantiate(config.criterion)

    Args:
        weighting: The scheme.
        penalty: A penalty; None, or what is left of ``penalty: none``, a mapping, for none.
        conflict: An aggregator; None or a mapping for none.
        terms: What ``weighting`` in the same configuration reads its terms from; they must be its own.
        settings: Others of ``WeightedLoss``, such as ``weight_sum``; None for what is not in use.

    Raises:
        ValueError: If ``terms`` are not those of the scheme.

    Example:
        >>> from lossbalance.penalties import L2
        >>> from lossbalance.weighting import Equal
        >>> list(make_criterion(Equal(["aux", "main"]), L2(1e-4)).penalties)
        ['l2']
    """
    if conflict is not None and not isinstance(conflict, Mapping):
        settings["conflict"] = conflict
    penalties = {} if penalty is None or isinstance(penalty, Mapping) else {type(penalty).__name__.lower(): penalty}
    given = {name: value for name, value in settings.items() if value is not None}
    criterion = WeightedLoss(weighting, penalties, **given)
    if terms is not None and list(terms) != list(criterion.terms):
        raise ValueError(
            f"`terms` must be those of `weighting`, {list(criterion.terms)}, got {list(terms)}: set them once, as "
            "`criterion.terms`."
        )
    return criterion
