"""What the words of a command line imply."""

from collections.abc import Sequence


def add_implied(words: Sequence[str]) -> list[str]:
    """Returns the words, and ``loss=alpha`` where they give an alpha and choose no scheme, which alone reads it."""
    keys = {word.lstrip("+").partition("=")[0] for word in words}
    return [*words, "loss=alpha"] if "alpha" in keys and keys.isdisjoint({"loss", "experiment"}) else list(words)
