"""CUDA C++ built for the CPU (cuda_on_cpu.h), and its kernels called with checked arguments.

    kernels = build(source)                       # a Library; NoCompiler where there is no C++ compiler
    kernels["relu"].run((4, 1, 1), (256, 1, 1), [address_of_x, address_of_y, np.int64(1000)])

It shows what kernels compute and where they write, and a race where the order of threads changes the result: each guarded
run is done twice, forwards and backwards. Within ``checking_races()`` every access is checked (races.cpp), ten times slower:
that shows other races, barriers that only some threads reach, and misaligned access. It cannot show uncoalesced access, too
many registers, or anything that depends on the device's own arithmetic or speed.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import platform
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HEADER = Path(__file__).with_name("cuda_on_cpu.h")
DTYPES = {
    "float": "float32", "double": "float64", "int": "int32", "unsigned": "uint32", "unsigned int": "uint32",
    "long long": "int64", "unsigned long long": "uint64", "unsigned char": "uint8", "bool": "bool", "__half": "float16",
    "Half": "float16",
}  # fmt: skip
FAULTS = {1: "a block wrote beyond its dynamic shared memory", 2: "more dynamic shared memory than a block may have"}
SYNCHRONISING = ("__syncthreads", "__syncwarp", "__shfl")
_one_at_a_time = threading.Lock()  # the library keeps the state of the running block in globals


class NoCompiler(Exception):
    """CUDA C++ cannot be run on this machine's CPU."""


@dataclass(frozen=True)
class Parameter:
    name: str
    dtype: np.dtype[Any]
    is_pointer: bool
    is_const: bool


@dataclass(frozen=True)
class Kernel:
    """One kernel: what it takes, and how to run it."""

    name: str
    parameters: tuple[Parameter, ...]
    most_threads: int
    entry: Any
    races: Any = None
    """The library, where it checks each access."""

    def run(
        self,
        grid: Sequence[int],
        block: Sequence[int],
        arguments: Sequence[Any],
        shared: int = 0,
        backwards: bool = False,
    ) -> None:
        """Run on addresses (ints, for pointers) and NumPy scalars of the parameters' own dtypes."""
        if len(arguments) != len(self.parameters):
            raise TypeError(f"{self.name}: expected {len(self.parameters)} arguments, got {len(arguments)}")
        values = []
        for parameter, argument in zip(self.parameters, arguments, strict=True):
            if parameter.is_pointer:
                values.append(np.array(argument, np.uint64))
            elif type(argument) is not parameter.dtype.type:
                kind = type(argument).__name__
                raise TypeError(f"{self.name}: {parameter.name}: expected a NumPy {parameter.dtype}, got {kind}")
            else:
                values.append(np.array(argument, parameter.dtype))
        pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        sizes = [(ctypes.c_uint * 3)(*(int(n) for n in size)) for size in (grid, block)]
        with _one_at_a_time:
            fault = self.entry(*sizes, ctypes.c_size_t(shared), ctypes.c_bool(backwards), pointers)
        if fault:
            raise RuntimeError(f"{self.name}: {FAULTS[fault]}")


Library = dict[str, Kernel]


@functools.cache
def compiler() -> str:
    """Return the C++ compiler; NoCompiler, with the reason, where kernels cannot be run."""
    if platform.machine() not in ("x86_64", "AMD64"):
        raise NoCompiler(f"CUDA kernels run on x86-64 only, this is {platform.machine()}")
    found = shutil.which("g++")
    if found is None:
        raise NoCompiler("no C++ compiler (g++) to run CUDA kernels on the CPU")
    return found


def _run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{result.stderr}")
    return result.stdout


def _bodies(text: str) -> dict[str, str]:
    """Return the body of each function, by name."""
    found: dict[str, str] = {}
    text = re.sub(r"__launch_bounds__\(\d+(?:, \d+)?\)", "", text)
    for match in re.finditer(r"(\w+)\s*\((?:[^(){};]|\([^()]*\))*\)\s*(?:const\s*)?\{", text):
        depth, end = 1, match.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        if match[1] not in ("if", "for", "while", "registry"):
            found[match[1]] = found.get(match[1], "") + text[match.end() : end]
    return found


def _synchronising(bodies: dict[str, str]) -> set[str]:
    """Return the functions that reach a barrier, directly or through another."""
    found = {name for name, body in bodies.items() if any(word in body for word in SYNCHRONISING)}
    while True:
        callers = {name for name, body in bodies.items() if set(re.findall(r"\w+", body)) & found} - found
        if not callers:
            return found
        found |= callers


