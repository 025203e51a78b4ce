"""IDX and npz: what is read, what is refused, and that nothing a file claims is believed."""

from __future__ import annotations

import gzip
import io
import pickle
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import IDX_CODES, idx, write_idx_folder, write_npz

from gpucnn import limits
from gpucnn.data import load_idx_folder, load_npz, read_idx
from gpucnn.errors import DataError


@pytest.mark.parametrize("kind", IDX_CODES)
@pytest.mark.parametrize("shape", [(6,), (2, 3), (2, 3, 4), (2, 1, 3, 2)])
def test_idx_round_trip(tmp_path: Path, kind: str, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape)).reshape(shape).astype(kind)
    (tmp_path / "a").write_bytes(idx(array))
    (tmp_path / "b").write_bytes(gzip.compress(idx(array)))
    for name in "ab":  # packed or not is seen from the content, not from the name
        read = read_idx(tmp_path / name)
        assert read.dtype == array.dtype
        assert read.dtype.isnative
        assert np.array_equal(read, array)
        read[...] = 0  # it may be written to


@pytest.mark.parametrize(("suffix", "dots"), [("", False), (".gz", False), ("", True), (".gz", True)])
def test_idx_folder(tmp_path: Path, suffix: str, dots: bool) -> None:
    arrays = write_idx_folder(tmp_path / "letters", suffix, dots)
    splits = load_idx_folder(tmp_path / "letters")
    images, labels = splits.train[np.arange(7)]
    assert splits.name == "letters"
    assert np.array_equal(images[:, 0], arrays["train-images-idx3-ubyte"])
    assert np.array_equal(labels, arrays["train-labels-idx1-ubyte"])
    assert splits.train.class_names == splits.test.class_names == ["0", "1", "2"]
    assert len(splits.test) == 3


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_idx_folder_names_the_missing_file(tmp_path: Path, name: str) -> None:
    write_idx_folder(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=f"{name} or {name}.gz"):
        load_idx_folder(tmp_path)


