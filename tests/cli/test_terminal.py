"""What leaves for the terminal: nothing that steers it, and no traceback where it is closed, full or of another encoding."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runs import Result, assert_refused, drawn, environment, gpucnn, write_npz

from gpucnn.cli.terminal import printable, shortened
from gpucnn.training import RunFolder

EVIL = "\x1b]0;stolen\x07\x1b[2J\x9b31m\u202egnp\r\nError: forged"
STEERS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def checked(result: Result) -> Result:
    """Return what a command printed, of which nothing steers a terminal."""
    for text in (result.out, result.err):
        assert not STEERS.search(text), text
        assert not re.search("^Error: forged", text, re.MULTILINE), "a name passes for a message"
    return result


def test_every_kind_of_character_is_spelled_out() -> None:
    assert printable("plain ä 猫 👩\u200d👩") == "plain ä 猫 👩\u200d👩"
    assert printable("\x1b\x07\x9b\x7f\r\n\t\0") == r"\x1b\x07\x9b\x7f\r\n\t\x00"
    assert printable("\u202e\u2066\u2028") == r"\u202e\u2066\u2028"
    assert printable(os.fsdecode(b"a\xff")) == r"a\xff"
    assert printable("\ud800") == r"\ud800"
    assert shortened("x" * 99) == "x" * 27 + "..."


@pytest.fixture
def evil(data: Path) -> Path:
    """A run on classes with names that steer terminals."""
    (x, y), (x_test, y_test) = drawn(640, 0), drawn(200, 1)
    names = [f"{EVIL}{i}" for i in range(10)]
    np.savez("evil.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test, class_names=names)
    assert gpucnn("train", "--data", "evil.npz", "--device", "cpu", "--epochs", 1, "--out", "run").code == 0
    return Path("evil.npz")


def test_class_names_do_not_reach_the_terminal(evil: Path) -> None:
    Image = pytest.importorskip("PIL.Image")
    cpu = ("--device", "cpu")
    picture = Path(f"a{EVIL}.png".replace("/", ""))
    Image.fromarray(drawn(1, 5)[0][0, 0]).save(picture)
    answer = checked(gpucnn("predict", "run", picture, "--top", 10))
    assert answer.code == 0
    assert r"\x1b]0;stolen\x07" in answer.out
    assert len(answer.out.splitlines()) == 1
    said = json.loads(checked(gpucnn("predict", "run", picture, "--json")).out)
    assert said["file"] == str(picture), "JSON gives names as they are"
    assert said["answers"][0]["class"].startswith(EVIL)
    assert len(checked(gpucnn("predict", "run", picture, "--csv")).out.splitlines()) == 2
    assert checked(gpucnn("evaluate", "run", *cpu)).code == 0
    assert checked(gpucnn("data", "show", evil)).code == 0
    assert checked(gpucnn("visualize", "run", *cpu)).code == 0
    assert checked(gpucnn("visualize", "run", picture, *cpu)).code == 0
    assert_refused(checked(gpucnn("visualize", "run", picture, "--class", "owl", *cpu)), 2, r"one of \x1b]0;stolen")


def test_file_names_do_not_reach_the_terminal_in_errors(data: Path) -> None:
    bad = EVIL.replace("/", "")
    for arguments in (
        ("data", "show", bad),
        ("data", "show", f"{bad}.npz"),
        ("evaluate", bad),
        ("predict", bad, "a.png"),
        ("visualize", bad),
        ("train", "--config", bad),
        ("train", "--resume", bad),
        ("train", "--data", bad),
        ("train", "--model", bad),
        ("train", "--optimizer", bad),
        ("train", "--out", f"{bad}/"),
        ("summary", bad),
        ("bench", bad),
        (bad,),
    ):
        Path("evil").mkdir(exist_ok=True)
        assert checked(gpucnn(*arguments)).code in (0, 1, 2), arguments


def test_folders_of_classes(tmp_path: Path, data: Path) -> None:
    Image = pytest.importorskip("PIL.Image")
    for name in ("\x1b[2Ja", "\x1b[2Jb"):
        for i in range(5):
            folder = tmp_path / "pets" / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(drawn(10, 0)[0][i, 0]).save(folder / f"{i}.png")
        (folder / "x\x1b[2J.txt").write_text("")
    assert checked(gpucnn("data", "show", "pets")).code == 0
    (tmp_path / "pets" / "\x1b[2Ja" / "0.png").write_text("")
    assert_refused(checked(gpucnn("data", "show", "pets")), 1, r"\x1b[2Ja")


# --- standard streams --------------------------------------------------------------------------------------------------


def shell(line: str, data: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a shell's line, in which $G is the command line's program."""
    env = environment(G=f"{sys.executable} -m gpucnn", DATA=str(data), **changes)
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, errors="replace", timeout=120, env=env, check=False
    )


