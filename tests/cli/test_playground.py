"""``gpucnn playground``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from runs import assert_refused, gpucnn

NETS = """
from gpucnn import nn

def odd(classes=10):
    return nn.Sequential(nn.LPPool2d(2, 4), nn.Flatten(), nn.Linear(49, classes))

def wide(classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 3300), nn.Linear(3300, classes))
"""


def trained(data: Path, model: str = "lenet", *more: str) -> None:
    made = gpucnn("train", "--data", data, "--device", "cpu", "--epochs", 1, "--out", "run", "--model", model, *more)
    assert made.code == 0, made.err


def test_it_writes_the_page_and_the_report_links_to_it(data: Path) -> None:
    trained(data)
    report = Path("run/report.html")
    assert "gpucnn playground RUN" in report.read_text()
    assert 'href="playground.html"' not in report.read_text()
    done = gpucnn("playground", "run")
    assert done.code == 0, done.err
    page = Path("run/playground.html").read_text()
    assert done.out.startswith("Playground: run/playground.html (0.")
    assert "<h1>lenet on small</h1>" in page
    assert 'href="playground.html"' in report.read_text()
    assert gpucnn("visualize", "run", "--device", "cpu").code == 0
    assert 'href="playground.html"' in report.read_text(), "a report that is drawn again links to it too"


def test_out_names_another_file(data: Path) -> None:
    trained(data)
    assert gpucnn("playground", "run", "--out", "there/page.html").code == 0
    assert Path("there/page.html").is_file()
    assert not Path("run/playground.html").exists()
    assert_refused(gpucnn("playground", "run", "--out", "page.png"), 2, "--out", "ends in .html", "page.png")


def test_without_its_data_the_page_has_no_test_images(data: Path) -> None:
    trained(data)
    data.unlink()
    done = gpucnn("playground", "run")
    assert done.code == 0
    assert "page without test images" in done.err
    assert Path("run/playground.html").is_file()
    assert_refused(gpucnn("playground", "run", "--data", "nowhere.npz"), 1, "nowhere.npz")


def test_what_the_page_cannot_run_is_refused_before_anything_is_written(data: Path) -> None:
    Path("nets.py").write_text(NETS)
    trained(data, "nets.py:odd")
    assert_refused(gpucnn("playground", "run"), 1, "layer 0", "LPPool2d")
    assert not Path("run/playground.html").exists()
    trained(data, "nets.py:wide", "--overwrite")
    assert_refused(gpucnn("playground", "run"), 1, "nets.py:wide", "at most 10 MB of weights", "10.5 MB")
    assert not Path("run/playground.html").exists()


def test_images_of_each_class_take_turns() -> None:
    from gpucnn.cli.playground import MOST_IMAGES, some_of_each
    from gpucnn.data import ArrayDataset

    labels = np.repeat(np.arange(20), 50)
    images, chosen = some_of_each(ArrayDataset(np.zeros((1000, 1, 4, 4), np.uint8), labels))
    assert len(images) == MOST_IMAGES
    assert chosen[:20] == list(range(20))
    images, chosen = some_of_each(ArrayDataset(np.zeros((4, 3, 300, 300), np.uint8), [0, 1, 0, 1]))
    assert len(images) == 1, "one is there whatever it takes"


def test_of_an_onnx_file(data: Path) -> None:
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    trained(data)
    assert gpucnn("export", "run", "net.onnx").code == 0
    done = gpucnn("playground", "net.onnx", "--data", data)
    assert done.code == 0, done.err
    page = Path("net.html").read_text()
    assert "<h1>net</h1>" in page
    assert '"count":30' in page
    assert '"centred"' in page
    assert_refused(gpucnn("playground", "net.onnx", "--checkpoint", "best"), 2, "for run folders")


def test_a_node_that_the_page_cannot_run_is_named(data: Path) -> None:
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    from gpucnn import nn, onnx

    net = nn.Sequential(nn.ConvTranspose2d(1, 1, 2), nn.Flatten(), nn.Linear(9, 2))
    onnx.export(net, "odd.onnx", (1, 2, 2))
    assert_refused(gpucnn("playground", "odd.onnx"), 1, "ConvTranspose", "one that the page can run")
    assert not Path("odd.html").exists()
