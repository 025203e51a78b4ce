"""Measure the playground: how often a second its page is up to date while someone draws. Needs Chromium and a clone.

    python scripts/bench_playground.py --json benchmarks/playground.json
    python scripts/bench_playground.py --model resnet --input-shape 3,32,32

The networks have random weights, which cost what trained ones do. A pen draws circles on the pad for some seconds, a move in
every frame. An update is all that the page shows, made for what is drawn: probabilities, maps, Grad-CAM, the sum at a pixel.
Headless Chromium makes 60 frames a second at most and paints without a GPU.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from browser import DESK, PHONE, Browser

from gpucnn import manual_seed, models, no_grad, tensor
from gpucnn.cli.summary import read_shape
from gpucnn.playground import Subject, playground

DRAW = """
(async (seconds) => {
  const pad = document.querySelector("#pad");
  pad.scrollIntoView();
  const box = pad.getBoundingClientRect();
  const at = (t) => ({ pointerId: 1, bubbles: true, button: 0, buttons: 1,
    clientX: box.left + box.width * (0.5 + 0.3 * Math.cos(t)), clientY: box.top + box.height * (0.5 + 0.35 * Math.sin(t)) });
  const frame = () => new Promise(requestAnimationFrame);
  pad.dispatchEvent(new PointerEvent("pointerdown", at(0)));
  const frames = [], start = performance.now(), first = playground.refreshes;
  let last = await frame();
  while (performance.now() - start < 1000 * seconds) {
    pad.dispatchEvent(new PointerEvent("pointermove", at((performance.now() - start) / 300)));
    const now = await frame();
    frames.push(now - last);
    last = now;
  }
  pad.dispatchEvent(new PointerEvent("pointerup", at(0)));
  frames.sort((a, b) => a - b);
  const length = (performance.now() - start) / 1000;
  return { frames: frames.length / length, updates: (playground.refreshes - first) / length,
    ms95: frames[Math.floor(0.95 * frames.length)], ms100: frames.at(-1) };
})
"""


def write_page(path: Path, model: str, shape: tuple[int, int, int]) -> int:
    """Write the page of a network with random weights and return its bytes."""
    manual_seed(0)
    C, H, W = shape
    net = models.build(model, in_channels=C, image_size=(H, W), classes=10)
    with no_grad():
        net.train()(tensor(np.random.default_rng(0).normal(size=(8, *shape)).astype(np.float32)))
    names = [f"class {k}" for k in range(10)]
    return path.write_text(
        playground(Subject(model, "", net.eval(), names, shape, [0.2] * C, [0.5] * C, centred=C == 1))
    )


def measure(browser: Browser, page: Path, size: tuple[int, int], seconds: float, pixel: bool) -> dict[str, Any]:
    browser.open(page, size)
    while not browser.evaluate("window.playground?.refreshes && playground.idle"):
        time.sleep(0.05)
    if pixel:
        browser.evaluate("playground.pin(playground.usualLayer(), 0)")
    browser.evaluate(f"({DRAW})(0.5)")
    figures = browser.evaluate(f"({DRAW})({seconds})")
    return {key: round(value, 1) for key, value in figures.items()}


@click.command()
@click.option("--model", default="lenet", show_default=True, metavar="NAME[:OPTION=VALUE,...]")
@click.option("--input-shape", callback=read_shape, default="1,28,28", show_default=True, metavar="C,H,W")
@click.option(
    "--seconds", type=click.FloatRange(0.5, 60), default=5, show_default=True, help="Seconds of drawing each."
)
@click.option("--rounds", type=click.IntRange(1, 20), default=3, show_default=True)
@click.option(
    "--json", "out", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures to this file too."
)
def main(model: str, input_shape: tuple[int, int, int], seconds: float, rounds: int, out: Path | None) -> None:
    """Draw on the playground of a network and print how many frames a second it kept up with."""
    rows = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        page = Path(folder, "playground.html")
        size = write_page(page, model, input_shape)
        browser = Browser(Path(folder, "profile"))
        version = browser.ask("Browser.getVersion")["product"]
        for _ in range(rounds):
            for window, shape in (("desk", DESK), ("phone", PHONE)):
                for pixel in (False, True):
                    row = {"window": window, "pixel": pixel, **measure(browser, page, shape, seconds, pixel)}
                    rows.append(row)
                    click.echo(
                        f"{window:5}  {'a pixel pointed at' if pixel else '':18}  {row['updates']:5} updates/s  "
                        f"{row['frames']:5} frames/s  95 % of frames within {row['ms95']} ms, all within {row['ms100']}"
                    )
        browser.close()
    if out:
        whole = {
            "model": model,
            "bytes": size,
            "browser": version,
            "machine": platform.processor() or platform.machine(),
        }
        out.write_text(json.dumps({**whole, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
