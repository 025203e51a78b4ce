"""Checkpoints: whole or not there, whatever happens while one is written; damage is found."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpucnn import checkpoint, disk
from gpucnn.checkpoint import Checkpoint
from gpucnn.errors import CheckpointError

MUTATIONS = ("mkdir", "rename", "replace", "symlink", "unlink", "rmdir", "fsync")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of syncs of a real disk take a minute; that they are asked for, and when, has a test of its own."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def content(number: int) -> Checkpoint:
    array = np.full((3, 2), number, np.float32)
    return Checkpoint({"weight": array}, {"exp_avg.weight": array * 2}, {"epoch": number})


def number_of(folder: Path, link: str = "last") -> int:
    path = checkpoint.find(folder, link)
    assert path is not None
    loaded = checkpoint.load(path)
    number = loaded.state["epoch"]
    assert (loaded.model["weight"] == number).all()
    assert (loaded.optimizer["exp_avg.weight"] == 2 * number).all()
    return number


def test_round_trip_is_exact(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    model = {"a": rng.standard_normal((2, 3)).astype(np.float32), "b": rng.standard_normal(4), "c": np.float32([])}
    state = {"epoch": 3, "loss": 0.1 + 0.2, "big": 2**60, "name": "é", "none": None}
    path = checkpoint.save(tmp_path, 12, Checkpoint(model, {"m": model["a"].T}, state))
    loaded = checkpoint.load(path)
    assert path.name == "step-000012"
    assert {**state, "step": 12}.items() <= loaded.state.items()
    assert {k: (v.dtype, v.tobytes()) for k, v in loaded.model.items()} == {
        k: (v.dtype, v.tobytes()) for k, v in model.items()
    }
    assert np.array_equal(loaded.optimizer["m"], model["a"].T), "a transposed view was saved in its memory's order"


def test_last_and_best_are_kept_and_nothing_else(tmp_path: Path) -> None:
    for step, best in ((1, True), (2, False), (3, True), (4, False), (5, False)):
        checkpoint.save(tmp_path, step, content(step), best)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "last", "step-000003", "step-000005"]
    assert (number_of(tmp_path, "last"), number_of(tmp_path, "best")) == (5, 3)
    assert os.readlink(tmp_path / "last") == "step-000005", "a link that moves with its folder"


class PowerCutError(BaseException):
    """Nothing reaches the disk from here on. Not an Exception: no handler is meant to take it for a mere failure."""


class Disk:
    """Counts what changes the disk; from change number ``fails_at`` on, every one raises ``error``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails_at: int, error: Callable[[], BaseException], once: bool):
        self.count, self.fails_at, self.error, self.once = 0, fails_at, error, once
        for name in MUTATIONS:
            monkeypatch.setattr(os, name, self._counted(getattr(os, name)))
        write = disk.write_synced

        def write_half(path: Path, data: bytes) -> None:
            try:
                self.change()
            except BaseException:
                if self.count == self.fails_at:
                    path.write_bytes(data[: len(data) // 2])
                raise
            write(path, data)

        monkeypatch.setattr(disk, "write_synced", write_half)

    def change(self) -> None:
        self.count += 1
        if self.count == self.fails_at or (self.count > self.fails_at and not self.once):
            raise self.error()

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.change()
            return function(*arguments, **options)

        return counted


def no_space() -> OSError:
    return OSError(28, "No space left on device")


def after_one(folder: Path) -> None:
    checkpoint.save(folder, 1, content(1), best=True)


def after_two(folder: Path) -> None:
    checkpoint.save(folder, 1, content(1), best=True)
    checkpoint.save(folder, 2, content(1))


def same_step(folder: Path) -> None:
    checkpoint.save(folder, 3, content(1), best=True)


def copied_without_links(folder: Path) -> None:
    checkpoint.save(folder / "original", 1, content(1), best=True)
    for name in ("step-000001", "last", "best"):
        shutil.copytree(folder / "original" / name, folder / name)
    shutil.rmtree(folder / "original")


@pytest.mark.parametrize("best", [False, True])
@pytest.mark.parametrize(
    "before", [after_one, after_two, same_step, pytest.param(copied_without_links, marks=pytest.mark.posix)]
)
@pytest.mark.parametrize("error", [PowerCutError, no_space])
def test_any_moment_leaves_last_and_best_whole(
    tmp_path: Path, before: Callable[[Path], None], best: bool, error: Callable[[], BaseException]
) -> None:
    for moment in range(1, 200):
        folder = tmp_path / str(moment)
        before(folder)
        with pytest.MonkeyPatch.context() as patch:
            broken = Disk(patch, moment, error, once=error is no_space)
            try:
                checkpoint.save(folder, 3, content(2), best)
                saved = True
            except (PowerCutError, OSError):
                saved = False
        assert number_of(folder) in ((2,) if saved else (1, 2))
        if before is not copied_without_links:  # there, `best` is a folder that gives way to a link
            assert number_of(folder, "best") in (1, 2)
        if broken.count < moment:
            assert saved
            break
        checkpoint.save(folder, 4, content(3), best=True)
        assert (number_of(folder), number_of(folder, "best")) == (3, 3)
        assert sorted(path.name for path in folder.iterdir()) == ["best", "last", "step-000004"]
    else:
        pytest.fail("it never got through")
    assert moment > 8


@pytest.mark.posix
def test_files_are_synced_before_the_rename_and_the_rename_before_the_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_one(tmp_path)
    calls: list[str] = []

    def noting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            return real(*arguments, **options)

        return noted

    for name in ("fsync", "rename", "replace", "rmdir"):
        monkeypatch.setattr(os, name, noting(name, getattr(os, name)))
    checkpoint.save(tmp_path, 2, content(2))
    # three files and their folder, the move, the link; what it pointed at goes when the link is on the disk
    assert calls == ["fsync"] * 4 + ["rename", "fsync", "replace", "fsync"], calls
    checkpoint.save(tmp_path, 3, content(3))
    assert calls[-2:] == ["fsync", "rmdir"]


def test_first_save_that_fails_leaves_no_last(tmp_path: Path) -> None:
    for moment in range(1, 8):
        folder = tmp_path / str(moment)
        with pytest.MonkeyPatch.context() as patch:
            Disk(patch, moment, no_space, once=True)
            with pytest.raises(OSError, match="No space"):
                checkpoint.save(folder, 1, content(1))
        assert not (folder / "last").exists()
        if folder.exists():
            assert not [path.name for path in folder.iterdir() if path.name.startswith(".")], "half of it was left"


def test_a_first_checkpoint_is_the_best_as_soon_as_it_is_there(tmp_path: Path) -> None:
    there = set()
    for moment in range(1, 40):
        folder = tmp_path / str(moment)
        with pytest.MonkeyPatch.context() as patch:
            Disk(patch, moment, PowerCutError, once=False)
            with contextlib.suppress(PowerCutError):
                checkpoint.save(folder, 1, content(1), best=True)
        found = [checkpoint.find(folder / ".", link) is not None for link in ("last", "best")]
        assert found[0] == found[1], f"cut at change {moment}"
        there.add(found[0])
    assert there == {True, False}


def test_a_step_saved_again_never_touches_what_a_link_needs(tmp_path: Path) -> None:
    first = checkpoint.save(tmp_path, 3, content(1), best=True)
    second = checkpoint.save(tmp_path, 3, content(2))
    assert first != second
    assert (number_of(tmp_path), number_of(tmp_path, "best")) == (2, 1)
    third = checkpoint.save(tmp_path, 3, content(3), best=True)
    assert (number_of(tmp_path), number_of(tmp_path, "best")) == (3, 3)
    assert [path for path in (first, second, third) if path.exists()] == [third]


def test_last_is_the_newest_where_copying_lost_the_links(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 9, content(1), best=True)
    checkpoint.save(tmp_path, 1000000, content(2))
    for link in ("last", "best"):
        (tmp_path / link).unlink()
    assert number_of(tmp_path) == 2
    assert checkpoint.find(tmp_path, "best") is None
    assert checkpoint.find(tmp_path / "nothing", "last") is None


def test_links_and_files_under_temporary_names_are_cleared(tmp_path: Path) -> None:
    (tmp_path / ".last.1.tmp").symlink_to("step-000001")
    (tmp_path / ".step-000001.1.tmp").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    checkpoint.save(tmp_path, 2, content(2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "notes.txt", "step-000002"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_every_flipped_bit_of_the_weights_is_found(tmp_path: Path, name: str) -> None:
    path = checkpoint.save(tmp_path, 1, content(1))
    whole = (path / name).read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        (path / name).write_bytes(damaged)
        with pytest.raises(CheckpointError, match="SHA-256"):
            checkpoint.load(path)
    for length in range(0, len(whole), 7):
        (path / name).write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="SHA-256"):
            checkpoint.load(path)


@pytest.mark.parametrize(
    "state",
    [
        b"", b"{", b"[]", b"null", b"7", b"{}", b'{"format": 1}', b'{"format": "1", "sha256": {}}', b"\xff\xfe",
        b'{"format": 1, "sha256": []}', b'{"format": 1, "sha256": {"model.safetensors": 5}}', b"[" * 100_000,
        b'{"format": ' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_damaged_state_is_one_line(tmp_path: Path, state: bytes) -> None:
    path = checkpoint.save(tmp_path, 1, content(1))
    (path / "state.json").write_bytes(state)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_newer_format_says_what_to_do(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 1, content(1))
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps(state | {"format": 2}))
    with pytest.raises(CheckpointError, match=r"expected at most 1, got 2\. Update gpucnn"):
        checkpoint.load(path)


@pytest.mark.parametrize("name", ["state.json", "model.safetensors", "optimizer.safetensors"])
def test_missing_file_is_named(tmp_path: Path, name: str) -> None:
    path = checkpoint.save(tmp_path, 1, content(1))
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        checkpoint.load(path)


def test_names_of_arrays_are_no_paths(tmp_path: Path) -> None:
    evil = Checkpoint({"../../../evil": np.zeros(1, np.float32)}, {}, {})
    path = checkpoint.save(tmp_path / "a" / "b", 1, evil)
    assert list(checkpoint.load(path).model) == ["../../../evil"]
    assert not list(tmp_path.rglob("evil*"))


def test_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"before")
    for moment in range(1, 4):
        with pytest.MonkeyPatch.context() as patch:
            broken = Disk(patch, moment, no_space, once=True)
            try:
                disk.write_atomically(path, b"a much longer text after")
            except OSError:
                assert path.read_bytes() in (b"before", b"a much longer text after")
        assert broken.count >= min(moment, 3)
        assert [p.name for p in tmp_path.iterdir()] == ["config.toml"]
    disk.write_atomically(path, b"after")
    assert path.read_bytes() == b"after"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        disk.write_atomically(pipe, b"content")
        assert os.read(reader, 100) == b"content"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_a_link_is_replaced_and_what_it_leads_to_left_alone(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"before")
    (tmp_path / "link").symlink_to("other")
    disk.write_atomically(tmp_path / "link", b"after")
    assert ((tmp_path / "link").read_bytes(), (tmp_path / "other").read_bytes()) == (b"after", b"before")


def test_bfloat16_in_a_file_is_widened(tmp_path: Path) -> None:
    values = np.array([[1.0, -2.5, 3.140625], [0.0, 65536.0, -0.0078125]], np.float32)  # all of them bfloat16 has
    half = (values.view(np.uint32) >> 16).astype(np.uint16)
    header = {
        "__metadata__": {"made": "here"},
        "plain": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "half": {"dtype": "BF16", "shape": list(values.shape), "data_offsets": [4, 16]},
    }
    text = json.dumps(header).encode()
    path = tmp_path / "weights.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + np.ones(1, np.float32).tobytes() + half.tobytes())
    arrays, texts = checkpoint.read_packed(path)
    assert arrays["half"].dtype == arrays["plain"].dtype == np.float32
    np.testing.assert_array_equal(arrays["half"], values)
    assert texts == {"made": "here"}
