"""The choice of communicator, by how the process was started."""

from __future__ import annotations

import os

from gpucnn.distributed.communicator import Communicator
from gpucnn.errors import ParameterError


def init(device: str = "cpu") -> Communicator:
    """Return the communicator of this process, for arrays of ``device`` ("cpu" or "cuda").

    If an MPI launcher (``mpirun``, ``mpiexec``, ``srun --mpi=pmix``) started the process, it is MPI's or, for "cuda",
    NCCL's, which MPI sets up. Otherwise it is that of a single process. Raises DeviceError, with the command that installs
    it, if mpi4py or NCCL is needed and missing.

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
"""Variables with the number of processes: of Open MPI, MPICH and Intel MPI, PMIx, Hydra, Slurm."""


_LOCAL_RANKS = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")
"""Variables with the number of this process among those of its machine: of Open MPI, Hydra, Slurm."""


def local_rank() -> int:
    """Return the number of this process among those of this launch on this machine; 0 without a launcher."""
    found = (value for name in _LOCAL_RANKS if (value := os.environ.get(name, "")).isdecimal() and len(value) < 10)
    return int(next(found, "0"))


def launched_processes() -> int:
    """Return the number of processes of this launch, read from the environment; 1 without a launcher."""
    if not any(name in os.environ for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")):
        return 1  # for example a Slurm job that did not use srun
    sizes = [int(value) for name in _SIZES if (value := os.environ.get(name, "")).isdecimal() and len(value) < 10]
    return max(sizes, default=1)
