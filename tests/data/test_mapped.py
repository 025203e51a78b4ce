"""Arrays larger than the memory are mapped from their files: the same images, the same bits, little memory."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import environment, idx

import gpucnn
from gpucnn import data
from gpucnn.data.mapped import is_mapped
from gpucnn.errors import DataError
from gpucnn.training import Loader, Normalisation


def arrays(count: int = 400) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (count, 2, 9, 8), np.uint8),
        "y_train": np.arange(count) % 3,
        "x_test": rng.integers(0, 256, (30, 2, 9, 8), np.uint8),
        "y_test": np.arange(30) % 3,
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some.npz"
    np.savez(path, allow_pickle=False, **arrays())
    return path


def batches(found: Any) -> list[tuple[Any, Any]]:
    train = found.train.subset(np.arange(len(found.train))[::-1])
    given = Loader(train, gpucnn.get_backend("cpu"), Normalisation.of(train)).batches(64, 3)
    return [tuple(one.numpy() for one in given.take(*some)) for some in given.epoch(0)]  # type: ignore[misc]


def test_an_npz_gives_the_same_batches_mapped(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory = data.load(str(file))
    assert not is_mapped(in_memory.train.images)  # type: ignore[attr-defined]
    monkeypatch.setenv("GPUCNN_DATA_MEMORY", "20k")
    found = data.load(str(file))
    assert is_mapped(found.train.images)  # type: ignore[attr-defined]
    assert not is_mapped(found.test.images)  # type: ignore[attr-defined]
    assert found.sha256() == in_memory.sha256()
    own, theirs = batches(found), batches(in_memory)
    assert len(own) == 7
    for (x, y), (other_x, other_y) in zip(own, theirs, strict=True):
        assert x.tobytes() == other_x.tobytes()
        assert y.tobytes() == other_y.tobytes()


def test_idx_and_npy_files_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = arrays()
    monkeypatch.setenv("GPUCNN_DATA_MEMORY", "20k")
    (tmp_path / "idx").mkdir()
    for name, key in (("train", "train"), ("t10k", "test")):
        (tmp_path / "idx" / f"{name}-images-idx3-ubyte").write_bytes(idx(given[f"x_{key}"][:, 0]))
        (tmp_path / "idx" / f"{name}-labels-idx1-ubyte").write_bytes(idx(given[f"y_{key}"].astype(np.uint8)))
    (tmp_path / "npy").mkdir()
    for name, array in given.items():
        np.save(tmp_path / "npy" / f"{name}.npy", array)
    for folder, wanted in (("idx", given["x_train"][:, :1]), ("npy", given["x_train"])):
        found = data.load(str(tmp_path / folder)).train
        assert is_mapped(found.images)  # type: ignore[attr-defined]
        assert np.array_equal(found.images, wanted)  # type: ignore[attr-defined]


def test_packed_arrays_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUCNN_DATA_MEMORY", "20k")
    np.savez_compressed(tmp_path / "packed.npz", allow_pickle=False, **arrays())
    assert not is_mapped(data.load(str(tmp_path / "packed.npz")).train.images)  # type: ignore[attr-defined]


def test_a_damaged_member_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUCNN_DATA_MEMORY", "20k")
    with zipfile.ZipFile(file) as archive:
        place = archive.getinfo("x_train.npy").header_offset + 5000
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"x_train is damaged \(its checksum is another\)"):
        data.load(str(file))


PROGRAM = """
import re, sys
import numpy as np
import gpucnn
from gpucnn import data, models, nn, optim
from gpucnn.training import Callback, Loader, Loop, Normalisation

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

class Watch(Callback):
    most = 0.0
    def step(self, loop, count):
        self.most = max(self.most, anonymous())

splits = data.load(sys.argv[1])
before = anonymous()
train = splits.train.subset(np.random.default_rng(0).permutation(len(splits.train)))
loader = Loader(train, gpucnn.get_backend("cpu"), Normalisation.of(train))
net = nn.Sequential(nn.Conv2d(1, 2, 5, stride=4), nn.Flatten(), nn.Linear(2 * 6 * 6, 10))
watch = Watch()
Loop(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), 0.01), loader.batches(512, 0), callbacks=[watch]).run(1)
print(watch.most - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux tells it")
def test_an_npz_larger_than_the_memory_trains(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (300_000, 28, 28), np.uint8)  # 235 MB
    file = tmp_path / "large.npz"
    np.savez(
        file,
        allow_pickle=False,
        x_train=images,
        y_train=np.arange(len(images)) % 10,
        x_test=images[:10],
        y_test=np.arange(10),
    )
    more = environment() | {"GPUCNN_DATA_MEMORY": "100M"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(file)], capture_output=True, text=True, timeout=300, check=False, env=more
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 100  # MB beside the labels
