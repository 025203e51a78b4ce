"""Programs started as several processes of MPI."""

from __future__ import annotations

import subprocess
import sys

from runs import environment


def launch(mpiexec: str, count: int, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program as so many processes, of one thread each."""
    command = [mpiexec, "-n", str(count), sys.executable, "-c", program, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env=environment() | {"GPUCNN_THREADS": "1"}
    )
