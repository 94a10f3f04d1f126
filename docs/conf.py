"""The site: ``make docs`` builds it, and every warning is an error."""

import inspect
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from docutils.nodes import SkipNode, math, math_block
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util.inspect import stringify_signature
from sphinx.writers.html5 import HTML5Translator

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
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
if "LOSSBALANCE_DOCS_ONLINE" in os.environ:  # links to types of PyTorch and Lightning are looked up in a network
    extensions.append("sphinx.ext.intersphinx")
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", None),
    "torch": ("https://docs.pytorch.org/docs/stable", None),
    "pytorch_lightning": ("https://lightning.ai/docs/pytorch/stable", None),
}

html_math_renderer = "mathml"  # browsers set it by themselves, without a network
suppress_warnings = ["myst.header"]

autosummary_imported_members = True
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
templates_path = ["_templates"]
linkcheck_anchors = False


def show_arguments(app: Sphinx, what: str, name: str, found: Any, options: Any, signature: str, returned: str) -> Any:
    """Shows the arguments of ``__init__`` for a class whose ``__new__`` takes any; none where it is that of Module."""
    if what != "class" or not signature.startswith("(*args"):
        return None
    own = inspect.signature(found)
    if "args" in own.parameters:
        return "()", ""
    return stringify_signature(own, show_return_annotation=False, unqualified_typehints=True), ""


def write_formula(writer: HTML5Translator, node: math | math_block) -> None:
    """Writes a formula as MathML, a displayed one with its number of equation, if it has any.

    Raises:
        SkipNode: Always, for its text has been written.
    """
    display = "block" if isinstance(node, math_block) else "inline"
    markup = convert(node.astext(), display=display)
    writer.body.append(f'<div class="formula">{markup}</div>' if display == "block" else markup)
    raise SkipNode


def setup(app: Sphinx) -> None:
    """Registers the handlers."""
    app.add_html_math_renderer("mathml", (write_formula, None), (write_formula, None))
    app.connect("autodoc-process-signature", show_arguments)
