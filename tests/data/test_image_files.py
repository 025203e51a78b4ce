"""Folders of images that do not fit into memory: read from their files when asked for, with the same pixels."""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gpucnn.data import ArrayDataset, Augmentation, ImageFiles, Splits, image_files, load, memory
from gpucnn.data.image_files import Kept
from gpucnn.data.parallel import cores
from gpucnn.errors import DataError, UsageError
from gpucnn.training import DataLoader, RunFolder, Settings, Trainer

RNG = np.random.default_rng(0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of 20x24 colour images of noise."""
    monkeypatch.setenv("GPUCNN_CACHE", str(tmp_path / "cache"))
    home = tmp_path / "pets"
    for part, count in (("train", 12), ("test", 3)):
        for name in ("cat", "dog"):
            (home / part / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(RNG.integers(0, 256, (20, 24, 3), np.uint8)).save(home / part / name / f"{i}.png")
    return home


def read(folder: Path, room: str | None = None, **options: Any) -> Splits:
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if room is not None:
            patch.setenv(memory.VARIABLE, room)
        return load(str(folder), **options)


@pytest.mark.parametrize("options", [{"image_size": 16}, {}, {"like": (1, 8, 8)}, {"image_size": "12x18"}])
def test_images_are_those_that_are_read_into_memory(folder: Path, options: dict[str, Any]) -> None:
    whole, lazy = read(folder, **options), read(folder, "1k", **options)
    for part in ("train", "test"):
        held, asked = getattr(whole, part), getattr(lazy, part)
        assert isinstance(held, ArrayDataset)
        assert isinstance(asked, ImageFiles)
        assert asked.decodes
        assert (len(held), held.image_shape, held.class_names) == (len(asked), asked.image_shape, asked.class_names)
        assert held.files == asked.files
        order = RNG.permutation(len(held))
        for found, expected in zip(asked[order], held[order], strict=True):
            np.testing.assert_array_equal(found, expected)
        some = asked.subset(order[:4])
        np.testing.assert_array_equal(some[np.arange(4)][0], held.images[order[:4]])
        assert some.files == [held.files[i] for i in order[:4]]


def test_grey_files_have_one_channel(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        Image.open(path).convert("L").save(path)
    whole, lazy = read(folder, image_size=16), read(folder, "1k", image_size=16)
    assert whole.train.image_shape == lazy.train.image_shape == (1, 16, 16)
    np.testing.assert_array_equal(lazy.train[np.arange(24)][0], whole.train[np.arange(24)][0])


def test_it_is_said_and_what_a_run_knows_the_data_by(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(memory.VARIABLE, "5K")
    with pytest.warns(UserWarning, match="images are read from their files as they are needed"):
        lazy = load(str(folder), 16)
    before = lazy.sha256()
    assert before == read(folder, "5K", image_size=16).sha256()
    assert before != read(folder, "5K", image_size=12).sha256()
    (folder / "train" / "cat" / "0.png").write_bytes(b"shorter")
    assert lazy.sha256() != before


def test_what_was_decoded_is_kept_while_there_is_room() -> None:
    kept, pixels = Kept(25), np.zeros((1, 3, 3), np.uint8)
    for name in "abc":
        kept.add(name, pixels)
    assert list(kept.images) == ["a", "b"]


def test_a_second_epoch_decodes_only_what_was_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = read(folder, "12k", image_size=16).train  # 30 images of 768 bytes; half of the room is for 8 of them
    decoded: list[str] = []

    def counting(path: Path, *rest: Any) -> Any:
        decoded.append(path.name)
        return plain(path, *rest)

    plain = image_files.decode_picture
    monkeypatch.setattr(image_files, "decode_picture", counting)
    counts = []
    for _ in range(2):
        decoded.clear()
        lazy[np.arange(24)]
        counts.append(len(decoded))
    assert counts == [24, 16]


@pytest.mark.parametrize("workers", [None, 1, 4])
def test_workers_decode_to_the_same_batches(folder: Path, workers: int | None) -> None:
    lazy, whole = read(folder, "1k", image_size=16).train, read(folder, image_size=16).train
    augment, batches = Augmentation(shift=2, flip=True), []
    for data, count in ((whole, 0), (lazy, workers)):
        loader = DataLoader(data, 5, shuffle=True, seed=1, workers=count, augmentation=augment)
        batches.append([(x.numpy(), y.numpy()) for x, y in loader])
    for one, other in zip(*batches, strict=True):
        for part, same in zip(one, other, strict=True):
            np.testing.assert_array_equal(part, same)
    assert DataLoader(lazy).workers == cores()
    assert DataLoader(whole).workers == 0


@pytest.mark.parametrize("workers", [0, 3])
def test_an_image_that_does_not_decode_is_named_where_it_is_due(folder: Path, workers: int) -> None:
    lazy = read(folder, "1k", image_size=16).train
    broken = folder / "train" / "cat" / lazy.files[4].split("/")[-1]
    broken.write_bytes(broken.read_bytes()[:200])
    batches = iter(DataLoader(lazy, 2, workers=workers))
    next(batches), next(batches)
    with pytest.raises(DataError, match=rf"{broken.name}: is no readable image"):
        next(batches)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("gpucnn-worker")]


def test_workers_leave_the_filters_of_warnings_alone(folder: Path) -> None:
    lazy = read(folder, "1k", image_size=16).train
    before = list(warnings.filters)
    list(DataLoader(lazy, 2, workers=4))
    assert list(warnings.filters) == before
    batches = iter(DataLoader(lazy, 1, workers=2))
    next(batches)
    with pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard", stacklevel=1)
    list(batches)


@pytest.mark.parametrize(("text", "size"), [("5000", 5000), ("2k", 2048), ("3 MB", 3 * 2**20), ("1GiB", 2**30)])
def test_memory_can_be_given(monkeypatch: pytest.MonkeyPatch, text: str, size: int) -> None:
    monkeypatch.setenv(memory.VARIABLE, text)
    assert memory.budget() == size


@pytest.mark.parametrize("text", ["much", "-1", "1.5G", "1e9"])
def test_memory_that_is_no_number_is_told(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(memory.VARIABLE, text)
    with pytest.raises(UsageError, match="GPUCNN_DATA_MEMORY: expected bytes, such as 500M or 2G"):
        memory.budget()


def test_a_control_group_bounds_the_free_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.free() > 0
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    assert memory.free() == 600
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free() > 600


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_a_folder_larger_than_the_memory_trains(tmp_path: Path) -> None:
    """320 MB of pixels, in a process whose memory grows by less than half of that while it trains on them."""
    home = tmp_path / "large"
    for k, name in enumerate(("bright", "dark")):
        (home / name).mkdir(parents=True)
        picture = tmp_path / f"{name}.png"
        Image.fromarray(np.full((400, 400, 3), 200 - 150 * k, np.uint8)).save(picture)
        for i in range(335):
            (home / name / f"{i}.png").write_bytes(picture.read_bytes())
    program = f"""
import re, sys, warnings
from dataclasses import replace
from pathlib import Path
warnings.simplefilter("ignore")
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
from gpucnn import data, nn, optim, training
splits = data.load({str(home)!r}, image_size=400)
before = peak()
net = nn.Sequential(nn.AvgPool2d(100), nn.Flatten(), nn.Linear(48, 2))
loader = training.DataLoader(splits.train, 4, shuffle=True, workers=2, device="cpu")
loop = training.Loop(net, nn.CrossEntropyLoss(), optim.Adam(net.parameters(), lr=0.05), loader, [training.Accuracy()])
history = loop.run(2)
print(len(splits.train) + len(splits.test), history[-1]["accuracy"], peak() - before)
"""
    env = {"GPUCNN_DATA_MEMORY": "40M", "GPUCNN_CACHE": str(tmp_path / "cache"), "PATH": "/usr/bin:/bin"}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env, timeout=200)
    assert run.returncode == 0, run.stderr
    count, accuracy, grown = run.stdout.split()
    assert (count, accuracy) == ("670", "1.0")
    assert int(grown) < 150


def test_a_run_is_resumed_as_it_read_its_images(folder: Path, tmp_path: Path) -> None:
    settings = Settings(data=str(folder), image_size=28, epochs=1, batch_size=8, device="cpu", validation=4).resolved()
    run, lazy, whole = tmp_path / "run", read(folder, "1k", image_size=28), read(folder, image_size=28)
    Trainer(settings, lazy, RunFolder.new(run, "run")).train()
    with pytest.raises(UsageError, match="read from their files as needed, as in the run so far, got all in memory"):
        Trainer(replace(settings, epochs=2), whole, RunFolder.open(run)).resume()
    again = Trainer(replace(settings, epochs=2, workers=2, schedule=settings.schedule), lazy, RunFolder.open(run))
    again.resume()
    again.train()
    assert again.epoch == 2
