"""The site, by Sphinx: `make site`."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "extensions"), str(HERE.parent)]

import figures  # noqa: E402

from spectral.version import __version__  # noqa: E402

project = "jacobian-spectra"
author = "the authors of jacobian-spectra"
copyright = "the authors of jacobian-spectra"
version = release = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "myst_parser",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "docstrings",
    "minigallery",
    "mathtext",
    "tables",
]
exclude_patterns = ["extensions", "_templates", "reference/backreferences"]
templates_path = ["_templates"]
html_math_renderer = "mathtext"
highlight_language = "text"
smartquotes_action = "D"  # dashes; J' is a transpose
nitpicky = True
# What is named in signatures and documented elsewhere, or nowhere: other packages, and parts of this one that
# a user has no need to name.
nitpick_ignore_regex = [
    ("py:.*", r"(torch|numpy|scipy|matplotlib|np|nn|collections|contextlib|pathlib|rich|os|abc|types)\..*"),
    ("py:.*", "Figure|Images|Number|Tensor|WrongProductsError"),
    ("py:.*", r"spectral\.(jacobians\.jacobian\.WrongProductsError|operators\.base\.Derived)"),
    ("py:.*", r"spectral\.jacobians\.(of_model\.OfModel|program\.reach\.Reach|sharded\.ShardedJacobian)"),
    ("py:.*", r"spectral\.(operators\.space\.(Placed|T)|survey\.table\.(Row|Failure|Level))"),
    (
        "py:.*",
        r"spectral\.solvers\.(dense\.Formed|method\.FoundT)|denoisers\.networks\.conditional\.Coefficients",
    ),
]

# Other projects' names are links where their inventories can be fetched: SITE_INTERSPHINX=1 make site.
if os.environ.get("SITE_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "scipy": ("https://docs.scipy.org/doc/scipy", None),
        "matplotlib": ("https://matplotlib.org/stable", None),
    }

documented_modules = [
    "spectral",
    "spectral.solvers",
    "spectral.operators",
    "spectral.jacobians",
    "spectral.plots.spectra",
    "spectral.plots.estimates",
    "spectral.bases",
    "spectral.errors",
    "spectral.base",
    "spectral.results",
    "spectral.operators.space",
    "denoisers",
    "denoisers.networks",
    "denoisers.adapters",
    "denoisers.images",
    "denoisers.images.calpha",
    "denoisers.images.grid",
    "denoisers.classical",
    "denoisers.training",
    "denoisers.sampling",
    "denoisers.evaluation",
]
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
autosummary_generate = True
autosummary_ignore_module_all = False
napoleon_numpy_docstring = False
napoleon_use_param = False  # lists, of several names at once too
napoleon_custom_sections = [("Attributes", "params_style")]
napoleon_use_rtype = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "backreferences_dir": "reference/backreferences",
    "doc_module": ("spectral", "denoisers"),
    "reference_url": {"spectral": None, "denoisers": None},
    "filename_pattern": r"\.py",
    "within_subsection_order": "FileNameSortKey",
    "image_scrapers": (figures.scrape,),
    "reset_modules": (figures.style,),
    "thumbnail_size": (400, 280),
    "abort_on_example_error": True,
    "remove_config_comments": True,
    "show_memory": False,
    "write_computation_times": False,
    "show_signature": False,
    "capture_repr": (),
    "download_all_examples": False,
}
suppress_warnings = ["config.cache"]  # functions in the gallery's configuration: nothing to keep

html_theme = "pydata_sphinx_theme"
html_title = "jacobian-spectra"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_sidebars = {"tutorial": [], "index": []}
html_theme_options = {
    "logo": {"text": "jacobian-spectra"},
    "navbar_align": "left",
    "navbar_persistent": ["search-button"],
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_prev_next": True,
    "navigation_with_keys": False,
    "pygments_light_style": "tango",
    "back_to_top_button": False,
}
