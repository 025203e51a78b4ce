"""``gpucnn data``, and training on own images from the command line."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import click
import numpy as np
import pytest
from runs import assert_refused, gpucnn, write_idx_folder, write_npz

from gpucnn.cli.data import command
from gpucnn.data import load


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUCNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GPUCNN_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """Colour images of two classes, of different sizes, some not square: red ones and blue ones."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for name, place in (("red", 0), ("blue", 2)):
        for part, count in (("train", 40), ("test", 10)):
            folder = tmp_path / "shapes" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 90, (30 + i % 3, 36, 3))
                pixels[..., place] += 120
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "shapes"


@pytest.mark.parametrize("name", ["list", "show", "download", "convert"])
def test_every_option_has_a_sentence(name: str) -> None:
    result = gpucnn("data", name, "--help")
    assert result.code == 0
    for option in command.commands[name].params:
        if isinstance(option, click.Option):
            assert option.help
            assert option.help.endswith((".", "]"))


def test_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pooch", reason="pooch (the download extra) is not installed")
    (tmp_path / "offline" / "kmnist").mkdir(parents=True)
    monkeypatch.setenv("GPUCNN_DATA", str(tmp_path / "offline"))
    lines = {line.split()[0]: line for line in gpucnn("data", "list").out.splitlines()}
    assert list(lines) == ["digits", "mnist", "fashion-mnist", "kmnist", "cifar10"]
    assert lines["digits"].endswith("built in")
    assert lines["kmnist"].endswith(f": {tmp_path / 'offline' / 'kmnist'}")
    assert lines["cifar10"].endswith("not here; 170 MB to download")


def test_show_counts_right(tmp_path: Path) -> None:
    arrays = write_idx_folder(tmp_path / "letters")
    lines = gpucnn("data", "show", tmp_path / "letters").out.splitlines()
    assert lines[0] == "letters: 7 training and 3 test images"
    pixels = arrays["train-images-idx3-ubyte"]
    assert lines[1] == f"image    1 x 5 x 5 (channels, rows, columns), uint8, {pixels.min()} to {pixels.max()}"
    assert lines[2] == f"sha256   {load(str(tmp_path / 'letters')).sha256()}"
    assert [line.split() for line in lines[4:]] == [["0", "2", "1"], ["1", "2", "1"], ["2", "3", "1"]]


