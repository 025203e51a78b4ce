"""What is kept in the cache is read only whole and for what it was made from; without a cache everything works."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from runs import environment, python

from gpucnn import data
from gpucnn.data import cache
from gpucnn.data.builtin import DrawnDigits
from gpucnn.data.cache import Arrays, cache_home, kept

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


@pytest.mark.parametrize("progress", [False, True])
def test_a_bar_shows_on_terminals_only(capfd: pytest.CaptureFixture[str], progress: bool) -> None:
    import pty_screen

    code = f"from gpucnn.data import digits; digits.BAR_AFTER = 0; digits.draw_digits(600, progress={progress})"
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
