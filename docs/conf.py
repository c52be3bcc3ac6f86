"""How Sphinx makes the pages of the Markdown files: `make docs`."""

project = "retinaflow"
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md", "config/*.md", "benchmarks/*.md"]
html_theme = "furo"
html_title = "retinaflow"
# As on the pages of repositories: a link to `#the-five-lines-to-change` finds that heading.
myst_heading_anchors = 3
# The pages load nothing from the internet, and the search runs in the browser: the site can be read from a disk.
html_show_sphinx = False
