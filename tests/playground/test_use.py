"""The page in a real browser: drawn on, pointed at, dropped on, switched, by mouse and by keyboard."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from browser import CONTRASTS, LEAST_CONTRAST, Browser
from playground_page import GREY, click, key, mouse, place, seasoned, settle, shown, until
from runs import drawn

from gpucnn import models, nn, no_grad, tensor
from gpucnn.playground import Subject, playground

CLOSE = 1e-4

# --- what people do ---------------------------------------------------------------------------------------------------


@pytest.fixture
def page(window: Browser, tmp_path: Path) -> Browser:
    """The page of LeNet with test images, on a desk."""
    net = seasoned(models.lenet, GREY)
    pictures, labels = drawn(20, 1)
    before = net.state_dict()["0.weight"] * 0 + 1
    shown(
        window, tmp_path / "page.html", net, GREY, 10, centred=True, images=pictures.reshape(-1, *GREY), labels=labels,
        filters_before=before,
    )  # fmt: skip
    window.net = net  # type: ignore[attr-defined]
    return window


def probabilities(window: Browser) -> list[float]:
    words = window.evaluate("[...document.querySelectorAll('#bars .number')].map((e) => e.textContent)")
    return [float(word.rstrip(" %")) / 100 for word in words]


def test_a_test_image_is_taken_as_python_takes_it(page: Browser) -> None:
    pictures, labels = drawn(20, 1)
    click(page, "#images button:nth-child(5)")
    x = (pictures[4].reshape(1, *GREY) / 255 - 0.2) / 0.5
    with no_grad():
        scores = page.net(tensor(x.astype(np.float32))).numpy()[0]  # type: ignore[attr-defined]
    expected = np.exp(scores - scores.max())
    np.testing.assert_allclose(probabilities(page), expected / expected.sum(), atol=0.0006)
    assert f"class {labels[4]}" in page.evaluate("document.querySelector('#message').textContent")
    assert page.problems == []


def test_it_is_drawn_on(page: Browser) -> None:
    click(page, "#clear")
    assert page.evaluate("playground.values[0].every((v) => Math.abs(v + 0.4) < 1e-6)"), (
        "black, as the network takes it"
    )
    left, top, width, height = place(page, "#pad")
    before = page.evaluate("playground.refreshes")
    mouse(page, "mousePressed", left + width * 0.7, top + height * 0.2)
    for step in range(10):
        page.ask(
            "Input.dispatchMouseEvent", type="mouseMoved", x=left + width * 0.7, y=top + height * (0.2 + 0.06 * step),
            button="left", buttons=1,
        )  # fmt: skip
    mouse(page, "mouseReleased", left + width * 0.7, top + height * 0.74)
    settle(page)
    seen = np.array(page.evaluate("Array.from(playground.values[0])")).reshape(28, 28) * 0.5 + 0.2
    rows, columns = np.nonzero(seen > 0.5)
    assert rows.max() - rows.min() + 1 == 20, "its ink is scaled to 20 pixels"
    assert abs((seen.sum(0) * np.arange(28)).sum() / seen.sum() - 13.5) <= 1, "and its mass is in the middle"
    assert columns.max() - columns.min() < 8
    assert page.evaluate("playground.refreshes") > before
    assert page.evaluate("document.querySelector('#answer').textContent").startswith("class ")
    assert page.problems == []


def test_a_finger_draws_and_points_on_a_phone(page: Browser, tmp_path: Path) -> None:
    page.ask("Emulation.setTouchEmulationEnabled", enabled=True)
    page.open(tmp_path / "page.html", (360, 740))
    settle(page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        page.ask("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y} for x, y in points])

    click(page, "#clear")
    left, top, width, height = place(page, "#pad")
    scrolled = page.evaluate("scrollY")
    touch("touchStart", (left + width / 2, top + height * 0.2))
    for step in range(1, 8):
        touch("touchMove", (left + width / 2, top + height * (0.2 + 0.08 * step)))
    touch("touchEnd")
    settle(page)
    assert page.evaluate("scrollY") == scrolled, "drawing does not scroll the page"
    seen = np.array(page.evaluate("Array.from(playground.values[0])")).reshape(28, 28) * 0.5 + 0.2
    assert np.ptp(np.nonzero(seen > 0.5)[0]) == 19
    place(page, CONV2)
    until(page, f"document.querySelector('{CONV2} .tile canvas')")  # tiles are made when they come into view
    left, top, width, height = place(page, f"{CONV2} .tile canvas")
    for _ in range(10):  # Chromium may swallow a tap that comes too soon after a stroke or a scroll
        touch("touchStart", (left + width / 2, top + height / 2))
        touch("touchEnd")
        time.sleep(0.5)
        if page.evaluate("playground.pointed.pinned"):
            break
    until(page, "playground.pointed.value === 4 && playground.pointed.pinned")
    settle(page)
    box = page.evaluate("(() => { const b = inspector.getBoundingClientRect(); return [b.bottom, b.height]; })()")
    assert box[0] == 740, "the panel comes up from the bottom"
    assert box[1] < 0.6 * 740
    click(page, "#close")
    assert page.evaluate("getComputedStyle(inspector).display") == "none"
    page.ask("Emulation.setTouchEmulationEnabled", enabled=False)
    assert page.problems == []


def test_it_is_drawn_on_with_the_keyboard(page: Browser) -> None:
    click(page, "#clear")
    page.evaluate("document.querySelector('#pad').focus()")
    key(page, " ", " ")
    for _ in range(8):
        key(page, "ArrowDown")
    assert page.evaluate("Math.max(...playground.values[0])") > 1
    assert page.problems == []


PICTURE = "a picture.png"


def picture(path: Path) -> Path:
    """Write a photograph of a dark bar on light paper."""
    from PIL import Image

    pixels = np.full((90, 120), 230, np.uint8)
    pixels[20:70, 50:62] = 30
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("how", ["dropped", "opened"])
def test_a_picture_is_given(page: Browser, tmp_path: Path, how: str) -> None:
    file = str(picture(tmp_path / PICTURE))
    if how == "opened":
        root = page.ask("DOM.getDocument")["root"]["nodeId"]
        node = page.ask("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        page.ask("DOM.setFileInputFiles", nodeId=node, files=[file])
    else:
        left, top, width, height = place(page, "#pad")
        given = {"items": [], "files": [file], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            page.ask("Input.dispatchDragEvent", type=kind, x=left + width / 2, y=top + height / 2, data=given)
    until(page, f"document.querySelector('#message').textContent.includes('{PICTURE}')")
    settle(page)
    seen = np.array(page.evaluate("Array.from(playground.values[0])")).reshape(28, 28) * 0.5 + 0.2
    rows, columns = np.nonzero(seen > 0.5)
    assert (rows.min(), rows.max()) == (4, 23), "the bar is light on dark and centred"
    assert 4 <= columns.max() - columns.min() + 1 <= 6
    assert page.problems == []


def test_what_is_no_picture_is_said(page: Browser, tmp_path: Path) -> None:
    (tmp_path / "no.txt").write_text("no")
    root = page.ask("DOM.getDocument")["root"]["nodeId"]
    node = page.ask("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    page.ask("DOM.setFileInputFiles", nodeId=node, files=[str(tmp_path / "no.txt")])
    until(page, "document.querySelector('#message').textContent.includes('no.txt')")
    assert "is no picture" in page.evaluate("document.querySelector('#message').textContent")


CONV2 = "#list > details:nth-child(4)"


def test_a_pixel_is_pointed_at_and_followed_back_to_the_image(page: Browser) -> None:
    left, top, width, height = place(page, f"{CONV2} .tile:nth-child(3) canvas")
    mouse(page, "mouseMoved", left + width * 0.45, top + height * 0.25)
    settle(page)
    assert page.evaluate("document.querySelector('#place').textContent") == "conv2, map 3, row 3, column 5"
    value = page.evaluate("playground.values[4][2 * 100 + 2 * 10 + 4]")
    said = page.evaluate("document.querySelector('#value').textContent").replace("\u2212", "-")
    assert float(said.lstrip("= ")) == pytest.approx(value, rel=0.01, abs=0.001)
    x = np.array(page.evaluate("Array.from(playground.values[3])")).reshape(6, 14, 14)
    weights = page.net.state_dict()  # type: ignore[attr-defined]
    product = (x[:, 2:7, 4:9] * weights["3.weight"][2]).sum() + weights["3.bias"][2]
    assert value == pytest.approx(product, abs=CLOSE)
    grids = page.evaluate("[...document.querySelectorAll('#parts .grid')].map((t) => t.querySelectorAll('td').length)")
    assert grids == [25, 25], "the window and the filter"
    click(page, f"{CONV2} .tile:nth-child(3) canvas", 0.45, 0.25)
    names = []
    for _ in range(10):
        names.append(page.evaluate("document.querySelector('#place').textContent").partition(",")[0])
        if page.evaluate("document.querySelector('#step').disabled"):
            break
        click(page, "#step")
    assert names == ["conv2", "pool1", "relu1", "conv1", "image"]
    click(page, "#undo")
    assert page.evaluate("document.querySelector('#place').textContent").startswith("conv1")
    key(page, "Escape")
    assert page.evaluate("document.querySelector('#inspector-part').hidden")
    assert page.problems == []


def test_pixels_are_reached_with_the_keyboard(page: Browser) -> None:
    page.evaluate(f"document.querySelector('{CONV2} .map').scrollIntoView()")
    settle(page)
    page.evaluate(f"document.querySelector('{CONV2} .map').focus({{focusVisible: true}})")
    for name in ("ArrowRight", "ArrowDown", "ArrowDown", "PageDown"):
        key(page, name)
    assert page.evaluate("document.querySelector('#pointed').textContent").startswith("conv2, map 2, row 3, column 2: ")
    key(page, "o")
    assert page.evaluate("playground.off.get(4).has(1)")
    key(page, "Enter")
    assert page.evaluate("document.querySelector('#place').textContent").startswith("pool1")
    key(page, "Backspace")


def test_a_filter_is_switched_off_by_a_click(page: Browser) -> None:
    before = probabilities(page)
    for number in range(1, 17):
        click(page, f"{CONV2} .tile:nth-child({number}) .switch")
    after = probabilities(page)
    assert after != before
    bias = {key: value for key, value in page.net.state_dict().items() if key.endswith("bias")}  # type: ignore[attr-defined]
    assert page.evaluate("playground.values[4].every((v) => v === 0)")
    assert "16 maps are off" in page.evaluate("document.querySelector('#off').innerText")
    assert page.evaluate(f"document.querySelector('{CONV2} .switch').getAttribute('aria-pressed')") == "false"
    assert len(bias) == 5
    click(page, "#all-on")
    assert probabilities(page) == before
    assert page.evaluate("document.querySelector('#off').hidden")


def test_filters_before_and_after_are_shown(page: Browser) -> None:
    click(page, "#list .filters summary")
    until(page, "document.querySelector('#list .filters figure')")
    words = page.evaluate("[...document.querySelectorAll('#list .filters figcaption')].map((e) => e.textContent)")
    assert words == ["before training", "after training"]
    assert page.evaluate("document.querySelectorAll('#list .filters canvas').length") == 12


def test_a_class_is_chosen_for_grad_cam(page: Browser) -> None:
    click(page, "#bars li:nth-child(4) button")
    assert "class 3" in page.evaluate("document.querySelector('#cam-text').textContent")
    assert (
        page.evaluate("document.querySelector('#bars li:nth-child(4) button').getAttribute('aria-pressed')") == "true"
    )


# --- how it looks -----------------------------------------------------------------------------------------------------

SIZES = [(360, 740), (768, 1024), (1440, 900)]
CLIPPED = """[...document.querySelectorAll('h1, h2, h3, p, button, figcaption, label, .number, .shape, .range, td')]
  .filter((e) => { const s = getComputedStyle(e); return e.offsetParent && s.clipPath === 'none' && s.overflow !== 'hidden'
    && e.scrollWidth > e.clientWidth + 1 && e.clientWidth; }).map((e) => e.outerHTML.slice(0, 100))"""


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_it_can_be_read_at_every_size(page: Browser, tmp_path: Path, size: tuple[int, int], dark: bool) -> None:
    page.open(tmp_path / "page.html", size, dark)
    settle(page)
    page.evaluate("playground.pin(4, 234); document.querySelector('.filters').open = true")
    settle(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert page.evaluate(CONTRASTS) >= LEAST_CONTRAST
    assert page.evaluate(CLIPPED) == []
    assert page.evaluate("[...document.querySelectorAll('button, select, input')].every((e) => e.labels?.length || "
                         "e.textContent.trim() || e.ariaLabel || e.getAttribute('aria-label'))")  # fmt: skip
    click(page, "#theme")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 200) is not dark, "the switch goes to the other one"
    assert page.evaluate(CONTRASTS) >= LEAST_CONTRAST
    assert page.problems == []


def test_hostile_names_run_nothing(window: Browser, tmp_path: Path) -> None:
    evil = (
        "\"><script>document.title='taken'</script><img src=x onerror=document.title='taken'></script><!--" + "x" * 200
    )
    net = nn.Sequential(nn.Conv2d(1, 2, 3, name=evil[:90].replace(".", "")), nn.Flatten(), nn.Linear(2 * 26 * 26, 12))
    path = tmp_path / "evil.html"
    images = np.zeros((12, 1, 28, 28), np.uint8)
    subject = Subject(evil, evil, net, [f"{k}{evil}" for k in range(12)], GREY, [0.5], [0.5], False, images, range(12))
    path.write_text(playground(subject))
    for size in SIZES:
        window.open(path, size)
        settle(window)
        click(window, "#images button:nth-child(2)")
        window.evaluate("playground.pin(1, 30)")
        settle(window)
        assert window.evaluate("document.title") != "taken"
        assert window.evaluate("document.querySelectorAll('img, b[style]').length") == 0
        assert window.evaluate("document.documentElement.scrollWidth") <= size[0]
        assert window.problems == []


def test_long_names_of_classes_keep_their_end_on_a_phone(window: Browser, tmp_path: Path) -> None:
    names = [f"a rather long name of a species, number {k}" for k in range(12)]
    net = seasoned(lambda: models.lenet(classes=12), GREY)
    path = tmp_path / "page.html"
    path.write_text(playground(Subject("mine", "about", net, names, GREY, [0.2], [0.5])))
    window.open(path, (360, 780))
    settle(window)
    shown = window.evaluate(
        """[...document.querySelectorAll('#bars bdi')].map((e) => {
          const [row, end] = [e.getBoundingClientRect(), e.lastChild.getBoundingClientRect()];
          return [e.textContent, end.width > 20 && end.right <= row.right + 1, e.firstChild.offsetWidth > 60]; })"""
    )
    assert len(shown) == 10
    assert all(name in names and whole and start for name, whole, start in shown)
    assert window.evaluate("document.documentElement.scrollWidth") <= 360


def test_paper_shows_every_open_layer_and_nothing_over_another(page: Browser, tmp_path: Path) -> None:
    page.open(tmp_path / "page.html", (360, 500))
    settle(page)
    page.evaluate("playground.pin(4, 44)")
    drawn = "[...document.querySelectorAll('.layer[open]')].map((e) => e.querySelectorAll('canvas').length)"
    assert 0 in page.evaluate(drawn), "layers far below are not drawn until they are seen"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert min(page.evaluate(drawn)) > 0
    page.ask("Emulation.setEmulatedMedia", media="print")
    page.ask("Emulation.setDeviceMetricsOverride", width=688, height=1016, deviceScaleFactor=1, mobile=False)
    try:
        fixed = "[...document.querySelectorAll('body *')].filter((e) => getComputedStyle(e).position === 'fixed')"
        assert page.evaluate(f"{fixed}.length") == 0
        assert page.evaluate("[...document.querySelectorAll('#inspector .grid td')].every((e) => e.innerText.trim())")
        assert page.evaluate("document.documentElement.scrollWidth") <= 688
    finally:
        page.ask("Emulation.setEmulatedMedia", media="")
