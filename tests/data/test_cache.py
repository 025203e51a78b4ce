"""The cache of drawn digits and decoded images: read only whole, for what it was made from; all works without it."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runs import environment, python

from gpucnn import data, limits
from gpucnn.data import cache
from gpucnn.data.builtin import DrawnDigits
from gpucnn.data.cache import Arrays, cache_home, kept
from gpucnn.data.dataset import Splits
from gpucnn.errors import DataError

ARRAYS = {"a": np.arange(12, dtype=np.uint8).reshape(3, 4), "b": np.arange(3)}


class Maker:
    """Makes arrays, and counts how often."""

    def __init__(self, arrays: Arrays = ARRAYS) -> None:
        self.arrays, self.calls = arrays, 0

    def __call__(self) -> Arrays:
        self.calls += 1
        return {name: array.copy() for name, array in self.arrays.items()}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPUCNN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def entry(home: Path) -> Path:
    (path,) = home.rglob("*.safetensors")
    return path


def assert_kept(make: Maker, key: str = "one") -> None:
    found = kept("thing", key, make)
    assert found.keys() == make.arrays.keys()
    for name, array in make.arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
        assert found[name].flags.writeable
        assert found[name].flags.c_contiguous


def test_it_is_made_once_for_a_key(home: Path) -> None:
    make = Maker()
    for _ in range(3):
        assert_kept(make)
    assert make.calls == 1
    assert_kept(make, "two")
    assert make.calls == 2, "made from something else"
    assert [path.name for path in home.rglob("*") if path.is_file()] == ["thing.safetensors"], "nothing else is left"


def test_what_a_caller_changes_is_not_kept(home: Path) -> None:
    make = Maker()
    for _ in range(2):
        kept("thing", "one", make)["a"][:] = 7
    assert_kept(make)


@pytest.mark.parametrize("at", [0, 5, 8, 60, -1, -20])
def test_a_changed_byte_is_noticed(home: Path, at: int) -> None:
    make = Maker()
    assert_kept(make)
    content = bytearray(entry(home).read_bytes())
    content[at] ^= 1
    entry(home).write_bytes(content)
    assert_kept(make)
    assert make.calls == 2
    assert_kept(make)
    assert make.calls == 2, "mended"


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"x" * 1000, b"\xff" * 8])
def test_other_content_is_made_anew(home: Path, content: bytes) -> None:
    make = Maker()
    assert_kept(make)
    entry(home).write_bytes(content)
    assert_kept(make)
    assert make.calls == 2


def test_a_cut_entry_is_made_anew(home: Path) -> None:
    make = Maker()
    assert_kept(make)
    entry(home).write_bytes(entry(home).read_bytes()[:-1])
    assert_kept(make)
    assert make.calls == 2


def test_a_folder_in_its_place_does_no_harm(home: Path) -> None:
    (home / "made" / "thing.safetensors").mkdir(parents=True)
    make = Maker()
    assert_kept(make)
    assert make.calls == 1
    assert list((home / "made").iterdir()) == [home / "made" / "thing.safetensors"], "no temporary file is left"


def test_where_nothing_can_be_written_it_works_all_the_same(home: Path) -> None:
    home.write_text("a file where the folder should be")
    make = Maker()
    assert_kept(make)
    assert_kept(make)
    assert make.calls == 2


@pytest.mark.skipif(sys.platform == "win32", reason="elsewhere the home folder is found another way")
def test_without_a_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GPUCNN_CACHE", "HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    import pwd

    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert cache_home() is None
    make = Maker()
    assert_kept(make)
    monkeypatch.setenv("GPUCNN_CACHE", "~nobodyofthisname/x")
    monkeypatch.setattr(pwd, "getpwnam", nobody)
    assert cache_home() is None


def test_the_folder_is_the_one_that_pooch_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pooch = pytest.importorskip("pooch", reason="pooch (the download extra) is not installed")
    monkeypatch.delenv("GPUCNN_CACHE")
    for name in (None, str(tmp_path / "cache"), " "):
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        if name is not None:
            monkeypatch.setenv("XDG_CACHE_HOME", name)
        assert cache_home() == pooch.os_cache("gpucnn")


def test_what_is_large_is_not_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LARGEST", 35)
    assert_kept(Maker())
    assert not home.exists()


def test_the_entries_read_longest_ago_go(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "ENTRIES", 2)
    for age, name in enumerate(("first", "second")):
        kept(name, "k", Maker())
        os.utime(home / "made" / f"{name}.safetensors", (age, age))
    make = Maker()
    kept("first", "k", make)
    assert make.calls == 0
    kept("third", "k", Maker())
    assert sorted(path.stem for path in (home / "made").iterdir()) == ["first", "third"]


def test_processes_at_once_leave_one_whole_entry(home: Path) -> None:
    code = "from gpucnn.data.builtin import DrawnDigits; print(DrawnDigits('x', 300, 3).images.sum())"
    import subprocess

    several = [
        subprocess.Popen([sys.executable, "-c", code], env=environment(), stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = {process.communicate(timeout=120)[0] for process in several}
    assert said == {f"{data.draw_digits(300, 3)[0].sum()}\n"}
    assert [path.name for path in home.rglob("*") if path.is_file()] == ["digits-x.safetensors"]


def test_digits_are_drawn_when_asked_for_and_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = data.draw_digits(300, 5)
    digits = DrawnDigits("x", 300, 5)
    assert (len(digits), digits.image_shape, digits.classes) == (300, (1, 28, 28), 10)
    assert not home.exists(), "nothing is drawn yet"
    np.testing.assert_array_equal(digits.labels, labels)
    np.testing.assert_array_equal(digits[np.arange(300)][0], images)
    monkeypatch.setattr("gpucnn.data.builtin.draw_digits", None)
    np.testing.assert_array_equal(DrawnDigits("x", 300, 5).images, images)
    np.testing.assert_array_equal(DrawnDigits("x", 300, 5).subset(np.array([7, 3])).labels, labels[[7, 3]])
    with pytest.raises(AttributeError, match="banana"):
        _ = digits.banana
    with pytest.raises(TypeError):
        _ = DrawnDigits("x", 301, 5).images


def test_evaluating_draws_the_test_digits_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "DIGITS_TRAIN", 500)
    monkeypatch.setattr(data, "DIGITS_TEST", 250)
    splits = data.load("digits")
    np.testing.assert_array_equal(splits.test[np.arange(250)][0], data.draw_digits(250, seed=1)[0])
    assert entry(home).stem == "digits-test"
    assert splits.sha256() == data.load("digits").sha256()
    assert {path.stem for path in home.rglob("*.safetensors")} == {"digits-train", "digits-test"}


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Six images in two classes, in a folder of their own; older than any clock's grain."""
    for i in range(6):
        path = tmp_path / "pets" / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 8, 3), (i, 40 * i, 0), np.uint8)).save(path)
    return tmp_path / "pets"


