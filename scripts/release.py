"""Release checks: ``check TAG`` refuses a tag that is not the version, ``notes TAG`` prints its changes."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def read_version() -> str:
    """Returns the version of the package, without importing it."""
    return _find(r'__version__ = "(.*)"', "lossbalance/__init__.py")


def check(tag: str) -> None:
    """Refuses a tag that is not the version of the package, the citation and the newest part of the changelog.

    Raises:
        ValueError: If one of them is another.
    """
    found = {
        "lossbalance/__init__.py": read_version(),
        "CITATION.cff": _find(r"^version: (.*)$", "CITATION.cff"),
        "CHANGELOG.md": _find(r"^## (\d\S*)", "CHANGELOG.md"),
    }
    wrong = {name: version for name, version in found.items() if f"v{version}" != tag}
    if wrong:
        raise ValueError(f"`tag` must be v and the version, got {tag!r}, and {wrong}: bring them together first.")


def notes(tag: str) -> str:
    """Returns the part of the changelog of a version, without its heading."""
    parts = re.split(r"(?m)^## ", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    part = next((part for part in parts if part.startswith(tag.removeprefix("v"))), None)
    if part is None:
        raise ValueError(f"CHANGELOG.md must have a part for {tag!r}: add it.")
    return part.partition("\n")[2].strip()


def main(command: str = "", tag: str = "") -> int:
    """Runs one command; returns the exit code."""
    try:
        if command == "check":
            check(tag)
        elif command == "notes":
            print(notes(tag))
        else:
            raise ValueError(f"`command` must be check or notes, got {command!r}.")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _find(pattern: str, name: str) -> str:
    found = re.search(pattern, (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise ValueError(f"{name} must have a version, and has none.")
    return found[1]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
