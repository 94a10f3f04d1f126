"""Factory of criteria for configurations."""

from collections.abc import Iterable, Mapping
from typing import Any

from lossbalance.conflict.base import Aggregator
from lossbalance.criterion.weighted_loss import WeightedLoss
from lossbalance.penalties import Penalty
from lossbalance.weighting.base import Weighting


def make_criterion(
    weighting: Weighting,
    penalty: Penalty | Mapping[str, Any] | None = None,
    conflict: Aggregator | Mapping[str, Any] | None = None,
    weight_sum: float | None = None,
    loss_sum: float | None = None,
    terms: Iterable[str] | None = None,
    process_group: Any = None,
    fixed: Mapping[str, float] | None = None,
) -> WeightedLoss:
    """Returns a :class:`WeightedLoss` with at most one penalty, which gets the name of its class in small letters.

    It is what the group ``criterion`` of ``lossbalance.conf`` names by ``_target_``::

        criterion = hydra.utils.instantiate(config.criterion)

    Args:
        weighting: The scheme.
        penalty: A penalty; None, or what is left of ``penalty: none``, a mapping, for none.
        conflict: An aggregator; None or a mapping for none.
        weight_sum: As in ``WeightedLoss``.
        loss_sum: As in ``WeightedLoss``.
        terms: What ``weighting`` in the same configuration reads its terms from; they must be its own.
        process_group: As in ``WeightedLoss``.
        fixed: As in ``WeightedLoss``.

    Raises:
        ValueError: If ``terms`` are not those of the scheme.

    Example:
        >>> from lossbalance.penalties import L2
        >>> from lossbalance.weighting import Equal
        >>> list(make_criterion(Equal(["aux", "main"]), L2(1e-4)).penalties)
        ['l2']
    """
    penalties = {} if penalty is None or isinstance(penalty, Mapping) else {type(penalty).__name__.lower(): penalty}
    aggregator = None if isinstance(conflict, Mapping) else conflict
    criterion = WeightedLoss(weighting, penalties, weight_sum, loss_sum, aggregator, process_group, fixed)
    if terms is not None and list(terms) != list(weighting.terms):
        raise ValueError(
            f"`terms` must be those of `weighting`, {list(weighting.terms)}, got {list(terms)}: set them once, as "
            "`criterion.terms`."
        )
    return criterion
