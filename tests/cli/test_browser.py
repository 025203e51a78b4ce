"""The pages in a real browser, where one is installed: nothing it complains of, every image seen, light, dark, a phone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CONTRASTS, DESK, LEAST_CONTRAST, PHONE, Browser
from runs import drawn, gpucnn

from gpucnn import inspect


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
    assert len(rows) == 10
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
