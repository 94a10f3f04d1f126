"""The field's words: module docstrings are noun phrases, names are what somebody would search for."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("lossbalance", "hydra_plugins", "studies", "benchmarks", "scripts", "examples")
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
PROSE = sorted(
    [*(ROOT / "conf").rglob("*.yaml"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
)
NAMES = re.compile(
    r"(^|_)(words?|told|look|looks|use_up|leave|ask|asks|asked|kept_back|telling|try_out|be_quiet|widen|seal|settle|"
    r"gauges?|troubles?|befall|apart|deadly)(_|$)|^(Look|Question|Watch|Gauges|Stranger)$"
)
PHRASES = re.compile(
    r"\bgoes on\b|\bgo on from\b|\bkept back\b|\bdrown(s|ed|ing)?\b|\b(is|was|were|be|are) told\b|\btakes? up\b|"
    r"\btaken up\b|\bnot told\b|\bbefalls?\b|\bunder way\b|\buse[ds]? up\b",
    re.IGNORECASE,
)


def names(tree: ast.AST) -> set[str]:
    """The names that a module defines."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return found


def prose(text: str) -> str:
    """The comments and strings of a module, in which docstrings and messages are."""
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    return "\n".join(
        token.string for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type in kinds
    )


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_speaks_the_language_of_its_field(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert not re.match(r"(What|Where|Which|How|Whether|Who|When)\b", ast.get_docstring(tree) or "")
    assert {name for name in names(tree) if NAMES.search(name)} == set()
    assert {found.group() for found in PHRASES.finditer(prose(text))} == set()


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_page_speaks_the_language_of_its_field(path):
    assert {found.group() for found in PHRASES.finditer(path.read_text(encoding="utf-8"))} == set()
