"""What the package imports: all of it declared, the core from five packages, and no arrow back up."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lossbalance"
MODULES = sorted(PACKAGE.rglob("*.py"))
DISTRIBUTIONS = {  # of packages that are imported by another name
    "hydra": "hydra-core",
    "lightning_fabric": "pytorch-lightning",  # comes with it
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
CORE = {"torch", "pytorch-lightning", "torchmetrics", "hydra-core", "omegaconf", "lightning-utilities"}
FLOORS = [  # each may import from those before it
    {"_utils"},
    {"gradients", "weighting", "conflict", "penalties", "breakdown"},
    {"weighted_loss"},  # and the files beside it that it is made of
    {"criterion", "callbacks"},
    {"sweeps"},
    {"tasks"},
    {"cli", "__main__"},
]
OPTIONAL = {"callbacks/plots.py", "conflict/from_torchjd.py"}  # imported where they are used


def imports(path: Path) -> Iterator[str]:
    """The dotted names that a file imports, anywhere but for type checkers only."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def packages(path: Path) -> set[str]:
    """The distributions of other projects that a file imports from."""
    names = {name.partition(".")[0].replace("_", "-") for name in imports(path)}
    found = {name for name in names if name.replace("-", "_") not in {*sys.stdlib_module_names, "lossbalance"}}
    return {DISTRIBUTIONS.get(name.replace("-", "_"), name) for name in found}


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def floor(path: Path) -> int:
    part = name(path).split("/")[0].removesuffix(".py")
    beside = 2 if (PACKAGE / f"{part}.py").exists() else None
    return next((height for height, parts in enumerate(FLOORS) if part in parts), beside)


def parts(path: Path) -> set[str]:
    """The parts of this package that a file imports from."""
    return {module.split(".")[1] for module in imports(path) if module.startswith("lossbalance.")}


def at_the_top(path: Path) -> set[str]:
    """The modules of this package that are imported as the file is."""
    body = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
    named = {f"{node.module}.{alias.name}" for node in body for alias in node.names}
    return {module for module in {node.module for node in body} | named if module and module.startswith("lossbalance.")}


def declared() -> tuple[set[str], set[str]]:
    """The names of what the package needs, and of that and all that its extras bring."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = {re.split(r"[^\w-]", line)[0].lower() for line in project["dependencies"]}
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    return core, core | {re.split(r"[^\w-]", line)[0].lower() for line in extras}


def test_what_is_imported_is_declared():
    core, everything = declared()
    assert core == CORE
    assert {name(path): packages(path) - everything for path in MODULES if packages(path) - everything} == {}


def test_the_core_imports_from_five_packages():
    files = [path for path in MODULES if path.name != "__init__.py" and floor(path) <= 3 and name(path) not in OPTIONAL]
    assert len(files) > 40
    assert {name(path): packages(path) - CORE for path in files if packages(path) - CORE} == {}


def test_no_arrow_points_back_up():
    files = [path for path in MODULES if path != PACKAGE / "__init__.py"]
    above = {height: set().union(*FLOORS[height + 1 :]) for height in range(len(FLOORS))}
    found = {name(path): parts(path) & above[floor(path)] for path in files}
    assert {path: wrong for path, wrong in found.items() if wrong} == {}


def test_no_circle_of_imports():
    graph = {dotted(path): at_the_top(path) for path in MODULES}
    order = TopologicalSorter({module: others & graph.keys() for module, others in graph.items()})
    order.prepare()  # raises CycleError, which has the circle
