"""CIFAR-10's binary files, from its archive or beside it; archives that are damaged or hostile."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from gpucnn.data import load, load_cifar10
from gpucnn.data.cifar import ARCHIVE, INSIDE
from gpucnn.errors import DataError

NAMES = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]


def records(seed: int, count: int = 4) -> tuple[bytes, np.ndarray, np.ndarray]:
    """Return a file of records, built by the published description, and the images and labels in it."""
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 256, (count, 3, 32, 32), np.uint8), rng.integers(0, 10, count)
    content = b"".join(bytes([label]) + image.tobytes() for image, label in zip(images, labels.tolist(), strict=True))
    return content, images, labels


FILES = {name: records(seed)[0] for seed, name in enumerate(NAMES)}


def pack(path: Path, files: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = len(content), kind, "/etc/passwd"
            archive.addfile(member, io.BytesIO(content))
    return path


def inside(files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{INSIDE}/{name}": content for name, content in files.items()}


@pytest.mark.parametrize("way", ["archive", "folder", "files"])
def test_images_labels_and_names(tmp_path: Path, way: str) -> None:
    if way == "archive":
        pack(tmp_path / ARCHIVE, {f"{INSIDE}/readme.html": b"<html>", **inside(FILES)})
    else:
        home = tmp_path / INSIDE if way == "folder" else tmp_path
        home.mkdir(exist_ok=True)
        for name, content in FILES.items():
            (home / name).write_bytes(content)
    splits = load(str(tmp_path))
    assert (splits.name, len(splits.train), len(splits.test)) == ("cifar10", 20, 4)
    assert splits.train.class_names[3] == "cat"
    images, labels = splits.train[np.arange(20)]
    np.testing.assert_array_equal(images, np.concatenate([records(seed)[1] for seed in range(5)]))
    np.testing.assert_array_equal(labels, np.concatenate([records(seed)[2] for seed in range(5)]))
    images, labels = splits.test[np.arange(4)]
    np.testing.assert_array_equal(images, records(5)[1])
    assert sorted(path.name for path in tmp_path.rglob("*.bin")) == (sorted(NAMES) if way != "archive" else [])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data_batch_3.bin": b""}, "data_batch_3.bin: expected up to 10,000 records of 3,073 bytes"),
        ({"data_batch_3.bin": FILES["data_batch_3.bin"][:-1]}, "got 12,291 bytes"),
        ({"test_batch.bin": b"\x0a" + bytes(3072)}, "labels: expected 0 to 9, got 0 to 10"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, changes: dict[str, bytes], said: str) -> None:
    if "test_batch.bin" in changes:
        changes = {"test_batch.bin": changes["test_batch.bin"] + FILES["test_batch.bin"].replace(b"\x0a", b"\0")}
    pack(tmp_path / ARCHIVE, inside(FILES | changes))
    with pytest.raises(DataError) as caught:
        load_cifar10(tmp_path)
    assert said.partition(", got")[0] in str(caught.value)


def test_missing_files(tmp_path: Path) -> None:
    pack(tmp_path / ARCHIVE, inside({name: FILES[name] for name in NAMES[:3]}))
    with pytest.raises(DataError, match=r"data_batch_4\.bin: expected .*, got none"):
        load_cifar10(tmp_path)
    (tmp_path / ARCHIVE).unlink()
    (tmp_path / "test_batch.bin").write_bytes(FILES["test_batch.bin"])
    with pytest.raises(DataError, match=r"data_batch_1\.bin: no such file"):
        load_cifar10(tmp_path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_links_and_devices_are_no_files(tmp_path: Path, kind: bytes) -> None:
    pack(tmp_path / ARCHIVE, dict.fromkeys(inside(FILES), b""), kind)
    with pytest.raises(DataError, match=r"data_batch_1\.bin: expected .*, got none"):
        load_cifar10(tmp_path)


def test_other_names_are_passed_over_and_nothing_is_written(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "home"
    home.mkdir(parents=True)
    names = ("../../escaped.bin", "/tmp/gpucnn-escaped.bin", f"{INSIDE}/../escaped.bin", f"../{INSIDE}/test_batch.bin")
    pack(home / ARCHIVE, {**dict.fromkeys(names, b"x"), **inside(FILES)})
    assert len(load_cifar10(home).train) == 20
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [ARCHIVE]
    assert not Path("/tmp/gpucnn-escaped.bin").exists()


@pytest.mark.parametrize("where", ["member", "other", "head"])
def test_an_archive_that_unpacks_to_more_than_it_should_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr("gpucnn.data.cifar.UNPACKED", 2**22)
    zeros = bytes(2**26)
    if where == "head":  # the extended header of a member, which tarfile reads into memory
        member = tarfile.TarInfo("x")
        member.type, member.size = tarfile.XHDTYPE, len(zeros)
        with gzip.open(tmp_path / ARCHIVE, "wb") as file:
            file.write(member.tobuf(tarfile.USTAR_FORMAT) + zeros)
    else:
        name = f"{INSIDE}/data_batch_1.bin" if where == "member" else "other"
        pack(tmp_path / ARCHIVE, {**inside(FILES), name: zeros})
    del zeros
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="cannot be read"):
            load_cifar10(tmp_path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2**25


@pytest.mark.parametrize(
    "content", [b"", b"text", gzip.compress(b"no tar at all" * 99), "cut", "flipped"],
    ids=["empty", "text", "no tar", "cut", "flipped"],
)  # fmt: skip
def test_damaged_archives(tmp_path: Path, content: bytes | str) -> None:
    whole = bytearray(pack(tmp_path / ARCHIVE, inside(FILES)).read_bytes())
    if content == "flipped":
        whole[len(whole) // 2] ^= 8
    damaged = content if isinstance(content, bytes) else bytes(whole[: -2000 if content == "cut" else None])
    (tmp_path / ARCHIVE).write_bytes(damaged)
    with pytest.raises(DataError) as caught:
        load_cifar10(tmp_path)
    assert ARCHIVE in str(caught.value)
    assert "\n" not in str(caught.value)
