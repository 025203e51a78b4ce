"""Damaged and hostile files do no harm: a sample of what ``scripts/long_checks`` reads, and what once did harm."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fuzz.campaign import harm_of, play, play_known
from fuzz.formats import FORMATS
from gpucnn.errors import DataError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded as Linux does it")

SAMPLE = 5000


def test_inputs_that_once_did_harm() -> None:
    count, harms = play_known()
    assert harms == []
    assert count >= 30


@pytest.mark.slow
def test_a_sample_of_damaged_files() -> None:
    report = play(SAMPLE, seed=0, names=list(FORMATS), jobs=2, seconds=float("inf"), keep=None)
    assert report["harms"] == []
    assert report["inputs"] >= SAMPLE
    for name, about in report["formats"].items():
        assert about["accepted"] > 0, f"{name}: the damage is too large to test anything"
        assert about["accepted"] < about["inputs"] or name == "report", f"{name}: the damage is too small"


def busy(folder: Path) -> None:
    until = time.process_time() + 30
    while time.process_time() < until:
        pass


def swallowed(folder: Path) -> None:
    try:
        raise MemoryError
    except Exception:
        raise DataError("cannot be read") from None


def refused(folder: Path) -> None:
    raise DataError("no image")


def wordy(folder: Path) -> None:
    raise DataError("x" * 44_000)


def broken(folder: Path) -> None:
    raise IndexError("tuple index out of range")


@pytest.mark.parametrize(
    ("read", "harm"),
    [
        (len, "TypeError"),
        (broken, "IndexError"),
        (swallowed, "MemoryError behind DataError"),
        (wordy, "44,000 characters"),
    ],
)
def test_harm_is_found(read: Any, harm: str, tmp_path: Path) -> None:
    assert harm in str(harm_of(read, tmp_path))


def test_what_is_right_is_no_harm(tmp_path: Path) -> None:
    assert harm_of(refused, tmp_path) is None
    assert harm_of(str, tmp_path) is None


def test_too_much_time_and_memory_are_found(tmp_path: Path) -> None:
    import subprocess

    from runs import environment

    program = (
        "import sys; from pathlib import Path; import numpy as np; from fuzz import campaign, test_fuzz\n"
        "campaign.CPU_SECONDS = 1; campaign.bound_this_process(); here = Path('.')\n"
        "print(campaign.harm_of(test_fuzz.busy, here))\n"
        "print(campaign.harm_of(lambda folder: np.ones(2**28), here))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=False
    )
    slow, large = done.stdout.splitlines()
    assert slow.startswith("TooSlowError"), done.stderr
    assert large.startswith("MemoryError")
