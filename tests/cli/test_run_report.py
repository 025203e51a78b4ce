"""What a run leaves in its folder to look at, from ``gpucnn train`` and ``gpucnn visualize``."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pages
import pytest
import safetensors.numpy
from report_runs import PICTURES, check_report, page, train
from runs import assert_refused, checkpoint_of, drawn, environment, gpucnn

import gpucnn as package
from gpucnn import inspect, models
from gpucnn.checkpoint import Checkpoint
from gpucnn.report.images import filter_pixels, sheet
from gpucnn.training import RunFolder, SavedModel, loop

pytest.importorskip("PIL")


def test_what_a_run_leaves(data: Path) -> None:
    result = train(data)
    assert (result.code, result.err) == (0, "")
    assert "Report: run/report.html" in result.out.splitlines()
    check_report("run", *drawn(200, 1))
    net = models.lenet()
    assert Path("run/summary.txt").read_text() == f"{inspect.summary(net, (1, 28, 28))}\n"
    report = page()
    assert not report.all("meta", **{"http-equiv": "refresh"})
    assert report.all("h1")[0].text == "lenet on small"
    assert "Finished after 2 epochs." in report.text
    settings = dict(pages.table(report.section("Configuration")))
    assert settings["lr"] == "0.005"
    assert settings["data"] == str(data.resolve())
    about = dict(pages.table(report.section("Environment")))
    assert about["versions.numpy"] == np.__version__
    assert about["data.sha256"] == json.loads(Path("run/environment.json").read_text())["data"]["sha256"]


@pytest.mark.parametrize("mixing", [(), ("--mixup", 0.4)])
def test_images_as_the_network_saw_them(data: Path, monkeypatch: pytest.MonkeyPatch, mixing: tuple[Any, ...]) -> None:
    seen: list[Any] = []
    step = loop.train_step

    def watched(net: Any, loss: Any, optimizer: Any, x: Any, y: Any, *rest: Any) -> Any:
        seen.append(x.numpy()[:, 0])
        return step(net, loss, optimizer, x, y, *rest)

    monkeypatch.setattr(loop, "train_step", watched)
    train(data, "--augment", "shift=3,rotate=20", "--seed", 4, "--batch-size", 64, *mixing)
    part = page().section("Training images")
    scaling = SavedModel.load(RunFolder.open(Path("run")), "cpu").normalisation

    def shown(alt: str) -> list[Any]:
        images = [image for image in part.all("img") if re.search(alt, image.attributes["alt"])]
        return [pages.pixels(image) / 255 for image in images]

    def images_of(batches: list[Any]) -> Any:
        return np.concatenate(batches) * scaling.std[0] + scaling.mean[0]

    if mixing:
        expected = images_of([batch[:4] for batch in seen[:3]])
        np.testing.assert_allclose(shown("Mixed"), expected, atol=0.5 / 255 + 1e-6)
    else:
        each = len(seen) // 2
        for epoch in range(2):
            of_epoch = images_of(seen[epoch * each : (epoch + 1) * each])
            for image in shown(f"epoch {epoch + 1}$"):
                nearest = np.abs(of_epoch - image).max(axis=(1, 2)).min()
                assert nearest < 0.5 / 255 + 1e-6, "it was among the images of this epoch"
        assert len(shown("epoch 2$")) == 4
        assert not np.array_equal(shown("epoch 1$"), shown("epoch 2$"))


def test_pictures_as_files(data: Path) -> None:
    pytest.importorskip("resvg_py")
    from PIL import Image

    train(data)
    assert not list(Path("run").glob("*.png")), "they are drawn on request"
    gpucnn("visualize", "run", "--device", "cpu", "--png")
    assert sorted(path.name for path in Path("run").glob("*.png")) == PICTURES
    train(data, "--png", "--overwrite")
    assert sorted(path.name for path in Path("run").glob("*.png")) == PICTURES
    for name in PICTURES:
        with Image.open(Path("run", name)) as picture:
            assert picture.format == "PNG"
            assert len(np.unique(np.asarray(picture.convert("L")))) > 2


def test_without_what_draws_pictures_nothing_is_begun(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    assert_refused(train(data, "--png"), 1, "pip install 'gpucnn[png]'")
    assert not Path("run").exists()
    assert train(data).code == 0
    assert_refused(gpucnn("visualize", "run", "--png"), 1, "pip install 'gpucnn[png]'")


def initial_filters(seed: int) -> np.ndarray:
    package.manual_seed(seed)
    return inspect.filters(models.lenet())


@pytest.mark.bits
def test_filters_before_training_outlive_a_resume(data: Path) -> None:
    train(data, "--seed", 3, "--validation", 0)
    kept = safetensors.numpy.load(Path("run/first-filters.safetensors").read_bytes())["filters"]
    np.testing.assert_array_equal(kept, initial_filters(3))
    first = page().section("Filters of the first convolution").figures()
    assert gpucnn("train", "--resume", "run", "--epochs", 3).code == 0
    second = page().section("Filters of the first convolution").figures()
    assert "Finished after 3 epochs" in page().text
    after = inspect.filters(SavedModel.load(RunFolder.open(Path("run")), "cpu").net)
    largest = max(np.abs(kept).max(), np.abs(after).max())
    for image, stack in zip(second, (kept, after), strict=True):
        expected = sheet(filter_pixels(stack, float(largest)))
        assert (pages.pixels(image) == expected).all()
    assert first[1].attributes["src"] != second[1].attributes["src"]
    Path("run/first-filters.safetensors").write_bytes(b"{")
    result = gpucnn("visualize", "run", "--device", "cpu")
    assert result.code == 0
    assert "Note: no filters from before training" in result.err
    assert len(page().section("Filters of the first convolution").figures()) == 1


def test_stopped_within_the_first_epoch_after_a_resume(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(data)
    before = Path("run/report.html").read_text()

    def power_failure(*_: Any) -> None:
        raise RuntimeError("power failure")

    monkeypatch.setattr("gpucnn.training.loop.train_step", power_failure)
    with pytest.raises(RuntimeError, match="power failure"):
        gpucnn("train", "--resume", "run", "--epochs", 3)
    assert Path("run/report.html").read_text() == before, "it shows more than could be drawn now"


def test_a_report_that_cannot_be_drawn_is_only_a_note(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("no ink")

    for name in ("report", "summary", "plots"):
        monkeypatch.setattr(inspect, name, broken)
    result = train(data)
    assert result.code == 0
    assert "Note: no report: no ink" in result.err
    assert "Note: no summary: no ink" in result.err
    assert "Traceback" not in result.err
    assert "Report:" not in result.out
    assert (checkpoint_of(Path("run")) / "state.json").is_file()


@pytest.mark.bits
def test_training_itself_is_the_same_with_and_without_a_report(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runs import weights

    train(data, "--live")
    monkeypatch.setattr("gpucnn.cli.run_report.ReportWriter._write", lambda *_, **__: None)
    gpucnn("train", "--data", data, "--device", "cpu", "--epochs", 2, "--out", "plain")
    assert weights(Path("run")) == weights(Path("plain"))


def test_a_live_report_reloads_until_the_run_ends(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, str, int]] = []
    write = RunFolder.write

    def look(folder: RunFolder, name: str, content: str | bytes) -> None:
        write(folder, name, content)
        if name == "report.html":
            now = page()
            numbers_shown = now.section("Curves").all("tr")[1:] if "Curves" in now.text else []
            state = now.all("header")[0].all("p")[0].text
            seen.append((bool(now.all("meta", **{"http-equiv": "refresh"})), state, len(numbers_shown)))

    monkeypatch.setattr(RunFolder, "write", look)
    result = train(data, "--live")
    assert "Live report: run/report.html" in result.out
    assert [(reloads, rows) for reloads, _, rows in seen] == [(True, 0), (True, 1), (False, 2)]
    assert [state.partition(".")[0] for _, state, _ in seen] == [
        "0 epochs of 2 done, running",
        "1 epoch of 2 done, running",
        "Finished after 2 epochs",
    ]


def test_an_interrupted_live_run_reloads_no_more(data: Path) -> None:
    command = [sys.executable, "-m", "gpucnn", "train", "--data", str(data), "--device", "cpu", "--epochs", "100000",
               "--live", "--test-each-epoch", "--out", "run"]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        while not re.match(r"\s+2 ", process.stdout.readline()):
            pass
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert not page().all("meta", **{"http-equiv": "refresh"})
    assert re.search(r"\d+ epochs of 100000 done, stopped at step \d+", page().text)
    assert page().section("Confusion matrix")


FLAT = """
from gpucnn import nn

