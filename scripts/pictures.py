"""Draw the pictures of the documentation: the report of a run, and the playground. Needs Chromium and a clone.

    python scripts/pictures.py                  # trains LeNet on the built-in digits first, about a minute in all
    python scripts/pictures.py runs/lenet-digits-1

Writes docs/images/report.png and docs/images/playground.png.
"""

from __future__ import annotations

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
COLOURS = 128
"""Colours that are kept: the files stay small."""


def gpucnn(*arguments: object, folder: str) -> None:
    subprocess.run([sys.executable, "-m", "gpucnn", *map(str, arguments)], check=True, cwd=folder)


def save(browser: Browser, picture: Path) -> None:
    """Keep what the browser shows of the page, in few colours."""
    browser.screenshot(picture)
    with Image.open(picture) as whole:
        small = few_colours(whole.crop((0, 0, *SIZE)), COLOURS)
    small.save(picture, optimize=True)


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
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if run is None:
            run = Path(folder, "runs", "lenet-digits-1")
            gpucnn("train", folder=folder)
        gpucnn("playground", run.resolve(), "--out", "playground.html", folder=folder)
        browser = Browser(Path(folder, "profile"))
        browser.open(run / "report.html", SIZE)
        save(browser, IMAGES / "report.png")
        browser.open(Path(folder, "playground.html"), SIZE)
        look_at_a_pixel(browser)
        save(browser, IMAGES / "playground.png")
        browser.close()


if __name__ == "__main__":
    main()
