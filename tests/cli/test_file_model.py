"""A network from a Python file trains; a run that came from one runs no code until the user names the file again.

Where all its layers are gpucnn's, the checkpoint holds its structure, and the file is not needed.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import assert_refused, gpucnn

NET = """
from pathlib import Path
from gpucnn import nn
Path(__file__).with_suffix(".ran").touch()
def Plain(classes, in_channels, image_size, width=4):
    size = in_channels * image_size * image_size
    return nn.Sequential(nn.Flatten(), nn.Linear(size, width), nn.ReLU(), nn.Linear(width, classes))
class Net(nn.Sequential):
    def __init__(self, classes, in_channels, image_size, width=4):
        super().__init__(Plain(classes, in_channels, image_size, width))
"""


@pytest.fixture
def trained(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)
    result = gpucnn(
        "train", "--model", "net.py:Net:width=8", "--data", data, "--device", "cpu", "--epochs", 1, "--out", "r"
    )
    assert result.code == 0, result.err
    mark = Path("net.ran")
    assert mark.exists()
    mark.unlink()
    return mark


@pytest.mark.parametrize(
    "words", [("evaluate", "r"), ("predict", "r", "x.png"), ("train", "--resume", "r", "--epochs", 2)]
)
def test_a_run_does_not_run_its_file_by_itself(trained: Path, words: tuple[str, ...]) -> None:
    result = gpucnn(*words, *([] if words[0] == "train" else ["--device", "cpu"]))
    assert_refused(result, 2, "If you trust it, pass --model", "net.py:Net:width=8")
    assert not trained.exists()


def test_named_again_it_does(trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert gpucnn("evaluate", "r", "--device", "cpu", "--model", "net.py:Net:width=8").code == 0
    assert trained.exists()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    model = f"{tmp_path / 'net.py'}:Net:width=8"
    assert gpucnn("evaluate", tmp_path / "r", "--device", "cpu", "--model", model).code == 0
    result = gpucnn("train", "--resume", tmp_path / "r", "--epochs", 2, "--model", model)
    assert result.code == 0, result.err


def test_a_network_of_listed_layers_answers_without_its_file(trained: Path) -> None:
    result = gpucnn(
        "train", "--model", "net.py:Plain", "--data", Path("r").resolve().parent / "small.npz", "--device", "cpu",
        "--epochs", 1, "--out", "plain",
    )  # fmt: skip
    assert result.code == 0, result.err
    trained.unlink()
    Path("net.py").unlink()
    result = gpucnn("evaluate", "plain", "--device", "cpu")
    assert result.code == 0, result.err
    assert not trained.exists()
