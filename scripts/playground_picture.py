"""Takes the picture of the playground that the documentation shows. Needs Chromium and a clone.

gpucnn train && gpucnn playground runs/lenet-digits-1
python scripts/playground_picture.py runs/lenet-digits-1/playground.html docs/images/playground.png
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from browser import Browser

WIDTH, HEIGHT = 1280, 860
COLOURS = 128
"""Colours that are kept: the file stays small."""


def take(page: Path, picture: Path) -> None:
    """Open the page, look at a pixel of the second convolution on a test image, and save what is seen."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(Path(profile))
        browser.open(page, (WIDTH, HEIGHT))
        browser.evaluate("document.querySelector('#images button:nth-child(6)').click()")
        browser.evaluate("playground.pin(4, 6 * 100 + 44)")
        while not browser.evaluate("playground.refreshes > 1 && playground.idle"):
            time.sleep(0.1)
        browser.screenshot(picture)
        browser.close()
    with Image.open(picture) as whole:
        small = whole.crop((0, 0, WIDTH, HEIGHT)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(picture, optimize=True)


if __name__ == "__main__":
    take(Path(sys.argv[1]), Path(sys.argv[2]))
