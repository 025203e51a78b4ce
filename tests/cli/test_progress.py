"""What ``gpucnn train`` shows on a terminal."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pty_screen
import pytest
from runs import write_npz

from gpucnn.cli.progress import columns_for, head, loss_text, row

VALUES = {
    "epoch": 12, "train_loss": 0.25, "train_accuracy": 0.5, "val_loss": None, "val_accuracy": None, "test_loss": 1.5,
    "test_accuracy": 1.0, "seconds": 3.25, "images_per_second": 12345.6,
}  # fmt: skip


def train(tmp_path: Path, *options: Any, **how: Any) -> tuple[str, int]:
    data = write_npz(tmp_path / "small.npz")
    return pty_screen.run_to_end(
        "-m", "gpucnn", "train", "--data", data, "--device", "cpu", "--epochs", 3, "--batch-size", 4, "--out", "run",
        *options, NO_COLOR="1", **how,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def written(tmp_path: Path) -> str:
    written, code = train(tmp_path)
    assert code == 0
    return written


def rows(screen: pty_screen.Screen) -> list[list[str]]:
    return [line.split() for line in screen.lines if re.fullmatch(r" +\d(  +[\d.,]+)+", line)]


def test_bar_has_loss_accuracy_speed_and_time_left(written: str) -> None:
    assert "\x1b[3" not in written, "a colour in spite of NO_COLOR"
    drawn = [line for line in re.split(r"[\r\n]+|\x1b\[[AK]", written) if line.strip()]
    bars = [line for line in drawn if "images/s" in line and "%" in line]
    assert bars
    time = r"\[\d\d:\d\d<\d\d:\d\d, +[\d.]+k? images/s, loss=\d\.\d{4}, acc=\d\.\d{4}\]"
    shown = r"epoch [123]/3: +\d+%\|.*\| [\d.]+k?/1\.54k " + time
    assert [line for line in bars if re.fullmatch(shown, line.strip())]
    assert max(map(len, bars)) <= 100 - len("^C^C"), "no room for what a terminal echoes"


def test_table_stands_whole_beside_the_bar(written: str) -> None:
    screen = pty_screen.Screen(written)
    assert not screen.unknown
    assert [cells[0] for cells in rows(screen)] == ["1", "2", "3"]
    last = next(i for i, line in enumerate(screen.lines) if line.startswith("Test accuracy 0."))
    assert screen.lines[last + 1 : last + 3] == ["Run folder: run", "Report: run/report.html"]
    assert not any("%|" in line for line in screen.lines)


def test_what_is_said_while_a_bar_stands_is_not_said_into_it(tmp_path: Path) -> None:
    written, _ = train(tmp_path, "--live", "--epochs", 2)
    screen = pty_screen.Screen(written)
    assert "Live report: run/report.html" in screen.lines
    assert len(rows(screen)) == 2
    assert not any("%|" in line for line in screen.lines)


@pytest.mark.parametrize("signals", [1, 2])
def test_ctrl_c_leaves_no_half_of_a_bar(tmp_path: Path, signals: int) -> None:
    typed: list[int] = []

    def interrupt(written: str, terminal: int) -> None:
        if not typed and "loss=" in written:
            typed.append(os.write(terminal, b"\x03" * signals))

    written, code = train(tmp_path, "--epochs", 100_000, on=interrupt)
    assert code == 130, written[-2000:]
    assert "^C" in written, "the terminal echoed what was typed"
    screen = pty_screen.Screen(written)
    assert not any("%|" in line or "^C" in line for line in screen.lines), screen.lines
    assert screen.lines[-2].startswith(("Stopped at step", "Interrupted"))


def test_an_error_stands_on_a_line_of_its_own(tmp_path: Path) -> None:
    written, code = train(tmp_path, "--lr", "1e30", "--optimizer", "sgd", "--schedule", "constant")
    assert code == 3
    screen = pty_screen.Screen(written)
    assert [line for line in screen.lines if line.startswith("Error: training diverged")]
    assert not any("%|" in line for line in screen.lines)


@pytest.mark.parametrize("columns", [40, 60, 79])
def test_nothing_of_bar_and_table_wraps(tmp_path: Path, columns: int) -> None:
    written, _ = train(tmp_path, columns=columns)
    for wide in re.split(r"[\r\n]+|\x1b\[[AK]", written):
        if "%|" in wide or re.match(r" +(\d  |-----)", wide):
            assert len(wide) <= columns
    assert len(rows(pty_screen.Screen(written, columns))) == 3


@pytest.mark.parametrize("width", [20, 40, 60, 70, 79, 120])
def test_the_table_fits_into_any_width(width: int) -> None:
    columns = columns_for(width)
    lines = [*head(columns), row(columns, VALUES), row(columns, VALUES | {"train_loss": 3e38, "test_loss": 1e9})]
    assert max(map(len, lines)) <= width
    assert len({len(line) for line in lines[1:]}) == 1
    assert {"epoch", "val_accuracy"} <= {column.key for column in columns}


def test_titles_can_be_told_apart() -> None:
    upper, titles = head(columns_for(79))
    assert re.split(r"  +", titles) == ["epoch", "loss", "acc", "loss", "acc", "loss", "acc", "seconds", "images/s"]
    for group in ("train", "val", "test"):
        middle = upper.index(group) + len(group) / 2
        left, right = (
            m.start() for m in list(re.finditer("loss|acc", titles))[2 * ["train", "val", "test"].index(group) :][:2]
        )
        assert left < middle < right + 3


@pytest.mark.parametrize("loss", [0.0, 99.99999, 100.0, 1e9, 3.4e38, float("inf"), float("nan")])
def test_a_loss_has_eight_characters_at_most(loss: float) -> None:
    assert len(loss_text(loss)) <= 8
