"""Communicators: one process, and MPI's with several; sums have the bits of a tree over the ranks."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from launching import launch

from gpucnn.distributed import Communicator, init
from gpucnn.distributed.communicator import exchanges
from gpucnn.distributed.launch import launched_processes
from gpucnn.errors import ParameterError

PROGRAM = """
import json, sys
import numpy as np
from gpucnn.distributed import init
from gpucnn.errors import ParameterError

with init() as comm:
    found = {"rank": comm.rank, "size": comm.size, "sums": []}
    for length in (0, 1, 2, 3, 5, 1000):
        for dtype in ("float32", "float64", "int64"):
            own = (np.random.default_rng(comm.rank).standard_normal(length) * 1000).astype(dtype)
            comm.all_reduce(own)
            found["sums"].append(own.tobytes().hex())
    matrix = np.full((2, 3), comm.rank, np.float32)
    comm.broadcast(matrix, root=comm.size - 1)
    found["broadcast"] = matrix.tolist()
    found["gathered"] = comm.gather({"rank": comm.rank, "text": "\\u00e4" * comm.rank})
    comm.barrier()
    for wrong in (np.ones((4, 4))[:, ::2], [1.0], np.array(["a"])):
        try:
            comm.all_reduce(wrong)
        except ParameterError as error:
            found.setdefault("errors", []).append(str(error))
    everyone = comm.gather(found)  # one process prints: a launcher may mix the lines of several
    if comm.rank == 0:
        print(json.dumps(everyone), flush=True)
"""


def tree(parts: list[Any]) -> Any:
    """Return the sum in a binary tree, from its definition."""
    if len(parts) == 1:
        return parts[0]
    middle = len(parts) // 2
    return tree(parts[:middle]) + tree(parts[middle:])


@pytest.mark.parametrize("count", [2, 4])
def test_processes_of_mpi(mpiexec: str, count: int) -> None:
    done = launch(mpiexec, count, PROGRAM)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(one["rank"], one["size"]) for one in found] == [(rank, count) for rank in range(count)]
    expected = [
        tree([(np.random.default_rng(r).standard_normal(length) * 1000).astype(dtype) for r in range(count)])
        for length in (0, 1, 2, 3, 5, 1000)
        for dtype in ("float32", "float64", "int64")
    ]
    for one in found:
        assert one["sums"] == [array.tobytes().hex() for array in expected]
        assert one["broadcast"] == [[count - 1.0] * 3] * 2
        assert one["gathered"] == [{"rank": rank, "text": "ä" * rank} for rank in range(count)]
        assert len(one["errors"]) == 3
        assert all("all_reduce: array: expected a C-ordered NumPy array of numbers" in text for text in one["errors"])


def test_a_number_of_processes_that_is_no_power_of_two_is_refused(mpiexec: str) -> None:
    done = launch(mpiexec, 3, "from gpucnn.distributed import init; init()")
    assert done.returncode != 0
    assert "MPI: processes: expected 1, 2, 4, 8, ...: a power of two, got 3" in done.stderr


def test_a_process_alone() -> None:
    comm = init()
    assert type(comm) is Communicator
    array = np.arange(3.0)
    comm.all_reduce(array)
    comm.broadcast(array)
    comm.barrier()
    assert array.tolist() == [0, 1, 2]
    assert comm.gather({"a": 1}) == [{"a": 1}]
    with pytest.raises(ParameterError, match=r"distributed\.init: device: expected 'cpu' or 'cuda', got 'tpu'"):
        init("tpu")


@pytest.mark.parametrize(
    ("variables", "count"),
    [
        ({}, 1),
        ({"SLURM_NTASKS": "8"}, 1),
        ({"PMI_RANK": "0", "PMI_SIZE": "4"}, 4),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, 2),
        ({"PMIX_RANK": "0", "SLURM_NTASKS": "16"}, 16),
        ({"PMI_RANK": "0", "PMI_SIZE": "many"}, 1),
        ({"PMI_RANK": "0", "PMI_SIZE": "9" * 5000}, 1),
    ],
)
def test_launchers_are_known_by_the_environment(
    variables: dict[str, str], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.startswith(("OMPI_", "PMI", "SLURM_", "MPI_")):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launched_processes() == count


@given(st.integers(0, 4), st.integers(0, 40), st.data())
def test_exchanges_add_as_the_tree_does(power: int, length: int, data: st.DataObject) -> None:
    size = 2**power
    parts = [np.random.default_rng(rank).standard_normal(length).astype(np.float32) for rank in range(size)]
    expected = tree(parts)
    plans = [list(exchanges(rank, size, length)) for rank in range(size)]
    for step in range(power):
        before = [part.copy() for part in parts]
        for rank in range(size):
            partner, sent, kept = plans[rank][step]
            assert plans[partner][step] == (rank, kept, sent)
            parts[rank][kept] += before[partner][kept]
    for step in reversed(range(power)):
        for rank in range(size):
            partner, sent, kept = plans[rank][step]
            parts[partner][kept] = parts[rank][kept]
    for part in parts:
        np.testing.assert_array_equal(part, expected)
