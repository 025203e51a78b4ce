"""The site builds without a warning, leads everywhere it says, and names every public thing."""

from __future__ import annotations

import inspect
import re
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urldefrag

import browser
import pytest
from runs import ROOT, python

import gpucnn
from gpucnn import data, distributed, errors, functional, models, nn, onnx, optim, training
from gpucnn import inspect as looking
from gpucnn.cli import COMMANDS, cli


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as the README says, warnings being errors."""
    for module in ("sphinx", "furo", "myst_parser", "sphinx_click"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the tools themselves
            pytest.importorskip(module, reason=f"no {module}: pip install 'gpucnn[docs]'")
    folder = tmp_path_factory.mktemp("site")
    result = python("-W", "ignore", "-m", "sphinx", "-W", "--keep-going", "-q", ROOT / "docs", folder, cwd=ROOT)
    assert (result.returncode, result.stderr) == (0, "")
    return folder


def public() -> Iterator[str]:
    modules = (gpucnn, functional, nn, optim, models, data, looking, training, distributed, onnx)
    for module in modules:
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value) and not isinstance(value, types.ModuleType):
                yield f"{module.__name__}.{name}"
    for module in (nn.init, optim.lr_scheduler, errors):
        for name, value in vars(module).items():
            own = getattr(value, "__module__", None) == module.__name__
            if own and not name.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value)):
                yield f"{module.__name__}.{name}"


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    there = {name for page in (site / "api").glob("*.html") for name in re.findall(r'id="([\w.]+)"', page.read_text())}
    names = list(public())
    assert len(names) > 150
    assert [name for name in names if name not in there] == []


def test_every_command_and_option_is_in_the_reference(site: Path) -> None:
    import click

    page = (site / "cli.html").read_text()
    for name in COMMANDS:
        assert f'id="gpucnn-{name}"' in page
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        for option in command.params:
            if isinstance(option, click.Option):
                assert f'id="cmdoption-gpucnn-{name}-{option.opts[0].lstrip("-")}"' in page


def test_commands_come_in_the_order_of_use(site: Path) -> None:
    page = (site / "cli.html").read_text()
    assert re.findall(r"href='?\"?#gpucnn-(\w+)'?\"?><code>", page) == list(COMMANDS)
    assert [name for name in re.findall(r'<section id="gpucnn-(\w+)">', page) if name in COMMANDS] == list(COMMANDS)


def test_every_link_leads_somewhere(site: Path) -> None:
    lost = []
    for page in site.rglob("*.html"):
        for link in re.findall(r'(?:href|src)="([^"]+)"', page.read_text()):
            path, fragment = urldefrag(unquote(link))
            if "://" in path or path.startswith(("data:", "mailto:")):
                continue
            target = (page.parent / path.partition("?")[0]) if path else page
            found = target.exists() and (not fragment or f'id="{fragment}"' in target.read_text())
            if not found:
                lost.append(f"{page.relative_to(site)}: {link}")
    assert lost == []


@pytest.mark.parametrize(("size", "dark"), [(browser.DESK, False), (browser.PHONE, True)])
def test_a_browser_shows_it_without_a_network(site: Path, tmp_path: Path, size: tuple[int, int], dark: bool) -> None:
    if browser.find() is None:
        pytest.skip("no Chromium")
    window = browser.Browser(tmp_path)
    try:
        for name in ("index", "tutorial", "gallery", "recipes", "cli", "api/nn"):
            window.open(site / f"{name}.html", size, dark)
            assert [said for said in window.problems if not said.startswith("asked for file://")] == []
            assert window.evaluate("document.documentElement.scrollWidth <= innerWidth")
            light = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every(part => part > 200)"
            assert window.evaluate(light) is not dark
    finally:
        window.close()
