"""NCCL's communicator on the stand-in for CuPy: ranks are threads with a GPU each."""

from __future__ import annotations

import importlib
import importlib.util
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import replace_backend

import gpucnn
from gpucnn import nn, optim
from gpucnn.backend import Backend
from gpucnn.distributed import Communicator
from gpucnn.errors import DeviceError, ParameterError
from gpucnn.training import Loop, LossAndAccuracy


class Hosts(Communicator):
    """What MPI carries between the ranks, here threads."""

    def __init__(self, rank: int, everyone: list[Any], meeting: threading.Barrier) -> None:
        self.rank, self.size, self._everyone, self._meeting = rank, len(everyone), everyone, meeting

    def gather(self, value: Any) -> list[Any]:
        self._everyone[self.rank] = value
        self._meeting.wait()
        found = list(self._everyone)
        self._meeting.wait()
        return found

    def barrier(self) -> None:
        self._meeting.wait()


@pytest.fixture
def gpus(standin: Backend) -> Iterator[int]:
    from standin import devices

    with ExitStack() as stack:
        stack.enter_context(devices.several(4))
        for index in range(1, 4):
            replace_backend(stack, f"cuda:{index}", None)
        yield 4


def on_ranks(size: int, program: Callable[[Communicator], Any]) -> list[Any]:
    everyone, meeting = [None] * size, threading.Barrier(size, timeout=20)
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(lambda rank: program(Hosts(rank, everyone, meeting)), range(size)))


def communicator(hosts: Communicator, device: int | None = None) -> Any:
    from gpucnn.distributed.nccl import NCCLCommunicator

    return NCCLCommunicator(hosts, device)


def tree(parts: list[Any]) -> Any:
    middle = len(parts) // 2
    return parts[0] if len(parts) == 1 else tree(parts[:middle]) + tree(parts[middle:])


@pytest.mark.parametrize("size", [2, 4])
def test_sums_have_the_bits_of_the_tree(gpus: int, size: int) -> None:
    cases = [(n, kind) for n in (0, 1, 3, 1000) for kind in ("float32", "float64", "int64")]

    def own(rank: int, length: int, kind: str) -> Any:
        return (np.random.default_rng(rank).standard_normal(length) * 1000).astype(kind)

    def program(hosts: Communicator) -> Any:
        comm = communicator(hosts)
        backend = gpucnn.get_backend(f"cuda:{hosts.rank}")
        sums = []
        for length, kind in cases:
            array = backend.asarray(own(hosts.rank, length, kind))
            comm.all_reduce(array)
            sums.append(gpucnn.Tensor(array, backend).numpy())
        sent = backend.asarray(np.full((2, 3), hosts.rank, np.float32))
        comm.broadcast(sent, root=size - 1)
        comm.barrier()
        comm.close()
        return sums, gpucnn.Tensor(sent, backend).numpy()

    for sums, sent in on_ranks(size, program):
        for found, (length, kind) in zip(sums, cases, strict=True):
            np.testing.assert_array_equal(found, tree([own(rank, length, kind) for rank in range(size)]))
        assert sent.tolist() == [[size - 1.0] * 3] * 2


def test_two_ranks_on_one_gpu_are_refused(gpus: int) -> None:
    def program(hosts: Communicator) -> None:
        with pytest.raises(
            DeviceError, match=r"NCCL cannot be used \(.*Duplicate GPU detected.*one process for each GPU"
        ):
            communicator(hosts, device=1)

    on_ranks(2, program)


