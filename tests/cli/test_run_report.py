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
from runs import assert_refused, checkpoint_of, drawn, environment, gpucnn, numbers, write_npz

import gpucnn as package
from gpucnn import functional as F
from gpucnn import inspect, models
from gpucnn.checkpoint import Checkpoint
from gpucnn.report.images import filter_pixels, sheet
from gpucnn.training import RunFolder, SavedModel

pytest.importorskip("PIL")

PICTURES = ["confusion.png", "curves.png", "filters.png", "mistakes.png"]


def train(data: Path, *options: object) -> Any:
    return gpucnn("train", "--data", data, "--device", "cpu", "--epochs", 2, "--out", "run", *options)


def page(path: str = "run/report.html") -> pages.Element:
    return pages.read(Path(path).read_text())


def without_times(html: str) -> str:
    """Return a report without the section that is measured anew whenever it is drawn."""
    rest, found = re.subn(r'<section aria-labelledby="time-per-layer">.*?</section>', "", html, flags=re.DOTALL)
    assert found == 1
    return rest


def answers(run: str, images: np.ndarray) -> np.ndarray:
    """Return the probabilities (N, classes) of the run's network, one image at a time."""
    saved = SavedModel.load(RunFolder.open(Path(run)), "cpu")
    mean, std = np.array(saved.normalisation.mean), np.array(saved.normalisation.std)
    rows = []
    for image in images.reshape(-1, 1, 1, 28, 28):
        with package.no_grad():
            x = package.tensor(((image / 255 - mean) / std).astype(np.float32))
            rows.append(F.softmax(saved.net(x)).numpy()[0])
    return np.stack(rows)


def check_report(run: str, images: np.ndarray, labels: np.ndarray) -> None:
    """The report's counts, mistakes and numbers are those that the network, the data and the metrics give."""
    report = page(f"{run}/report.html")
    probabilities = answers(run, images)
    found = probabilities.argmax(1)
    counts = [
        [sum(1 for t, a in zip(labels, found, strict=True) if (t, a) == (i, j)) for j in range(10)] for i in range(10)
    ]
    rows = pages.table(report.section("Confusion matrix"))
    assert [[int(cell) for cell in row[1:11]] for row in rows[1:11]] == counts
    epochs = [line for line in numbers(Path(run)) if "train_loss" in line]
    tested = numbers(Path(run))[-1]
    assert sum(counts[i][i] for i in range(10)) / len(labels) == pytest.approx(tested["test_accuracy"], abs=1e-9)
    shown = report.section("Curves").all("tr")[1:]
    for row, values in zip(shown, epochs, strict=True):
        cells = [float(cell.attributes["value"]) for cell in row.all("data")]
        keys = [f"{split}_{what}" for split in ("train", "val") for what in ("loss", "accuracy")]
        assert values["test_loss"] is values["test_accuracy"] is None
        assert cells == [values[key] for key in keys]
    wrong = [i for i in range(len(labels)) if found[i] != labels[i]]
    worst = sorted(wrong, key=lambda i: probabilities[i, labels[i]])[:36]
    tiles = report.section("Worst mistakes").all("ul", **{"class": "tiles"})[0].inside
    assert len(tiles) == len(worst) > 10
    for tile, i in zip(tiles, worst, strict=True):
        assert (pages.pixels(tile.all("img")[0]) == images[i].reshape(28, 28)).all()
        said = tile.all("figcaption")[0].text
        assert said == f"{labels[i]} as {found[i]} ({100 * probabilities[i, found[i]]:.1f} %)"
        best = sorted(range(10), key=lambda k: -probabilities[i, k])[:3]
        assert [bar.text for bar in tile.all("li")] == [f"{k}{100 * probabilities[i, k]:.1f} %" for k in best]


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


# --- gpucnn visualize ------------------------------------------------------------------------------------------------


