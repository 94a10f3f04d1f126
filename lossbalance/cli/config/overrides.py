"""Overrides of the command line, completed by what they imply."""

import re
from collections.abc import Iterator, Sequence

_FLAGS = ("-m", "--multirun")
_MAPPINGS = re.compile(r"(loss\.(?:weights|limits)|callbacks\.weight_schedule\.schedules)=\{")
_SCHEDULE = re.compile(r"(callbacks\.weight_schedule\.schedules)\.([^.=]+)\.")
_DEFAULT_SCHEDULE = "{_target_:lossbalance.callbacks.Schedule,start:0.0,end:1.0,over:10 epochs,shape:linear,count:4}"


def complete(overrides: Sequence[str]) -> list[str]:
    """Returns overrides as Hydra takes them: flags first, mappings that replace those of the file, implied choices."""
    flags = [override for override in overrides if override in _FLAGS]
    others = [override for override in overrides if override not in _FLAGS]
    return [*flags[:1], *add_schedules(list(replace_mappings(add_default_scheme(others))))]


def add_default_scheme(overrides: Sequence[str]) -> list[str]:
    """Adds ``loss=alpha`` when ``alpha`` is overridden and no scheme is chosen."""
    keys = {override.lstrip("+").partition("=")[0] for override in overrides}
    implied = "alpha" in keys and keys.isdisjoint({"loss", "experiment"})
    return [*overrides, "loss=alpha"] if implied else list(overrides)


def replace_mappings(overrides: Sequence[str]) -> Iterator[str]:
    """Yields the overrides, of which mappings of terms replace those of the file instead of adding to them."""
    for override in overrides:
        if found := _MAPPINGS.match(override):
            yield f"{found[1]}=null"
            yield f"+{override}"
        else:
            yield override


def add_schedules(overrides: list[str]) -> list[str]:
    """Adds the schedules of terms that the file does not name, and then leaves out that of its example."""
    found = [match for match in map(_SCHEDULE.match, overrides) if match]
    names = dict.fromkeys(match[2] for match in found)
    if not names or "aux" in names:
        return overrides
    key = found[0][1]
    added = [f"~{key}.aux", *(f"+{key}.{name}={_DEFAULT_SCHEDULE}" for name in names)]
    return [*(each for each in overrides if not _SCHEDULE.match(each)), *added,
            *(each for each in overrides if _SCHEDULE.match(each))]  # fmt: skip
