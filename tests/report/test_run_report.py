"""The report: what it says is what it was given, for whatever it is given."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pages
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucnn import models, nn
from gpucnn.formats import ABSENT
from gpucnn.inspect import Mistake, Outcome, Run, filters, report, summary
from gpucnn.report.charts import Series, chart, ticks
from gpucnn.report.curves import series_of
from gpucnn.report.outcome import calibrated
from gpucnn.report.run_report import verdict
from gpucnn.report.training_images import Balance

pytest.importorskip("PIL")

RNG = np.random.default_rng(0)
EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>\x00\ud800\u202e&amp;'


def metrics(epochs: int, validation: bool = True) -> list[dict[str, Any]]:
    objects: list[dict[str, Any]] = []
    rng = np.random.default_rng(1)
    for epoch in range(1, epochs + 1):
        objects.append({"step": epoch * 150 - 50, "epoch": epoch, "loss": float(rng.random()), "lr": 0.1})
        values = {
            f"{split}_{what}": float(rng.random())
            for split in ("train", "val", "test")
            for what in ("loss", "accuracy")
        }
        if not validation:
            values |= {"val_loss": None, "val_accuracy": None}
        objects.append({"epoch": epoch, "step": epoch * 150, **values, "seconds": 1.25, "images_per_second": 800.0})
    return objects


def outcome(classes: int = 3, C: int = 1, mistakes: int = 4, names: list[str] | None = None) -> Outcome:
    confusion = RNG.integers(0, 9, (classes, classes)) + 50 * np.eye(classes, dtype=int)
    wrong = tuple(
        Mistake(RNG.integers(0, 256, (C, 9, 9), np.uint8), i % classes, (i + 1) % classes, 0.5 + i / 100)
        for i in range(mistakes)
    )
    return Outcome("small", names or [f"class {i}" for i in range(classes)], confusion, wrong)


def read(run: Run, **options: Any) -> pages.Element:
    return pages.read(report(run, **options))


@pytest.mark.parametrize("validation", [True, False])
def test_the_numbers_are_those_of_the_metrics(validation: bool) -> None:
    objects = metrics(3, validation)
    page = read(Run("t", "s", metrics=objects))
    rows = page.section("Curves").all("table")[0].all("tr")[1:]
    expected = [values for values in objects if "train_loss" in values]
    keys = [f"{split}_{what}" for split in ("train", "val", "test") for what in ("loss", "accuracy")]
    assert len(rows) == 3
    for row, values in zip(rows, expected, strict=True):
        assert row.all("th")[0].text == str(values["epoch"])
        assert row.all("td")[0].text == f"{values['step']:,}"
        cells = row.all("td")[1:7]
        exact = [float(cell.all("data")[0].attributes["value"]) if cell.all("data") else None for cell in cells]
        assert exact == [values[key] for key in keys], "to the last bit"
        forms = [lambda x: f"{x:.4f}", lambda x: f"{100 * x:.2f} %"] * 3
        texts = ["\N{EN DASH}" if x is None else form(x) for form, x in zip(forms, exact, strict=True)]
        assert [cell.text for cell in cells] == texts
    cards = dict(zip([d.text for d in page.all("dt")], [d.text for d in page.all("dd")], strict=True))
    assert cards["Test accuracy"] == f"{100 * expected[-1]['test_accuracy']:.2f} %"
    assert ("Validation accuracy" in cards) is validation
    assert cards["Training took"] == "3.8 s"


def test_the_curves_stand_where_the_numbers_are() -> None:
    objects = metrics(4)
    for what in ("loss", "accuracy"):
        svg = pages.read(chart("T", series_of(objects, what), what, (0, None)))
        labels = [
            (float(t.text), float(t.attributes["y"]))
            for t in svg.all("text")
            if t.attributes.get("text-anchor") == "end"
        ]
        (low, bottom), (high, top) = labels[0], labels[-1]
        for split in ("train", "val", "test"):
            dots = svg.all("circle", **{"class": split})
            assert len(dots) == 4
            for values, dot in zip(objects[1::2], dots, strict=True):
                y = low + (bottom - 5 - float(dot.attributes["cy"])) / (bottom - top) * (high - low)
                assert y == pytest.approx(values[f"{split}_{what}"], abs=(high - low) / 500)
            columns = [float(dot.attributes["cx"]) for dot in dots]
            np.testing.assert_allclose(np.diff(columns), columns[1] - columns[0], atol=0.2)
        words = {"train": "training", "val": "validation", "test": "test"}
        for place, values in zip(svg.all("rect", **{"class": "hit"}), objects[1::2], strict=True):
            told = [f"{word}: {values[f'{split}_{what}']:.4g}" for split, word in words.items()]
            assert place.text == "\n".join([f"epoch {values['epoch']}", *told])
            left, wide = (float(place.attributes[key]) for key in ("x", "width"))
            assert left <= columns[values["epoch"] - 1] <= left + wide
        lines = svg.all("polyline")
        assert len(lines) == (4 if what == "loss" else 3)
    first_step = pages.read(chart("T", series_of(objects, "loss"), "loss", (0, None))).all("polyline")[0]
    assert float(first_step.attributes["points"].split(",")[0]) < columns[0], (
        "step 100 of 150 is before the epoch's end"
    )


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_and_enclose(low: float, width: float) -> None:
    places = ticks(low, low + width)
    step = places[1] - places[0]
    slack = 1e-6 * max(abs(low), width)
    assert places[0] <= low + slack
    assert places[-1] >= low + width - slack
    assert 2 <= len(places) <= 8
    assert places[1] > low - slack
    assert places[-2] < low + width + slack
    if width > abs(low) / 1e6:
        assert round(step / 10 ** np.floor(np.log10(step) + 1e-9), 3) in (1, 2, 5)


@given(st.integers(0, 5), st.integers(1, 5000))
def test_whole_ticks_are_epochs(first: int, count: int) -> None:
    places = ticks(first, first + count, whole=True)
    assert all(float(place).is_integer() and first <= place <= first + count for place in places)
    assert 2 <= len(places) <= 7


def test_one_epoch_flat_lines_and_many_points() -> None:
    one = pages.read(chart("T", [Series("test", "test", ((1, 0.5),))], "loss", (0, None)))
    assert len(one.all("circle")) == 1
    assert not one.all("polyline")
    flat = pages.read(chart("T", [Series("test", "test", ((1, 1.0), (2, 1.0)))], "accuracy", (None, 1)))
    assert all(np.isfinite(float(dot.attributes["cy"])) for dot in flat.all("circle"))
    objects = [{"step": i, "epoch": 1, "loss": 1.0, "lr": 1.0} for i in range(5000)]
    steps = series_of([*objects, *metrics(1)], "loss")[0]
    assert 300 < len(steps.points) <= 600


def test_confusion_counts() -> None:
    given_outcome = outcome(4, mistakes=2)
    part = read(Run("t", "s", outcome=given_outcome)).section("Confusion matrix")
    counts = given_outcome.confusion
    rows = pages.table(part)
    assert rows[0] == ["true \\ answer", "class 0", "class 1", "class 2", "class 3"]
    for i in range(4):
        assert rows[1 + i] == [f"class {i}", *map(str, counts[i])]
    right = sum(int(counts[i, i]) for i in range(4))
    share = f"{100 * right / counts.sum():.2f} %"
    assert f"{counts.sum():,} test images of small, {right} classified correctly: {share}" in part.text


def test_classes_with_their_precision_recall_and_f1_worst_first() -> None:
    counts = np.array([[8, 2, 0], [1, 3, 0], [0, 0, 0]])
    part = read(Run("t", "s", outcome=Outcome("d", ["a", "b", "c"], counts))).section("Classes")
    assert pages.table(part) == [
        ["class", "images", "precision", "recall", "F1"],
        ["c", "0", "\N{EN DASH}", "\N{EN DASH}", "\N{EN DASH}"],
        ["b", "4", "60.00 %", "75.00 %", "66.67 %"],  # 3 of 5 answers, 3 of 4 images: 2 * 3 / (5 + 4)
        ["a", "10", "88.89 %", "80.00 %", "84.21 %"],
    ]


def test_calibration_is_the_mean_distance_of_confidence_and_accuracy() -> None:
    # Four images at 0.95, three of them right; one at 0.55, wrong: (4 * 0.2 + 1 * 0.55) / 5 = 0.27.
    bins = calibrated(np.array([0.95, 0.95, 0.95, 0.95, 0.55]), np.array([True, True, True, False, False]))
    assert [count for _, _, count in bins] == [0, 0, 0, 0, 0, 1, 0, 0, 0, 4]
    assert calibrated(np.array([1.0]), np.array([True]))[-1] == (1.0, 1.0, 1), "full confidence is in the last step"
    found = Outcome("d", ["a", "b"], np.array([[3, 0], [2, 0]]), calibration=bins)
    assert found.calibration_error == pytest.approx(0.27)
    part = read(Run("t", "s", outcome=found)).section("Classes")
    assert "Expected calibration error 27.00 %: the network is too sure of its answers." in part.text
    assert "confidence 95.0 %: 75.0 % correct of 4 images" in part.text


def test_the_verdict() -> None:
    def of(*accuracies: tuple[float, float | None]) -> str:
        epochs = [
            {"epoch": i, "step": i, "train_loss": 1.0 / i, "train_accuracy": train, "val_accuracy": val}
            for i, (train, val) in enumerate(accuracies, 1)
        ]
        return verdict(epochs)[1]

    assert of((0.98, 0.48)) == "Training 98 %, validation 48 %: overfitting."
    assert of((0.9, 0.8)) == "Training 90 %, validation 80 %: overfitting has begun."
    assert of((0.8, 0.7), (0.9, 0.9)) == (
        "Training 90 %, validation 90 %: it was still getting better; more epochs may help."
    )
    assert of((0.9, 0.9), (0.9, 0.9)) == "Training 90 %, validation 90 %: no sign of overfitting."
    assert "the best epoch was 1 of 4" in of((0.9, 0.93), (0.9, 0.92), (0.9, 0.92), (0.9, 0.92))
    assert "nothing tells whether it overfits" in of((0.9, None))
    stuck = [{"epoch": i, "step": i, "train_loss": 2.3, "train_accuracy": 0.1, "val_accuracy": 0.1} for i in (1, 2)]
    assert verdict(stuck) == ("bad", "Training 10 %, validation 10 %: it has hardly learnt. Try another learning rate.")
    assert verdict([]) == ("", "")


def test_the_verdict_knows_what_chance_would_give() -> None:
    def kind(accuracy: float, classes: int | None) -> str:
        epochs = [{"epoch": 1, "step": 1, "train_loss": 1.0, "train_accuracy": accuracy, "val_accuracy": accuracy}]
        return verdict(epochs, classes)[0]

    assert (kind(0.04, 34), kind(0.04, None), kind(0.04, 1000)) == ("bad", "good", "good")
    assert (kind(0.52, 2), kind(0.6, 2)) == ("bad", "good")
    page = read(Run("t", "s", metrics=metrics(1), outcome=outcome(3)))
    assert page.all("p", **{"class": "verdict"})


def test_the_balance_of_classes_and_samples() -> None:
    images = [[RNG.integers(0, 256, (1, 7, 7), np.uint8) for _ in range(2)] for _ in range(2)]
    part = read(Run("t", "s", balance=Balance(["rare", "common"], [10, 90], images))).section("Training images")
    assert "100 images of 2 classes, as the network sees them. common has 90, rare 10." in part.text
    assert [column.text for column in part.all("rect", **{"class": "column"})] == ["rare: 10", "common: 90"]
    heights = [float(column.attributes["height"]) for column in part.all("rect", **{"class": "column"})]
    assert heights[1] == pytest.approx(9 * heights[0], rel=0.01)
    shown = [pages.pixels(image) for image in part.all("img")]
    assert [pixels.tolist() for pixels in shown] == [image[0].tolist() for of_class in images for image in of_class]


def test_what_augmentation_and_mixing_made_of_images() -> None:
    def image() -> Any:
        return RNG.integers(0, 256, (1, 7, 7), np.uint8)

    views, mixed = [(1, [image() for _ in range(3)])], [(image(), [(0, 0.75), (1, 0.25)])]
    part = read(Run("t", "s", balance=Balance(["rare", "common"], [10, 90], (), views, mixed))).section(
        "Training images"
    )
    assert pages.table(part, 1)[0] == ["class", "as it is", "epoch 1", "epoch 2"]
    assert [image.attributes["alt"] for image in part.all("img")] == [
        "common, as it is", "common, epoch 1", "common, epoch 2", "Mixed image"
    ]  # fmt: skip
    expected = [*views[0][1], mixed[0][0]]
    assert [pages.pixels(image).tolist() for image in part.all("img")] == [image[0].tolist() for image in expected]
    assert [one.text for one in part.all("ol", **{"class": "bars3"})[0].all("li")] == ["rare75.0 %", "common25.0 %"]


def test_many_classes_are_drawn_with_the_most_frequent_mistakes() -> None:
    names = [f"n{i}" for i in range(30)]
    confusion = 40 * np.eye(30, dtype=int)
    confusion[7, 3], confusion[2, 29], confusion[5, 5] = 12, 30, 0
    page = read(Run("t", "s", outcome=Outcome("d", names, confusion)))
    part = page.section("Confusion matrix")
    rows = pages.table(part, 1)[1:]
    dash = "\N{EN DASH}"
    assert rows == [["n2", "n29", "30", "42.86 %", dash], ["n7", "n3", "12", "23.08 %", dash]]
    cells = [cell for cell in part.all("rect") if cell.attributes["class"].startswith("cell")]
    told = {tuple(cell.text.partition(":")[0].split(" answered as ")): cell for cell in cells}
    assert set(told) == {(names[i], names[j]) for i, j in zip(*np.nonzero(confusion), strict=True)}
    assert told["n2", "n29"].text == "n2 answered as n29: 30 (42.9 %)"
    assert {cell.attributes["class"] for (i, j), cell in told.items() if i == j} == {"cell right"}
    strength = {pair: float(cell.attributes["fill-opacity"]) for pair, cell in told.items()}
    assert strength["n0", "n0"] > strength["n2", "n29"] > strength["n7", "n3"]
    x, y = (float(told["n2", "n29"].attributes[key]) for key in "xy")
    assert (x, y) == (pytest.approx(120 + 29 * 520 / 30, abs=0.01), pytest.approx(120 + 2 * 520 / 30, abs=0.01))


@pytest.mark.parametrize("C", [1, 3])
def test_mistakes_show_the_images(C: int) -> None:
    given_outcome = outcome(3, C)
    part = read(Run("t", "s", outcome=given_outcome)).section("Worst mistakes")
    tiles = part.all("li")
    for tile, mistake in zip(tiles, given_outcome.mistakes, strict=True):
        image = mistake.image[0] if C == 1 else mistake.image.transpose(1, 2, 0)
        assert (pages.pixels(tile.all("img")[0]) == image).all()
        words = f"class {mistake.label} as class {mistake.answer} ({100 * mistake.confidence:.1f} %)"
        assert tile.all("figcaption")[0].text == words
        assert (
            tile.all("img")[0].attributes["alt"]
            == f"Test image of class class {mistake.label}, answered class {mistake.answer}"
        )
    wrong = int(given_outcome.confusion.sum() - np.trace(given_outcome.confusion))
    assert f"4 of {wrong:,} mistakes" in part.text


def test_no_mistakes_and_one_class() -> None:
    perfect = Outcome("d", ["only"], np.array([[7]]))
    page = read(Run("t", "s", outcome=perfect))
    assert "None: every test image is classified correctly." in page.section("Worst mistakes").text
    assert pages.table(page.section("Confusion matrix"))[1] == ["only", "7"]


def test_filters_before_and_after_stand_side_by_side() -> None:
    before, after = RNG.standard_normal((4, 1, 3, 3)), np.zeros((4, 1, 3, 3))
    after[2, 0, 1, 1] = 2 * np.abs(before).max()
    part = read(Run("t", "s", filters_before=before, filters_after=after)).section("Filters of the first convolution")
    first, second = part.figures()
    assert ["before" in image.attributes["alt"] for image in (first, second)] == [True, False]
    shown = pages.pixels(second)
    assert (shown == (178, 24, 43)).all(-1).any(), "the largest of both is full red"
    assert not (pages.pixels(first) == (178, 24, 43)).all(-1).any(), "one scale for both"
    alone = read(Run("t", "s", filters_after=after)).section("Filters of the first convolution")
    assert [image.attributes["alt"] for image in alone.figures()] == ["Filters of the first convolution after training"]
    assert "before" not in alone.text
    scale = part.all("div", **{"class": "scale"})[0]
    assert scale.text.split() == [f"{-after.max():.3g}", f"{after.max():.3g}"]
    many = read(Run("t", "s", filters_after=np.full((100, 5, 3, 3), np.nan)))
    assert "100 filters of 3x3 pixels, the first 64 shown, the mean of their channels" in many.text
    assert "red, green and blue" in read(Run("t", "s", filters_after=RNG.random((4, 3, 5, 5)))).text


def test_layers_are_those_of_the_summary() -> None:
    told = summary(models.lenet(), (1, 28, 28))
    rows = pages.table(read(Run("t", "s", summary=told)).section("Layers"))
    assert [row[:4] for row in rows[1:3]] == [["0", "Conv2d", "6x28x28", "156"], ["1", "ReLU", "6x28x28", "0"]]
    assert rows[4][4:] == ["240,000", "14x14"]
    deep = nn.Sequential(*(nn.ReLU() for _ in range(40)))
    assert "All 40 layers" in read(Run("t", "s", summary=summary(deep, (1, 4, 4)))).section("Layers").text


def everything(name: str, classes: int) -> Run:
    return Run(
        name, name, {name: name, "list": [name]}, {"outer": {name: [name, name]}}, metrics(2),
        summary(nn.Sequential(nn.Conv2d(3, 4, 3)), (3, 9, 9)), RNG.random((4, 3, 3, 3)), RNG.random((4, 3, 3, 3)),
        outcome(classes, 3, names=[name] * classes), Balance([name] * classes, [5] * classes),
    )  # fmt: skip


@pytest.mark.parametrize("classes", [5, 40])
def test_hostile_names_are_only_text(classes: int) -> None:
    good, evil = report(everything("good", classes)), report(everything(EVIL, classes))
    assert pages.read(evil).tags() == pages.read(good).tags()
    assert "script" not in pages.read(evil).tags()
    assert len(pages.read(evil).all("img")) == len(pages.read(good).all("img"))
    for page in (pages.read(evil),):
        for element in (part for tag in page.tags() for part in page.all(tag)):
            assert not any(key.startswith("on") for key in element.attributes)
    shown = EVIL.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
    page = pages.read(evil)
    assert page.all("h1")[0].text == shown
    named = page.section("Worst mistakes").all("bdi")[0]
    assert named.attributes["title"] == shown
    assert (len(named.text), named.text[:20], named.text[-19:]) == (40, shown[:20], shown[-19:]), "cut in the middle"
    evil.encode()  # half a character would not go


def test_the_page_needs_nothing_and_can_be_read_by_everyone() -> None:
    html = report(everything("x", 6))
    page = pages.read(html)
    assert html.startswith("<!doctype html>")
    assert page.all("html")[0].attributes == {"lang": "en"}
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in [
        m.attributes for m in page.all("meta")
    ]
    addresses = [v for t in page.tags() for e in page.all(t) for k, v in e.attributes.items() if k in ("src", "href")]
    assert addresses
    anchors = [address for address in addresses if address.startswith("#")]
    assert all(address.startswith("data:") for address in addresses if address not in anchors)
    ids = {e.attributes["id"] for t in page.tags() for e in page.all(t) if "id" in e.attributes}
    assert {anchor[1:] for anchor in anchors} <= ids
    assert len(anchors) == len(page.all("section")) + 1, "a link to each section, and past the list of them"
    assert len(page.all("header")) == len(page.all("nav")) == len(page.all("main")) == len(page.all("footer")) == 1
    assert not re.search(r"url\(|@import|https?:", page.all("style")[0].text)
    assert all(image.attributes["alt"] for image in page.all("img"))
    assert all(cell.attributes.get("scope") in ("row", "col") for cell in page.all("th"))
    assert all(table.all("caption")[0].text for table in page.all("table"))
    assert all(svg.attributes.get("aria-label") or svg.attributes.get("aria-hidden") for svg in page.all("svg"))
    assert "prefers-color-scheme: dark" in page.all("style")[0].text


def test_a_live_report_loads_itself_again_and_a_finished_one_does_not() -> None:
    live = read(Run("t", "no epoch done"), refresh=5)
    assert [m.attributes["content"] for m in live.all("meta", **{"http-equiv": "refresh"})] == ["5"]
    assert "every 5 seconds" in live.text
    done = read(Run("t", "finished"))
    assert not done.all("meta", **{"http-equiv": "refresh"})
    assert not done.all("section")
    assert not done.all("nav"), "nothing to list"


def test_filters_of_a_network() -> None:
    net = models.lenet()
    assert read(Run("t", "s", filters_after=filters(net))).section("Filters of the first convolution")


def test_what_a_chart_tells_to_a_pointer_stands_in_a_table_too() -> None:
    names = [f"n{i}" for i in range(30)]
    counts = np.eye(30, dtype=int) * 40
    counts[2, 29] = 7
    bins = ((0.0, 0.0, 0), (0.9, 0.75, 1207))
    found = Outcome("d", names, counts, calibration=bins)
    page = read(Run("t", "s", outcome=found, balance=Balance(names, range(10, 40))))
    folds = {part.all("summary")[0].text: part for part in page.all("details")}
    assert pages.table(folds["Mistakes by pairs of classes"]) == [["true class", "answer", "times"], ["n2", "n29", "7"]]
    [calibration] = page.section("Classes").all("details")
    assert pages.table(calibration)[1:] == [["0.0", ABSENT, "0"], ["0.5", "75.00 %", "1,207"]]
    [of_classes] = page.section("Training images").all("details")
    assert pages.table(of_classes)[1:3] == [["n0", "10"], ["n1", "11"]]
    series = [Series("a", "c0", ((1, 0.5), (2, 0.25))), Series("b", "c1", ((2, 0.125),))]
    drawn = pages.read(chart("Loss", series, "loss", (0, None), numbers=True))
    assert pages.table(drawn) == [["epoch", "a", "b"], ["1", "0.5", ABSENT], ["2", "0.25", "0.125"]]
