"""Runs of ``gpucnn train`` in several processes: started, watched and compared."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
