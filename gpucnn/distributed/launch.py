"""Which communicator a process has, by how it was started."""

from __future__ import annotations

import os

from gpucnn.distributed.communicator import Communicator
from gpucnn.errors import ParameterError


def init(device: str = "cpu") -> Communicator:
    """Return the communicator of this process, for arrays of ``device`` ("cpu" or "cuda").

    Where the process was started by an MPI launcher (``mpirun``, ``mpiexec``, ``srun --mpi=pmix``) it is MPI's, or with
    "cuda" NCCL's, whose processes find each other by MPI; otherwise that of a process alone.
    Raises DeviceError, with the command that adds it, where mpi4py or NCCL is needed and missing.

    >>> init().size
    1
    """
    if device.partition(":")[0] not in ("cpu", "cuda"):
        raise ParameterError.expected("distributed.init", "device", "'cpu' or 'cuda'", repr(device))
    if launched_processes() < 2:
        return Communicator()
    from gpucnn.distributed.mpi import MPICommunicator

    hosts = MPICommunicator()
    if device.partition(":")[0] == "cpu":
        return hosts
    from gpucnn.distributed.nccl import NCCLCommunicator

    return NCCLCommunicator(hosts)


_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS")
"""Where launchers say how many processes they started: Open MPI, MPICH and Intel MPI, PMIx, Hydra, Slurm."""


def launched_processes() -> int:
    """Return how many processes a launcher started together with this one, by the environment; 1 without a launcher."""
    if not any(name in os.environ for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")):
        return 1  # a job of Slurm, say, in which nobody used srun
    sizes = [int(value) for name in _SIZES if (value := os.environ.get(name, "")).isdecimal() and len(value) < 10]
    return max(sizes, default=1)
