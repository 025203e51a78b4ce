"""A network in one file: there and back, read by others, and refused where it is damaged or hostile."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import gpucnn
from gpucnn import models, nn
from gpucnn.errors import CheckpointError, ParameterError


@pytest.mark.bits
@pytest.mark.parametrize(
    "name", ["lenet:activation=sigmoid,pooling=avg", "simple_convnet", "conv_mlp", "vgg", "resnet"]
)
def test_a_network_comes_back_as_it_was(tmp_path: Path, name: str) -> None:
    net = models.build(name).eval()
    models.save(net, tmp_path / "net.safetensors")
    again = models.load(tmp_path / "net.safetensors", "cpu").eval()
    size = (2, *((3, 32, 32) if name in ("vgg", "resnet") else (1, 28, 28)))
    x = gpucnn.tensor(np.random.default_rng(0).standard_normal(size).astype(np.float32), device="cpu")
    assert repr(again) == repr(net)
    assert np.array_equal(again(x).numpy(), net(x).numpy())


def test_any_safetensors_reader_reads_the_weights(tmp_path: Path) -> None:
    net = nn.Linear(2, 3, device="cpu")
    models.save(net, tmp_path / "net.safetensors")
    weights = safetensors.numpy.load_file(tmp_path / "net.safetensors")
    assert np.array_equal(weights["weight"], net.state_dict()["weight"])


def test_a_network_that_cannot_be_described_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"before")
    with pytest.raises(ParameterError, match="layer"):
        models.save(nn.Sequential(nn.Lambda(lambda x: x)), path)
    assert path.read_bytes() == b"before"
    assert [file.name for file in tmp_path.iterdir()] == ["net.safetensors"]


def write(path: Path, structure: str | None, **weights: np.ndarray) -> Path:
    metadata = {} if structure is None else {"gpucnn.structure": structure}
    safetensors.numpy.save_file(weights or {"weight": np.ones((1, 1), np.float32)}, path, metadata)
    return path


@pytest.mark.parametrize(
    ("structure", "said"),
    [
        (None, "weights alone"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        (json.dumps({"layer": "os.system"}), "the name of a layer in the table"),
        (json.dumps({"layer": "Linear", "arguments": {"in_features": 2, "out_features": 2}}), "missing.*bias"),
        (json.dumps({"layer": "Linear", "arguments": {"in_features": 2**31, "out_features": 2**31}}), "parameters"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, structure: str | None, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        models.load(write(tmp_path / "net.safetensors", structure))


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    with pytest.raises(CheckpointError, match="no such file"):
        models.load(path)
    models.save(nn.Linear(2, 3), path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        models.load(path)
    with pytest.raises(CheckpointError, match="cannot be written"):
        models.save(nn.Linear(2, 3), tmp_path / "nowhere" / "net.safetensors")


def test_numbers_that_numpy_has_no_name_for(tmp_path: Path) -> None:
    header = json.dumps({"weight": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}).encode()
    path = tmp_path / "net.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"0")
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        models.load(path)