def test_a_run_is_drawn_again(data: Path) -> None:
    train(data)
    before = without_times(Path("run/report.html").read_text())
    for name in ("report.html", *PICTURES):
        Path("run", name).unlink(missing_ok=True)
    result = gpucnn("visualize", "run", "--device", "cpu")
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[0] == "Report: run/report.html"
    assert without_times(Path("run/report.html").read_text()) == before
    check_report("run", *drawn(200, 1))


def test_other_data_and_missing_data(data: Path) -> None:
    train(data)
    other = write_npz(data.parent / "other.npz", test=60)
    assert gpucnn("visualize", "run", "--data", other, "--device", "cpu").code == 0
    assert "60 test images of other" in page().section("Confusion matrix").text
    data.unlink()
    result = gpucnn("visualize", "run", "--device", "cpu")
    assert result.code == 0
    assert "Note: report without confusion matrix and mistakes: " in result.err
    assert "Confusion matrix" not in page().text
    assert page().section("Curves")
    assert_refused(gpucnn("visualize", "run", "--data", data, "--device", "cpu"), 1, "small.npz")


NONSENSE = [
    {"epoch": "<script>", "step": 5, "train_loss": 1.0},
    {"epoch": 1, "step": 5, "train_loss": "<b>"},
    {"epoch": 1, "step": 5, "train_loss": 1.0, "test_loss": "<i>"},
    {"epoch": 1, "step": 5, "train_loss": float("nan")},
    {"epoch": 0, "step": 0, "train_loss": 1.0},
    {"epoch": 10**400, "step": 10**400, "train_loss": 1.0},
    {"epoch": 1, "step": 5, "train_loss": []},
    {"step": 6, "loss": {}},
]


