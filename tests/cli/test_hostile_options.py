"""Whatever an option is given: an exit code of the documentation, an error of a line or two, within bounds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hostile_options import USUAL
from runs import ROOT, python

COSTLY = {"train", "bench", "visualize", "playground", "export", "profile"}
"""Commands whose calls take longer, together minutes."""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded by Linux")
@pytest.mark.parametrize("command", [pytest.param(c, marks=[pytest.mark.slow] if c in COSTLY else []) for c in USUAL])
def test_a_command_withstands_hostile_values(tmp_path: Path, command: str) -> None:
    done = python(ROOT / "tests" / "support" / "hostile_options.py", command, cwd=tmp_path, timeout=600)
    *harm, count = done.stdout.splitlines()
    assert harm == []
    assert int(count.split()[0]) >= 20
