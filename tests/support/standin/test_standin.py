"""The stand-in for CuPy: does what CuPy does, refuses what CuPy refuses, and is caught at neither more nor less."""

import contextlib
import copy
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cupy", reason="the stand-in takes names and signatures from the real CuPy (no GPU needed)")

from . import cuda, installed, make_cupy, random
from .signatures import read_signature, real_cupy

xp: Any = make_cupy()
# By name: under `import cupy` the whole suite may find the stand-in.
real: Any = real_cupy()


@pytest.fixture
def host() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal((4, 6, 5)).astype(np.float32)


@pytest.fixture
def device(host: np.ndarray[Any, Any]) -> Any:
    return xp.asarray(host)


# What must fail: each of these is a fault that a backend could have.

FAULTS: dict[str, tuple[type[Exception], str, Callable[[Any, Any], Any]]] = {
    "host array added": (TypeError, "Unsupported type", lambda x, h: x + h),
    "host array in front": (TypeError, "Unsupported type", lambda x, h: h * x),
    "host array in a ufunc": (TypeError, "Unsupported type", lambda x, h: xp.maximum(x, h)),
    "host array in NumPy's ufunc": (TypeError, "Unsupported type", lambda x, h: np.add(x, h)),
    "host array added in place": (TypeError, "Unsupported type", lambda x, h: x.__iadd__(h)),
    "host 0-d array": (TypeError, "Unsupported type", lambda x, h: x + np.array(1.0)),
    "host array compared": (TypeError, "Unsupported type", lambda x, h: x < h),
    "host array in a function": (TypeError, "Unsupported type", lambda x, h: xp.concatenate([x, h])),
    "host array as only argument": (TypeError, "Unsupported type", lambda x, h: xp.sum(h)),
    "host array in matmul": (TypeError, "Unsupported type", lambda x, h: x @ h.transpose(0, 2, 1)),
    "host array as condition": (TypeError, "Unsupported type", lambda x, h: xp.where(h > 0, x, 0)),
    "host array as prototype": (TypeError, "Unsupported type", lambda x, h: xp.empty_like(h)),
    "list in a ufunc": (TypeError, "Unsupported type", lambda x, h: xp.add(x, [1.0] * 5)),
    "list in a function": (TypeError, "Unsupported type", lambda x, h: xp.sum([1.0, 2.0])),
    "host array assigned": (ValueError, "cannot be used for fill", lambda x, h: x.__setitem__(slice(None), h)),
    "host array filled": (ValueError, "cannot be used for fill", lambda x, h: x.fill(h)),
    "host array as out": (TypeError, "must be cupy.ndarray", lambda x, h: xp.sum(x, axis=0, out=h[0])),
    "host array as ufunc's out": (TypeError, "Unsupported type", lambda x, h: xp.exp(x, out=h)),
    "implicit asarray": (TypeError, "Implicit conversion", lambda x, h: np.asarray(x)),
    "implicit array": (TypeError, "Implicit conversion", lambda x, h: np.array([x, x])),
    "implicit assignment": (TypeError, "Implicit conversion", lambda x, h: h.__setitem__(slice(None), x)),
    "truth of many": (ValueError, "ambiguous", lambda x, h: bool(x)),
    "item of many": (ValueError, "size 1", lambda x, h: x.item()),
    "device scalar as a size": (TypeError, "as an integer", lambda x, h: range(xp.asarray(3))),
    "attribute invented": (AttributeError, "no attribute", lambda x, h: setattr(x, "grad", 1)),
    "missing name": (AttributeError, "missing in CuPy", lambda x, h: xp.nditer),
    "missing name in a submodule": (AttributeError, "missing in CuPy", lambda x, h: xp.lib.index_tricks),
    "missing method": (AttributeError, "missing in CuPy", lambda x, h: x.resize),
    "missing ctypes": (AttributeError, "missing in CuPy", lambda x, h: x.ctypes),
    "missing generator method": (AttributeError, "missing in CuPy", lambda x, h: xp.random.default_rng(0).permutation),
    "missing stream method": (AttributeError, "missing in CuPy", lambda x, h: xp.cuda.Stream().query),
    "gap of the stand-in": (NotImplementedError, "not in the stand-in", lambda x, h: xp.ElementwiseKernel),
    "gap in a class": (
        NotImplementedError,
        "add it to tests/support/standin",
        lambda x, h: xp.cuda.Stream().launch_host_func,
    ),
    "unknown keyword": (TypeError, "unexpected keyword", lambda x, h: xp.sum(x, initial=0)),
    "where= on a reduction": (TypeError, "unexpected keyword", lambda x, h: xp.max(x, where=x > 0)),
    "unknown keyword of a method": (TypeError, "unexpected keyword", lambda x, h: x.mean(where=x > 0)),
    "too many arguments": (TypeError, "too many positional", lambda x, h: xp.argmax(x, 0, None, None, False, 1)),
    "take_along_axis without axis": (TypeError, "missing a required", lambda x, h: xp.take_along_axis(x, x)),
    "where= on a ufunc": (TypeError, "Wrong arguments", lambda x, h: xp.divide(x, 2, where=x > 0)),
    "order= on a ufunc": (TypeError, "Wrong arguments", lambda x, h: xp.exp(x, order="K")),
    "out= of einsum": (TypeError, "takes", lambda x, h: xp.einsum("abc->a", x, out=x[:, 0, 0])),
    "casting= of astype": (TypeError, "casting is not supported", lambda x, h: x.astype("f8", casting="safe")),
    "item takes no index": (TypeError, "positional", lambda x, h: x.item(0)),
    "integer out": (TypeError, "same_kind", lambda x, h: xp.add(x, 1, out=xp.empty(x.shape, xp.int32))),
    "out of wrong type in place": (TypeError, "same_kind", lambda x, h: xp.arange(3).__iadd__(0.5)),
    "out of wrong shape": (ValueError, "non-broadcastable", lambda x, h: xp.add(x, 1, out=x[0])),
    "maximum.reduce": (NotImplementedError, "not supported yet", lambda x, h: xp.maximum.reduce(x)),
    "multiply.at": (NotImplementedError, "not supported yet", lambda x, h: xp.multiply.at(x, 0, 2.0)),
    "add.at on bytes": (
        TypeError,
        "does not support",
        lambda x, h: xp.add.at(xp.zeros(3, xp.int8), xp.asarray([0, 0]), 1),
    ),
    "object array": (ValueError, "Unsupported dtype", lambda x, h: xp.asarray(np.array([None]))),
    "set of another type": (TypeError, "cannot be set", lambda x, h: x.set(h.astype(np.float64))),
    "set of a strided view": (RuntimeError, "non-contiguous", lambda x, h: x[:, ::2].set(h[:, ::2])),
    "random of float16": (TypeError, "cupy.ndarray", lambda x, h: xp.random.default_rng(0).random(out=h)),
    "second device": (Exception, "invalid device", lambda x, h: xp.cuda.Device(1).use()),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_raises(fault: str, host: Any, device: Any) -> None:
    error, text, plant = FAULTS[fault]
    with pytest.raises(error, match=text):
        plant(device, host)


# What must work, with NumPy's values.

AGREEMENT: dict[str, Callable[[Any, Any], Any]] = {
    "arithmetic": lambda m, x: (2 - x) * 3 / (x**2 + 1) - (-x) // 2,
    "in place": lambda m, x: m.add(x, x, out=x),
    "comparison": lambda m, x: (x > 0) & (x <= 1),
    "exp log": lambda m, x: m.log(m.exp(x) + 1),
    "sum": lambda m, x: m.sum(x, axis=(0, 2), keepdims=True),
    "method sum": lambda m, x: x.sum((0, 2)),
    "mean all": lambda m, x: x.mean(),
    "var": lambda m, x: x.var(axis=1, ddof=1),
    "max": lambda m, x: m.max(x, 1),
    "argmax": lambda m, x: x.argmax(axis=-1),
    "any": lambda m, x: m.any(x > 2, axis=0),
    "where": lambda m, x: m.where(x > 0, x, 0.0),
    "maximum": lambda m, x: m.maximum(x, 0),
    "clip": lambda m, x: m.clip(x, -1, 1),
    "matmul": lambda m, x: x @ x.transpose(0, 2, 1),
    "dot": lambda m, x: m.dot(x[0], x[1].T),
    "tensordot": lambda m, x: m.tensordot(x, x, axes=((0, 1), (0, 1))),
    "einsum": lambda m, x: m.einsum("abc,adc->bd", x, x),
    "reshape": lambda m, x: m.reshape(x, (6, -1)),
    "moveaxis": lambda m, x: m.moveaxis(x, 0, -1),
    "concatenate": lambda m, x: m.concatenate([x, x], axis=1),
    "stack": lambda m, x: m.stack([x, x], -1),
    "pad": lambda m, x: m.pad(x, ((0, 0), (1, 2), (3, 0)), constant_values=7.0),
    "take_along_axis": lambda m, x: m.take_along_axis(x, x.argmax(1, keepdims=True), axis=1),
    "windows": lambda m, x: m.lib.stride_tricks.sliding_window_view(x, (3, 2), axis=(1, 2)),
    "as_strided": lambda m, x: m.lib.stride_tricks.as_strided(x, (2, 3), (4, 8)),
    "broadcast_to": lambda m, x: m.broadcast_to(x[0], (3, 6, 5)),
    "flip": lambda m, x: m.flip(x, 2),
    "repeat": lambda m, x: x.repeat(2, axis=1),
    "cumsum": lambda m, x: m.cumsum(x, axis=0),
    "norm": lambda m, x: m.linalg.norm(x[0]),
    "mask": lambda m, x: x[x > 0],
    "int index": lambda m, x: x[m.asarray([3, 1]), :, m.asarray([0, 0])],
    "negative stride": lambda m, x: x[::-1, 1:, ::2],
    "one element": lambda m, x: x[1, 2, 3],
    "float64": lambda m, x: x.astype(m.float64) + m.asarray(1.5),
    "weak scalar": lambda m, x: x.astype(m.float16) * 2.0,
    "int and float": lambda m, x: m.arange(5) * m.float32(2),
    "sqrt of int": lambda m, x: m.sqrt(m.arange(5, dtype=m.int8)),
    "linspace": lambda m, x: m.linspace(0, 1, 5, dtype=m.float32),
    "argsort": lambda m, x: m.argsort(x, axis=1),
    "eye": lambda m, x: m.eye(3, dtype=m.float32)[m.asarray([0, 2, 1])],
    "count_nonzero": lambda m, x: m.count_nonzero(x > 0),
    "array_equal": lambda m, x: m.array_equal(x, x),
    "numpy's function": lambda m, x: np.sum(x, axis=0),
    "numpy scalar in front": lambda m, x: np.float32(2) * x,
}


@pytest.mark.parametrize("name", AGREEMENT)
def test_agrees_with_numpy(name: str, host: Any, device: Any) -> None:
    expected = AGREEMENT[name](np, host)
    found = AGREEMENT[name](xp, device)
    assert isinstance(found, xp.ndarray)
    assert found.dtype == np.asarray(expected).dtype
    np.testing.assert_array_equal(found.get(), expected)


def test_assignment_writes_through_views(host: Any, device: Any) -> None:
    device[1][:, 2] = 5
    device.transpose(2, 0, 1)[0, 0] = device[3, :, 1]
    device[device < 0] = 0
    device[xp.asarray([0, 3]), 1] += xp.ones(5, xp.float32)
    host[1][:, 2] = 5
    host.transpose(2, 0, 1)[0, 0] = host[3, :, 1]
    host[host < 0] = 0
    host[[0, 3], 1] += 1
    np.testing.assert_array_equal(device.get(), host)


def test_add_at_adds_once_per_index() -> None:
    counts = xp.zeros(3, xp.float32)
    xp.add.at(counts, xp.asarray([0, 2, 2]), 1.0)
    assert counts.tolist() == [1, 0, 2]


def test_outputs_are_c_ordered_and_views_are_views(device: Any) -> None:
    transposed = device.transpose(2, 0, 1)
    assert not transposed.flags.c_contiguous
    assert transposed.base is device
    assert transposed.data.ptr == device.data.ptr
    assert device[1, 2].data.ptr == device.data.ptr + device.strides[0] + 2 * device.strides[1]
    for out in (transposed + 1, xp.exp(transposed), xp.where(transposed > 0, transposed, 0), transposed.sum(0)):
        assert out.flags.c_contiguous
        assert out.base is None
    assert transposed.copy().flags.c_contiguous
    assert transposed.astype(xp.float64).strides == tuple(2 * step for step in transposed.strides)
    assert not hasattr(device.flags, "writeable")


def test_one_element_is_an_array_and_converts(device: Any) -> None:
    element = device[0, 0, 0]
    assert isinstance(element, xp.ndarray)
    assert element.shape == ()
    assert float(element) == element.item() == element.get()[()]
    element[...] = 3
    assert int(device[0, 0, 0]) == 3
    assert bool(xp.all(device == xp.asarray(device)))
    assert (device == None).shape == device.shape  # noqa: E711


def test_transfers_are_counted(host: Any) -> None:
    transfers = xp.standin.transfers
    with transfers.counted() as inside:
        device = xp.asarray(host)
        device.set(host)
        device[np.array([0, 1])]
    assert (inside.to_device, inside.to_host) == (3, 0)
    with transfers.counted() as inside:
        device.get()
        float(device.sum())
        xp.asnumpy(device)
        device[device > 0]
        xp.nonzero(device)
        repr(device)
        xp.lib.stride_tricks.sliding_window_view(device, (2, 2), axis=(1, 2))
        xp.cuda.get_current_stream().synchronize()
    assert (inside.to_device, inside.to_host, inside.waits) == (1, 8, 1)
    with transfers.counted() as inside:
        device += xp.maximum(device, 0) @ xp.ones((5, 5), xp.float32) + 1.5
        device[1:] = device[:-1]
        xp.asarray(device)
        device.argmax(1).astype(xp.float32).sum()
        xp.random.default_rng(1).standard_normal(3, dtype=xp.float32)
    assert inside.total == 0
    transfers.reset()
    assert transfers.total == 0


def test_empty_memory_holds_nothing_usable() -> None:
    assert xp.isnan(xp.empty((2, 3), xp.float32)).all()
    assert xp.isnan(xp.empty_like(xp.zeros(2))).all()


def test_random_generator_has_cupys_methods() -> None:
    draws = [xp.random.default_rng(7).standard_normal((2, 3), dtype=xp.float32) for _ in range(2)]
    assert draws[0].dtype == xp.float32
    assert xp.array_equal(*draws)
    out = xp.empty(5, xp.float32)
    assert xp.random.default_rng(0).random(dtype=xp.float32, out=out) is out
    assert not xp.isnan(out).any()
    assert xp.random.default_rng(0).integers(0, 3, size=4, dtype=xp.int32).dtype == xp.int32
    assert xp.random.Generator(xp.random.Philox4x3210(3)).uniform(-1, 1, (2,)).shape == (2,)
    assert sorted(xp.random.permutation(5).tolist()) == [0, 1, 2, 3, 4]
    assert xp.random.normal(0, 1, (3,), dtype=xp.float32).dtype == xp.float32


def test_device_streams_and_pools() -> None:
    assert xp.cuda.is_available()
    assert xp.cuda.runtime.getDeviceCount() == 1
    assert xp.cuda.runtime.getDeviceProperties(0)["major"] == int(xp.cuda.Device(0).compute_capability[:-1])
    stream = xp.cuda.Stream(non_blocking=True)
    with xp.cuda.Device(0), stream:
        assert xp.cuda.get_current_stream() is stream
    assert xp.cuda.get_current_stream() is xp.cuda.Stream.null
    pool = xp.cuda.MemoryPool()
    with xp.cuda.using_allocator(pool.malloc):
        memory = xp.cuda.alloc(12)
    array = xp.ndarray((3,), xp.float32, memory)
    array[...] = 2
    assert xp.ndarray((2,), xp.float32, memory + 4).tolist() == [2, 2]
    assert array.device == xp.cuda.Device(0)


@pytest.mark.parametrize(
    ("standin", "mirrored"),
    [
        (xp.ndarray, real.ndarray),
        (xp.ufunc, real.ufunc),
        (random.Generator, real.random.Generator),
        (cuda.Device, real.cuda.Device),
        (cuda.Stream, real.cuda.Stream),
        (cuda.Event, real.cuda.Event),
        (cuda.MemoryPool, real.cuda.MemoryPool),
    ],
)
def test_classes_have_no_name_that_cupy_lacks(standin: type, mirrored: type) -> None:
    assert {name for name in vars(standin) if not name.startswith("_") and name != "mirrored"} <= set(dir(mirrored))


OWN_FUNCTIONS = ("array", "asarray", "ascontiguousarray", "asnumpy", "empty", "empty_like", "get_array_module")
OWN_METHODS = [name for name, value in vars(xp.ndarray).items() if callable(value) and not name.startswith("_")]


@pytest.mark.parametrize(
    ("standin", "mirrored"),
    [(getattr(xp, name), getattr(real, name)) for name in OWN_FUNCTIONS]
    + [(getattr(xp.ndarray, name), getattr(real.ndarray, name)) for name in OWN_METHODS]
    + [(getattr(xp.random, name), getattr(real.random, name)) for name in ("default_rng", "shuffle", "permutation")]
    + [(cuda.Stream, real.cuda.Stream), (cuda.Event, real.cuda.Event), (cuda.Device, real.cuda.Device)],
    ids=lambda one: getattr(one, "__name__", "") or None,
)
def test_own_functions_take_what_cupys_take(standin: Any, mirrored: Any) -> None:
    theirs, ours = read_signature(mirrored), read_signature(standin)
    assert theirs is not None
    assert ours is not None
    assert [(one.name, one.kind) for one in ours.parameters.values()] == [
        (one.name, one.kind) for one in theirs.parameters.values()
    ]


def test_every_name_of_cupy_is_there_or_named_as_a_gap() -> None:
    for module, mirrored in ((xp, real), (xp.cuda, real.cuda), (xp.random, real.random), (xp.linalg, real.linalg)):
        for name in (name for name in dir(mirrored) if not name.startswith("_")):
            with contextlib.suppress(NotImplementedError):
                getattr(module, name)


def test_installed_replaces_and_restores() -> None:
    def loaded() -> dict[str, Any]:
        return {name: module for name, module in sys.modules.items() if name.startswith("cupy")}

    with installed():
        pass
    before = loaded()
    with installed() as room:
        import cupy
        import cupy.cuda.runtime
        from cupy.random import default_rng

        assert cupy is room is make_cupy()
        assert cupy.cuda.runtime.getDeviceCount() == 1
        assert default_rng is room.random.default_rng
        assert cupy.get_array_module(cupy.zeros(2)) is room
        with pytest.raises(ModuleNotFoundError):
            __import__("cupy._core.core")
        # What `inspect` does to every module: CuPy's lazy ones would try to load here, and fail.
        assert all(hasattr(module, "__name__") for name, module in list(sys.modules.items()) if name.startswith("cupy"))
        with pytest.raises(NotImplementedError):
            _ = sys.modules["cupyx"].scatter_add
    assert loaded() == before


def test_arrays_can_be_copied(device: Any) -> None:
    for duplicate in (copy.copy(device), copy.deepcopy(device)):
        assert duplicate.data.ptr != device.data.ptr
        assert xp.array_equal(duplicate, device)
