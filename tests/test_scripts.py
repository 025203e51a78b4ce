"""The programs that a user runs or copies do run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
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


# scripts/gpu_report.sh, with a Python that answers for the GPU that is not here.

ANSWERS = """#!/usr/bin/env bash
case "$*" in
  "-m gpucnn doctor"*) echo "$DOCTOR";;
  "-m pytest -m cuda --require-cuda"*) echo "$JUNIT" > "${@: -1}"; echo "7 passed"; exit "$TESTS";;
  "scripts/bench.py --device cuda --rounds 3 --json "*) echo '{"rows": [1]}' > "$7"; echo "fast enough";;
  "-m pip install --quiet --no-index --find-links wheels"*) touch "$INSTALLED";;
  "- "*missing.json)
    if [ -z "$LACKS" ] || [ -e "$INSTALLED" ]; then echo "[]" > "$2"; exit; fi
    echo "[\\"$LACKS\\"]" > "$2"
    echo "$LACKS";;
  "-c import torch"*) exit 1;;
  *) exec "$REAL" "$@";;
esac
"""
DOCTOR = {
    "versions": {"numpy": "2.0"},
    "platform": "Linux",
    "cuda": {"works": True, "gpu": "NVIDIA Test", "cuda": 13000, "driver": 13000},
}
JUNIT = '<testsuites><testsuite tests="7" failures="1" errors="0" skipped="0" time="1.25"/></testsuites>'


def gpu_report(
    tmp_path: Path, *options: str, doctor: Any = DOCTOR, tests: int = 0, lacks: str = ""
) -> subprocess.CompletedProcess[str]:
    program = tmp_path / "python"
    program.write_text(ANSWERS)
    program.chmod(0o755)
    answers = {
        "DOCTOR": json.dumps(doctor), "JUNIT": JUNIT, "TESTS": str(tests), "REAL": sys.executable, "LACKS": lacks,
        "INSTALLED": str(tmp_path / "installed"),
    }  # fmt: skip
    return subprocess.run(
        ["bash", ROOT / "scripts" / "gpu_report.sh", *options, tmp_path / "report"],
        env={**os.environ, "PYTHON": str(program), **answers}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def reported(tmp_path: Path) -> dict[str, Any]:
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["gpu-report.json", "gpu-report.log"]
    found: dict[str, Any] = json.loads((tmp_path / "report" / "gpu-report.json").read_text())
    return found


@pytest.mark.parametrize("tests", [0, 1])
def test_gpu_report_leaves_one_json_and_one_log(tmp_path: Path, tests: int) -> None:
    result = gpu_report(tmp_path, tests=tests)
    assert (result.returncode, result.stderr) == (tests, "")
    report = reported(tmp_path)
    assert (report["device"]["gpu"], report["ended_at"], report["missing"]) == ("NVIDIA Test", "done", [])
    assert report["tests"] == {"exit_code": tests, "tests": 7, "failures": 1, "errors": 0, "skipped": 0, "seconds": 1.2}
    assert report["bench"] == [{"rows": [1], "exit_code": 0}] * 9, "three networks in three precisions"
    log = (tmp_path / "report" / "gpu-report.log").read_text()
    assert "7 passed" in log
    assert "fast enough" in log


def test_gpu_report_without_a_gpu_says_why(tmp_path: Path) -> None:
    result = gpu_report(tmp_path, doctor={**DOCTOR, "cuda": {"works": False, "why": "there is none."}})
    assert result.returncode == 4
    assert "gpu_report: no usable GPU: there is none." in result.stdout
    report = reported(tmp_path)
    assert (report["device"]["why"], report["ended_at"], report["bench"]) == ("there is none.", "doctor", [])
    assert report["tests"] == {"exit_code": None}


def test_gpu_report_says_what_is_missing(tmp_path: Path) -> None:
    result = gpu_report(tmp_path, lacks="cupy-cuda13x")
    assert result.returncode == 1
    assert "gpu_report: missing: cupy-cuda13x. Install them: pip install cupy-cuda13x, or --wheels" in result.stdout
    assert (reported(tmp_path)["missing"], reported(tmp_path)["ended_at"]) == (["cupy-cuda13x"], "what is there")


def test_gpu_report_installs_what_is_missing_from_a_folder(tmp_path: Path) -> None:
    result = gpu_report(tmp_path, "--wheels", "wheels", lacks="cupy-cuda13x")
    assert (result.returncode, result.stderr) == (0, "")
    assert reported(tmp_path)["missing"] == []


@pytest.mark.slow
def test_drawing_on_the_playground_is_measured(window: object, tmp_path: Path) -> None:
    script, out = ROOT / "scripts" / "bench_playground.py", tmp_path / "playground.json"
    result = python(script, "--seconds", 0.5, "--rounds", 1, "--json", out, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    rows = json.loads(out.read_text())["rows"]
    assert [(row["window"], row["pixel"]) for row in rows] == [
        ("desk", False), ("desk", True), ("phone", False), ("phone", True)
    ]  # fmt: skip
    assert all(0 < row["updates"] <= row["frames"] + 2 for row in rows)
    assert len(result.stdout.splitlines()) == 4
