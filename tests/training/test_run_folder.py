"""The run folder: whose it is, what is in it, and what a full or read-only disk does to it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from runs import python, resumed, trainer

from gpucnn.checkpoint import Checkpoint
from gpucnn.errors import CheckpointError, DivergedError, RunFolderError, UsageError
from gpucnn.training import RunFolder


def test_numbered_folders_of_runs_that_start_together_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    start, folders = threading.Barrier(8), [RunFolder.new(None, "lenet of/mine") for _ in range(8)]

    def make(folder: RunFolder) -> None:
        start.wait()
        folder.make()

    threads = [threading.Thread(target=make, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(folder.path.name for folder in folders) == [f"lenet-of-mine-{i}" for i in range(1, 9)]
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == [f"lenet-of-mine-{i}" for i in range(1, 9)]


def test_a_folder_in_the_way_of_numbered_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for make in (lambda: (tmp_path / "runs").write_text(""), lambda: (tmp_path / "runs").symlink_to("nowhere")):
        make()
        with pytest.raises(RunFolderError, match="cannot make the run folder"):
            RunFolder.new(None, "a").make()
        (tmp_path / "runs").unlink()


def test_a_run_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "my run"
    trainer(path, epochs=1).train()
    (path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"already holds a run.*--resume '.*my run'.*--overwrite.*--out") as caught:
        RunFolder.new(path, "")
    assert caught.value.exit_code == 2
    folder = RunFolder.new(path, "", overwrite=True)
    assert (path / "checkpoints").exists(), "nothing is deleted before the new run begins"
    folder.make()
    folder.write("config.toml", "")
    assert sorted(p.name for p in path.iterdir()) == [".lock", ".replaced", "config.toml", "notes.txt"]
    folder.save(1, Checkpoint({}, {}, {}), best=False)
    folder.release()
    assert sorted(p.name for p in path.iterdir()) == ["checkpoints", "config.toml", "notes.txt"]


def test_what_is_no_run_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    for path in (tmp_path, tmp_path / "thesis.tex"):
        for overwrite in (False, True):
            with pytest.raises(UsageError, match="something that is no run"):
                RunFolder.new(path, "", overwrite)
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.posix
def test_one_process_at_a_time(tmp_path: Path) -> None:
    first = RunFolder.new(tmp_path / "a", "")
    first.make()
    other = RunFolder.new(tmp_path / "a", "")  # still empty: looks free
    with pytest.raises(RunFolderError, match="another process is training"):
        other.make()
    first.write("config.toml", "")
    first.release()
    with pytest.raises(UsageError, match=r"already holds a run"):
        other.make()
    claimed = RunFolder.open(tmp_path / "a")
    claimed.claim()
    code = "import sys, pathlib, gpucnn.training as t; t.RunFolder.open(pathlib.Path(sys.argv[1])).claim()"
    assert "another process is training" in python("-c", code, tmp_path / "a").stderr
    claimed.release()
    assert python("-c", code, tmp_path / "a").returncode == 0


def test_a_finished_or_failed_run_lets_go_of_its_folder(tmp_path: Path) -> None:
    trainer(tmp_path / "a", epochs=1).train()
    RunFolder.open(tmp_path / "a").claim()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's, of the numbers that overflow
        with pytest.raises(DivergedError):
            trainer(tmp_path / "b", lr=1e30).train()
    RunFolder.open(tmp_path / "b").claim()


def test_metrics_torn_by_a_crash_are_left_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (1, 2, 3):
        folder.add_metrics({"step": step})
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 4, "lo')
    assert [values["step"] for values in folder.metrics()] == [1, 2, 3]
    folder.keep_metrics_until(2)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'


@pytest.mark.parametrize("line", [b"5", b"\xff\xfe", b'{"loss": 1}', b'{"step": null}', b"[]"])
def test_metrics_of_another_kind_are_left_out(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
    assert RunFolder(tmp_path).metrics() == [{"step": 1}, {"step": 3}]


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        RunFolder(tmp_path).add_metrics({"step": 1, "loss": float("nan")})
    assert not (tmp_path / "metrics.jsonl").exists()


def test_checkpoint_that_is_not_there(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint 'last'"):
        folder.load()
    folder.save(1, Checkpoint({}, {}, {}), best=False)
    assert folder.load().state["step"] == 1
    with pytest.raises(CheckpointError, match=r"no checkpoint 'best'.*--validation 0"):
        folder.load("best")


@pytest.mark.parametrize("copy", ["cp -rL", "cp -r"])
def test_a_copied_run_goes_on(tmp_path: Path, copy: str) -> None:
    trainer(tmp_path / "a", epochs=1).train()
    subprocess.run([*copy.split(), tmp_path / "a", tmp_path / "b"], check=True)
    assert resumed(tmp_path / "b", epochs=2).train()["epoch"] == 2
    names = sorted(os.listdir(tmp_path / "b" / "checkpoints"))
    assert names == sorted({"best", "last", "step-000020", os.readlink(tmp_path / "b" / "checkpoints" / "best")})


# --- disks that refuse: these mount small file systems, which needs root ----------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if shutil.which("mount") is None or subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True, check=False
    ).returncode:  # fmt: skip
        pytest.skip("cannot mount a small file system here (it needs root)")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def fill(disk: Path, leave: int) -> None:
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    (disk / "ballast").write_bytes(bytes(max(free - leave, 0)))


def leftovers(path: Path) -> list[str]:
    return [p.name for p in path.rglob("*") if p.name.startswith(".")]


def test_full_disk_keeps_the_checkpoint_before(small_disk: Path) -> None:
    path = small_disk / "run"
    trainer(path, epochs=1).train()
    before = RunFolder.open(path).load().state["step"]
    fill(small_disk, 100_000)  # less than a checkpoint
    with pytest.raises(RunFolderError, match=r"No space left.*What was saved before is untouched.*--resume"):
        resumed(path, epochs=2).train()
    assert RunFolder.open(path).load().state["step"] == before
    assert not leftovers(path)
    (small_disk / "ballast").unlink()
    assert resumed(path, epochs=2).train()["epoch"] == 2


def test_full_disk_before_the_first_file_leaves_no_folder(small_disk: Path) -> None:
    fill(small_disk, 0)
    with pytest.raises(RunFolderError, match="No space left"):
        trainer(small_disk / "run").train()
    assert [p.name for p in small_disk.iterdir()] == ["ballast"]


def test_full_disk_tears_no_metrics(small_disk: Path) -> None:
    folder = RunFolder(small_disk)
    folder.add_metrics({"step": 1})
    fill(small_disk, 0)
    with pytest.raises(RunFolderError, match="No space left"):
        folder.add_metrics({"step": 2, "text": "x" * 100_000})
    lines = (small_disk / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 1}]


def test_read_only_disk(small_disk: Path) -> None:
    (small_disk / "old").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for path in (small_disk / "new", small_disk / "old"):
        with pytest.raises(RunFolderError, match="Read-only file system"):
            trainer(path).train()


def test_write_fails_partly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a full disk, for machines where none can be mounted."""
    folder = RunFolder(tmp_path)

    def refuse(handle: int) -> None:
        raise OSError(28, "No space left on device")

    folder.write("config.toml", "before")
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(RunFolderError, match=r"config\.toml: cannot be written \(No space left on device\)"):
        folder.write("config.toml", "after")
    with pytest.raises(RunFolderError, match=r"cannot save step 3 \(No space left on device\)"):
        folder.save(3, Checkpoint({"w": np.zeros(3, np.float32)}, {}, {}), best=False)
    assert (tmp_path / "config.toml").read_text() == "before"
    assert not leftovers(tmp_path)


def test_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"cannot make the run folder \(Not a directory\)"):
        trainer(tmp_path / "file" / "run").train()
