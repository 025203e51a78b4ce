"""What the stand-in for CuPy catches through gpucnn itself; a training step moves nothing between host and device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpucnn
import gpucnn.functional as F
from gpucnn import Tensor, models, nn, optim
from gpucnn.autograd import apply
from gpucnn.backend import Array, Backend


def test_a_host_array_that_reaches_a_device_operation_fails(standin: Backend) -> None:
    def faulty(backend: Backend, a: Array, needs: tuple[bool, ...]) -> Any:
        return a * np.full(a.shape, 2.0, np.float32), None

    x = np.ones((2, 3), np.float32)
    assert apply(faulty, gpucnn.tensor(x, device="cpu")).shape == (2, 3)  # NumPy does not notice
    with pytest.raises(TypeError, match="Unsupported type"):
        apply(faulty, gpucnn.tensor(x, device="cuda"))


def test_a_host_array_in_backward_fails(standin: Backend) -> None:
    def faulty(backend: Backend, a: Array, needs: tuple[bool, ...]) -> Any:
        kept = np.ones(a.shape, np.float32)
        return a + 1, lambda dy: (dy * kept,)

    y = apply(faulty, gpucnn.tensor([1.0, 2.0], device="cuda", requires_grad=True))
    with pytest.raises(TypeError, match="Unsupported type"):
        y.sum().backward()


def test_a_host_array_wrapped_as_a_device_tensor_fails(standin: Backend) -> None:
    weight = Tensor(np.ones((4, 3), np.float32), standin)
    with pytest.raises((TypeError, AttributeError)):
        F.linear(gpucnn.tensor(np.ones((2, 3), np.float32), device="cuda"), weight)


@pytest.mark.parametrize("name", ["nditer", "lib.index_tricks", "char", "matrix"])
def test_a_layer_that_uses_a_name_that_cupy_lacks_fails(standin: Backend, name: str) -> None:
    class Faulty(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            found: Any = x.backend.xp
            for part in name.split("."):
                found = getattr(found, part)
            return x

    with pytest.raises(AttributeError, match="missing in CuPy"):
        Faulty()(gpucnn.tensor([1.0], device="cuda"))


def test_memory_that_nobody_wrote_shows(standin: Backend) -> None:
    def faulty(backend: Backend, a: Array, needs: tuple[bool, ...]) -> Any:
        return backend.xp.empty(a.shape, a.dtype), None

    assert np.isnan(apply(faulty, gpucnn.tensor([1.0], device="cuda")).numpy()).all()


@pytest.mark.parametrize("model", ["lenet", "lenet:activation=sigmoid,pooling=avg", "lenet:activation=tanh"])
@pytest.mark.parametrize("make", [lambda p: optim.SGD(p, 0.01, 0.9), optim.Adam])
def test_a_training_step_moves_nothing_but_the_loss_that_is_read(standin: Backend, model: str, make: Any) -> None:
    with gpucnn.use(standin):
        net = models.build(model)
        optimizer, loss_fn = make(net.parameters()), nn.CrossEntropyLoss()
        x = gpucnn.tensor(np.random.default_rng(0).standard_normal((4, 1, 28, 28)).astype(np.float32))
        y = gpucnn.tensor([1, 2, 3, 4])

        def step() -> Tensor:
            optimizer.zero_grad()
            loss = loss_fn(net(x), y)
            loss.backward()
            optimizer.step()
            return loss

        step()
        with standin.xp.standin.transfers.counted() as inside:
            loss = step()
        assert inside.total == 0, inside
        with standin.xp.standin.transfers.counted() as inside:
            loss.item()
        assert (inside.to_host, inside.to_device, inside.waits) == (1, 0, 0)


def test_evaluating_moves_nothing_but_the_answers(standin: Backend) -> None:
    with gpucnn.use(standin), gpucnn.no_grad():
        net = models.lenet().eval()
        x = gpucnn.tensor(np.zeros((4, 1, 28, 28), np.float32))
        with standin.xp.standin.transfers.counted() as inside:
            right = (net(x).argmax(1) == gpucnn.tensor([1, 2, 3, 4])).sum()
        assert (inside.to_device, inside.to_host) == (1, 0)  # the labels
        with standin.xp.standin.transfers.counted() as inside:
            int(right)
        assert inside.total == 1


def test_cpu_and_device_take_the_same_path(standin: Backend) -> None:
    def losses(device: str) -> list[float]:
        gpucnn.manual_seed(3)
        with gpucnn.use(device):
            net = models.lenet()
            optimizer = optim.Adam(net.parameters(), lr=1e-3)
            rng = np.random.default_rng(1)
            found = []
            for _ in range(4):
                x, y = rng.standard_normal((8, 1, 28, 28)).astype(np.float32), rng.integers(0, 10, 8)
                optimizer.zero_grad()
                loss = F.cross_entropy(net(gpucnn.tensor(x)), gpucnn.tensor(y))
                loss.backward()
                optimizer.step()
                found.append(loss.item())
        return found

    assert np.allclose(losses("cpu"), losses("cuda"), rtol=1e-4)
