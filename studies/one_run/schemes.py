"""Schemes of the study of one run."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from lossbalance import weighting
from lossbalance._utils.checks import check_choice
from lossbalance.weighting import Weighting

Maker = Callable[[list[str]], Weighting]
"""Makes a scheme from the names of its terms."""

SCHEMES: dict[str, Maker] = {
    name: getattr(weighting, name)
    for name in (
        "CoV",
        "DWA",
        "FAMO",
        "GeometricMean",
        "GradBalance",
        "GradNorm",
        "InverseLoss",
        "LRAnnealing",
        "NTK",
        "RandomWeighting",
        "ReLoBRaLo",
        "SmoothTchebycheff",
        "SoftAdapt",
        "Uncertainty",
        "UncertaintySoftmax",
    )
}
"""Every scheme with nothing to choose, as it is made from the names of its terms."""


def _vary(scheme: str, **settings: Any) -> dict[str, Maker]:
    name = f"{scheme} {' '.join(f'{key}={value}' for key, value in settings.items())}"
    return {name: partial(getattr(weighting, scheme), **settings)}


VARIANTS: dict[str, Maker] = {
    **{name: SCHEMES[name] for name in ("GradBalance", "GradNorm", "InverseLoss", "LRAnnealing", "Uncertainty")},
    "UncertaintySoftmax": SCHEMES["UncertaintySoftmax"],
    **_vary("GradBalance", decay=0.99),
    **_vary("GradNorm", restoring_force=0.5),
    **_vary("GradNorm", restoring_force=1.5),
    **_vary("InverseLoss", exponent=0.0),
    **_vary("InverseLoss", exponent=0.25),
    **_vary("InverseLoss", exponent=1.0),
    **_vary("LRAnnealing", statistic="norm"),
    **_vary("Uncertainty", initial_log_variance=0.0),
    **_vary("Uncertainty", regularizer="log1p"),
    **_vary("UncertaintySoftmax", temperature=1.0),
    **_vary("UncertaintySoftmax", temperature=1.25),
    **_vary("UncertaintySoftmax", scale_free=False),
}
"""Other settings than the default ones, and these to compare with."""


def choose_schemes(names: Iterable[str]) -> dict[str, Maker]:
    """Returns schemes by name.

    Args:
        names: Names of :data:`SCHEMES`, ``all`` for all of these, or ``variants`` for :data:`VARIANTS`.

    Raises:
        ValueError: If a name is unknown.
    """
    chosen: dict[str, Maker] = {}
    for name in names:
        check_choice("schemes", name, [*SCHEMES, "all", "variants"])
        chosen |= {"all": SCHEMES, "variants": VARIANTS}.get(name) or {name: SCHEMES[name]}
    return chosen
