"""Validation of the arguments of a penalty."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import LBFGS, SparseAdam

from lossbalance._utils.checks import check_choice, check_number, check_positive

MODES = ("loss", "gradient", "decoupled", "proximal")
Patterns = str | Iterable[str]
Strength = float | Mapping[str, float]


def check_patterns(argument: str, patterns: Patterns | None) -> tuple[str, ...] | None:
    """Returns the patterns as a tuple once each is a regular expression.

    Raises:
        TypeError: If one is not a string.
        ValueError: If one is not a regular expression.
    """
    if patterns is None:
        return None
    if not isinstance(patterns, Iterable):
        raise TypeError(
            f"`{argument}` must be a regular expression on parameter names or a list of them, got {patterns!r}."
        )
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"`{argument}` must be regular expressions on parameter names, got {pattern!r}.")
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"`{argument}` must be regular expressions, got {pattern!r}: {error}.") from None
    return patterns


def check_strength(argument: str, strength: object) -> Strength:
    """Returns the strength once it is a number, finite and not negative, or maps patterns to such numbers.

    Raises:
        TypeError: If it is neither.
        ValueError: If a number is not allowed, or a pattern is not a regular expression.
    """
    kind = "a number, finite and not negative, or map patterns to such numbers"
    if not isinstance(strength, Mapping):
        return check_number(argument, strength, kind, _is_strength)
    check_patterns(argument, strength)
    if not strength:
        raise ValueError(f"`{argument}` must be {kind}, got an empty mapping.")
    return {
        pattern: check_number(f"{argument}[{pattern!r}]", each, kind, _is_strength)
        for pattern, each in strength.items()
    }


def check_mode(mode: str, penalty: str, has_proximal: bool) -> str:
    """Returns ``mode`` once it is one that the penalty has.

    Raises:
        ValueError: If it is not.
    """
    if mode == "proximal" and not has_proximal:
        raise ValueError(
            f"`mode` must be one of {list(MODES[:3])} for {penalty}, got 'proximal', which sets weights to zero: use "
            "'decoupled', or L1, ElasticNet or GroupLasso."
        )
    return check_choice("mode", mode, MODES)


def check_module(module: object) -> nn.Module:
    """Returns ``module`` once it is one.

    Raises:
        TypeError: If it is anything else.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"`module` must be the torch.nn.Module whose parameters are penalized, got {module!r}.")
    return module


def check_optimizer(penalties: Iterable[Any], optimizer: object) -> None:
    """Checks that the steps of the optimizer can apply the penalties.

    Raises:
        TypeError: If it is no optimizer.
        ValueError: If it needs sparse gradients and a penalty has dense ones, or a step of it is no gradient step.
    """
    if not hasattr(optimizer, "register_step_pre_hook"):
        raise TypeError(f"`optimizer` must be a torch.optim.Optimizer, got {optimizer!r}.")
    for penalty in penalties:
        if isinstance(optimizer, SparseAdam) and penalty.mode in ("loss", "gradient"):
            raise ValueError(
                f"`optimizer` must not be SparseAdam for the penalty {penalty!r}, whose gradient is dense: use "
                "mode='decoupled' or 'proximal', or another optimizer."
            )
        if isinstance(optimizer, LBFGS) and penalty.mode == "proximal":
            raise ValueError(
                f"`optimizer` must not be LBFGS for the penalty {penalty!r}, whose proximal operator belongs to a "
                "gradient step: use SGD, or mode='loss'."
            )


def check_clipped(clipped: bool, mode: str) -> bool:
    """Returns ``clipped`` once it has an effect in this mode.

    Raises:
        ValueError: If it is true in another mode than ``"gradient"``.
    """
    if clipped and mode != "gradient":
        raise ValueError(
            f"`clipped` must be False in mode {mode!r}: in mode 'loss' the penalty is clipped with the data anyway, in "
            "modes 'decoupled' and 'proximal' it never is."
        )
    return clipped


def check_share(share: object, strength: object, mode: str) -> float:
    """Returns the share once it is positive and finite, and the other arguments allow it.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is out of range, there is a number for ``strength``, or the mode adds no gradient.
    """
    if strength is not None and not isinstance(strength, Mapping):
        raise ValueError(f"`share` must be given in place of a number for `strength`, got {share!r} and {strength!r}.")
    if mode not in ("loss", "gradient"):
        raise ValueError(f"`share` must go with mode 'gradient' or 'loss', got {mode!r}, which adds no gradient.")
    return check_positive("share", share)


def _is_strength(number: float) -> bool:
    return 0 <= number < math.inf
