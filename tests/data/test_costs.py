"""Small files that would cost much: refused in seconds and far below a gigabyte, and read where the bounds are lifted."""

from __future__ import annotations

import gzip
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runs import assert_refused, gpucnn, python

from gpucnn import limits
from gpucnn.data import load, read_idx
from gpucnn.data.pictures import read_picture
from gpucnn.errors import DataError

SIDE = 7000

MEASURED = """
import json, re, time, warnings
from pathlib import Path
import numpy, PIL.Image
from gpucnn.data import read_idx, load_npz
from gpucnn.data.pictures import read_picture
from gpucnn.errors import DataError
warnings.simplefilter("ignore")
PIL.Image.init()
read = {{"idx": read_idx, "npz": load_npz, "picture": lambda path: read_picture(path, (1, 28, 28))}}["{kind}"]
before = time.process_time()
try:
    read(Path("{path}"))
    said = ""
except DataError as error:
    said = str(error)
seconds = time.process_time() - before
most = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
print(json.dumps([seconds, most, said]))
"""


def measured(kind: str, path: Path) -> tuple[float, int, str]:
    """Return the CPU seconds and most bytes that reading a file takes, and what was said."""
    if not Path("/proc/self/status").exists():
        pytest.skip("this system does not tell how much memory a process took")
    result = python("-c", MEASURED.format(kind=kind, path=path))
    assert result.returncode == 0, result.stderr
    seconds, most, said = json.loads(result.stdout)
    return seconds, most, said


def many_scans(side: int, count: int) -> bytes:
    """Return a progressive JPEG whose last scan comes ``count`` times."""
    file = io.BytesIO()
    Image.new("L", (side, side), 200).save(file, "JPEG", progressive=True, quality=50)
    content, at, scans = file.getvalue(), 2, []
    while content[at + 1] != 0xD9:
        begin, at = at, at + 2 + struct.unpack(">H", content[at + 2 : at + 4])[0]
        if content[begin + 1] == 0xDA:
            while not (content[at] == 0xFF and content[at + 1] != 0 and not 0xD0 <= content[at + 1] <= 0xD7):
                at += 1
            scans.append(content[begin:at])
    return content[:at] + scans[-1] * count + b"\xff\xd9"


def test_a_jpeg_of_many_scans(tmp_path: Path) -> None:
    path = tmp_path / "scans.jpg"
    path.write_bytes(many_scans(6900, 300))
    assert path.stat().st_size < 250_000
    seconds, most, said = measured("picture", path)
    assert "expected at most 4.0 seconds of decoding" in said
    assert seconds < 8, "4 and what lies between two looks at the clock, on a slow machine"
    assert most < 2**30


def test_decoding_in_pieces_changes_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for progressive in (False, True):
        Image.fromarray(rng.integers(0, 256, (300, 300, 3), np.uint8)).save(
            tmp_path / "a.jpg", quality=95, progressive=progressive
        )
        expected = np.asarray(Image.open(tmp_path / "a.jpg"))
        assert (tmp_path / "a.jpg").stat().st_size > 30_000
        assert np.array_equal(read_picture(tmp_path / "a.jpg", (3, 300, 300)), expected.transpose(2, 0, 1))


@pytest.mark.parametrize("kind", ["I;16", "F", "I", "RGBA", "LAB"])
def test_a_tiff_of_many_pixels(tmp_path: Path, kind: str) -> None:
    dtype = {"I;16": np.uint16, "F": np.float32, "I": np.int32}.get(kind)
    picture = Image.new(kind, (SIDE, SIDE)) if dtype is None else Image.fromarray(np.zeros((SIDE, SIDE), dtype))
    picture.save(tmp_path / "a.tif", compression="tiff_adobe_deflate")
    assert (tmp_path / "a.tif").stat().st_size < 310_000
    _, most, said = measured("picture", tmp_path / "a.tif")
    assert "shows nothing" in said
    assert most < 2**30


def test_a_packed_file_of_zeros(tmp_path: Path) -> None:
    head = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**20, 32, 32)
    with gzip.open(tmp_path / "images", "wb", compresslevel=1) as file:
        file.write(head)
        for _ in range(64):
            file.write(bytes(2**24))
    assert (tmp_path / "images").stat().st_size < 10_000_000
    seconds, most, said = measured("idx", tmp_path / "images")
    assert "bytes, got 1,073,741,824. If you trust the file" in said
    assert (seconds < 2, most < 2**28) == (True, True)


def test_a_packed_file_within_the_bounds_is_held_once(tmp_path: Path) -> None:
    head = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**17, 32, 32)
    with gzip.open(tmp_path / "images", "wb", compresslevel=1) as file:
        file.write(head + bytes(2**27))
    _, most, said = measured("idx", tmp_path / "images")
    assert said == ""
    assert most < 2**27 * 1.7 + 2**26, "the interpreter takes a part of it"


def test_lifted_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(limits, "UNPACKED_BYTES", 1000)
    monkeypatch.setattr(limits, "UNPACKED_RATIO", 2)
    arrays: dict[str, Any] = {"x": np.zeros((40, 28, 28), np.uint8), "y": np.arange(40) % 2}
    arrays["x"][:, 0, 0] = np.arange(40)
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match="--no-limits"):
        load("a.npz")
    with pytest.warns(UserWarning, match="held out"):
        assert len(load("a.npz", limits=False).train) == 32
    assert_refused(gpucnn("data", "show", "a.npz"), 1, "lift the bounds with --no-limits")
    assert gpucnn("data", "show", "a.npz", "--no-limits").code == 0
    assert_refused(gpucnn("data", "convert", "a.npz", "b.npz"), 1, "--no-limits")
    train = ("train", "--data", "a.npz", "--epochs", 1, "--device", "cpu", "--out", "run")
    assert_refused(gpucnn(*train), 1, "--no-limits")
    assert gpucnn(*train, "--no-limits").code == 0
    assert_refused(gpucnn("evaluate", "run"), 1, "--no-limits")
    assert gpucnn("evaluate", "run", "--no-limits").code == 0
    monkeypatch.setattr(limits, "PICTURE_PIXELS", 100)
    page = np.zeros((28, 28), np.uint8)
    page[4:20, 9:12] = 255
    Image.fromarray(page).save(tmp_path / "p.png")
    for command in (("predict", "run", "p.png"), ("visualize", "run", "p.png")):
        assert_refused(gpucnn(*command), 1, "p.png: expected at most 100 pixels, got 784")
        assert gpucnn(*command, "--no-limits").code == 0


def test_read_idx_with_lifted_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UNPACKED_BYTES", 10)
    (tmp_path / "a").write_bytes(gzip.compress(bytes([0, 0, 8, 1]) + struct.pack(">I", 5000) + bytes(5000)))
    with pytest.raises(DataError, match=r"at most [\d,]+ bytes, got 5,000"):
        read_idx(tmp_path / "a")
    with limits.applied(False):
        assert read_idx(tmp_path / "a").shape == (5000,)
