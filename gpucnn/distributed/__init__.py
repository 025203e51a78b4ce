"""Distributed training: communication between processes, with sums in a fixed order.

``init()`` returns the communicator of this process: for a single process, for MPI (``mpirun -n 4``), or for NCCL with one
GPU per process. A program that does not call it is a single process.
"""

from gpucnn.distributed.communicator import Communicator
from gpucnn.distributed.launch import init

__all__ = ["Communicator", "init"]
