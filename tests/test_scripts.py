"""The programs that a user runs or copies do run."""

from __future__ import annotations

import re
from pathlib import Path

from runs import ROOT, python, write_npz


def test_train_lenet(tmp_path: Path) -> None:
    data = write_npz(tmp_path / "small.npz", 2000, 300)
    result = python(ROOT / "scripts" / "train_lenet.py", "--device", "cpu", "--data", data, "--epochs", 3, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert len(lines) == 3
    found = [re.fullmatch(r"epoch (\d): loss (\d\.\d{4}), test accuracy ([01]\.\d{4})", line) for line in lines]
    assert all(found)
    assert [m[1] for m in found if m] == ["1", "2", "3"]
    assert float(found[-1][3]) > 0.7  # type: ignore[index]
    again = python(ROOT / "scripts" / "train_lenet.py", "--device", "cpu", "--data", data, "--epochs", 3, cwd=tmp_path)
    assert again.stdout == result.stdout, "the same seed gives the same numbers"
    assert [p.name for p in tmp_path.iterdir()] == ["small.npz"]


def test_help_of_train_lenet() -> None:
    result = python(ROOT / "scripts" / "train_lenet.py", "--help")
    assert result.returncode == 0
    assert "--device cuda" in result.stdout