def load_quietly(folder: Path, **options: Any) -> Splits:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return data.load_pictures(folder, **options)


def messages(folder: Path) -> list[str]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        data.load_pictures(folder)
    return [str(one.message) for one in said]


def test_decoded_pictures_are_kept_with_what_was_said_of_them(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpucnn.data.decoding.cores", lambda: 1)
    first, said = load_quietly(pets), messages(pets)
    assert any("6 images resized to 6x6 pixels (6 are not square" in message for message in said)
    with monkeypatch.context() as patch:
        patch.setattr("gpucnn.data.decoding.decode_picture", None)
        again = load_quietly(pets)
        assert again.sha256() == first.sha256()
        assert messages(pets) == said
    monkeypatch.setenv("GPUCNN_CACHE", f"{os.devnull}/cache")
    monkeypatch.setattr("gpucnn.data.decoding.cores", lambda: 4)
    assert load_quietly(pets).sha256() == first.sha256(), "the cache and the threads change nothing"


@pytest.mark.parametrize("change", ["content", "time", "another", "gone", "renamed", "size", "framing"])
def test_other_pictures_or_options_are_decoded_anew(pets: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    load_quietly(pets)
    options: dict[str, Any] = {}
    picture = pets / "cat" / "0.png"
    status = picture.stat()
    if change == "content":
        picture.write_bytes(picture.read_bytes() + b" ")
        os.utime(picture, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "time":
        os.utime(picture, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    elif change == "another":
        (pets / "cat" / "9.png").write_bytes(picture.read_bytes())
    elif change == "gone":
        picture.unlink()
    elif change == "renamed":
        picture.rename(picture.with_name("00.png"))
    elif change == "size":
        options = {"image_size": 5}
    else:
        options = {"like": (1, 6, 6), "framing": "centred"}
    monkeypatch.setattr("gpucnn.data.decoding.decode_picture", None)
    with pytest.raises(TypeError):
        load_quietly(pets, **options)


def test_bounds_that_are_lifted_are_lifted_in_every_thread(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpucnn.limits.PICTURE_PIXELS", 20)
    monkeypatch.setattr("gpucnn.data.decoding.cores", lambda: 4)
    with pytest.raises(DataError, match="20 pixels"):
        load_quietly(pets)
    with limits.applied(False):
        assert len(load_quietly(pets).train) == 4


def test_a_bad_picture_is_told_however_many_threads_and_nothing_is_kept(pets: Path, home: Path) -> None:
    (pets / "dog" / "5.png").write_text("no image")
    for _ in range(2):
        with pytest.raises(DataError, match=r"5\.png"):
            load_quietly(pets)
    assert not list(home.rglob("*.safetensors"))
    filters = list(warnings.filters)
    with pytest.raises(DataError):
        data.load_pictures(pets)
    assert warnings.filters == filters


@pytest.mark.parametrize("progress", [False, True])
def test_a_bar_shows_on_terminals_only(capfd: pytest.CaptureFixture[str], progress: bool) -> None:
    import pty_screen

    code = (
        f"from gpucnn.data import draw_digits, parallel; parallel.BAR_AFTER = 0; draw_digits(600, progress={progress})"
    )
    assert ("Drawing digits" in pty_screen.run("-c", code)) == progress
    data.draw_digits(600, progress=progress)
    assert capfd.readouterr() == ("", "")


def test_the_package_works_without_home_and_cache(tmp_path: Path) -> None:
    """As root a folder without permissions can be written, so a file stands where the cache would be."""
    (tmp_path / "file").write_text("")
    env = environment(XDG_CACHE_HOME=str(tmp_path / "file"))
    for name in ("HOME", "GPUCNN_CACHE"):
        env.pop(name, None)
    code = "from gpucnn import data; data.DIGITS_TEST = 20; print(len(data.load('digits').test.images))"
    result = python("-c", code, env=env)
    assert (result.stdout, result.stderr) == ("20\n", "")
