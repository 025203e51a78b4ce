"""Running the systems' scripts."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import ROOT, environment, write_npz

RunScript = Callable[..., str]


@pytest.fixture(scope="session")
def tiny_mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 200 drawn digits, to see a script run."""
    return write_npz(tmp_path_factory.mktemp("data") / "tiny.npz", 200, 50)


@pytest.fixture
def run_script(tmp_path: Path) -> RunScript:
    """Run a script of this name on the CPU, in another process and an empty folder, and return what it printed."""

    def run(name: str, *options: Any) -> str:
        command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), "--device", "cpu", *map(str, options)]
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment(GPUCNN_THREADS="1")
        )
        assert (result.returncode, result.stderr) == (0, "")
        assert list(tmp_path.iterdir()) == []
        return result.stdout

    return run


@pytest.fixture
def accuracy_on_mnist(run_script: RunScript, mnist: Path) -> Callable[[str], float]:
    """Run a script of this name on MNIST with one seed and return the test accuracy that it prints."""

    def accuracy(name: str) -> float:
        found = re.search(r"mean of 1: test accuracy (\d\.\d{4})", run_script(name, "--data", mnist))
        assert found
        return float(found[1])

    return accuracy