def header(code: int, *shape: int) -> bytes:
    return bytes([0, 0, code, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "bytes none"),
        (b"\0", "bytes 00"),
        (b"PNG\r\n not idx", "an IDX file, got bytes 50 4e 47"),
        (header(7, 2) + b"ab", "an IDX file"),
        (bytes([0, 0, 8, 0]), "an IDX file"),
        (bytes([0, 0, 8, 200]) + b"\1" * 800, "an IDX file"),
        (header(8, 2, 3)[:-1], "whole and sensible lengths"),
        (header(8, 2, 3) + b"12345", "6 bytes for shape (2, 3), got 5 bytes"),
        (header(8, 2, 3) + b"1234567", "got more bytes"),
        (header(8, 2**32 - 1, 2**32 - 1, 2**32 - 1), "whole and sensible lengths"),
        (header(14, 2**31 + 1), "at most 17,179,869,184 bytes, got 17,179,869,192"),
        (header(8, 2**32 - 1) + b"123", "4294967295 bytes for shape (4294967295,), got 3 bytes"),
        (gzip.compress(header(8, 2**32 - 1) + b"123", mtime=0), "at most 268,435,456 bytes, got 4,294,967,295"),
        (gzip.compress(header(8, 2**27) + b"123", mtime=0), "got 3 bytes"),
        (header(8, 5, 0, 28), "at least one pixel, got shape (5, 0, 28)"),
        (header(8, 2**32 - 1, 2**32 - 1, 0), "whole and sensible lengths"),
        (header(8, 0, 2**32 - 1, 2**32 - 1), "whole and sensible lengths"),
        (gzip.compress(header(8, 2, 3) + b"123456", mtime=0)[:-9], "cannot be read"),
        (gzip.compress(header(8, 2, 3) + b"123456", mtime=0)[:20] + b"\0" * 20, "cannot be read"),
        (b"\x1f\x8b", "cannot be read"),
    ],
)
def test_bad_idx(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_idx(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_header_claims_is_not_set_aside(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "images"
    path.write_bytes(header(8, 2**32 - 1) + b"123")
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            read_idx(path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2**27


def test_a_packed_file_of_more_than_its_header_claims_is_not_unpacked_whole(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "images"
    path.write_bytes(gzip.compress(header(8, 10) + bytes(2**28)))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="more bytes"):
            read_idx(path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2**24


def test_missing_idx_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such file\.$"):
        read_idx(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("train-labels-idx1-ubyte", np.zeros(6, np.uint8), "one for each of 7 images, got 6"),
        ("train-labels-idx1-ubyte", np.full(7, -1, np.int8), "labels: expected 0 to"),
        ("t10k-labels-idx1-ubyte", np.array([0, 1, 3], np.uint8), "labels: expected 0 to 2, got 0 to 3"),
        ("t10k-labels-idx1-ubyte", np.zeros((3, 2), np.uint8), "(N,) integers"),
        ("train-labels-idx1-ubyte", np.zeros(7, np.float32), "(N,) integers"),
        ("train-images-idx3-ubyte", np.zeros((7, 5, 5), np.int16), "uint8 (0 to 255) or a floating dtype, got int16"),
        ("train-images-idx3-ubyte", np.zeros((7, 25), np.uint8), "(N, C, H, W) or (N, H, W), got shape (7, 25)"),
        ("train-images-idx3-ubyte", np.zeros((7, 0, 5), np.uint8), "at least one pixel"),
        ("train-images-idx3-ubyte", np.full((7, 5, 5), np.nan, np.float32), "finite numbers, got NaN"),
        ("t10k-images-idx3-ubyte", np.zeros((3, 6, 5), np.uint8), "shape (1, 5, 5), got (1, 6, 5)"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path: Path, name: str, array: np.ndarray, said: str) -> None:
    write_idx_folder(tmp_path)
    (tmp_path / name).write_bytes(idx(array))
    with pytest.raises(DataError) as caught:
        load_idx_folder(tmp_path)
    assert said in str(caught.value)


def test_empty_set_is_refused(tmp_path: Path) -> None:
    write_idx_folder(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(np.zeros((0, 5, 5), np.uint8)))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(0, np.uint8)))
    with pytest.raises(DataError, match="test set: expected at least one image, got none"):
        load_idx_folder(tmp_path)


# --- npz ---------------------------------------------------------------------------------------------------------


def test_npz(tmp_path: Path) -> None:
    names = np.array([f"number {i}" for i in range(10)])
    splits = load_npz(write_npz(tmp_path / "mine.npz", 30, 20, class_names=names))
    assert (splits.name, len(splits.train), len(splits.test)) == ("mine", 30, 20)
    assert splits.train.class_names == names.tolist()


def test_npz_compressed_and_channels_last(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (6, 8, 9, 3), np.uint8), np.arange(6)[:, None] % 2
    np.savez_compressed(tmp_path / "k.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    with pytest.warns(UserWarning, match=r"k\.npz: images are taken as \(N, H, W, C\), with 3 channels"):
        splits = load_npz(tmp_path / "k.npz")
    read, read_labels = splits.train[np.arange(6)]
    assert np.array_equal(read, images.transpose(0, 3, 1, 2))
    assert np.array_equal(read_labels, labels[:, 0])


def test_npz_floats_become_float32_and_stay_what_they_are(tmp_path: Path) -> None:
    images = np.linspace(-3, 700, 4 * 25).reshape(4, 5, 5)
    labels = np.array([0, 1, 0, 1], np.uint64)
    np.savez(tmp_path / "f.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    read, read_labels = load_npz(tmp_path / "f.npz").train[np.arange(4)]
    assert read.dtype == np.float32
    assert read_labels.dtype == np.int64
    np.testing.assert_array_equal(read[:, 0], images.astype(np.float32))


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


class Evil:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('a pickle was run')",))


GOOD = {
    "x_train": np.zeros((2, 5, 5), np.uint8),
    "y_train": np.array([0, 1]),
    "x_test": np.zeros((2, 5, 5), np.uint8),
    "y_test": np.array([0, 1]),
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x_train": np.array([Evil()], object)}, "no readable .npz of plain arrays"),
        ({"y_test": np.array([None, "a"], object)}, "no readable .npz of plain arrays"),
        ({"class_names": np.array([Evil()], object)}, "no readable .npz of plain arrays"),
        ({"class_names": np.array("one text")}, "class_names: expected (classes,) texts"),
        ({"class_names": np.array(["only one"])}, "labels: expected 0 to 0, got 0 to 1"),
        ({"y_train": np.array([0, -1])}, "labels: expected 0 to"),
        ({"y_train": np.array([0, 2**62])}, "labels: expected 0 to 65535, got 0 to 4611686018427387904"),
        ({"y_train": np.array([0, 2**64 - 1], np.uint64)}, "labels: expected 0 to 65535"),
        ({"y_train": np.array([0.0, 1.0])}, "(N,) integers or (N, classes) one-hot, got shape (2,) float64"),
        ({"y_train": np.ones((2, 2))}, "one-hot, got shape (2, 2) float64"),
        ({"y_train": np.array([[0.5, 0.5], [0, 1]])}, "one-hot"),
        ({"y_train": np.zeros((2, 2), int)}, "one-hot"),
        ({"x_train": np.full((2, 5, 5), np.inf)}, "finite numbers"),
        ({"x_train": np.full((2, 5, 5), 1e300)}, "finite numbers"),
        ({"x_train": np.zeros((2, 5, 5), complex)}, "uint8 (0 to 255) or a floating dtype"),
        ({"x_train": np.array(5)}, "(N, C, H, W) or (N, H, W), got shape ()"),
        ({"x_train": np.zeros((3, 5, 5), np.uint8)}, "one for each of 3 images, got 2"),
    ],
)
def test_npz_arrays_that_do_not_fit(tmp_path: Path, changes: dict[str, np.ndarray], said: str) -> None:
    arrays = GOOD | changes
    np.savez(tmp_path / "bad.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(DataError) as caught:
        load_npz(tmp_path / "bad.npz")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_npz_without_an_array_says_which_are_there(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros(3))
    with pytest.raises(DataError, match=r"expected x_train, y_train, x_test, y_test .*, got \['images'\]"):
        load_npz(tmp_path / "x.npz")


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04", b"not a zip", npy(np.zeros(3)), pickle.dumps(Evil()), b"PK\x05\x06" + b"\0" * 17],
    ids=["empty", "head only", "text", "npy", "pickle", "cut"],
)
def test_file_that_is_no_npz(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"no readable \.npz"):
        load_npz(path)


def test_npz_header_that_claims_what_is_not_there(tmp_path: Path) -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (2**40, 28, 28)})
    path = archive(tmp_path / "x.npz", x_train=head.getvalue() + bytes(100))
    with pytest.raises(
        DataError, match=r"x_train.npy: expected \d+ bytes for shape \(1099511627776, 28, 28\), got 100"
    ):
        load_npz(path)


def test_npz_of_endless_zeros_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpucnn.limits.UNPACKED_BYTES", 10**6)
    path = archive(tmp_path / "x.npz", **{name: npy(np.zeros((400, 28, 28), np.uint8)) for name in GOOD})
    assert path.stat().st_size < 10**4
    with pytest.raises(DataError, match=r"at most 1,000,000 bytes, got 1,254,912\..*--no-limits"):
        load_npz(path)
    with limits.applied(False), pytest.raises(DataError, match=r"labels: expected \(N,\) integers"):
        load_npz(path)


def test_encrypted_npz(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.npz", **{name: npy(array) for name, array in GOOD.items()})
    content = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        position = -1
        while (position := content.find(signature, position + 1)) >= 0:
            content[position + flags] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"no readable \.npz.*encrypted"):
        load_npz(path)


@pytest.mark.parametrize("packed", [False, True])
def test_damaged_npz_is_read_right_or_refused(tmp_path: Path, packed: bool) -> None:
    rng = random.Random(0)
    path = tmp_path / "x.npz"
    (np.savez_compressed if packed else np.savez)(path, **GOOD)  # type: ignore[arg-type]
    whole = path.read_bytes()
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 1, 4])):
            damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.2:
            del damaged[rng.randrange(len(whole)) :]
        path.write_bytes(damaged)
        try:
            load_npz(path)
        except DataError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("packed", [False, True])
def test_damaged_idx_is_read_or_refused(tmp_path: Path, packed: bool) -> None:
    rng = random.Random(1)
    path = tmp_path / "images"
    whole = idx(np.arange(60, dtype=np.uint8).reshape(3, 4, 5))
    whole = gzip.compress(whole) if packed else whole
    refused = 0
    for _ in range(500):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.3:
            del damaged[rng.randrange(len(whole)) :]
        path.write_bytes(damaged)
        try:
            read_idx(path)
        except DataError:
            refused += 1
    assert refused > 100


def test_missing_npz(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_npz(tmp_path / "x.npz")