TRAIN = "$G train --data $DATA --device cpu --epochs 1 --out run --overwrite"


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_mistake(data: Path, closed: str) -> None:
    for command in (TRAIN, "$G data list", "$G evaluate run --device cpu"):
        result = shell(f"{command} {closed}", data)
        assert result.returncode == 0, (command, result.stderr)
        assert "Traceback" not in result.stderr
    assert RunFolder.open(Path("run")).load().state["epoch"] == 1
    for line in Path("run/metrics.jsonl").read_text().splitlines():
        assert isinstance(json.loads(line), dict), "something was printed into a file of the run"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_standard_output_is_told(data: Path) -> None:
    result = shell("$G data list > /dev/full", data)
    assert result.returncode == 1
    assert result.stderr.splitlines() == ["Error: standard output: cannot be written (No space left on device)."]


def test_a_command_goes_on_when_its_reader_has_read_enough(data: Path) -> None:
    result = shell(f"{TRAIN} | head -1; echo ${{PIPESTATUS[0]}}", data)
    assert result.stdout.splitlines()[1] == "0"
    assert "Traceback" not in result.stderr
    assert "rror" not in result.stderr
    assert RunFolder.open(Path("run")).load().state["epoch"] == 1


def test_another_encoding(data: Path) -> None:
    names = ["猫", "ä", *(f"{i}" for i in range(8))]
    write_npz(Path("cats.npz"), class_names=np.array(names))
    for encoding in ("ascii", "latin-1"):
        result = shell("$G data show cats.npz", Path("cats.npz"), PYTHONIOENCODING=encoding)
        assert result.returncode == 0, result.stderr
        assert r"\u732b" in result.stdout


# --- a run's folder may be a stranger's --------------------------------------------------------------------------------


def test_nothing_is_written_through_a_link(data: Path) -> None:
    Image = pytest.importorskip("PIL.Image")
    assert gpucnn("train", "--data", data, "--device", "cpu", "--epochs", 1, "--out", "run").code == 0
    Path("elsewhere").mkdir()
    Path("victim").write_text("untouched")
    Path("run/looks").symlink_to(Path("elsewhere").resolve())
    Image.fromarray(drawn(1, 5)[0][0, 0]).save("a.png")
    result = gpucnn("visualize", "run", "a.png", "--device", "cpu")
    assert_refused(result, 1, "looks: is a link", "--out")
    assert os.listdir("elsewhere") == []
    assert gpucnn("visualize", "run", "a.png", "--device", "cpu", "--out", "a.html").code == 0
    for name in ("report.html", "summary.txt", "curves.png"):
        Path("run", name).unlink(missing_ok=True)
        Path("run", name).symlink_to(Path("victim").resolve())
    assert gpucnn("visualize", "run", "--device", "cpu").code == 0
    assert Path("victim").read_text() == "untouched"


def test_tensorboard_files_do_not_go_through_a_link(data: Path) -> None:
    pytest.importorskip("tensorboardX")
    assert gpucnn("train", "--data", data, "--device", "cpu", "--epochs", 1, "--out", "run").code == 0
    Path("elsewhere").mkdir()
    Path("run/tensorboard").symlink_to(Path("elsewhere").resolve())
    result = gpucnn("train", "--resume", "run", "--epochs", 2, "--tensorboard")
    assert result.code == 0
    assert "Note: no more TensorBoard files" in result.err
    assert os.listdir("elsewhere") == []
