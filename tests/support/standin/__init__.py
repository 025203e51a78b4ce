"""A strict stand-in for the CuPy module, so that the CUDA backend's own code runs where there is no GPU.

    with installed() as cupy:                     # `import cupy` finds the stand-in
        backend = CudaDevice()
        with cupy.standin.transfers.counted() as inside:
            step()
    assert inside.total == 0

Kernels of a `RawModule` are compiled for the CPU (tests/support/kernels_on_cpu) and run there, between guard bytes, with
every argument checked. `cupy.standin.launches` counts what CuPy would launch.

Its arrays wrap NumPy's and refuse what CuPy refuses: to be mixed with NumPy arrays, to be converted without `get`. It
has no name and takes no keyword that the real CuPy, which must be installed and needs no driver for this, has not: what
CuPy lacks is an AttributeError or TypeError, what only the stand-in lacks is a NotImplementedError.

Copies by `set` on another stream are watched: work that does not wait for one, a copy that does not wait for what used its
memory, pinned memory that the host changes too early are errors (tests/support/standin/order.py).

What passes here can fail on a GPU all the same. The stand-in cannot show:
- races that running a kernel's threads and blocks backwards as well does not show, barriers that only some threads reach;
  between streams, races over memory that no copy by `set` goes to, work on the wrong stream or device, memory freed too
  early: everything runs at once, in order;
- speed, occupancy, registers, misaligned access, memory use and fragmentation; that memory runs out, tests pretend;
- errors of the driver, of compilation (NVRTC's are tested apart) and of missing libraries (cuBLAS, NVRTC, cuRAND);
- all that stream capture refuses: it knows transfers, waits, CuPy's cuBLAS and cuRAND, loading kernels, and memory from a
  shared pool;
- the GPU's rounding: sums in another order, TF32, fused multiply-add, the GPU's own exp and pow;
- the values that cupy.random draws: they come from NumPy;
- which of several writes to one element through an index array wins (here the last), or which of several NaNs argmax
  finds;
- layouts in every detail: results are C-ordered or views, as NumPy says, where CuPy may copy or view otherwise.

It is stricter than CuPy in places: an index array out of bounds is an error (CuPy wraps around), so is a host array passed
to a function that would happen to take it (`cupy.sum` calls the array's own `sum`), and uninitialised memory holds NaN.
"""

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType

from .counters import Transfers
from .module import make_cupy, submodules

_replaced: list[dict[str, ModuleType]] = []


def _loaded() -> dict[str, ModuleType]:
    found = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in ("cupy", "cupyx")}
    return found | {name: sys.modules[name] for name in ("cuda.pathfinder", "cudnn") if name in sys.modules}


def install() -> ModuleType:
    """Puts the stand-in where `import cupy` looks; the real one's modules are put aside until `uninstall`.

    CuPy's modules load lazily, which fails once their package is another: whoever walks through `sys.modules` (`inspect`
    does) must not meet them.
    """
    cupy = make_cupy()
    replacements = submodules(cupy)
    real = _loaded()
    _replaced.append(real)
    for name in real:
        del sys.modules[name]
    sys.modules.update(replacements)
    return cupy


def uninstall() -> None:
    for name in _loaded():
        del sys.modules[name]
    sys.modules.update(_replaced.pop())


@contextlib.contextmanager
def installed() -> Iterator[ModuleType]:
    cupy = install()
    try:
        yield cupy
    finally:
        uninstall()


__all__ = ["Transfers", "install", "installed", "make_cupy", "uninstall"]