def test_a_strangers_folder_gives_no_traceback(data: Path) -> None:
    train(data)
    good = pages.table(page().section("Curves"))
    with Path("run/metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(values) + "\n" for values in NONSENSE)
    for about in ("[1]", "{", "{'a'", '{"a":' * 900 + "1" + "}" * 900, '{"<b>": "<i>"}'):
        Path("run/environment.json").write_text(about)
        result = gpucnn("visualize", "run", "--device", "cpu")
        assert result.code == 0, result.err
        assert pages.table(page().section("Curves")) == good
        assert not {"script", "i"} & page().tags()
    assert pages.table(page().section("Environment")) == [["<b>", "<i>"]]


@pytest.fixture
def picture(data: Path) -> Path:
    from PIL import Image

    Image.fromarray(drawn(200, 1)[0][0].reshape(28, 28)).resize((140, 140)).save("my digit.png")
    return Path("my digit.png")


def test_what_the_network_makes_of_a_picture(data: Path, picture: Path) -> None:
    train(data)
    result = gpucnn("visualize", "run", picture, "--device", "cpu")
    assert (result.code, result.err) == (0, "")
    predicted = gpucnn("predict", "run", picture).out.strip()
    assert result.out.splitlines() == [predicted, "Written: run/looks/my digit.html"]
    found = page("run/looks/my digit.html")
    rows = pages.table(found.section("Probabilities"))[1:]
    every = json.loads(gpucnn("predict", "run", picture, "--top", 10, "--json").out)["answers"]
    assert [(row[0], row[1]) for row in rows] == [(a["class"], f"{a['probability']:.2%}") for a in every]
    assert found.section("Feature maps of conv1").all("img")
    assert f"For the class {every[0]['class']}." in found.section("Where it looked").text
    about = ("--class", every[3]["class"], "--out", "sub/a.html", "--device", "cpu")
    assert gpucnn("visualize", "run", picture, *about).code == 0
    assert f"For the class {every[3]['class']}." in page("sub/a.html").section("Where it looked").text


def test_a_look_as_a_png_file(data: Path, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("resvg_py")
    train(data)
    assert gpucnn("visualize", "run", picture, "--out", "a.PNG", "--device", "cpu").code == 0
    assert Path("a.PNG").read_bytes()[:4] == b"\x89PNG"
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    result = gpucnn("visualize", "run", picture, "--out", "b.png", "--device", "cpu")
    assert_refused(result, 1, "pip install 'gpucnn[png]'")


def test_mistakes(data: Path, picture: Path) -> None:
    train(data, "--epochs", 1)
    cpu = ("--device", "cpu")
    assert_refused(gpucnn("visualize", "nowhere"), 2, "nowhere", "a run with a config.toml")
    assert_refused(gpucnn("visualize", "run", "none.png", *cpu), 1, "none.png: no such file")
    assert_refused(gpucnn("visualize", "run", picture, "--class", "11", *cpu), 2, "one of 0, 1, 2", "Did you mean 1?")
    assert_refused(gpucnn("visualize", "run", picture, "--out", "a.gif", *cpu), 2, "ends in .html or .png, got a.gif")
    assert_refused(gpucnn("visualize", "run", "--class", "1", *cpu), 2, "name it after the run")
    assert_refused(gpucnn("visualize", "run", picture, "--data", "digits", *cpu), 2, "leave out the image")
    assert_refused(gpucnn("visualize", "run", picture, "--png", *cpu), 2, "--png is about the whole run")
    Path("file").write_text("")
    assert_refused(gpucnn("visualize", "run", picture, "--out", "file/a.html", *cpu), 1, "cannot be written")


# --- a user's own images ---------------------------------------------------------------------------------------------


@pytest.fixture
def pets(data: Path) -> Path:
    """A folder of grey images of two classes, larger than asked for, that are not centred as digits are."""
    Image = pytest.importorskip("PIL.Image")
    images, labels = drawn(60, 0)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = Path("pets", "low" if label < 5 else "high")
        folder.mkdir(parents=True, exist_ok=True)
        page = np.full((44, 40), 255, np.uint8)
        page[16:, :28] -= image[0]
        Image.fromarray(page).save(folder / f"{i}.png")
    return Path("pets")


def test_a_picture_is_looked_at_as_it_is_predicted(pets: Path) -> None:
    assert gpucnn("train", "--data", pets, "--device", "cpu", "--epochs", 3, "--out", "run").code == 0
    for picture in sorted(pets.rglob("*.png"))[:6]:
        predicted = gpucnn("predict", "run", picture)
        looked = gpucnn("visualize", "run", picture, "--device", "cpu", "--out", "look.html")
        assert looked.out.splitlines()[0] == predicted.out.splitlines()[0]


def test_a_run_on_scaled_pictures_is_drawn_again_with_its_mistakes(pets: Path) -> None:
    train = ("train", "--data", pets, "--device", "cpu", "--epochs", 1, "--image-size", 36, "--out", "run")
    assert gpucnn(*train).code == 0
    before = without_times(Path("run/report.html").read_text())
    result = gpucnn("visualize", "run", "--device", "cpu")
    assert result.code == 0
    assert "no confusion matrix" not in result.err
    assert without_times(Path("run/report.html").read_text()) == before
    assert page().section("Confusion matrix")
    assert page().section("Worst mistakes")


@pytest.mark.parametrize("kept", [0, 1, 40])
def test_a_run_with_short_metrics_is_drawn(data: Path, kept: int) -> None:
    train(data)
    metrics = Path("run/metrics.jsonl")
    metrics.write_bytes(metrics.read_bytes()[:kept])
    result = gpucnn("visualize", "run", "--device", "cpu")
    assert result.code == 0, result.err
    assert page().section("Confusion matrix")
    metrics.write_text('{"step": 5, "epoch": 1, "train_loss": 1.0}\n')
    assert gpucnn("visualize", "run", "--device", "cpu").code == 0
    metrics.write_text('{"step": 5, "epoch": 1, "train_loss": 1.0, "val_loss": true, "test_accuracy": null}\n')
    assert gpucnn("visualize", "run", "--device", "cpu").code == 0
    metrics.unlink()
    assert gpucnn("visualize", "run", "--device", "cpu").code == 0
