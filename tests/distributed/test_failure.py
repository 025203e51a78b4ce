"""A process that fails is named, and the others do not wait for it."""

from __future__ import annotations

import socket

import pytest
from launching import launch

PROGRAM = """
import sys
import numpy as np
from gpucnn.distributed import init
from gpucnn.errors import DataError

errors = {"own": DataError("the images are gone"), "any": ValueError("no")}
errors |= {"exit": SystemExit(5), "stop": KeyboardInterrupt()}
with init() as comm:
    if comm.rank == int(sys.argv[1]) or sys.argv[1] == "-1":
        raise errors[sys.argv[2]]
    for _ in range(3):
        comm.all_reduce(np.ones(10))
    print("went on", flush=True)
"""


@pytest.mark.parametrize(
    ("rank", "kind", "said"),
    [
        (0, "own", "DataError: the images are gone"),
        (1, "own", "DataError: the images are gone"),
        (3, "any", "ValueError: no"),
        (2, "exit", "SystemExit: 5"),
        (1, "stop", "KeyboardInterrupt: "),
    ],
)
def test_a_rank_that_raises_ends_all(mpiexec: str, rank: int, kind: str, said: str) -> None:
    done = launch(mpiexec, 4, PROGRAM, str(rank), kind)
    assert done.returncode != 0
    assert f"rank {rank} of 4 on {socket.gethostname()}: {said}" in done.stderr
    assert "went on" not in done.stdout


def test_an_error_of_all_ranks_is_told_once(mpiexec: str) -> None:
    done = launch(mpiexec, 2, PROGRAM, "-1", "own")
    assert done.returncode != 0
    assert done.stderr.count("the images are gone") == 1
    assert "rank 0 of 2" in done.stderr
