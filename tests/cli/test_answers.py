"""``gpucnn evaluate`` and ``gpucnn predict`` on a trained run."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from runs import assert_refused, checkpoint_of, drawn, gpucnn, write_npz

from gpucnn.data import load
from gpucnn.training import RunFolder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run good enough to be asked: about 95 % of drawn digits."""
    folder = tmp_path_factory.mktemp("run")
    data = write_npz(folder / "small.npz", 6000, 600)
    result = gpucnn("train", "--data", data, "--device", "cpu", "--epochs", 6, "--out", folder / "run")
    assert result.code == 0, result.err
    return folder / "run"


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUCNN_DEVICE", "cpu")


def test_evaluate_counts_right(run: Path) -> None:
    from gpucnn import models, no_grad, tensor

    result = gpucnn("evaluate", run, "--json", "--batch-size", 77)
    values = json.loads(result.out)
    assert (result.code, result.err) == (0, "")
    assert list(values) == ["loss", "accuracy", "confusion"]
    import safetensors.numpy

    best = checkpoint_of(run, "best")  # the one that answers unless another is asked for
    task = json.loads((best / "state.json").read_text())["task"]
    net = models.lenet().eval()
    net.load_state_dict(safetensors.numpy.load_file(best / "model.safetensors"))
    images, labels = load(str(run.parent / "small.npz")).test[np.arange(600)]
    with no_grad():
        x = tensor(((images / 255 - task["mean"][0]) / task["std"][0]).astype(np.float32))
        answers = net(x).numpy().argmax(1)
    counts = Counter(zip(labels.tolist(), answers.tolist(), strict=True))
    assert values["confusion"] == [[counts[i, j] for j in range(10)] for i in range(10)]
    assert values["accuracy"] == (answers == labels).mean() > 0.8
    last_line = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert values["loss"] == pytest.approx(last_line["test_loss"], rel=1e-6)


def test_evaluate_prints_a_table(run: Path) -> None:
    result = gpucnn("evaluate", run)
    lines = result.out.splitlines()
    values = json.loads(gpucnn("evaluate", run, "--json").out)
    assert lines[0] == f"small: 600 test images, loss {values['loss']:.4f}, accuracy {values['accuracy']:.4f}"
    table = [line.split() for line in lines[3:]]
    counts = np.array(values["confusion"])
    assert [[int(cell) for cell in row[1:11]] for row in table] == counts.tolist()
    assert [row[11] for row in table] == [f"{counts[i, i] / counts[i].sum():.4f}" for i in range(10)]
    assert [row[12] for row in table] == [f"{counts[i, i] / counts[:, i].sum():.4f}" for i in range(10)]
    assert len({len(line) for line in lines[2:]}) == 1


@pytest.mark.parametrize(("classes", "named"), [(3, True), (12, False), (26, False), (300, False)])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_of_the_table_is_wider_than_the_terminal(classes: int, named: bool, width: int) -> None:
    from gpucnn.cli.evaluate import widest_fitting

    rng = np.random.default_rng(0)
    counts = rng.integers(0, 9, (classes, classes)) + np.diag(rng.integers(50, 90, classes))
    names = [f"{'long ' * 5}{i}" for i in range(classes)] if classes > 10 else ["cat", "dog", "owl"]
    lines = widest_fitting(counts, names, width)
    assert len(lines) == classes + 1
    assert max(map(len, lines)) <= width
    for i, line in enumerate(lines[1:]):
        assert f"{counts[i, i] / counts[i].sum():.4f}" in line
        assert f"{counts[i, i] / counts[:, i].sum():.4f}" in line
    assert (lines[0].split()[3:6] == names) == named


def test_many_classes_are_told_with_what_they_are_mistaken_for() -> None:
    from gpucnn.cli.evaluate import per_class

    counts = np.diag([5, 6, 7]) + np.array([[0, 1, 2], [0, 0, 0], [0, 0, 0]])
    lines = per_class(counts, ["cat", "dog", "owl"], 80)
    assert [line.split() for line in lines] == [
        ["class", "images", "recall", "precision", "mistaken", "for"],
        ["cat", "8", "0.6250", "1.0000", "owl", "(2)"],
        ["dog", "6", "1.0000", "0.8571", "-"],
        ["owl", "7", "1.0000", "0.7778", "-"],
    ]


