"""Sphinx settings; built strictly: a warning is an error."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import gallery
import solvable_figures

from lrscope._version import __version__

project = "lrscope"
author = "The lrscope developers"
copyright = "2026, The lrscope developers"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
]
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_use_ivar = True
html_theme = "furo"
html_title = "lrscope"
exclude_patterns = ["_build", "_generated"]  # what is generated is included by a page
smartquotes_action = "qe"  # quotes and ellipses; TEXP-- and --json keep their hyphens


def setup(app):
    app.connect("builder-inited", lambda _: gallery.write())
    app.connect("builder-inited", lambda _: solvable_figures.write())
