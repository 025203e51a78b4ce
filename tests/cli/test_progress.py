"""What ``gpucnn train`` shows on a terminal."""

from __future__ import annotations

import re
from pathlib import Path

import pty_screen
import pytest
from runs import write_npz


@pytest.fixture
def screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Everything that was ever shown on a line, each time it was drawn anew."""
    monkeypatch.chdir(tmp_path)
    data = write_npz(tmp_path / "small.npz")
    written = pty_screen.run(
        "-m", "gpucnn", "train", "--data", data, "--device", "cpu", "--epochs", 3, "--batch-size", 4, NO_COLOR="1"
    )
    assert "\x1b[3" not in written, "a colour in spite of NO_COLOR"
    return [line for line in re.split(r"[\r\n]+|\x1b\[A", written) if line.strip()]


def test_bar_has_loss_accuracy_speed_and_time_left(screen: list[str]) -> None:
    bars = [line for line in screen if "images/s" in line and "%" in line]
    assert bars
    time = r"\[\d\d:\d\d<\d\d:\d\d, +[\d.]+k? images/s, loss=\d\.\d{4}, acc=\d\.\d{4}\]"
    shown = r"epoch [123]/3: +\d+%\|.*\| [\d.]+k?/1\.54k " + time
    assert [line for line in bars if re.fullmatch(shown, line.strip())]
    assert max(len(line) for line in screen[3:]) <= 100, "wider than the terminal"


def test_table_stands_whole_beside_the_bar(screen: list[str]) -> None:
    rows = [line.split() for line in screen if re.fullmatch(r"\s+[123](\s+[\d.,]+){8}", line)]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    last = next(i for i, line in enumerate(screen) if line.startswith("Test accuracy 0."))
    assert not any("%|" in line for line in screen[last:])
    assert screen[last + 1 : last + 3] == ["Run folder: runs/lenet-small-1", "Report: runs/lenet-small-1/report.html"]
