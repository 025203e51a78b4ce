"""Tensors' methods and functions under PyTorch's names: what they give is what PyTorch gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import nn
from gpucnn.backend import Backend
from gpucnn.errors import CheckpointError, GpucnnError

torch = pytest.importorskip("torch")

X = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
TIES = np.array([[3.0, 1.0, 3.0, np.nan], [0.0, 0.0, -1.0, 5.0]], np.float32)
SAME: dict[str, Callable[[Any], Any]] = {
    "t": lambda x: x[0].t(),
    "t of a vector": lambda x: x[0, 0].t(),
    "data": lambda x: x.data,
    "view": lambda x: x.view(-1, 2),
    "view of a tuple": lambda x: x.view((4, 6)),
    "permute": lambda x: x.permute(2, 0, 1),
    "permute a tuple": lambda x: x.permute((2, 0, 1)),
    "permute from the end": lambda x: x.permute(0, -1, 1),
    "unsqueeze": lambda x: x.unsqueeze(0),
    "unsqueeze at the end": lambda x: x.unsqueeze(-1),
    "squeeze": lambda x: x[:1, :, :1].squeeze(),
    "squeeze one": lambda x: x[:1, :, :1].squeeze(0),
    "squeeze none": lambda x: x.squeeze(1),
    "squeeze some": lambda x: x[:1, :, :1].squeeze((0, 1)),
    "numel": lambda x: x.numel(),
    "dim": lambda x: x.dim(),
    "float": lambda x: x.double().float(),
    "double": lambda x: x.double(),
    "half": lambda x: x.half(),
    "long": lambda x: x.long(),
    "std": lambda x: x.std(),
    "std of an axis": lambda x: x.std(1),
    "std kept": lambda x: x.std(dim=(0, 2), keepdim=True),
    "var": lambda x: x.var(),
    "var of all": lambda x: x.var(dim=0, correction=0),
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "clamp above": lambda x: x.clamp(max=0.25),
    "clamp below": lambda x: x.clamp(0),
    "clamp whole": lambda x: (x * 9).long().clamp(min=-2),
    "clamp both whole": lambda x: (x * 9).long().clamp(-2, 3),
    "topk": lambda x: x.topk(2).values,
    "topk, places": lambda x: x.topk(2, dim=0).indices,
    "topk, smallest": lambda x: x.topk(2, 1, largest=False).values,
    "topk of none": lambda x: x.topk(0).values,
    "sort": lambda x: x.sort().values,
    "sort, places": lambda x: x.sort(1, descending=True)[1],
    "sort a number": lambda x: x[0, 0, 0].sort()[0],
    "expand": lambda x: x[:, :1].expand(2, 5, 4),
    "expand kept": lambda x: x[:, :1].expand(-1, 5, -1),
    "expand new": lambda x: x[0, 0].expand(3, 2, 4),
    "repeat": lambda x: x.repeat(2, 1, 3),
    "repeat new": lambda x: x[0, 0].repeat(2, 3),
    "repeat a tuple": lambda x: x.repeat((1, 2, 1)),
    "repeat none": lambda x: x.repeat(1, 0, 1),
    "transpose": lambda x: x.transpose(0, 2),
    "transpose from the end": lambda x: x.transpose(-1, -2),
    "transpose a matrix": lambda x: x[0].transpose(0, 1),
    "sum": lambda x: x.sum(dim=1),
    "sum kept": lambda x: x.sum(dim=(0, 1), keepdim=True),
    "sum placed": lambda x: x.sum(1, True),
    "mean": lambda x: x.mean(dim=-1),
    "argmax": lambda x: x.argmax(dim=1),
}


def host(value: Any) -> Any:
    return value.detach().numpy() if hasattr(value, "detach") else np.asarray(value)


@pytest.mark.parametrize("name", SAME)
def test_methods(backend: Backend, name: str) -> None:
    got, wanted = host(SAME[name](gpucnn.tensor(X))), host(SAME[name](torch.tensor(X)))
    assert got.dtype == wanted.dtype
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("descending", [False, True])
def test_equal_elements_keep_their_order_and_nan_is_the_largest(backend: Backend, descending: bool) -> None:
    values, indices = gpucnn.tensor(TIES).sort(dim=1, descending=descending)
    wanted = torch.sort(torch.tensor(TIES), dim=1, descending=descending, stable=True)
    np.testing.assert_array_equal(values.numpy(), wanted.values.numpy())
    np.testing.assert_array_equal(indices.numpy(), wanted.indices.numpy())


def test_the_variance_of_one_element_is_nan() -> None:
    assert np.isnan(gpucnn.ones(1, 3).var(dim=0).numpy()).all()


@pytest.mark.parametrize("name", ["min", "max"])
def test_extrema_have_values_alone_where_pytorch_has_indices_too(name: str) -> None:
    got = getattr(gpucnn.tensor(X), name)(dim=1, keepdim=True).numpy()
    np.testing.assert_array_equal(got, getattr(torch.tensor(X), name)(dim=1, keepdim=True).values.numpy())


CREATED: dict[str, Callable[[Any], Any]] = {
    "ones": lambda lib: lib.ones(2, 3),
    "ones of a tuple": lambda lib: lib.ones((2, 3), dtype=lib.int64),
    "zeros": lambda lib: lib.zeros(3),
    "zeros of nothing": lambda lib: lib.zeros(0, 3),
    "zeros, a number": lambda lib: lib.zeros(()),
    "full": lambda lib: lib.full((2, 2), 0.5),
    "full of ints": lambda lib: lib.full((2,), 7),
    "full of flags": lambda lib: lib.full((2,), True),
    "full in half": lambda lib: lib.full((2,), 7, dtype=lib.float16),
    "arange": lambda lib: lib.arange(5),
    "arange from": lambda lib: lib.arange(2, 9, 3),
    "arange down": lambda lib: lib.arange(5, 1, -2),
    "arange of floats": lambda lib: lib.arange(0, 1, 0.25),
    "arange, float": lambda lib: lib.arange(3.0),
    "arange as": lambda lib: lib.arange(3, dtype=lib.float64),
    "arange none": lambda lib: lib.arange(0),
    "zeros_like": lambda lib: lib.zeros_like(lib.ones(2, dtype=lib.float64)),
    "ones_like": lambda lib: lib.ones_like(lib.zeros(2, 3), dtype=lib.uint8),
    "from_numpy": lambda lib: lib.from_numpy(X.astype(np.float64)),
    "stack": lambda lib: lib.stack([lib.ones(2), lib.zeros(2)], dim=1),
    "stack at the end": lambda lib: lib.stack([lib.ones(2), lib.zeros(2)], -1),
    "cat": lambda lib: lib.cat([lib.ones(2, 1), lib.zeros(2, 3)], dim=1),
    "cat, a tuple": lambda lib: lib.cat((lib.ones(1), lib.zeros(2))),
    "matmul": lambda lib: lib.matmul(lib.ones(2, 3), lib.full((3,), 2.0)),
    "where": lambda lib: lib.where(lib.tensor(X) > 0, lib.tensor(X), lib.zeros(4)),
    "where of numbers": lambda lib: lib.where(lib.tensor(X) > 0, 1.0, 2.0),
    "where, one": lambda lib: lib.where(lib.tensor(X) > 0, 0.0, lib.tensor(X)),
    "half": lambda lib: lib.ones(1, dtype=lib.half),
    "long": lambda lib: lib.ones(1, dtype=lib.long),
    "double": lambda lib: lib.ones(1, dtype=lib.double),
    "int8": lambda lib: lib.ones(1, dtype=lib.int8),
}


@pytest.mark.parametrize("name", CREATED)
def test_functions(backend: Backend, name: str) -> None:
    got, wanted = CREATED[name](gpucnn), CREATED[name](torch)
    assert got.device == backend.name
    assert host(got).dtype == host(wanted).dtype
    np.testing.assert_array_equal(host(got), host(wanted))


def test_random_numbers_are_those_of_a_seed_and_of_their_distribution(backend: Backend) -> None:
    draws = []
    for _ in range(2):
        gpucnn.manual_seed(3)
        draws.append([gpucnn.rand(100, 20), gpucnn.randn((100, 20)), gpucnn.normal(3.0, 0.5, (2000,))])
    for a, b in zip(*draws, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    uniform, standard, moved = (draw.numpy() for draw in draws[0])
    assert 0 <= uniform.min() < 0.01 < 0.99 < uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.03
    assert abs(standard.mean()) < 0.1
    assert abs(standard.std() - 1) < 0.1
    assert abs(moved.mean() - 3) < 0.1
    assert abs(moved.std() - 0.5) < 0.05
    assert gpucnn.rand(2, requires_grad=True).requires_grad


MISTAKES: dict[str, Callable[[], Any]] = {
    "axis and dim": lambda: gpucnn.ones(2, 2).sum(0, dim=1),
    "no axis": lambda: gpucnn.ones(2).sum(dim=3),
    "t of three axes": lambda: gpucnn.ones(2, 2, 2).t(),
    "permute twice": lambda: gpucnn.ones(2, 2, 2).permute(0, 0, 1),
    "permute too few": lambda: gpucnn.ones(2, 2, 2).permute(0, 1),
    "unsqueeze": lambda: gpucnn.ones(2).unsqueeze(3),
    "squeeze": lambda: gpucnn.ones(2).squeeze(4),
    "view": lambda: gpucnn.ones(3).view(2),
    "expand": lambda: gpucnn.ones(2).expand(3),
    "expand to fewer": lambda: gpucnn.ones(2, 2).expand(2),
    "expand new with -1": lambda: gpucnn.ones(2).expand(-1, 2),
    "expand text": lambda: gpucnn.ones(2).expand("2"),
    "repeat fewer": lambda: gpucnn.ones(2, 2).repeat(2),
    "repeat below 0": lambda: gpucnn.ones(2).repeat(-1),
    "topk": lambda: gpucnn.ones(2).topk(3),
    "topk text": lambda: gpucnn.ones(2).topk("1"),
    "sort": lambda: gpucnn.ones(2).sort(dim=1),
    "clamp of nothing": lambda: gpucnn.ones(2).clamp(),
    "clamp of text": lambda: gpucnn.ones(2).clamp("0"),
    "clamp of whole numbers": lambda: gpucnn.arange(3).clamp(0.5),
    "clamp with NaN": lambda: gpucnn.ones(2).clamp(float("nan")),
    "std of ints": lambda: gpucnn.arange(3).std(),
    "var": lambda: gpucnn.ones(2).var(correction="1"),
    "ones": lambda: gpucnn.ones(-1),
    "zeros": lambda: gpucnn.zeros("2"),
    "full": lambda: gpucnn.full((2,), "1"),
    "dtype": lambda: gpucnn.ones(1, dtype="object"),
    "dtype text": lambda: gpucnn.ones(1, dtype="x"),
    "arange": lambda: gpucnn.arange(0, 3, -1),
    "arange 0": lambda: gpucnn.arange(0, 3, 0),
    "arange text": lambda: gpucnn.arange("3"),
    "arange endless": lambda: gpucnn.arange(1e30),
    "rand of ints": lambda: gpucnn.rand(2, dtype="int64"),
    "normal": lambda: gpucnn.normal(0, -1, (2,)),
    "from_numpy": lambda: gpucnn.from_numpy([1.0]),
    "stack": lambda: gpucnn.stack([]),
    "stack of shapes": lambda: gpucnn.stack([gpucnn.ones(1), gpucnn.ones(2)]),
    "stack dim": lambda: gpucnn.stack([gpucnn.ones(1)], 3),
    "cat": lambda: gpucnn.cat([gpucnn.ones(1), gpucnn.ones(1, 1)]),
    "matmul": lambda: gpucnn.matmul(1, gpucnn.ones(1)),
    "matmul shapes": lambda: gpucnn.matmul(gpucnn.ones(2), gpucnn.ones(3)),
    "where": lambda: gpucnn.where(gpucnn.ones(1), 1.0, 2.0),
    "where of shapes": lambda: gpucnn.where(gpucnn.ones(2) > 0, gpucnn.ones(3), 0.0),
    "like": lambda: gpucnn.ones_like([1.0]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_our_words(name: str) -> None:
    with pytest.raises(GpucnnError) as caught:
        MISTAKES[name]()
    assert 10 < len(str(caught.value)) < 300


# --- save and load ---------------------------------------------------------------------------------------------------


def test_a_tensor_a_state_and_a_network_come_back(tmp_path: Path) -> None:
    x, net = gpucnn.tensor(X), nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    for name, value in (("x", x), ("state", net.state_dict()), ("net", net), ("tensors", {"a": x})):
        gpucnn.save(value, tmp_path / name)
    np.testing.assert_array_equal(gpucnn.load(tmp_path / "x").numpy(), X)
    state = gpucnn.load(tmp_path / "state")
    assert all(isinstance(value, gpucnn.Tensor) for value in state.values())
    other = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    other.load_state_dict(state)
    y = gpucnn.ones(1, 2)
    np.testing.assert_array_equal(other(y).numpy(), net(y).numpy())
    np.testing.assert_array_equal(gpucnn.load(tmp_path / "net")(y).numpy(), net(y).numpy())
    np.testing.assert_array_equal(gpucnn.load(tmp_path / "tensors")["a"].numpy(), X)


@pytest.mark.parametrize("new", [True, False])
def test_pytorchs_own_files_are_refused_with_the_lines_that_convert_them(tmp_path: Path, new: bool) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "w.pth", _use_new_zipfile_serialization=new)
    with pytest.raises(CheckpointError, match=r"pickle.*save_file") as caught:
        gpucnn.load(tmp_path / "w.pth")
    line = str(caught.value).partition("PyTorch is: ")[2].rstrip(".")
    pytest.importorskip("safetensors.torch")
    exec(line)  # the line that the message gives
    assert gpucnn.load(tmp_path / "w.safetensors")["w"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("value", [3, [1.0], {"a": 1.0}, {1: np.ones(1)}, None])
def test_what_cannot_be_saved(tmp_path: Path, value: Any) -> None:
    with pytest.raises(CheckpointError, match="save"):
        gpucnn.save(value, tmp_path / "x")
    assert not (tmp_path / "x").exists()
