"""Draw the pictures of the documentation: report, playground, a look at an image, a sheet. Needs Chromium and a clone.

    python scripts/pictures.py                  # trains LeNet on the built-in digits first, about a minute in all
    python scripts/pictures.py runs/lenet-digits-1

Writes report.png, playground.png, look.png and bars.png into docs/images. The figures of gallery and tutorial are drawn by
gallery.py and tutorial_figures.py.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from browser import Browser
from figures import few_colours

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
SIZE = (1280, 860)
COLOURS = 256
"""Colours that are kept: the files stay small."""


def gpucnn(*arguments: object, folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "gpucnn", *map(str, arguments)], check=True, cwd=folder)


def save(browser: Browser, picture: Path) -> None:
    """Keep what the browser shows of the page, in few colours."""
    browser.screenshot(picture)
    with Image.open(picture) as whole:
        small = few_colours(whole.crop((0, 0, *SIZE)), COLOURS)
    small.save(picture, optimize=True)


def sheet_of_bars(folder: Path) -> None:
    """Draw the images of own-images.md by its own code, and their sheet by its own command."""
    page = (ROOT / "docs" / "own-images.md").read_text(encoding="utf-8")
    [code] = [part for part in re.findall(r"^```python\n(.*?)^```", page, re.S | re.M) if "bars/{label}" in part]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder)
    gpucnn("data", "show", "bars", "--sheet", "bars.png", folder=folder)
    with Image.open(folder / "bars.png") as sheet:
        few_colours(sheet, COLOURS).save(IMAGES / "bars.png", optimize=True)


def look_at_a_pixel(browser: Browser) -> None:
    """In the playground, choose a test image and a pixel of the second convolution, and wait until all is drawn."""
    browser.evaluate("document.querySelector('#images button:nth-child(6)').click()")
    browser.evaluate("playground.pin(4, 6 * 100 + 44)")
    while not browser.evaluate("playground.refreshes > 1 && playground.idle"):
        time.sleep(0.1)


@click.command()
@click.argument("run", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(run: Path | None) -> None:
    """Draw the pictures of RUN, or of a run made for it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        sheet_of_bars(folder)
        if run is None:
            run = folder / "runs" / "lenet-digits-1"
            gpucnn("train", folder=folder)
        gpucnn("playground", run.resolve(), "--out", "playground.html", folder=folder)
        gpucnn("data", "sample", "digits", "digit.png", folder=folder)
        gpucnn("visualize", run.resolve(), "digit.png", "--out", "look.html", folder=folder)
        browser = Browser(folder / "profile")
        browser.open(run / "report.html", SIZE)
        save(browser, IMAGES / "report.png")
        browser.open(folder / "look.html", SIZE)
        save(browser, IMAGES / "look.png")
        browser.open(folder / "playground.html", SIZE)
        look_at_a_pixel(browser)
        save(browser, IMAGES / "playground.png")
        browser.close()


if __name__ == "__main__":
    main()
