"""``gpucnn runs`` and ``gpucnn compare``: what they tell of run folders, whole ones and damaged ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pages
import pytest
from runs import assert_refused, gpucnn

from gpucnn.report.comparison import Compared, comparison_page
from gpucnn.training import Settings

EVIL = '<b>"&\x1b[31m'


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_run(
    path: str, accuracies: list[float], tested: float | None = None, date: str | None = None, **settings: Any
) -> Path:
    """Write the text files of a run that had these validation accuracies."""
    folder = Path(path)
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(Settings(device="cpu", epochs=3, **settings).to_toml())
    epochs: list[dict[str, Any]] = [
        {"epoch": i, "step": 10 * i, "train_loss": 1 / i, "train_accuracy": a, "val_loss": 2 / i, "val_accuracy": a,
         "test_loss": None, "test_accuracy": None, "seconds": 30.0, "images_per_second": 100.0, "lr": 0.1 / i}
        for i, a in enumerate(accuracies, 1)
    ]  # fmt: skip
    if tested is not None:
        epochs.append({"epoch": 1, "step": 10, "checkpoint": "best", "test_loss": 1.0, "test_accuracy": tested})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(values) + "\n" for values in epochs))
    if date is not None:
        (folder / "environment.json").write_text(json.dumps({"date": date, "data": {"sha256": "1"}}))
    return folder


def rows_of(result: Any) -> list[list[str]]:
    assert result.code == 0, result.err
    return [line.split() for line in result.out.splitlines()]


def test_runs_with_their_best_figures() -> None:
    write_run("runs/a", [0.5, 0.75, 0.75], 0.7, "2026-01-02T10:00:00+00:00", lr=0.5)
    write_run("runs/deep/er/b", [0.25], None, "2026-03-02T10:00:00+00:00", model="vgg", data="/where/pets")
    write_run("runs/c", [])
    Path("runs/empty").mkdir()
    found = [json.loads(line) for line in gpucnn("runs", "--json").out.splitlines()]
    assert [one["run"] for one in found] == ["runs/deep/er/b", "runs/a", "runs/c"], "the newest first"
    assert found[1] == {
        "run": "runs/a", "model": "lenet", "data": "digits", "state": "done", "epochs": 3, "best_epoch": 2,
        "val_accuracy": 0.75, "test_accuracy": 0.7, "seconds": 90.0, "date": "2026-01-02T10:00:00+00:00", "problem": None,
    }  # fmt: skip
    assert [one["state"] for one in found] == ["epoch 1 of 3", "done", "not begun"]
    head, *lines = gpucnn("runs").out.splitlines()
    assert head.split() == ["run", "model", "data", "state", "epoch", "validation", "test", "time", "started"]
    assert " ".join(lines[1].split()) == ("runs/a lenet digits done 2 75.00 % 70.00 % 1 min 30 s 2026-01-02 10:00")
    assert lines[0].split()[:3] == ["runs/deep/er/b", "vgg", "pets"]
    for order, first in (("test", "runs/a"), ("val", "runs/a"), ("time", "runs/a"), ("name", "runs/a")):
        assert rows_of(gpucnn("runs", "--sort", order))[1][0] == first
    assert len(rows_of(gpucnn("runs", "runs/a", "runs"))) == 4, "each run once"


def test_no_runs_and_no_folder() -> None:
    nothing = gpucnn("runs")
    assert (nothing.code, nothing.out) == (0, "")
    assert "gpucnn train" in nothing.err
    Path("empty").mkdir()
    assert "No runs in empty." in gpucnn("runs", "empty").err
    assert_refused(gpucnn("runs", "nowhere"), 2, "nowhere", "none there")
    Path("file").write_text("")
    assert_refused(gpucnn("runs", "file"), 2, "a file")


def test_damaged_and_strangers_runs_are_listed() -> None:
    write_run("runs/good", [0.5], 0.5)
    for name, content in (("bad", "= ="), ("unknown", "colour = 1"), (EVIL, "model = 3")):
        Path("runs", name).mkdir()
        Path("runs", name, "config.toml").write_text(content)
    odd = write_run("runs/odd", [0.5], 0.5)
    (odd / "environment.json").write_text("[" * 5000)
    (odd / "metrics.jsonl").write_text(
        '{"step": 1}\nx\n{"epoch": "a", "step": 2, "train_loss": 1, "val_accuracy": true, "seconds": "x"}\n'
        '{"step": 3, "test_accuracy": {}}\n'
    )
    result = gpucnn("runs", "--sort", "name")
    assert result.code == 0
    assert "\x1b" not in result.out
    assert [line.split()[-6] for line in result.out.splitlines() if "unreadable" in line] == ["unreadable"] * 3
    found = {one["run"]: one for one in map(json.loads, gpucnn("runs", "--json").out.splitlines())}
    assert found["runs/odd"]["state"] == "not begun"
    assert "no readable TOML" in found["runs/bad"]["problem"]
    Path("loop").symlink_to(".", target_is_directory=True)
    assert len(rows_of(gpucnn("runs", "."))) == 6, "links below are not followed"


def test_compare_shows_what_differs() -> None:
    write_run("runs/a", [0.5, 0.75], 0.7, lr=0.5)
    write_run("runs/b", [0.25], 0.2, lr=0.25, augment="flip")
    result = gpucnn("compare", "runs/a", "runs/b", "--out", "c.html")
    rows = rows_of(result)
    assert rows[0] == ["run", "lr", "augment", "epoch", "validation", "accuracy", "test", "accuracy", "time"]
    assert rows[1] == ["runs/a", "0.5", "\N{EN DASH}", "2", "75.00", "%", "70.00", "%", "1", "min", "0", "s"]
    assert rows[2][:4] == ["runs/b", "0.25", "flip", "1"]
    assert rows[3] == ["Written:", "c.html"]
    page = pages.read(Path("c.html").read_text())
    assert pages.table(page.section("Figures"))[1] == [
        "runs/a", "2", "75.00 %", "70.00 %", "1 min 0 s", "0.5", "\N{EN DASH}",
    ]  # fmt: skip
    assert [bold.text for bold in page.section("Figures").all("b")] == ["75.00 %"]
    assert dict(pages.table(page.section("Settings that all share")))["batch_size"] == "64"
    titles = [figure.all("h3")[0].text for figure in page.section("Curves").all("figure")]
    assert titles == ["Validation accuracy", "Validation loss", "Training accuracy", "Training loss", "Learning rate"]
    validation = page.section("Curves").all("figure")[0]
    assert [place.text for place in validation.all("rect")] == [
        "epoch 1\nruns/a: 0.5\nruns/b: 0.25",
        "epoch 2\nruns/a: 0.75",
    ]
    objects = [json.loads(line) for line in gpucnn("compare", "runs", "--json").out.splitlines()]
    assert [one["differs"] for one in objects] == [{"lr": 0.5, "augment": None}, {"lr": 0.25, "augment": "flip"}]


def test_compare_twenty_and_refuse_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(20):
        write_run(f"runs/{i:02}", [i / 40] * 3, i / 40, date=f"2026-01-{i + 1:02}T10:00:00+00:00", seed=i)
    result = gpucnn("compare", "--out", "c.html")
    assert len(rows_of(result)) == 22
    lines = pages.read(Path("c.html").read_text()).section("Curves").all("figure")[0].all("polyline")
    assert len({line.attributes["class"] for line in lines}) == 20, "no two are drawn alike"
    assert_refused(gpucnn("compare", "runs/00"), 2, "two runs or more", "1")
    assert_refused(gpucnn("compare", "runs", "--out", "c.txt"), 2, ".html")
    assert_refused(gpucnn("compare", "runs", "--out", "no/where.html"), 1, "cannot be written")
    monkeypatch.chdir("runs")
    assert_refused(gpucnn("compare"), 2, "two runs or more")
    Path("bad").mkdir()
    Path("bad/config.toml").write_text("x")
    assert_refused(gpucnn("compare", "."), 2, "bad/config.toml")


def test_the_same_settings_and_other_images() -> None:
    a = write_run("a", [0.5], 0.5, date="2026-01-01T10:00:00+00:00")
    write_run("b", [0.5], 0.5, date="2026-01-02T10:00:00+00:00")
    assert "No setting differs." in gpucnn("compare", "a", "b").out
    (a / "environment.json").write_text(json.dumps({"data": {"sha256": "2"}}))
    assert "the images differ too" in gpucnn("compare", "a", "b").err


def test_hostile_names_are_only_text() -> None:
    def page(name: str) -> pages.Element:
        metrics = [{"epoch": 1, "step": 1, "train_loss": 1.0, "val_accuracy": 0.5}]
        one = Compared(name, metrics, {"model": name}, {"gpu": name})
        return pages.read(comparison_page([one, Compared("other", metrics)]))

    assert page(EVIL).tags() == page("good").tags()
    assert "script" not in page("<script>").tags()