def test_a_rank_that_cannot_join_is_told_to_all(gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from standin import nccl

    monkeypatch.setattr(nccl, "PATIENCE", 60)  # the other ranks wait in NCCL, longer than the test does
    usual = nccl.NcclCommunicator.__init__

    def refuse(self: Any, ndev: int, commId: bytes, rank: int, config: Any = None) -> None:
        if rank == 2:
            raise TypeError("an integer is required")
        usual(self, ndev, commId, rank, config)

    monkeypatch.setattr(nccl.NcclCommunicator, "__init__", refuse)

    def program(hosts: Communicator) -> None:
        with pytest.raises(
            DeviceError, match=r"NCCL cannot be used \(rank 2 of 4: TypeError: an integer is required\)"
        ):
            communicator(hosts)

    on_ranks(4, program)


def test_a_rank_without_a_gpu_is_told_to_all(gpus: int) -> None:
    def program(hosts: Communicator) -> None:
        with pytest.raises(DeviceError, match=r"rank 1 of 2: DeviceError: device: cuda:9: expected a number below 4"):
            communicator(hosts, device=9 if hosts.rank else 0)

    on_ranks(2, program)


def test_arrays_that_nccl_cannot_reach_are_refused(gpus: int) -> None:
    def program(hosts: Communicator) -> None:
        comm, there = communicator(hosts), gpucnn.get_backend(f"cuda:{hosts.rank}")
        other = gpucnn.get_backend(f"cuda:{1 - hosts.rank}")
        wrong = [
            np.ones(3, np.float32),
            there.asarray([True]),
            there.asarray(np.ones((4, 4)))[:, ::2],
            other.asarray([1.0]),
        ]
        for array in wrong:
            for call in (comm.all_reduce, comm.broadcast):
                with pytest.raises(ParameterError, match="array: expected a C-ordered array on cuda"):
                    call(array)

    on_ranks(2, program)


def test_the_standin_refuses_what_nccl_does_not_survive(gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from standin import nccl

    module: Any = importlib.import_module("cupy.cuda.nccl")

    monkeypatch.setattr(nccl, "PATIENCE", 0.3)
    wide, identity = module.NCCL_FLOAT64, module.get_unique_id()

    def program(hosts: Communicator) -> None:
        backend, partner = gpucnn.get_backend(f"cuda:{hosts.rank}"), 1 - hosts.rank
        with backend.active():
            link = module.NcclCommunicator(2, identity, hosts.rank)
            array, host = backend.asarray(np.ones(4)), np.ones(4)
            for pointer, count, kind, peer in (
                (host.ctypes.data, 4, wide, partner),
                (array.data.ptr, 5, wide, partner),
                (array.data.ptr, 4, module.NCCL_FLOAT32, partner),
                (array.data.ptr, 4, 17, partner),
                (array.data.ptr, 4, wide, 2),
            ):
                with pytest.raises(RuntimeError, match="NCCL_ERROR_INVALID_ARGUMENT"):
                    link.send(pointer, count, kind, peer, 0)
            with pytest.raises(RuntimeError, match="wait for ever"):  # both send before either receives
                link.send(array.data.ptr, 4, wide, partner, 0)
            link._world.sent.clear()
            hosts.barrier()
            module.groupStart()
            link.send(array.data.ptr, 3 + hosts.rank, wide, partner, 0)
            link.recv(array.data.ptr, 3 + hosts.rank, wide, partner, 0)
            with pytest.raises(RuntimeError, match=r"sent, \d float64 expected"):
                module.groupEnd()
            with pytest.raises(RuntimeError, match="groupEnd without groupStart"):
                module.groupEnd()
            with pytest.raises(TypeError, match="expected bytes, got tuple"):
                module.NcclCommunicator(2, tuple(identity), hosts.rank)
            link.destroy()
            with pytest.raises(RuntimeError, match="destroyed"):
                link.recv(array.data.ptr, 4, wide, partner, 0)

    on_ranks(2, program)


def test_names_and_arguments_are_those_of_the_real_module() -> None:
    """Its file says them in its docstrings; it cannot be imported without NCCL's library."""
    pytest.importorskip("cupy")
    from standin import nccl

    spec = importlib.util.find_spec("cupy_backends.cuda.libs.nccl")
    assert spec is not None
    assert spec.origin is not None
    content = Path(spec.origin).read_bytes()
    if b"NcclCommunicator.send(" not in content:
        pytest.skip("this CuPy keeps its docstrings compressed")
    found = {
        name: [part.split("=")[0].split()[-1] for part in arguments.split(", ") if part not in ("", "self")]
        for name, arguments in re.findall(
            r"\0?(NcclCommunicator(?:\.\w+)?|\w+)\(([\w ,=]*)\)", content.decode("latin-1")
        )
    }
    link = nccl.NcclCommunicator
    for name, ours in (
        ("NcclCommunicator", link.__init__), ("NcclCommunicator.send", link.send), ("NcclCommunicator.recv", link.recv),
        ("NcclCommunicator.bcast", link.bcast), ("NcclCommunicator.destroy", link.destroy),
        ("get_unique_id", nccl.get_unique_id), ("groupStart", nccl.groupStart), ("groupEnd", nccl.groupEnd),
    ):  # fmt: skip
        code = ours.__code__
        assert found[name] == [one for one in code.co_varnames[: code.co_argcount] if one != "self"], name
    for name in nccl.KINDS:
        assert f"{name}\0".encode() in content


@pytest.mark.parametrize("size", [1, 2, 4])
def test_sharded_steps_on_gpus_give_the_cpus_numbers(gpus: int, size: int) -> None:
    rng = np.random.default_rng(0)
    given = [(rng.standard_normal((n, 1, 6, 6)).astype(np.float32), rng.integers(0, 3, n)) for n in (16, 16, 7)]
    with gpucnn.use("cpu"):
        gpucnn.manual_seed(4)
        start = network().state_dict()

    def trained(device: str, comm: Communicator) -> Any:
        with gpucnn.use(device):
            net = network()
            net.load_state_dict(start)
            optimizer = optim.SGD(net.named_parameters(), lr=0.1, momentum=0.9)
            loop = Loop(net, nn.CrossEntropyLoss(), optimizer, given, [LossAndAccuracy()], comm=comm, shards=4)
            history = loop.run(2)
            return net.state_dict(), history[-1]["loss"]

    expected, loss = trained("cpu", Communicator())

    def program(hosts: Communicator) -> Any:
        return trained(f"cuda:{hosts.rank}", communicator(hosts) if size > 1 else hosts)

    found = on_ranks(size, program)
    for weights, their_loss in found:
        assert their_loss == pytest.approx(loss, rel=1e-5)
        for name, array in weights.items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-6)
            np.testing.assert_array_equal(array, found[0][0][name])


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
