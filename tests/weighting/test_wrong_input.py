"""What no scheme accepts: each setting is refused by name, with what came in."""

import inspect
import math
import re

import pytest
import torch

from lossbalance import weighting
from lossbalance.weighting import Weighting

NEEDED = {
    "Alpha": {"alpha": 0.5},
    "Constrained": {"limits": {"a": 1.0}},
    "Fixed": {"weights": {"a": 1.0, "b": 1.0}},
    "Scalarizer": {"module": torch.sum},
}
SCHEMES = sorted(
    name
    for name in weighting.__all__
    if inspect.isclass(getattr(weighting, name))
    and issubclass(getattr(weighting, name), Weighting)
    and not inspect.isabstract(getattr(weighting, name))
)
WRONG = [
    "word",
    math.nan,
    math.inf,
    -math.inf,
    1e39,
    [1.0],
    {"a": "word", "b": 1.0},
    {"a": math.nan, "b": 1.0},
    {"c": 1.0},
]


def settings() -> list[tuple[str, str]]:
    return [
        (name, setting)
        for name in SCHEMES
        for setting in inspect.signature(getattr(weighting, name)).parameters
        if setting != "terms"
    ]


@pytest.mark.parametrize(("name", "setting"), settings())
def test_a_setting_that_makes_no_sense_is_refused_by_name(name, setting):
    scheme = getattr(weighting, name)
    for value in WRONG:
        with pytest.raises((TypeError, ValueError), match=re.escape(f"`{setting}")):
            scheme(["a", "b"], **NEEDED.get(name, {}) | {setting: value})


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("terms", [2, None, "ab", [], [1, 2], ["a", "a"]])
def test_terms_that_are_no_names_are_refused(name, terms):
    with pytest.raises((TypeError, ValueError), match="`terms` must"):
        getattr(weighting, name)(terms, **NEEDED.get(name, {}))
