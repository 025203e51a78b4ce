"""``gpucnn train`` in several processes: the same bits, one voice, and faults that are told."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from together import COMMON, LONG, USUAL, bits, figures, gone, ranks_of, started, train, variables, wait_for_epoch


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


def test_no_room_for_the_checkpoint(mpiexec: str, tmp_path: Path) -> None:
    """Rank 0's files may take 100 KB, less than the weights: it says so, once, and all end."""
    (tmp_path / "small_disk.py").write_text(
        "import os, resource\nfrom gpucnn import models\n"
        "if os.environ.get('PMI_RANK') == '0':\n    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "def net(classes):\n    return models.build('lenet')\n",
        encoding="utf-8",
    )
    more = ["--out", str(tmp_path / "run"), "--processes", "2", "--model", f"{tmp_path / 'small_disk.py'}:net"]
    done = train(*USUAL, *more)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("cannot save step") == 1
    assert "rank 0 of 2" in done.stderr


def test_evaluation_is_shared_out(mpiexec: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train(*USUAL, "--out", str(run)).returncode == 0
    command = [sys.executable, "-m", "gpucnn", "evaluate", str(run), "--batch-size", "700"]
    said = []
    for start, more in (([], []), ([], ["--processes", "4"]), ([mpiexec, "-n", "2"], [])):
        done = subprocess.run(
            [*start, *command, *more], capture_output=True, text=True, timeout=120, check=False, env=variables()
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert "10,000 test images" in said[0]
    assert said[1] == said[2] == said[0]
