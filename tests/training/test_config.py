"""Settings: defaults, limits, TOML there and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpucnn.errors import UsageError
from gpucnn.training import Settings, read_toml


def test_defaults_are_filled_in() -> None:
    assert Settings().resolved().lr == 0.005
    assert Settings(optimizer="sgd").resolved().lr == 0.1
    assert Settings().schedule == "one-cycle"


def test_toml_round_trip(tmp_path: Path) -> None:
    settings = Settings(
        model="lenet:pooling=avg", data='odd "name"\n', lr=1e-7, limit=7, seed=2**63 - 1, target_accuracy=1, validation=0 + 3
    ).resolved()  # fmt: skip
    (tmp_path / "c.toml").write_text(settings.to_toml())
    assert Settings(**read_toml(tmp_path / "c.toml")).resolved() == settings


def test_path_of_data_is_made_absolute_and_names_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.npz").write_bytes(b"")
    (tmp_path / "digits").mkdir()
    assert Settings(data="mine.npz").resolved().data == str(tmp_path / "mine.npz")
    assert Settings(data="digits").resolved().data == "digits", "`digits` are the built-in ones, as data.load has it"
    assert Settings(data="mnist").resolved().data == "mnist"
    assert Settings(data="a" * 5000).resolved().data == "a" * 5000


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "adm"}, {"schedule": "cosines"}, {"optimizer": 3}, {"precision": "float8"}, {"epochs": 0},
        {"epochs": True}, {"epochs": 1.5}, {"batch_size": 0}, {"validation": -1}, {"seed": -1}, {"seed": 2**63},
        {"limit": 0},
        {"lr": -1.0}, {"lr": float("nan")}, {"lr": float("inf")}, {"lr": "0.1"}, {"momentum": 1}, {"momentum": 1.5},
        {"weight_decay": -0.1}, {"target_accuracy": 1.01}, {"target_accuracy": 0.9, "validation": 0},
        {"val_split": 1.5}, {"val_split": -0.1}, {"val_split": "0.1"}, {"image_size": 0}, {"image_size": 28.5},
        {"validation": 5, "val_split": 0.1}, {"device": "gpu"}, {"device": "cuda:"},
        {"device": "cuda:-1"}, {"device": ""}, {"device": "cpu\n"},
    ],
)  # fmt: skip
def test_out_of_range_is_wrong_usage(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"settings: {next(iter(change))}: expected ") as caught:
        Settings(**change).resolved()
    assert caught.value.exit_code == 2


def test_augmentation_is_read_before_anything_is_trained() -> None:
    assert Settings().resolved().augmentation is None
    augmentation = Settings(augment="shift=2,flip").resolved().augmentation
    assert augmentation is not None
    assert (augmentation.shift, augmentation.flip, augmentation.noise) == (2, True, 0)
    with pytest.raises(UsageError, match="Did you mean rotate"):
        Settings(augment="rotat=5").resolved()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epochs = ", "no readable TOML"),
        ("epoch = 3", "Did you mean epochs?"),
        ("epochs = '3'", "epochs: expected int, got '3'"),
        ("epochs = true", "epochs: expected int, got True"),
        ("epochs = 3.0", "epochs: expected int, got 3.0"),
        ("lr = 'x'", "lr: expected float, got 'x'"),
        ("model = 5", "model: expected str, got 5"),
        ("[model]\nname = 'lenet'", "model: expected str, got {'name': 'lenet'}"),
        ("data = '\udcff'", "no readable TOML"),
        ("epochs = 1\nepochs = 2", "no readable TOML"),
    ],
)
def test_bad_toml(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UsageError) as caught:
        read_toml(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_whole_numbers_are_fine_for_floats(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("lr = 1")
    lr = Settings(**read_toml(tmp_path / "c.toml")).resolved().lr
    assert isinstance(lr, float)
    assert lr == 1


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_toml(tmp_path / "c.toml")
    with pytest.raises(UsageError, match="no readable TOML"):
        read_toml(tmp_path)


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    given = {"epochs": 2, "batch_size": 16, "seed": 3, "limit": 50, "validation": 10, "image_size": 20, "accumulate": 2}
    shares = {"lr": 0.25, "momentum": 0.5, "label_smoothing": 0.125, "clip_norm": 2.0}
    numpy: dict[str, Any] = {key: np.int64(value) for key, value in given.items()}
    numpy |= {key: np.float32(value) for key, value in shares.items()}
    python: dict[str, Any] = {**given, **shares}
    settings = Settings(**numpy).resolved()
    assert settings.to_toml() == Settings(**python).resolved().to_toml()
    with pytest.raises(UsageError, match=r"epochs: expected a whole number of at least 1, got 1\.5"):
        Settings(epochs=np.float64(1.5)).resolved()  # type: ignore[arg-type]
