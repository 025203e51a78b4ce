"""``gpucnn train --processes N``: start N processes of a command by the MPI launcher, watch them, and say how they ended."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from gpucnn.backend.cpu.threads import available_threads
from gpucnn.cli.terminal import is_terminal, say, say_error
from gpucnn.cli.together import FOLDER
from gpucnn.errors import DeviceError, UsageError, how_to_add

GRACE = 5.0
"""Seconds after the first failure in which the launcher may end the others; then they are killed."""
LOOK = 0.1
"""Seconds between two looks at the processes."""
NEVER_AGAIN = (0, 2, 3, 4, 129, 130, 143)
"""Exit codes after which another start would end the same way, or is not wanted."""


def launcher() -> str:
    """Return the MPI launcher; DeviceError, with the command that installs it, where there is none."""
    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        raise DeviceError.expected("train", "--processes", "an MPI launcher (mpiexec)", "none", how_to_add("mpi"))
    return found


def check_processes(shards: int, count: int) -> None:
    """UsageError unless so many processes, a power of two, divide the shards."""
    if count & (count - 1):
        raise UsageError.expected("train", "--processes", "a power of two", count)
    if shards % count:
        raise UsageError.expected("train", "--processes", f"a divisor of the {shards} shards", count, "see --shards")


def run_processes(count: int, timeout: float = 600, restarts: int = 0) -> int:
    """Run this command in ``count`` processes; return its exit code.

    timeout: seconds after which a process that the others wait for counts as hanging. restarts: how often the run is started
    again, from its last checkpoint, after a process failed.
    """
    mpiexec, resume = launcher(), None
    for again in range(restarts + 1):
        group = _Group(mpiexec, count, timeout, resume)
        code, failure = group.run()
        if failure:
            say_error(failure)
        if code in NEVER_AGAIN or again == restarts or (group.run_folder or resume) is None:
            return code
        resume = group.run_folder or resume
        say(
            f"Starting again from the last checkpoint of {resume}, {restarts - again - 1} more times at most.", err=True
        )
    raise AssertionError("unreachable")


class _Group:
    """One start of all processes."""

    def __init__(self, mpiexec: str, count: int, timeout: float, resume: str | None) -> None:
        self._mpiexec, self._count, self._timeout, self._resume = mpiexec, count, timeout, resume
        self.run_folder: str | None = None
        self._said: dict[int, dict[str, Any]] = {}
        self._signals: list[int] = []
        self._ends = _Ends()

    def run(self) -> tuple[int, str]:
        """Return the exit code, and what is to be said of a failure that rank 0 has not told itself."""
        with tempfile.TemporaryDirectory(prefix="gpucnn-") as folder:
            self._folder = Path(folder)
            streams = [self._stream("out", sys.stdout), self._stream("err", sys.stderr)]
            environment = os.environ | {FOLDER: folder}
            environment.setdefault("GPUCNN_THREADS", str(max(available_threads() // self._count, 1)))
            if self._resume is not None:
                environment[f"{FOLDER}_RESUME"] = self._resume
            command = [self._mpiexec, "-n", str(self._count), sys.executable, "-m", "gpucnn", *sys.argv[1:]]
            before = {number: signal.signal(number, self._note) for number in _stops()}
            try:
                with (self._folder / "launcher").open("wb") as log:
                    self._process = subprocess.Popen(
                        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
                    )  # fmt: skip
                hangs = self._watch(streams)
            finally:
                self._kill()
                self._ends.close()
                for number, handler in before.items():
                    signal.signal(number, handler)
            for stream in streams:
                stream.pass_on()
                stream.close()
            return self._result(hangs)

    def _stream(self, name: str, ours: Any) -> _Stream:
        file = self._folder / name
        file.touch()
        if is_terminal(ours):
            (self._folder / f"{name}.tty").write_text(os.ttyname(ours.fileno()), encoding="utf-8")
        return _Stream(file, ours)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)

    def _watch(self, streams: list[_Stream]) -> str:
        """Pass on output and signals until all have ended; return which process hangs, if any."""
        failed_at = None
        while self._process.poll() is None:
            self._ends.wait(LOOK)
            for stream in streams:
                stream.pass_on()
            self._read()
            while self._signals:
                self._pass(self._signals.pop(0))
            if failed_at is None and any("failed" in one for one in self._said.values()):
                failed_at = time.monotonic()
            if failed_at is not None and time.monotonic() > failed_at + GRACE:
                return ""
            if hangs := self._hanging():
                return hangs
        self._read()
        return ""

    def _read(self) -> None:
        for path in self._folder.glob("*.json"):
            about = json.loads(path.read_text(encoding="utf-8"))
            self._said[about["rank"]] = about
            self._ends.watch(about["rank"], about["pid"])
        self.run_folder = self._said.get(0, {}).get("run", self.run_folder)

    def _pass(self, number: int) -> None:
        """Hand a signal to rank 0, whom all follow at the next step; before it is there, end all."""
        if 0 in self._said:
            try:
                os.kill(self._said[0]["pid"], number)
                return
            except ProcessLookupError:
                pass
        self._said.setdefault(0, {"rank": 0})["ended"] = 128 + number
        self._kill()

    def _hanging(self) -> str:
        """Return who has been waited for longer than the time-out."""
        beats = {}
        for rank in range(self._count):
            file = self._folder / f"{rank}.beat"
            if not file.exists() or file.stat().st_size < 16:
                return ""
            beats[rank] = np.fromfile(file, np.float64)
        waited = max((time.time() - since for since, waits in beats.values() if waits), default=0.0)
        if waited < self._timeout:
            return ""
        late = [rank for rank, (_, waits) in beats.items() if not waits] or list(beats)
        names = ", ".join(
            f"rank {rank} of {self._count} on {self._said.get(rank, {}).get('host', '?')}" for rank in late
        )
        return f"{names}: no answer for {waited:.0f} seconds (--timeout)"

    def _kill(self) -> None:
        if self._process.poll() is None:
            try:
                os.killpg(self._process.pid, signal.SIGTERM)
                self._process.wait(1)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                pass
        for one in self._said.values():
            if "pid" in one and _is_ours(one["pid"], str(self._folder)):
                os.kill(one["pid"], signal.SIGKILL)
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _result(self, hangs: str) -> tuple[int, str]:
        remedy = f" Continue with: gpucnn train --resume {self.run_folder}" if self.run_folder else ""
        if hangs:
            return 1, f"{hangs}. All were ended.{remedy}"
        failures = [one for one in self._said.values() if "failed" in one]
        if failures:
            first = min(failures, key=lambda one: (one["rank"] != 0, one["rank"]))
            if first["rank"] == 0:  # it has told so itself
                return int(first["code"]), ""
            return int(first["code"]), f"{self._who(first['rank'])}: {first['failed']}.{remedy}".replace("..", ".")
        if "ended" in self._said.get(0, {}):
            return int(self._said[0]["ended"]), ""
        if self._process.returncode == 0:
            return 0, ""
        log = (self._folder / "launcher").read_text(encoding="utf-8", errors="replace")
        rank, cause = self._killed(log)
        if rank is not None:
            return 1, f"{self._who(rank)}: {cause}. All were ended.{remedy}"
        last = [line.strip() for line in log.splitlines() if line.strip()][-3:]
        return 1, f"the launcher ended with {self._process.returncode}: {' | '.join(last)[:300]}{remedy}"

    def _who(self, rank: int) -> str:
        return f"rank {rank} of {self._count} on {self._said.get(rank, {}).get('host', '?')}"

    def _killed(self, log: str) -> tuple[int | None, str]:
        """Return which rank was killed, the first that ended or else by what the launcher says, and how."""
        found = re.search(r"PID (\d+) RUNNING AT", log)
        if found:
            rank = next((rank for rank, one in self._said.items() if one.get("pid") == int(found[1])), None)
        elif found := re.search(r"process rank (\d+)", log):
            rank = int(found[1])
        else:
            return None, ""
        rank = self._ends.first if self._ends.first is not None else rank
        code = re.search(r"EXIT CODE: (\d+)|on signal (\d+)", log)
        number = int(code[1] or code[2]) if code else 0
        names = {one.value: one.name for one in signal.Signals}
        return rank, f"killed by {names[number]}" if number in names else f"ended with code {number}"


class _Ends:
    """Which process ended first: a launcher may end the others at once, and name any of them. Linux tells it (pidfd)."""

    def __init__(self) -> None:
        self.first: int | None = None
        self._ranks: dict[int, int] = {}
        self._poll = select.poll() if hasattr(os, "pidfd_open") else None

    def watch(self, rank: int, pid: int) -> None:
        """Watch a process, unless it is watched already or gone."""
        if self._poll is not None and rank not in self._ranks.values():
            try:
                descriptor = os.pidfd_open(pid)
            except OSError:
                return
            self._ranks[descriptor] = rank
            self._poll.register(descriptor, select.POLLIN)

    def wait(self, seconds: float) -> None:
        """Wait until a process ends, but not longer than this."""
        if self._poll is None or self.first is not None:
            time.sleep(seconds)
            return
        ended = self._poll.poll(seconds * 1000)
        if ended:
            self.first = self._ranks[ended[0][0]]

    def close(self) -> None:
        for descriptor in self._ranks:
            os.close(descriptor)


class _Stream:
    """Rank 0's output where it is no terminal: a file, passed on as it grows."""

    def __init__(self, file: Path, ours: Any) -> None:
        self._file, self._ours = file.open("rb"), ours

    def pass_on(self) -> None:
        if more := self._file.read():
            try:
                self._ours.write(more.decode("utf-8", "replace"))
                self._ours.flush()
            except (OSError, ValueError):
                pass  # nobody reads any more

    def close(self) -> None:
        self._file.close()


def _stops() -> list[signal.Signals]:
    return [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


def _is_ours(pid: int, folder: str) -> bool:
    """Whether a process with this number is one of those started here, and not another that got its number since."""
    try:
        return f"{FOLDER}={folder}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
