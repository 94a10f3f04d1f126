"""Imports of the package: all of them declared, the core from five packages, and no arrow back up."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "lossbalance"
MODULES = sorted(PACKAGE.rglob("*.py"))
AROUND = sorted(
    path for folder in ("hydra_plugins", "studies", "benchmarks", "scripts") for path in (ROOT / folder).rglob("*.py")
)
DISTRIBUTIONS = {  # of packages that are imported by another name
    "hydra": "hydra-core",
    "lightning_fabric": "pytorch-lightning",  # comes with it
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
CORE = {"torch", "pytorch-lightning", "torchmetrics", "hydra-core", "omegaconf", "lightning-utilities"}
LAYERS = [  # each may import from those before it; a file at the root of the package is named like a room
    {"lossbalance._utils"},
    {"lossbalance.gradients", "lossbalance.weighting", "lossbalance.conflict", "lossbalance.penalties"},
    {"lossbalance.criterion"},
    {"lossbalance"},  # its __init__, which imports the criterion where somebody asks for it
    {"lossbalance.callbacks"},
    {"lossbalance.integrations"},
    {"lossbalance.sweeps"},
    {"lossbalance.tasks"},
    {"hydra_plugins"},
    {"lossbalance.cli"},
    {"lossbalance.__main__", "benchmarks", "studies"},
    {"scripts"},
]
OPTIONAL = {
    "callbacks/plots.py",
    "integrations/transformers.py",
    "conflict/from_torchjd.py",
}  # imported where they are used


def imports(path: Path) -> Iterator[str]:
    """The dotted names that a file imports, also for type checkers only, inside functions and by ``import_module``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func) and node.args:
            argument = node.args[0]
            if isinstance(argument, ast.Constant) and argument.value.startswith(("lossbalance", "hydra_plugins")):
                yield argument.value  # other projects' are optional where they are imported in this way


def packages(path: Path) -> set[str]:
    """The distributions of other projects that a file imports from."""
    names = {name.partition(".")[0].replace("_", "-") for name in imports(path)}
    own = {*sys.stdlib_module_names, "lossbalance", "hydra_plugins", "benchmarks", "studies"}
    found = {name for name in names if name.replace("-", "_") not in own}
    return {DISTRIBUTIONS.get(name.replace("-", "_"), name) for name in found}


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room(module: str) -> str:
    """The part of the repository that a module is in: a folder of the package, or one beside it."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "lossbalance" else parts[0]


def layer(place: str) -> int:
    """The height of a room; a room that nobody has given a layer is an error."""
    return next(height for height, rooms in enumerate(LAYERS) if place in rooms)


def rooms(path: Path) -> set[str]:
    """The other rooms that a file imports from."""
    ours = {
        room(module)
        for module in imports(path)
        if module.split(".")[0] in {"lossbalance", "hydra_plugins", "benchmarks", "studies"}
    }
    return ours - {room(dotted(path))}


def at_the_top(path: Path) -> set[str]:
    """The modules of this repository that are imported as the file is, and those that type checkers need."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = [node for block in tree.body if isinstance(block, ast.If) for node in block.body]
    body = [node for node in [*tree.body, *guarded] if isinstance(node, ast.ImportFrom)]
    named = {f"{node.module}.{alias.name}" for node in body for alias in node.names}
    return {module for module in {node.module for node in body} | named if module}


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
    top = layer("lossbalance.callbacks")
    files = [path for path in MODULES if path.name != "__init__.py" and layer(room(dotted(path))) <= top]
    files = [path for path in files if name(path) not in OPTIONAL]
    assert len(files) > 40
    assert {name(path): packages(path) - CORE for path in files if packages(path) - CORE} == {}


def test_no_arrow_points_back_up():
    files = [path for path in [*MODULES, *AROUND] if path != PACKAGE / "__init__.py"]
    found = {path: {other for other in rooms(path) if layer(other) > layer(room(dotted(path)))} for path in files}
    assert {str(path): wrong for path, wrong in found.items() if wrong} == {}


def test_no_circle_of_imports():
    files = [path for path in [*MODULES, *AROUND] if path != PACKAGE / "__init__.py"]
    graph = {dotted(path): at_the_top(path) for path in files}
    order = TopologicalSorter({module: (others & graph.keys()) - {module} for module, others in graph.items()})
    order.prepare()  # raises CycleError, which has the circle
