"""What a page looks like in a real browser: nothing lies over another thing, is cut off, or vanishes on paper."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import DESK, Browser

from gpucnn import inspect, nn
from gpucnn.report.charts import Series, chart_svg, columns
from gpucnn.report.comparison import Compared, comparison_page
from gpucnn.report.html import page
from gpucnn.report.run_report import MOST_LAYERS, Balance

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


TOUCHING = """
[...document.querySelectorAll('svg:not(.matrix)')].flatMap(svg => {
  const texts = [...svg.querySelectorAll('text:not([transform])')].map(e => [e.textContent, e.getBoundingClientRect()]);
  return texts.flatMap(([a, p], i) => texts.slice(i + 1).filter(([, q]) =>
    Math.abs(p.top - q.top) < 2 && Math.max(p.left, q.left) - Math.min(p.right, q.right) < 3).map(([b]) => [a, b]));
})
"""

NAMES_OF_A_MATRIX = """
(() => { const svg = document.querySelector('.matrix'), turned = [...svg.querySelectorAll('text[transform]')];
  const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
  const size = scale * parseFloat(getComputedStyle(turned[0]).fontSize);
  const apart = scale * (turned[1].x.baseVal[0].value - turned[0].x.baseVal[0].value) * Math.sin(Math.PI / 3);
  return [size, apart / size]; })()
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
    assert window.evaluate(TOUCHING) == []
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


@pytest.mark.parametrize("classes", [21, 34, 60, 100])
def test_names_beside_a_matrix_can_be_read_on_a_phone(window: Browser, tmp_path: Path, classes: int) -> None:
    opened(window, tmp_path, report(classes), (360, 780))
    size, apart = window.evaluate(NAMES_OF_A_MATRIX)
    assert size >= 11
    assert apart >= 1.05


def test_keys_break_between_words_on_a_phone(window: Browser, tmp_path: Path) -> None:
    settings = {"weight_decay": 0.1, "test_each_epoch": False, "label_smoothing": 0.0}
    versions = {"versions": {"safetensors": "0.8.0"}, "blas_threads": 1}
    run = inspect.Run("resnet:width=8,blocks=1", "done", settings, versions)
    opened(window, tmp_path, inspect.report(run), (360, 780))
    words = window.evaluate(
        """[...document.querySelectorAll('h1, .facts th')].flatMap(e => [...e.childNodes]).filter(n => n.data).map(n => {
          const range = document.createRange(); range.selectNode(n); return [n.data, range.getClientRects().length]; })"""
    )
    assert ["safetensors", 1] in words
    assert [word for word, lines in words if lines > 1] == []


@pytest.mark.parametrize("width", WIDTHS)
def test_long_names_of_classes_are_told_apart(window: Browser, tmp_path: Path, width: int) -> None:
    opened(window, tmp_path, report(34), (width, 780))
    starts = window.evaluate("[...document.querySelectorAll('.bars3 .long span:first-child')].map(e => e.offsetWidth)")
    assert starts
    assert min(starts) > 40
    widths = window.evaluate("[...document.querySelectorAll('.names .strip')].map(e => e.offsetWidth)")
    assert min(widths) > 200, "names stand above their images where there is no room beside"
    numbers = "document.querySelector('[aria-labelledby=classes] .scroll')"
    assert width == 360 or window.evaluate(f"{numbers}.scrollWidth <= {numbers}.clientWidth"), "no column is hidden"


def on_paper(window: Browser) -> None:
    """Show the page as it is printed on A4 with margins of 14 mm."""
    window.ask("Emulation.setEmulatedMedia", media="print")
    window.ask("Emulation.setDeviceMetricsOverride", width=688, height=1016, deviceScaleFactor=1, mobile=False)


def test_paper_shows_all_of_a_comparison(window: Browser, tmp_path: Path) -> None:
    runs = [
        Compared(f"runs/{i}", settings=dict.fromkeys(("model", "data", "lr", "seed", "limit"), f"{'x' * 20}-{i}"))
        for i in range(3)
    ]
    opened(window, tmp_path, comparison_page(runs))
    on_paper(window)
    try:
        assert window.evaluate("Math.max(...[...document.querySelectorAll('table')].map(e => e.offsetWidth))") <= 688
    finally:
        window.ask("Emulation.setEmulatedMedia", media="")


def test_paper_has_no_heading_without_content(window: Browser, tmp_path: Path) -> None:
    deep = nn.Sequential(*(nn.ReLU() for _ in range(MOST_LAYERS + 1)))
    run = inspect.Run("t", "s", {"a": 1}, summary=inspect.summary(deep, (1, 8, 8)))
    opened(window, tmp_path, inspect.report(run))
    assert window.evaluate("document.querySelector('#layers').offsetHeight") > 0
    on_paper(window)
    try:
        assert window.evaluate("document.querySelector('#layers').offsetHeight") == 0
        assert window.evaluate("document.querySelector('#configuration').offsetHeight") > 0
    finally:
        window.ask("Emulation.setEmulatedMedia", media="")


@pytest.mark.parametrize(("values", "below"), [((0.9, 0.98, 0.97), True), ((0.05, 0.02, 0.03), False)])
def test_best_is_written_where_the_lines_are_not(values: tuple[float, ...], below: bool) -> None:
    svg = chart_svg("t", [Series("a", "val", tuple(enumerate(values, 1)))], "y", (0, 1), best=2)
    [row] = re.findall(r'y="([\d.]+)"[^>]*>best<', svg)
    assert (float(row) > 150) is below


def test_the_pictures_of_a_look_stand_in_a_row_on_a_desk_and_on_paper(window: Browser, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 5), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 24 * 24, 3))
    image = np.zeros((1, 28, 28), np.uint8)
    found = inspect.look(net, image, ["a", "b", "c"], original=image[0])
    opened(window, tmp_path, inspect.look_page(found, "one.png"))
    rows = "new Set([...document.querySelectorAll('#where-it-looked ~ .row > figure')].map(e => e.offsetTop)).size"
    assert window.evaluate("document.querySelectorAll('#where-it-looked ~ .row > figure').length") == 4
    assert window.evaluate(rows) == 1
    on_paper(window)
    try:
        assert window.evaluate(rows) == 1
    finally:
        window.ask("Emulation.setEmulatedMedia", media="")
