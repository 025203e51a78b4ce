"""Memory shared with other libraries: seen on both sides, copied by none, and refused in words where it cannot be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import Tensor, nn
from gpucnn.backend import Backend
from gpucnn.errors import DeviceError, DTypeError, MixedDeviceError

DTYPES = ["float64", "float32", "float16", "int64", "int32", "uint8", "bool"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_of_pytorch_is_shared_both_ways(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    theirs = torch.zeros((3, 4), dtype=getattr(torch, dtype))
    ours = gpucnn.from_dlpack(theirs)
    theirs[1, 2] = 1
    assert ours.dtype == dtype
    assert ours.numpy()[1, 2] == 1
    back = torch.from_dlpack(ours)
    assert back.data_ptr() == theirs.data_ptr()
    with gpucnn.no_grad():
        ours[0, 0] = 1
    assert back[0, 0] == theirs[0, 0] == 1


def test_views_scalars_and_nothing_keep_their_shape() -> None:
    torch = pytest.importorskip("torch")
    base = torch.arange(24.0).reshape(2, 3, 4)
    for theirs in (base[:, ::2, 1:], base.permute(2, 0, 1), base[1, 2, 3], base[:0]):
        ours = gpucnn.from_dlpack(theirs)
        assert ours.shape == tuple(theirs.shape)
        assert np.array_equal(ours.numpy(), theirs.numpy())
        assert np.array_equal(torch.from_dlpack(ours).numpy(), theirs.numpy())


def test_results_of_kernels_are_shared_and_their_memory_is_kept() -> None:
    torch = pytest.importorskip("torch")
    conv = nn.Conv2d(1, 8, 3)
    with gpucnn.no_grad():
        y = conv(gpucnn.tensor(np.ones((16, 1, 32, 32), np.float32)))
        expected, held = y.numpy(), torch.from_dlpack(y)
        del y
        for _ in range(3):  # which would take the memory if it were free
            conv(gpucnn.tensor(np.zeros((16, 1, 32, 32), np.float32)))
    assert np.array_equal(held.numpy(), expected)


def test_numpy_takes_a_tensor_and_gives_an_array(backend: Backend) -> None:
    tensor = gpucnn.tensor([1.0, 2.0])
    again = gpucnn.from_dlpack(tensor)
    assert again.backend is tensor.backend is backend
    with gpucnn.no_grad():
        tensor[0] = 7
    assert again.tolist() == [7, 2]
    if backend.name == "cpu":
        assert np.from_dlpack(tensor)[0] == 7


class Interface:
    """An array of another library that knows the CUDA array interface only."""

    def __init__(self, tensor: Tensor) -> None:
        self.__cuda_array_interface__ = tensor.__cuda_array_interface__
        self.keeps = tensor


def test_the_cuda_array_interface_shares_memory(standin: Backend) -> None:
    tensor = gpucnn.tensor([[1.0, 2.0], [3.0, 4.0]], device="cuda")
    shared = gpucnn.from_dlpack(Interface(tensor))
    columns = gpucnn.from_dlpack(Interface(tensor.transpose(1, 0)))
    with gpucnn.no_grad():
        tensor[0, 1] = 9
    assert shared.device == "cuda:0"
    assert shared.tolist() == [[1, 9], [3, 4]]
    assert columns.tolist() == [[1, 3], [9, 4]]


def test_on_the_cpu_there_is_no_cuda_array_interface() -> None:
    assert not hasattr(gpucnn.tensor([1.0], device="cpu"), "__cuda_array_interface__")


def test_a_tensor_that_takes_part_in_gradients_is_not_shared(backend: Backend) -> None:
    weight = gpucnn.tensor([1.0], requires_grad=True)
    for shared in (weight, weight * 2):
        with pytest.raises(BufferError, match=r"Use tensor\.detach\(\)"):
            shared.__dlpack__()
        with pytest.raises(DTypeError, match=r"Tensor: a Tensor that takes part in gradients"):
            gpucnn.from_dlpack(shared)
    assert gpucnn.from_dlpack(weight.detach()).tolist() == [1]


def read_only() -> Any:
    array = np.zeros(2, np.float32)
    array.flags.writeable = False
    return array


class Elsewhere:
    def __dlpack__(self, **options: Any) -> Any:
        raise AssertionError("not asked for")

    def __dlpack_device__(self) -> tuple[int, int]:
        return (10, 0)  # ROCm


REFUSED: dict[str, tuple[type[Exception], str, Any]] = {
    "a list": (DTypeError, r"expected an array with __dlpack__, got list\. Use gpucnn\.tensor", lambda: [1.0]),
    "read-only memory": (DTypeError, r"got ndarray: .*read-?only.*\. Use gpucnn\.tensor", read_only),
    "complex numbers": (DTypeError, "expected numbers, got dtype complex64", lambda: np.zeros(2, np.complex64)),
    "another kind of device": (DeviceError, "expected memory of the CPU or a CUDA device, got DLPack device 10", Elsewhere),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_shared_is_refused_in_words(kind: str) -> None:
    error, words, make = REFUSED[kind]
    with pytest.raises(error, match=f"from_dlpack: x: .*{words}" if "expected" not in words else words):
        gpucnn.from_dlpack(make())


def test_bfloat16_is_refused_in_words() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(DTypeError, match=r"from_dlpack: x: expected memory that can be shared, got Tensor: "):
        gpucnn.from_dlpack(torch.zeros(2, dtype=torch.bfloat16))


# Devices that meet.


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.Conv2d(1, 2, 3), (1, 1, 5, 5)), (nn.Linear(4, 2), (1, 4)), (nn.BatchNorm2d(3), (2, 3, 2, 2))],
)
def test_a_layer_on_another_device_than_its_input_is_named_with_the_cure(
    standin: Backend, layer: nn.Module, shape: tuple[int, ...]
) -> None:
    net = nn.Sequential(layer)
    with pytest.raises(MixedDeviceError, match=r"Move the model with \.to\('cuda:0'\)") as caught:
        net(gpucnn.tensor(np.ones(shape, np.float32), device="cuda"))
    assert "expected the input's device cuda:0, got cpu" in str(caught.value)
    assert f"(in layer {type(layer).__name__}(" in str(caught.value)


def test_a_move_there_and_back_carries_values_and_gradients(standin: Backend) -> None:
    x = gpucnn.tensor([1.0, 2.0], device="cpu", requires_grad=True)
    there = x.cuda()
    assert (there.device, there.cpu().device, there.to("cuda") is there) == ("cuda:0", "cpu", True)
    (there * there).cpu().sum().backward()
    assert x.grad is not None
    assert (x.grad.device, x.grad.tolist()) == ("cpu", [2, 4])
