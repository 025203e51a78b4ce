"""The pages in a real browser, where one is installed: nothing it complains of, every image seen, light, dark, a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import numpy as np
import pytest
from browser import DESK, PHONE, Browser
from runs import drawn, gpucnn

from gpucnn import inspect

LEAST_CONTRAST = 4.5
"""Between text and what is behind it: the Web Content Accessibility Guidelines' level AA."""

CONTRASTS = """
(() => {
  const parse = c => (c.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = e => { const c = parse(getComputedStyle(e).backgroundColor);
    const a = c.length > 3 ? c[3] : 1; if (a == 1) return c;
    const under = e.parentElement ? behind(e.parentElement) : [255, 255, 255];
    return [0, 1, 2].map(i => a * c[i] + (1 - a) * under[i]); };
  const texts = [...document.body.querySelectorAll('*')].filter(
    e => !e.closest('svg') && [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()));
  return Math.min(...texts.map(e => { const [a, b] = [luminance(parse(getComputedStyle(e).color)), luminance(behind(e))];
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05); }));
})()
"""


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if browser.find() is None:
        pytest.skip(f"no browser is installed: none of {', '.join(browser.NAMES)}")
    try:
        one = Browser(tmp_path_factory.mktemp("profile"))
    except (OSError, RuntimeError, TimeoutError) as error:
        pytest.skip(f"the browser does not start: {error}")
    yield one
    one.close()


def check(window: Browser, path: Path | str, size: tuple[int, int], dark: bool, pictures: int) -> None:
    window.open(path, size, dark)
    assert window.problems == []
    sizes = window.evaluate(
        "[...document.images].map(i => [i.complete, i.naturalWidth, i.getBoundingClientRect().width])"
    )
    assert len(sizes) >= pictures
    assert all(complete and natural > 0 and shown > 0 for complete, natural, shown in sizes)
    assert window.evaluate("document.documentElement.scrollWidth") <= size[0], (
        "the page itself does not scroll sideways"
    )
    paper = sum(map(int, window.evaluate("getComputedStyle(document.body).backgroundColor")[4:-1].split(",")))
    assert (paper < 200) is dark
    assert window.evaluate(CONTRASTS) >= LEAST_CONTRAST


@pytest.mark.parametrize("size", [DESK, PHONE])
@pytest.mark.parametrize("dark", [False, True])
def test_the_pages_of_a_run(window: Browser, data: Path, size: tuple[int, int], dark: bool) -> None:
    from PIL import Image

    assert gpucnn("train", "--data", data, "--device", "cpu", "--epochs", 2, "--out", "run").code == 0
    Image.fromarray(drawn(200, 1)[0][0].reshape(28, 28)).save("digit.png")
    assert gpucnn("visualize", "run", "digit.png", "--device", "cpu").code == 0
    check(window, Path("run/report.html"), size, dark, 12)
    rows = window.evaluate("[...document.querySelectorAll('.confusion tbody tr')].map(r => r.innerText)")
    assert len(rows) == 11
    check(window, Path("run/looks/digit.html"), size, dark, 7)


def evil(classes: int) -> inspect.Run:
    name = (
        "\"><script>document.title='taken'</script><img src=x onerror=document.title='taken'><b style=position:fixed>"
        + "x" * 300
    )
    metrics: list[dict[str, Any]] = [
        {
            "epoch": e,
            "step": e,
            "train_loss": 1 / e,
            "train_accuracy": 1 - 1 / e,
            "seconds": 1.0,
            "images_per_second": 9.0,
        }
        for e in range(1, 200)
    ]
    wrong = [inspect.Mistake(np.zeros((3, 700, 500), np.uint8), 0, 1, 0.5)] * 36
    counts = np.ones((classes, classes), int)
    outcome = inspect.Outcome(name, [name] * classes, counts, wrong)
    return inspect.Run(name, name, {name: name}, {name: {name: name}}, metrics, outcome=outcome)


@pytest.mark.parametrize("size", [DESK, PHONE])
@pytest.mark.parametrize("classes", [20, 300])
def test_hostile_names_run_nothing_and_break_nothing(
    window: Browser, tmp_path: Path, size: tuple[int, int], classes: int
) -> None:
    path = tmp_path / "evil.html"
    path.write_text(inspect.report(evil(classes)))
    check(window, path, size, False, 36)
    assert window.evaluate("document.title") != "taken"
    assert window.evaluate("document.querySelectorAll('script, b[style]').length") == 0


def test_a_live_report_shows_the_newer_one(window: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(inspect.report(inspect.Run("t", "first"), refresh=1))
    window.open(path)
    assert "first." in window.evaluate("document.body.innerText")
    path.write_text(inspect.report(inspect.Run("t", "second")))
    window.wait_for_load()
    assert "second." in window.evaluate("document.body.innerText")
    with pytest.raises(TimeoutError):
        window.wait_for_load(2)
