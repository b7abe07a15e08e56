"""The site: ``make docs`` builds it from the repository alone."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import generated_pages  # noqa: E402
import outside_names  # noqa: E402
import problem_pictures  # noqa: E402

import stiffml  # noqa: E402

project, author = "stiffml", "the stiffml developers"
release = version = stiffml.__version__
copyright = author

extensions = [
    "myst_parser",  # pages in Markdown
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # the site shows its formulas without the network
    "sphinx_gallery.gen_gallery",
]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "README.md"]
nitpicky = True

templates_path = ["_templates"]
autosummary_generate = True
autodoc_inherit_docstrings = False  # what torch says of forward is not about this
autodoc_typehints = "none"  # types are in the docstrings, with shapes and units
autodoc_member_order = "bysource"
numpydoc_show_class_members = False

# Types of parameters link to what they name, here and in other projects. A word with a capital or a dot that
# leads nowhere is a warning, unless outside_names.WITHOUT_PAGE has the reason.
intersphinx_mapping = outside_names.write_all(HERE / "generated" / "inventories")
numpydoc_xref_param_type = True
numpydoc_xref_aliases = outside_names.ALIASES | generated_pages.classes()
numpydoc_xref_ignore = outside_names.prose(HERE.parent / "stiffml", HERE.parent / "problems")
nitpick_ignore = [("py:obj", name) for name in outside_names.WITHOUT_PAGE]

sphinx_gallery_conf = {
    "examples_dirs": [str(HERE.parent / "tutorials")],
    "gallery_dirs": ["learn"],
    "filename_pattern": r"/\d\d_",
    "doc_module": ("stiffml", "problems"),  # lessons link to the reference, and the reference to lessons
    "backreferences_dir": "generated/lessons_by_name",
    "within_subsection_order": "FileNameSortKey",
    "remove_config_comments": True,
    "download_all_examples": False,
    "show_memory": False,
    "abort_on_example_error": True,
    "matplotlib_animations": False,
    "write_computation_times": False,
    "reset_modules": ("matplotlib", "generated_pages.say_where_a_lesson_is"),
    "first_notebook_cell": '# Open this in the folder "tutorials" of the source.\n__file__ = "lesson"',
}

html_theme = "pydata_sphinx_theme"
html_title = "stiffml"
html_static_path = ["_static"]
html_css_files = ["stiffml.css"]
html_show_sourcelink = False
# Pages without pages below them have no list of these at their side.
html_sidebars = {
    page: []
    for page in (
        "index",
        "start",
        "faq",
        "changelog",
        "citing",
        "when_not",
        "generated/problems",
        "generated/results",
    )
}
html_theme_options = {
    "show_prev_next": True,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
}


generated_pages.write_all(HERE / "generated")
problem_pictures.draw_all(HERE / "generated" / "pictures")


def keep_bars(app, what, name, obj, options, lines: list[str]) -> None:
    """|x| in a docstring is a magnitude, and no substitution of reStructuredText."""
    for number, line in enumerate(lines):
        if "|" in line and not line.lstrip().startswith((">>>", "...")):
            parts = line.split("``")
            parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
            lines[number] = "``".join(parts)


def setup(app) -> None:
    app.connect("autodoc-process-docstring", keep_bars)