def test_evaluate_on_fewer_classes_and_with_the_best_weights(run: Path, tmp_path: Path) -> None:
    images, labels = drawn(600, 1)
    few = labels < 3
    np.savez(tmp_path / "few.npz", x_train=images[few], y_train=labels[few], x_test=images[few], y_test=labels[few])
    result = gpucnn("evaluate", run, "--data", tmp_path / "few.npz", "--checkpoint", "best")
    assert result.code == 0, result.err
    assert result.out.splitlines()[-1].split()[-2:][0] == "-", "no nine among the labels: no recall"


def test_evaluate_on_data_that_does_not_fit(run: Path, tmp_path: Path) -> None:
    labels = np.arange(20) % 12
    images = np.zeros((20, 28, 28), np.uint8)
    np.savez(tmp_path / "a.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    assert_refused(gpucnn("evaluate", run, "--data", tmp_path / "a.npz"), 1, "classes", "at most 10, got 12")
    images = np.zeros((20, 14, 14), np.uint8)
    np.savez(tmp_path / "b.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    assert_refused(gpucnn("evaluate", run, "--data", tmp_path / "b.npz"), 1, "(1, 28, 28)", "(1, 14, 14)")


@pytest.mark.parametrize("command", [["evaluate"], ["predict", "a.png"]])
def test_no_run_or_a_damaged_one(run: Path, tmp_path: Path, command: list[str]) -> None:
    import shutil

    def on(path: Path) -> tuple[object, ...]:
        return (command[0], path, *command[1:])

    assert_refused(gpucnn(*on(tmp_path / "nowhere")), 2, "config.toml")
    shutil.copytree(run, tmp_path / "run", symlinks=True)
    weights = checkpoint_of(tmp_path / "run", "best") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert_refused(gpucnn(*on(tmp_path / "run")), 1, "model.safetensors is damaged")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert_refused(gpucnn(*on(tmp_path / "run")), 1, "has no checkpoint")
    assert_refused(gpucnn(*on(run), "--device", "gpu"), 2, "cpu, cuda, cuda:N or auto")


def test_evaluate_and_predict_take_the_device_from_the_environment(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUCNN_DEVICE", "cuda:77")
    assert_refused(gpucnn("evaluate", run), 4)
    assert_refused(gpucnn("predict", run, "a.png"), 4)
    assert gpucnn("evaluate", run, "--device", "cpu").code == 0


# --- predict -----------------------------------------------------------------------------------------------------


def pages() -> tuple[np.ndarray, np.ndarray]:
    images, labels = drawn(600, 1)
    return images[:60, 0], labels[:60]


def ways(page: np.ndarray) -> dict[str, np.ndarray]:
    large = np.kron(page, np.ones((9, 9), np.uint8))
    colour = 255 - np.dstack([large // 2, large, large // 3])
    wide = np.full((400, 700), 255, np.uint8)
    wide[60 : 60 + 252, 330 : 330 + 252] -= large
    return {
        "as it is": page,
        "dark on light": 255 - page,
        "large": large,
        "colour": colour,
        "transparent": np.dstack([np.zeros_like(large)] * 3 + [large]),
        "on a wide page": wide,
    }


@pytest.mark.parametrize("way", list(ways(np.zeros((28, 28), np.uint8))))
def test_predict_reads_pictures_as_the_network_reads_its_data(run: Path, tmp_path: Path, way: str) -> None:
    from PIL import Image

    images, labels = pages()
    files = [tmp_path / f"{i}.png" for i in range(len(images))]
    for file, page in zip(files, images, strict=True):
        Image.fromarray(ways(page)[way]).save(file)
    result = gpucnn("predict", run, *files, "--json")
    assert (result.code, result.err) == (0, "")
    answers = [json.loads(line) for line in result.out.splitlines()]
    assert [a["file"] for a in answers] == [str(file) for file in files]
    assert all(list(a) == ["file", "answers"] and list(a["answers"][0]) == ["class", "probability"] for a in answers)
    right = np.mean([a["answers"][0]["class"] == str(label) for a, label in zip(answers, labels, strict=True)])
    assert right >= 0.75


def test_predict_prints_the_likeliest(run: Path, tmp_path: Path) -> None:
    from PIL import Image

    file = tmp_path / "a.png"
    Image.fromarray(pages()[0][0]).save(file)
    answer = json.loads(gpucnn("predict", run, file, "--top", 10, "--json").out)["answers"]
    probabilities = [a["probability"] for a in answer]
    assert sorted(a["class"] for a in answer) == [str(i) for i in range(10)]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    first, second = answer[:2]
    assert gpucnn("predict", run, file, "--top", 2).out == (
        f"{file}: {first['class']} ({100 * first['probability']:.1f} %), "
        f"{second['class']} ({100 * second['probability']:.1f} %)\n"
    )
    assert len(json.loads(gpucnn("predict", run, file, "--top", 99, "--json").out)["answers"]) == 10


def test_predict_of_more_than_go_through_together(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    files = [tmp_path / f"{i}.png" for i in range(7)]
    for file, page in zip(files, pages()[0], strict=False):
        Image.fromarray(page).save(file)
    together = gpucnn("predict", run, *files).out
    monkeypatch.setattr("gpucnn.cli.predict.AT_ONCE", 3)
    assert gpucnn("predict", run, *files).out == together
    assert len(together.splitlines()) == 7


def save_pages(folder: Path, count: int) -> list[Path]:
    """Write the first pages as image files and return their paths."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{i}.png" for i in range(count)]
    for file, page in zip(files, pages()[0], strict=False):
        Image.fromarray(page).save(file)
    return files


def test_a_bad_picture_does_not_keep_the_others_from_their_answers(run: Path, tmp_path: Path) -> None:
    first, last = save_pages(tmp_path, 2)
    from PIL import Image

    blank, text, empty = tmp_path / "blank.png", tmp_path / "text.png", tmp_path / "empty"
    Image.new("L", (50, 50), 255).save(blank)
    text.write_text("no image")
    empty.mkdir()
    good = gpucnn("predict", run, first, last, "--json")
    assert (good.code, good.err) == (0, "")
    for bad, said in (
        (blank, "shows nothing"), (text, "no readable image"), (empty, "expected images"), (tmp_path / "x", "no such")
    ):  # fmt: skip
        result = gpucnn("predict", run, first, bad, last, "--json")
        assert_refused(result, 1, said, str(bad))
        assert result.out == good.out
    result = gpucnn("predict", run, blank, text)
    assert (result.code, result.out, result.err.count("Error: ")) == (1, "", 2)
    assert_refused(gpucnn("predict", run), 2, "IMAGE", "predict --help")


def test_predict_takes_folders(run: Path, tmp_path: Path) -> None:
    inner = save_pages(tmp_path / "all" / "b", 3)
    outer = save_pages(tmp_path / "all", 2)
    (tmp_path / "all" / "notes.txt").write_text("no image, and not taken for one")
    save_pages(tmp_path / "all" / ".hidden", 1)
    named = gpucnn("predict", run, *outer, *inner)
    assert gpucnn("predict", run, tmp_path / "all").out == named.out
    assert len(named.out.splitlines()) == 5


def test_predict_writes_csv(run: Path, tmp_path: Path) -> None:
    import csv

    files = save_pages(tmp_path / 'a "b", c', 2)
    expected = [json.loads(line) for line in gpucnn("predict", run, *files, "--json", "--top", 2).out.splitlines()]
    head, *rows = csv.reader(gpucnn("predict", run, *files, "--csv", "--top", 2).out.splitlines())
    assert head == ["file", "class", "probability", "class", "probability"]
    for row, values in zip(rows, expected, strict=True):
        assert row[0] == values["file"]
        assert row[1::2] == [answer["class"] for answer in values["answers"]]
        assert [float(cell) for cell in row[2::2]] == [answer["probability"] for answer in values["answers"]]
    assert_refused(gpucnn("predict", run, *files, "--csv", "--json"), 2, "--json and --csv")


def test_predict_says_that_floats_have_no_known_range(tmp_path: Path) -> None:
    from PIL import Image

    x, x_test = drawn(640, 0)[0] / 255, drawn(200, 1)[0] / 255
    data = write_npz(tmp_path / "floats.npz", x_train=x, x_test=x_test)
    assert gpucnn("train", "--data", data, "--epochs", 1, "--out", tmp_path / "run").code == 0
    Image.fromarray(pages()[0][0]).save(tmp_path / "a.png")
    result = gpucnn("predict", tmp_path / "run", tmp_path / "a.png")
    assert (result.code, len(result.out.splitlines())) == (0, 1)
    assert "trained on floats" in result.err


def test_weights_that_are_no_numbers_answer_nothing(run: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(run, folder.path)
    saved = folder.load("last")
    saved.model["11.bias"][:] = np.nan
    folder.save(10**6, saved, best=False)
    result = gpucnn("evaluate", folder.path, "--checkpoint", "last")
    assert_refused(result, 1, "not finite for 600 of 600", "damaged")