def test_contact_sheet_shows_the_images_of_each_class(tmp_path: Path) -> None:
    from PIL import Image

    images = np.zeros((9, 3, 8, 8), np.uint8)
    labels = np.array([0, 1, 2] * 3)
    images[np.arange(9), labels] = 255
    np.savez(tmp_path / "c.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    assert gpucnn("data", "show", "c.npz", "--sheet", "sheet.png").code == 0
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    rows = np.array_split(sheet, 3)
    for label, row in enumerate(rows):
        pure = (row == np.uint8([255 * (label == channel) for channel in range(3)])).all(-1)
        assert pure.sum() == 3 * 56 * 56, "three images of the class, each pixel 7 by 7"


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_convert_keeps_everything(tmp_path: Path, suffix: str) -> None:
    write_idx_folder(tmp_path / "letters", suffix)
    result = gpucnn("data", "convert", "letters", "letters.npz")
    assert result.out == "letters.npz: 7 training and 3 test images\n"
    before, after = load("letters"), load("letters.npz")
    assert before.sha256() == after.sha256()
    assert (before.train.class_names, before.framing) == (after.train.class_names, after.framing)
    assert_refused(gpucnn("data", "convert", "letters", "letters.npz"), 2, "exists", "--overwrite")
    assert gpucnn("data", "convert", "letters", "letters.npz", "--overwrite").code == 0


def test_convert_of_pictures_keeps_names_and_framing(shapes: Path) -> None:
    result = gpucnn("data", "convert", shapes, "s.npz", "--image-size", 16)
    assert result.code == 0
    assert "100 images resized to 16x16 pixels (100 are not square: their middle is taken)" in result.err
    splits = load("s.npz")
    assert (splits.train.class_names, splits.framing, splits.train.image_shape) == (
        ["blue", "red"],
        "cropped",
        (3, 16, 16),
    )


def test_sample_writes_a_test_image(data: Path) -> None:
    from PIL import Image

    test = load("small.npz").test
    for index in (0, 7):
        result = gpucnn("data", "sample", "small.npz", f"{index}.png", "--index", index)
        assert (result.code, result.err) == (0, "")
        assert result.out == f"{index}.png: test image {index} of small, class {test[np.array([index])][1][0]}\n"
        with Image.open(f"{index}.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture), test[np.array([index])][0][0, 0])
    assert_refused(gpucnn("data", "sample", "small.npz", "0.png"), 2, "--overwrite")
    assert gpucnn("data", "sample", "small.npz", "0.png", "--index", 7, "--overwrite").code == 0
    assert Path("0.png").read_bytes() == Path("7.png").read_bytes()
    assert_refused(gpucnn("data", "sample", "small.npz", "a.png", "--index", 200), 2, "--index", "0 to 199", "200")
    assert_refused(gpucnn("data", "sample", "small.npz", "a.jpg"), 2, "ends in .png")
    assert_refused(gpucnn("data", "sample", "small.npz", "nowhere/a.png"), 1, "no such folder")
    assert_refused(gpucnn("data", "sample", "smal.npz", "a.png"), 1, "smal.npz")


@pytest.mark.parametrize("seed", [0, 1])
def test_a_network_that_trained_for_seconds_reads_the_sample(
    data: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The README's first prediction: right, and sure of it."""
    monkeypatch.setattr("gpucnn.data.DIGITS_TRAIN", 2500)
    monkeypatch.setattr("gpucnn.data.DIGITS_TEST", 500)
    train = ("train", "--epochs", 2, "--seed", seed, "--device", "cpu", "--out", "run")
    assert gpucnn(*train).code == 0
    assert gpucnn("data", "sample", "digits", "digit.png").out.endswith("of digits, class 2\n")
    answer = json.loads(gpucnn("predict", "run", "digit.png", "--json").out)["answers"][0]
    assert answer["class"] == "2"
    assert answer["probability"] > 0.9


def test_mistakes(tmp_path: Path) -> None:
    assert_refused(gpucnn("data", "shwo"), 2, "Did you mean 'show'?", "gpucnn data --help")
    assert_refused(gpucnn("data", "show", "mnits"), 1, "Did you mean mnist?")
    assert_refused(gpucnn("data", "download", "cifar"), 2, "Did you mean cifar10?")
    assert_refused(gpucnn("data", "download", "digits"), 2, "expected mnist or fashion-mnist")
    assert_refused(gpucnn("data", "convert", "digits", "out.txt"), 2, "ends in .npz")
    assert_refused(gpucnn("data", "convert", "digits", "nowhere/out.npz"), 1, "no such folder")
    np.savez(tmp_path / "f.npz", x_train=np.zeros((2, 5, 5)), y_train=[0, 1], x_test=np.zeros((2, 5, 5)), y_test=[0, 1],
             framing="sideways")  # fmt: skip
    assert_refused(gpucnn("data", "show", "f.npz"), 1, "framing: expected centred or cropped, got 'sideways'")


# --- training on images ------------------------------------------------------------------------------------------


def train(source: Path, *options: object) -> tuple[object, ...]:
    return ("train", "--data", source, "--device", "cpu", "--epochs", 2, "--batch-size", 16, "--out", "run", *options)


@pytest.mark.parametrize("model", ["lenet", "vgg:width=4,hidden=8", "resnet:width=4,blocks=1"])
def test_colour_pictures_train_evaluate_and_predict(shapes: Path, model: str) -> None:
    result = gpucnn(*train(shapes, "--model", model, "--augment", "shift=2,flip,rotate=10", "--val-split", 0.25))
    assert result.code == 0, result.err
    assert "100 images resized to 31x31 pixels" in result.err
    assert "60 images, 20 for validation, 20 for testing" in result.out
    settings = Path("run/config.toml").read_text()
    assert 'augment = "shift=2,flip,rotate=10"' in settings
    assert "validation = 20\n" in settings
    evaluated = json.loads(gpucnn("evaluate", "run", "--json").out)
    assert np.sum(evaluated["confusion"]) == 20
    pictures = sorted((shapes / "test").rglob("*.png"))
    answers = [json.loads(line) for line in gpucnn("predict", "run", *pictures, "--json").out.splitlines()]
    right = [answer["answers"][0]["class"] == path.parent.name for answer, path in zip(answers, pictures, strict=True)]
    assert np.mean(right) == evaluated["accuracy"], "predict reads images as training did"
    if model == "lenet":
        assert np.mean(right) == 1


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("model", ["lenet", "vgg:width=4,hidden=8", "resnet:width=4,blocks=1"])
def test_colour_images_in_an_npz_train(tmp_path: Path, model: str, channels_last: bool) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3
    images = rng.integers(0, 60, (120, 3, 32, 32), np.uint8)
    images[np.arange(120), labels] += 150
    x = images.transpose(0, 2, 3, 1) if channels_last else images
    np.savez(tmp_path / "c.npz", x_train=x[:90], y_train=labels[:90], x_test=x[90:], y_test=labels[90:])
    result = gpucnn(*train(tmp_path / "c.npz", "--model", model, "--json"))
    assert result.code == 0, result.err
    assert json.loads(result.out.splitlines()[-2])["train_accuracy"] > 0.5


@pytest.mark.parametrize("size", [12, 28, 33, 48])
def test_other_sizes_train_or_are_refused(shapes: Path, size: int) -> None:
    for model in ("lenet", "vgg:width=2,hidden=4", "resnet:width=2,blocks=1"):
        result = gpucnn(*train(shapes, "--image-size", size, "--model", model, "--epochs", 1, "--overwrite"))
        if (size, model) == (12, "lenet") and result.code:
            assert_refused(result, 2, "lenet")
        else:
            assert result.code == 0, result.err
            assert f"image_size = {size}" in Path("run/config.toml").read_text()


def test_resumed_with_the_same_pictures(shapes: Path) -> None:
    assert gpucnn(*train(shapes, "--epochs", 1, "--image-size", 28)).code == 0
    result = gpucnn("train", "--resume", "run", "--epochs", 2)
    assert result.code == 0, result.err


def test_evaluating_on_other_classes_is_refused(shapes: Path) -> None:
    assert gpucnn(*train(shapes, "--epochs", 1)).code == 0
    for part in ("train", "test"):
        (shapes / part / "red").rename(shapes / part / "pink")
    assert_refused(
        gpucnn("evaluate", "run", "--data", shapes), 1, "expected those of the training, blue, red", "blue, pink"
    )


def test_a_network_of_digits_reads_a_folder_of_drawings(tmp_path: Path) -> None:
    """Images are centred as the digits were: the framing is the network's, not the folder's."""
    from PIL import Image

    write_npz(tmp_path / "small.npz", train=2000)
    assert gpucnn(*train(tmp_path / "small.npz", "--epochs", 3)).code == 0
    with np.load(tmp_path / "small.npz") as arrays:
        for i, (image, label) in enumerate(zip(arrays["x_test"][:100, 0], arrays["y_test"], strict=False)):
            page = np.full((120, 90), 255, np.uint8)
            page[60:116, 20:76] -= np.kron(image, np.ones((2, 2), np.uint8))
            for part in ("train", "test"):
                folder = tmp_path / "drawings" / part / str(label)
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(page).save(folder / f"{i}.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = gpucnn("evaluate", "run", "--data", tmp_path / "drawings", "--json")
    assert json.loads(result.out)["accuracy"] > 0.8, "uncentred it would be about 0.2"


def test_an_option_for_the_split_wins_over_either_in_the_file(shapes: Path, tmp_path: Path) -> None:
    for setting, option, held_out in (
        ("validation = 30", ("--val-split", 0.25), 20),
        ("val_split = 0.25", ("--validation", 7), 7),
    ):
        (tmp_path / "c.toml").write_text(setting)
        result = gpucnn(*train(shapes, "--config", "c.toml", "--epochs", 1, "--overwrite", *option))
        assert f"{held_out} for validation" in result.out, result.err


def test_mistakes_in_training(shapes: Path) -> None:
    assert_refused(gpucnn(*train(shapes, "--augment", "shfit=2")), 2, "augment", "Did you mean shift?")
    assert_refused(gpucnn(*train(shapes, "--val-split", 0.1, "--validation", 5)), 2, "one of validation and val_split")
    assert_refused(gpucnn(*train(shapes, "--image-size", 4)), 2, "model lenet")
    (shapes / "train" / "red" / "a.png").write_bytes(b"")
    assert_refused(gpucnn(*train(shapes)), 1, "a.png", "no readable image")
    assert not Path("run").exists()
