"""How Sphinx builds the site: python -m sphinx -W docs site."""

from __future__ import annotations

import re
from pathlib import Path

import click
from sphinx.application import Sphinx

import gpucnn
from gpucnn.cli import COMMANDS, GROUPS, cli

RESULTS = Path(__file__).parents[1] / "benchmarks" / "README.md"

project = "gpucnn"
author = "the gpucnn authors"
release = version = gpucnn.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click"]
myst_heading_anchors = 3
smartquotes = False  # "same" is what one types

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 120

pygments_dark_style = "github-dark"
html_theme = "furo"
html_title = "gpucnn"
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f5fbf", "color-brand-content": "#1f5fbf"},
    "dark_css_variables": {"color-brand-primary": "#8ab8ff", "color-brand-content": "#8ab8ff"},
}


def plain_prose(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Let |x| and N*OH*OW in docstrings stand as they are: only literals and examples are marked up there."""
    for i, line in enumerate(lines):
        if not re.match(r"\s*(>>>|\.\.\.)", line):
            parts = re.split(r"(``.*?``)", line)
            parts[::2] = [re.sub(r"([|*])", r"\\\1", part) for part in parts[::2]]
            lines[i] = "".join(parts)


def commands() -> str:
    """Return a table of the commands in the order of use."""
    rows = (
        f"| {title if i == 0 else ''} | <a href='#gpucnn-{name}'><code>{name}</code></a> | {text} |\n"
        for title, group in GROUPS.items()
        for i, (name, text) in enumerate(group.items())
    )
    return "| when | command | does |\n|---|---|---|\n" + "".join(rows)


def within_the_site(app: Sphinx, name: str, source: list[str]) -> None:
    """Bring results and commands in; send links that lead out of docs/ to where that is in the site."""
    if name == "benchmarks":
        source[0] = re.sub(r"\]\((?=[\w-]+\.json\))", "](../benchmarks/", RESULTS.read_text())
    if name == "cli":
        source[0] = source[0].replace("<!-- commands -->\n", commands()).replace("IN ORDER", ",".join(COMMANDS))
    for before, here in (("../docs/", ""), ("../benchmarks/README.md", "benchmarks.md"), ("../README.md", "index.md")):
        source[0] = source[0].replace(f"]({before}", f"]({here}")


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", plain_prose)
    app.connect("source-read", within_the_site)
    for name in COMMANDS:  # sphinx-click asks the commands for their names, the program only the table
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        command.name = name