def _parameter(text: str) -> Parameter:
    match = re.fullmatch(r"(const )?([\w ]+?)\s*(\*?)\s*(?:const )?(\w+)", " ".join(text.split()))
    assert match is not None, text
    return Parameter(match[4], np.dtype(DTYPES[match[2]]), bool(match[3]), bool(match[1]))


def signatures(text: str) -> dict[str, tuple[tuple[Parameter, ...], int]]:
    """Return the parameters, and the most threads of a block, of each kernel in preprocessed CUDA C++."""
    pattern = r'extern "C" __global__ void\s+(?:__launch_bounds__\((\d+)(?:, \d+)?\)\s*)?(\w+)\(([^)]*)\)'
    return {
        match[2]: (tuple(_parameter(one) for one in match[3].split(",")), int(match[1] or 1024))
        for match in re.finditer(pattern, text)
    }


_checks_races = False


@contextlib.contextmanager
def checking_races() -> Iterator[None]:
    """Within, kernels are built so that ``run_guarded`` raises Race for every pair of accesses that no barrier orders."""
    global _checks_races
    before, _checks_races = _checks_races, True
    try:
        yield
    finally:
        _checks_races = before


def build(source: str, *options: str) -> Library:
    return _build(source, _checks_races, *options)


@functools.cache
def _build(source: str, races: bool, *options: str) -> Library:
    """Build CUDA C++ for the CPU, once for a process, with its macros (-DNAME=VALUE), and return its kernels by name."""
    with tempfile.TemporaryDirectory() as folder:
        given, program, library = (Path(folder, name) for name in ("kernels.cu", "program.cpp", "kernels.so"))
        # In CUDA a declaration, here a pointer to the block's piece.
        given.write_text(
            re.sub(
                r"extern __shared__ ([\w ]+?) (\w+)\[\];", r"\1* const \2 = (\1*)cuda_on_cpu::dynamic_shared;", source
            )
        )
        text = _run(compiler(), *options, "-E", "-P", "-x", "c++", str(given))
        found, waits = signatures(text), _synchronising(_bodies(text))
        lines = [f'#include "{HEADER}"', f'#include "{given}"']
        for name in found:
            kinds = re.search(rf"void\s+(?:__launch_bounds__\(\d+(?:, \d+)?\)\s*)?{name}\(([^)]*)\)", text)
            assert kinds is not None
            types = [re.sub(r"\s*\w+$", "", one.strip()) for one in kinds[1].split(",")]
            passed = ", ".join(f"*(std::remove_const_t<{kind}>*)arguments[{i}]" for i, kind in enumerate(types))
            lines.append(
                f'extern "C" int run_{name}(const unsigned* grid, const unsigned* block, size_t shared, bool back, '
                f"void** arguments) "
                f"{{ return cuda_on_cpu::launch(grid, block, shared, back, {str(name in waits).lower()}, "
                f"[&] {{ {name}({passed}); }}); }}"
            )
        program.write_text("\n".join(lines))
        flags = ("-std=c++17", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing")
        if races:
            parts = [str(Path(folder, name)) for name in ("races.o", "program.o")]
            _run(compiler(), *flags, "-O2", "-c", str(HEADER.with_name("races.cpp")), "-o", parts[0])
            checked = ("-O1", "-DCHECK_RACES", "-fsanitize=thread", "-Wno-tsan")
            _run(compiler(), *flags, *checked, *options, "-c", str(program), "-o", parts[1])
            _run(compiler(), "-shared", "-Wl,-Bsymbolic", *parts, "-o", str(library))
        else:
            _run(compiler(), *flags, "-O2", "-shared", *options, str(program), "-o", str(library))
        loaded = ctypes.CDLL(str(library))
    if races:
        loaded.races_report.restype, loaded.races_accesses.restype = ctypes.c_char_p, ctypes.c_longlong
    return {
        name: Kernel(name, parameters, most, getattr(loaded, f"run_{name}"), loaded if races else None)
        for name, (parameters, most) in found.items()
    }


# --- guarded runs ----------------------------------------------------------------------------------------------------

READ_GUARD, WRITE_GUARD = (np.full(4096, word, np.uint32).view(np.uint8) for word in (0x7F80DEAD, 0x7F80BEEF))
"""What lies before and after every buffer. To a kernel that reads it, NaN: signalling ones, which arithmetic makes quiet,
and other ones around what is only read, so that no wrong read makes a wrong write look untouched."""
UNGUARDED = 1 << 20
"""Bytes from which memory that a kernel only reads is lent as it is."""


class OutOfBounds(AssertionError):
    """A kernel wrote outside the arrays it was given."""


def _owner(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


class Race(AssertionError):
    """What a kernel computes depends on the order of its threads."""


class _Memory:
    """A copy, between guards, of the memory that some of a kernel's arrays lie in; the kernel works on it."""

    def __init__(self, owner: np.ndarray[Any, Any], guard: np.ndarray[Any, Any]) -> None:
        self.owner, self.size, self.start, self._guard = owner, owner.nbytes, owner.ctypes.data, guard
        memory = np.empty(self.size + 2 * guard.nbytes + 256, np.uint8)
        skip = (self.start - memory.ctypes.data - guard.nbytes) % 256  # aligned as the original is
        self._memory = memory[skip : skip + self.size + 2 * guard.nbytes]
        self._memory[: guard.nbytes] = self._memory[guard.nbytes + self.size :] = guard
        self._inside = self._memory[guard.nbytes : guard.nbytes + self.size]
        ctypes.memmove(self._inside.ctypes.data, self.start, self.size)
        self._before = self._inside.copy()
        self.written: list[tuple[int, int]] = []

    def address(self, array: np.ndarray[Any, Any], is_const: bool) -> int:
        offset = array.ctypes.data - self.start
        if not is_const:
            self.written.append((offset, offset + array.nbytes))
        return self._inside.ctypes.data + offset

    def start_again(self) -> np.ndarray[Any, Any]:
        """Return what was computed, and put the memory back as it was before."""
        computed = self._memory.copy()
        self._inside[:] = self._before
        return computed

    def differs(self, computed: np.ndarray[Any, Any]) -> bool:
        return not np.array_equal(self._memory, computed)

    def check_and_return(self, name: str) -> None:
        end = 0
        for first, last in [*sorted(self.written), (self.size, self.size)]:
            if first > end and not np.array_equal(self._inside[end:first], self._before[end:first]):
                raise OutOfBounds(f"{name}: wrote beside its array, inside the memory that holds it")
            end = max(end, last)
        length = self._guard.nbytes
        for guard in (self._memory[:length], self._memory[length + self.size :]):
            if not np.array_equal(guard, self._guard):
                raise OutOfBounds(f"{name}: wrote before the start or beyond the end of an array")
        if self.written:
            ctypes.memmove(self.start, self._inside.ctypes.data, self.size)


def run_guarded(
    kernel: Kernel, grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any], shared: int = 0
) -> None:
    """Run a kernel on NumPy arrays and scalars: arrays C-ordered, of the parameters' dtypes, between guards.

    TypeError for an argument of another kind, OutOfBounds where the kernel wrote where it should not, Race where the order
    of its threads matters.
    """
    memories: dict[int, _Memory] = {}
    passed: list[Any] = []
    if len(arguments) != len(kernel.parameters):
        raise TypeError(f"{kernel.name}: expected {len(kernel.parameters)} arguments, got {len(arguments)}")
    pairs = list(zip(kernel.parameters, arguments, strict=True))
    changed = {
        id(_owner(array))
        for one, array in pairs
        if isinstance(array, np.ndarray) and one.is_pointer and not one.is_const
    }
    for parameter, argument in pairs:
        where = f"{kernel.name}: {parameter.name}"
        if not parameter.is_pointer:
            passed.append(argument)
            continue
        if not isinstance(argument, np.ndarray):
            raise TypeError(f"{where}: expected an array, got {type(argument).__name__}")
        if argument.dtype != parameter.dtype:
            raise TypeError(f"{where}: expected an array of {parameter.dtype}, got {argument.dtype}")
        if not argument.flags.c_contiguous:
            raise TypeError(f"{where}: expected a C-ordered array, got strides {argument.strides} for {argument.shape}")
        owner = _owner(argument)
        if id(owner) not in changed and owner.nbytes > UNGUARDED:
            passed.append(argument.ctypes.data)
            continue
        if id(owner) not in memories:
            memories[id(owner)] = _Memory(owner, WRITE_GUARD if id(owner) in changed else READ_GUARD)
        passed.append(memories[id(owner)].address(argument, parameter.is_const))
    if kernel.races is not None:
        kernel.races.races_begin()
        for (parameter, argument), value in zip(pairs, passed, strict=True):
            if parameter.is_pointer:
                kernel.races.races_memory(ctypes.c_void_p(value), ctypes.c_size_t(argument.nbytes))
    kernel.run(grid, block, passed, shared)
    if kernel.races is not None and (found := kernel.races.races_report().decode()):
        raise Race(f"{kernel.name}: {found}")
    forwards = {key: memory.start_again() for key, memory in memories.items()}
    kernel.run(grid, block, passed, shared, backwards=True)
    if any(memory.differs(forwards[key]) for key, memory in memories.items()):
        raise Race(f"{kernel.name}: backwards, last block and thread first, it gives another result")
    for memory in memories.values():
        memory.check_and_return(kernel.name)
