"""Keys of the log, ``<quantity>/<name>``: built and parsed here only."""

from collections.abc import Iterable

OF_TERMS = ("loss", "weight", "contribution", "gradient_share", "not_finite")
"""Quantities of each term; ``gradient_share`` also of each penalty."""
OF_PAIRS = ("cosine", "conflict")
"""Quantities of each pair of terms, whose name is that of :func:`pair_name`."""
OTHERS = ("penalty", "zeros", "distance")
"""Quantities of penalties (two), and of terms with a limit."""


def key(quantity: str, name: str) -> str:
    """Returns the key of a quantity of a term, a pair or a penalty, ``loss/main``."""
    return f"{quantity}/{name}"


def step_key(key: str) -> str:
    """Returns the key of the same quantity between two ends of epochs, ``loss/main_step``."""
    return f"{key}_step"


def evaluation_key(stage: str, term: str, loader: int | None = None) -> str:
    """Returns the key of a plain loss in validation or test, ``val/loss/main``; of several loaders as Lightning does.

    Args:
        stage: ``"val"`` or ``"test"``.
        term: The name of the term.
        loader: The number of the loader, if there are several.
    """
    return f"{stage}/loss/{term}" + ("" if loader is None else f"/dataloader_idx_{loader}")


def without_loader(key: str) -> str:
    """Returns an :func:`evaluation_key` without the number of the loader."""
    return key.partition("/dataloader_idx_")[0]


def pair_name(first: str, second: str, prefix: str = "") -> str:
    """Returns the name of a pair of terms, ``aux/main``."""
    return f"{prefix}{first}/{second}"


def parse(key: str) -> tuple[str, str] | None:
    """Returns the quantity and the name in a key of an epoch of training; None for any other key.

    Example:
        >>> parse("cosine/aux/main"), parse("val/loss/main"), parse("loss/main_step")
        (('cosine', 'aux/main'), None, None)
    """
    quantity, _, name = key.partition("/")
    known = quantity in (*OF_TERMS, *OF_PAIRS, *OTHERS) and name and not name.endswith("_step")
    return (quantity, name) if known else None


def names_of(quantity: str, keys: Iterable[str]) -> list[str]:
    """Returns the names that have a quantity among the keys, in order.

    Example:
        >>> names_of("loss", ["epoch", "loss/aux", "weight/aux", "loss/main"])
        ['aux', 'main']
    """
    parsed = map(parse, dict.fromkeys(keys))
    return [each[1] for each in parsed if each is not None and each[0] == quantity]
