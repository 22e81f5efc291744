"""The documentation as a site: `sphinx-build -W docs site`, then open site/index.html."""

import inspect
from importlib import metadata

from ddjax.recipes import RECIPES

project = "ddjax"
author = copyright = "The ddjax authors"
version = release = metadata.version("ddjax")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath", "substitution"]
myst_substitutions = {
    "recipes": "\n\n".join(f"## {name}\n\n{inspect.cleandoc(make.__doc__ or '')}" for name, make in RECIPES.items())
}
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]  # RESULTS.md, included whole, links files of the repository
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # signatures have them; shapes and units are in the words
napoleon_numpy_docstring = False

html_theme = "sphinx_book_theme"
html_title = "ddjax"
html_theme_options = {"show_toc_level": 2}
