"""How Sphinx makes the site of docs/ and of the measured results beside it: ``python docs/build.py``."""

from __future__ import annotations

project = "rt-scale"
html_title = "rt-scale"
copyright = "2026, the rt-scale developers; Apache-2.0"
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["docs/**.md", "benchmarks/**.md", "cluster/**.md"]
exclude_patterns = [".*", "rt-store", "build", "site"]
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "monokai"
myst_heading_anchors = 4
