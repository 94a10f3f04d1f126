"""The site: ``make docs`` builds it, and every warning is an error."""

import sys
from importlib import metadata
from pathlib import Path

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
