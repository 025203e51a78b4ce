"""What a page looks like in a real browser: nothing lies over another thing, is cut off, or vanishes on paper."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import DESK, Browser

from gpucnn import inspect
from gpucnn.report.charts import columns
from gpucnn.report.html import page
from gpucnn.report.run_report import Balance

WIDTHS = (360, 768, 1440)

CLIPPED_IN_SVG = """
[...document.querySelectorAll('svg text')].filter(e => {
  const [r, s] = [e.getBoundingClientRect(), e.closest('svg').getBoundingClientRect()];
  return r.left < s.left - 1 || r.right > s.right + 1 || r.top < s.top - 1 || r.bottom > s.bottom + 1;
}).map(e => e.textContent)
"""

OVERLAPPING_IN_SVG = """
[...document.querySelectorAll('svg')].flatMap(svg => {
  const texts = [...svg.querySelectorAll('text')].filter(e => !(e.getAttribute('transform') || '').includes('-60'))
    .map(e => [e.textContent, e.getBoundingClientRect()]);
  return texts.flatMap(([a, p], i) => texts.slice(i + 1).filter(([, q]) =>
    Math.min(p.right, q.right) - Math.max(p.left, q.left) > 1 && Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > 4
  ).map(([b]) => [a, b]));
})
"""

SMALLEST = """
Math.min(...[...document.querySelectorAll('svg:not(.matrix) text')].map(e => { const svg = e.closest('svg');
  return parseFloat(getComputedStyle(e).fontSize) * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width; }))
"""


def report(classes: int, epochs: int = 6, steps: int = 12345) -> str:
    names = [f"{i} a long name of a class, species {'europaea' if i % 2 else 'orientalis'}" for i in range(classes)]
    metrics = [
        {
            "epoch": e,
            "step": e * steps,
            "train_loss": 0.001 / e,
            "train_accuracy": 0.5,
            "val_accuracy": 0.4,
            "lr": 0.005 / e,
        }
        for e in range(1, epochs + 1)
    ]
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 3, (classes, classes))
    image = np.full((1, 28, 28), 200, np.uint8)
    wrong = [inspect.Mistake(image, 0, 1, 0.5, ((1, 0.5), (0, 0.3)), f"folder/{'x' * 30}-{i}.png") for i in range(5)]
    outcome = inspect.Outcome("data", names, counts, wrong, examples={(0, 1): [image] * 8})
    balance = Balance(names, list(range(10, 10 + classes)), [[image] * 8] * classes)
    return inspect.report(inspect.Run("run", "done", {"a": 1}, {}, metrics, outcome=outcome, balance=balance))


def opened(window: Browser, folder: Path, html: str, size: tuple[int, int] = DESK, dark: bool = False) -> None:
    path = folder / "page.html"
    path.write_text(html, encoding="utf-8")
    window.open(path, size, dark)


@pytest.mark.parametrize("classes", [2, 34])
@pytest.mark.parametrize("width", WIDTHS)
def test_labels_of_charts_can_be_read(window: Browser, tmp_path: Path, width: int, classes: int) -> None:
    opened(window, tmp_path, report(classes), (width, 900))
    assert window.evaluate(CLIPPED_IN_SVG) == []
    assert window.evaluate(OVERLAPPING_IN_SVG) == []
    assert window.evaluate(SMALLEST) >= 11
    assert window.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("count", [1, 5, 26, 100])
def test_columns_name_what_there_is_room_for(window: Browser, tmp_path: Path, count: int) -> None:
    svg = columns("Images", [f"class number {i}" for i in range(count)], [5] * count, "images")
    opened(window, tmp_path, page("t", "", [("Columns", svg)]))
    assert window.evaluate(OVERLAPPING_IN_SVG) == []
    assert window.evaluate(CLIPPED_IN_SVG) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_a_long_name_keeps_its_end(window: Browser, tmp_path: Path, width: int) -> None:
    opened(window, tmp_path, report(34), (width, 900))
    hidden = window.evaluate(
        """[...document.querySelectorAll('bdi.long')].filter(e => {
          const [end, row] = [e.lastChild.getBoundingClientRect(), e.getBoundingClientRect()];
          return end.width && (end.right > row.right + 1 || e.lastChild.scrollWidth > e.lastChild.clientWidth + 1);
        }).map(e => e.title)"""
    )
    assert hidden == []
    inside = "getBoundingClientRect().right <= e.closest('li').getBoundingClientRect().right + 1"
    assert window.evaluate(f"[...document.querySelectorAll('.tiles bdi')].every(e => e.{inside})")


def test_images_of_a_table_stay_in_a_row_on_a_phone(window: Browser, tmp_path: Path) -> None:
    opened(window, tmp_path, report(2), (360, 780))
    tall = window.evaluate(
        "[...document.querySelectorAll('.scroll .strip')].map(e => e.getBoundingClientRect().height)"
    )
    assert tall
    assert max(tall) < 100
    across = window.evaluate("getComputedStyle(document.querySelector('.tiles')).gridTemplateColumns.split(' ').length")
    assert across == 2


def test_paper_is_light_whatever_the_screen_is(window: Browser, tmp_path: Path) -> None:
    def ink() -> Any:
        return window.evaluate("getComputedStyle(document.querySelector('h1')).color.match(/\\d+/g).map(Number)")

    opened(window, tmp_path, report(2), dark=True)
    assert min(ink()) > 150
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    window.ask("Emulation.setEmulatedMedia", media="print", features=dark)
    try:
        assert max(ink()) < 100
        over = window.evaluate("document.querySelectorAll('details:not([open])').length")
        shown = window.evaluate("[...document.querySelectorAll('details')].filter(e => e.offsetHeight).length")
        assert (over > 0, shown) == (True, 0)
    finally:
        window.ask("Emulation.setEmulatedMedia", media="", features=[])
    pdf = base64.b64decode(window.ask("Page.printToPDF")["data"])
    assert pdf.startswith(b"%PDF")
