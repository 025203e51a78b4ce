"""The launcher that tests with several processes need."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from conftest import skip_or_fail


@pytest.fixture(scope="session")
def mpiexec(pytestconfig: pytest.Config) -> str:
    """The launcher of an MPI that mpi4py can use."""
    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    try:
        from mpi4py import MPI  # noqa: F401
    except (ImportError, RuntimeError) as error:
        skip_or_fail(pytestconfig, "mpi", f"mpi4py cannot be used: {error}")
    if found is None:
        skip_or_fail(pytestconfig, "mpi", "no mpiexec")
        raise AssertionError
    return found
