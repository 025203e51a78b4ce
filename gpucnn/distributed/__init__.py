"""Processes that train one network together: what passes between them, in an order that never changes.

``init()`` returns the communicator of this process: of one process alone, of MPI (``mpirun -n 4``), or of NCCL where the
processes have a GPU each. A program that never calls it runs as before.
"""

from gpucnn.distributed.communicator import Communicator
from gpucnn.distributed.launch import init

__all__ = ["Communicator", "init"]
