"""Overrides of the command line, completed by what they imply."""

from collections.abc import Sequence


def add_default_scheme(overrides: Sequence[str]) -> list[str]:
    """Adds ``loss=alpha`` when ``alpha`` is overridden and no scheme is chosen."""
    keys = {override.lstrip("+").partition("=")[0] for override in overrides}
    return (
        [*overrides, "loss=alpha"] if "alpha" in keys and keys.isdisjoint({"loss", "experiment"}) else list(overrides)
    )
