"""The site: ``make docs`` builds it, and every warning is an error."""

import inspect
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.inspect import stringify_signature

sys.path.insert(0, str(Path(__file__).parents[1]))

project = "lossbalance"
author = "The lossbalance authors"
copyright = "The lossbalance authors, MIT licence"
try:
    release = metadata.version("lossbalance")
except metadata.PackageNotFoundError:  # a source tree that is not installed
    release = ""

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]

autodoc_default_options = {"members": True, "show-inheritance": True, "exclude-members": "forward, extra_repr"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
add_module_names = False
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = "lossbalance"
html_static_path: list[str] = []
html_theme_options = {"source_directory": "docs/"}
exclude_patterns = ["_build"]
linkcheck_anchors = False


def show_arguments(app: Sphinx, what: str, name: str, found: Any, options: Any, signature: str, returned: str) -> Any:
    """Shows the arguments of ``__init__`` for a class whose ``__new__`` takes any; none where it is that of Module."""
    if what != "class" or not signature.startswith("(*args"):
        return None
    own = inspect.signature(found)
    if "args" in own.parameters:
        return "()", ""
    return stringify_signature(own, show_return_annotation=False, unqualified_typehints=True), ""


def setup(app: Sphinx) -> None:
    """Registers the handler."""
    app.connect("autodoc-process-signature", show_arguments)
