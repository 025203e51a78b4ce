"""``gpucnn visualize``: the report of a run drawn again, and what a network makes of one image."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pages
import pytest
from report_runs import PICTURES, check_report, page, train, without_times
from runs import assert_refused, drawn, gpucnn, write_npz

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
    assert [(row[0], row[1]) for row in rows] == [(a["class"], f"{100 * a['probability']:.2f} %") for a in every]
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
