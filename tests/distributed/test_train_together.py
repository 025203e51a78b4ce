"""``gpucnn train`` in several processes: the same bits, one voice, and faults that are told."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from runs import environment

COMMON = ["--data", "digits", "--limit", "330", "--batch-size", "50", "--validation", "30", "--device", "cpu"]
USUAL = [*COMMON, "--epochs", "2", "--shards", "4"]
LONG = [*COMMON, "--epochs", "200", "--shards", "4", "--lr", "0.0001"]


def variables(**more: str) -> dict[str, str]:
    return environment() | {"GPUCNN_THREADS": "1"} | more


def train(*arguments: str, launcher: tuple[str, ...] = (), **more: str) -> subprocess.CompletedProcess[str]:
    command = [*launcher, sys.executable, "-m", "gpucnn", "train", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=variables(**more))


def bits(run: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted((run / "checkpoints" / "last").resolve().glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def figures(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    timed = ("seconds", "images_per_second")
    return [{k: v for k, v in json.loads(line).items() if k not in timed} for line in lines]


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "gpucnn", "train", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables(), start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def ranks_of(run: Path, count: int) -> list[int]:
    """Return the processes of the ranks that train in ``run``, by what the system says of them."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        found: dict[int, int] = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                names = dict(one.split(b"=", 1) for one in (path / "environ").read_bytes().split(b"\0") if b"=" in one)
                command = (path / "cmdline").read_bytes()
            except OSError:
                continue
            if b"PMI_RANK" in names and b"mpiexec" not in command and str(run).encode() in command.split(b"\0"):
                found[int(names[b"PMI_RANK"])] = int(path.name)
        if len(found) == count:
            return [found[rank] for rank in range(count)]
        time.sleep(0.05)
    return []


def wait_for_epoch(run: Path, process: subprocess.Popen[str], epochs: int = 1) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        if (run / "metrics.jsonl").exists() and len(figures(run)) >= epochs and (run / "checkpoints" / "last").exists():
            return
        time.sleep(0.05)
    raise AssertionError(process.communicate(timeout=10))


def gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{process}/stat").read_text().split()[2] == "Z"


def test_the_same_bits_on_1_2_and_4_processes(mpiexec: str, tmp_path: Path) -> None:
    runs = {name: tmp_path / name for name in ("one", "two", "four", "by mpiexec")}
    done = {
        "one": train(*USUAL, "--out", str(runs["one"])),
        "two": train(*USUAL, "--out", str(runs["two"]), "--processes", "2"),
        "four": train(*USUAL, "--out", str(runs["four"]), "--processes", "4"),
        "by mpiexec": train(*USUAL, "--out", str(runs["by mpiexec"]), launcher=(mpiexec, "-n", "2")),
    }
    for name, one in done.items():
        assert one.returncode == 0, (name, one.stdout, one.stderr)
        assert bits(runs[name]) == bits(runs["one"]), name
        assert figures(runs[name]) == figures(runs["one"]), name
        assert one.stdout.count("Test accuracy") == 1
        assert (runs[name] / "report.html").exists()
    about = json.loads((runs["four"] / "environment.json").read_text(encoding="utf-8"))
    assert [one["rank"] for one in about["processes"]] == [0, 1, 2, 3]
    assert {one["host"] for one in about["processes"]} == {socket.gethostname()}
    assert "shards = 4" in (runs["four"] / "config.toml").read_text(encoding="utf-8")


def test_stopped_by_ctrl_c_and_resumed_by_another_number(mpiexec: str, tmp_path: Path) -> None:
    short = ["--epochs", "6", *COMMON, "--shards", "4"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train(*short, "--out", str(whole)).returncode == 0
    with started(*short, "--out", str(cut), "--processes", "4") as process:
        wait_for_epoch(cut, process)
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    if process.returncode != 0:  # it may have been quicker
        assert process.returncode == 130, (out, err)
        assert err.count("Continue with: gpucnn train --resume") == 1
        done = train("--resume", str(cut), "--processes", "2")
        assert done.returncode == 0, done.stderr
    assert bits(cut) == bits(whole)
    assert figures(cut) == figures(whole)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_all_and_is_named(mpiexec: str, tmp_path: Path, rank: int) -> None:
    run = tmp_path / "run"
    with started(*LONG, "--out", str(run), "--processes", "2") as process:
        wait_for_epoch(run, process)
        ranks = ranks_of(run, 2)
        os.kill(ranks[rank], signal.SIGKILL)
        killed = time.monotonic()
        _, err = process.communicate(timeout=60)
        assert time.monotonic() - killed < 10
    assert process.returncode == 1
    assert f"rank {rank} of 2 on {socket.gethostname()}: killed by SIGKILL" in err
    assert f"--resume {run}" in err
    assert all(map(gone, ranks))


def test_a_killed_rank_and_another_start(mpiexec: str, tmp_path: Path) -> None:
    short = ["--epochs", "8", *COMMON, "--shards", "4"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert train(*short, "--out", str(whole)).returncode == 0
    with started(*short, "--out", str(run), "--processes", "2", "--max-restarts", "1") as process:
        wait_for_epoch(run, process)
        if ranks := ranks_of(run, 2):
            os.kill(ranks[1], signal.SIGKILL)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, (out, err)
    if "killed by" in err:
        assert "Starting again from the last checkpoint" in err
    assert bits(run) == bits(whole)
    assert figures(run) == figures(whole)


def test_a_rank_that_hangs(mpiexec: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with started(*LONG, "--out", str(run), "--processes", "2", "--timeout", "2") as process:
        wait_for_epoch(run, process)
        ranks = ranks_of(run, 2)
        os.kill(ranks[1], signal.SIGSTOP)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.search(rf"rank 1 of 2 on {re.escape(socket.gethostname())}: no answer for \d+ seconds", err), err
    assert all(map(gone, ranks))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--processes", "3"], "a power of two"),
        (["--processes", "4", "--shards", "2"], "a divisor of the 2 shards"),
        (["--processes", "2", "--shards", "3"], "a power of two"),
        (["--processes", "0"], "0"),
    ],
)
def test_numbers_that_do_not_fit(mpiexec: str, tmp_path: Path, arguments: list[str], words: str) -> None:
    done = train(*COMMON, "--out", str(tmp_path / "run"), *arguments)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_run_is_told_before_anything_starts(mpiexec: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train(*USUAL, "--out", str(run)).returncode == 0
    done = train(*USUAL, "--out", str(run), "--processes", "2")
    assert done.returncode == 2
    assert done.stderr.count("already holds a run") == 1


def test_other_data_on_one_rank(mpiexec: str, tmp_path: Path) -> None:
    program = """
import os, sys
from gpucnn.cli import main
sys.argv[:] = ["gpucnn", "train", *sys.argv[1:], "--limit", "33" + os.environ["PMI_RANK"]]
main()
"""
    command = [mpiexec, "-n", "2", sys.executable, "-c", program, *USUAL, "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=variables())
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert re.search(rf"rank 1 on {re.escape(socket.gethostname())}: \w+: expected as rank 0 has it", done.stderr), (
        done.stderr
    )