def flat(classes, in_channels, image_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, classes))
"""


def test_no_validation_and_a_network_without_convolutions(data: Path) -> None:
    Path("flat.py").write_text(FLAT)
    assert train(data, "--validation", 0, "--model", "flat.py:flat").code == 0
    assert "Validation accuracy" not in page().text
    assert "Filters" not in page().text
    assert page().section("Confusion matrix")
    assert not Path("run/first-filters.safetensors").exists()
    assert gpucnn("visualize", "run", "--device", "cpu").code == 0
    assert "Filters" not in page().text


def test_colour_images_of_many_classes(data: Path) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (300, 3, 28, 28), np.uint8), np.arange(300) % 25
    np.savez("colour.npz", x_train=images, y_train=labels, x_test=images[:50], y_test=labels[:50])
    assert train(Path("colour.npz")).code == 0
    assert page().section("Confusion matrix").all("svg")
    tiles = page().section("Worst mistakes").figures()
    shown = {pages.pixels(tile).tobytes() for tile in tiles}
    assert shown < {np.ascontiguousarray(image.transpose(1, 2, 0)).tobytes() for image in images[:50]}
    assert "red, green and blue" in page().section("Filters of the first convolution").text


def test_overwriting_takes_it_all_away(data: Path) -> None:
    train(data)
    Path("run/looks").mkdir()
    Path("run/looks/a.html").write_text("")
    folder = RunFolder.new(Path("run"), "", overwrite=True)
    folder.make()
    folder.save(1, Checkpoint({}, {}, {}), best=False)
    folder.release()
    assert os.listdir("run") == ["checkpoints"]


def test_tensorboard_files_only_where_asked(data: Path) -> None:
    pytest.importorskip("tensorboardX")
    train(data)
    assert not Path("run/tensorboard").exists()
    assert train(data, "--tensorboard", "--overwrite").code == 0
    assert len(os.listdir("run/tensorboard")) == 1


def test_tensorboard_without_its_extra(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    assert_refused(train(data, "--tensorboard"), 1, "pip install 'gpucnn[tensorboard]'")
    assert not Path("run").exists()
