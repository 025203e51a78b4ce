"""A second GPU: whatever is done with its arrays is done while it is the current one (``cuda:1`` and above)."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from conftest import replace_backend

import gpucnn
import gpucnn.functional as F
from gpucnn import Tensor, nn, optim
from gpucnn.backend import Backend, get_backend
from gpucnn.training import train_step


@pytest.fixture
def second(standin: Backend) -> Iterator[Backend]:
    """The second of two GPUs, while the first is current: an array of one that is used then is an error."""
    from standin import devices

    with ExitStack() as stack:
        stack.enter_context(devices.several(2))
        replace_backend(stack, "cuda:1", None)
        chosen = get_backend("cuda:1")
        with gpucnn.use(chosen):
            yield chosen
        gc.collect()  # captured steps give their memory back while the device is there
        assert devices.current() == 0
        assert not devices.entered()


def test_an_array_of_a_device_that_is_not_current_is_an_error(second: Any) -> None:
    with second.xp.cuda.Device(1):
        x = second.xp.ones(3)
    assert x.device.id == 1
    for use in (lambda: x + 1, lambda: x.sum(), lambda: x.get(), lambda: second.xp.copyto(x, x)):
        with pytest.raises(RuntimeError, match="an array of device 1 is used while 0 is current"):
            use()
    made = second.xp.ones(3)
    with second.xp.cuda.Device(1), pytest.raises(RuntimeError, match="an array of device 0"):
        made + 1


def test_operations_by_hand(second: Backend) -> None:
    x = gpucnn.tensor(np.arange(12, dtype=np.float32).reshape(3, 4), requires_grad=True)
    y = gpucnn.tensor([1.0, 2.0, 3.0, 4.0])
    assert (x.device, (x * y).device) == ("cuda:1", "cuda:1")
    z = ((x * y - x / 2) ** 2 + abs(x) @ y.reshape(4, 1)).exp().log().sqrt()
    z = gpucnn.concatenate([z[1:], z[[0, 0]], -z], axis=0).reshape(4, 7).T
    (z.sum() + z.mean() + z.max() + z.min(axis=0).sum()).backward()
    assert x.grad is not None
    with gpucnn.use("cpu"):
        there = gpucnn.tensor(x.numpy(), requires_grad=True)
        by = y.cpu()
        w = ((there * by - there / 2) ** 2 + abs(there) @ by.reshape(4, 1)).exp().log().sqrt()
        w = gpucnn.concatenate([w[1:], w[[0, 0]], -w], axis=0).reshape(4, 7).T
        (w.sum() + w.mean() + w.max() + w.min(axis=0).sum()).backward()
    np.testing.assert_allclose(x.grad.numpy(), there.grad.numpy(), rtol=1e-4)  # type: ignore[union-attr]


CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "x += 1": lambda x: x.__iadd__(1),
    "x[...] = 1": lambda x: x.__setitem__((0, slice(None)), 1.0),
    "copy_": lambda x: x.copy_(gpucnn.tensor(np.zeros(x.shape, np.float32), device="cpu")),
    "comparison": lambda x: (x == 0) * (x < 1),
    "argmax": lambda x: x.argmax(1),
    "isfinite": lambda x: x.isfinite(),
    "printing": repr,
    "reading": lambda x: (x.tolist(), x[0, 0].item(), x.numpy(), float(x[1, 1])),
    "casting": lambda x: x.to("float64").to("int32").to("float16"),
    "moving": lambda x: x.to("cpu").to("cuda:1").to("cuda:0").to("cuda:1"),
    "clone": lambda x: x.clone(),
    "a copy": copy.deepcopy,
    "dlpack": lambda x: gpucnn.from_dlpack(x.detach()),
    "a mask": lambda x: x[x > 1],
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_one_may_do_with_a_tensor(second: Backend, name: str) -> None:
    CHANGES[name](gpucnn.tensor(np.arange(6, dtype=np.float32).reshape(2, 3)))


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(4 * 16, 10),
    )


@pytest.mark.parametrize("make", [optim.Adam, lambda p: optim.SGD(p, 0.1, 0.9), optim.Adagrad, optim.RMSprop])
def test_training(second: Backend, make: Any) -> None:
    net = network()
    net.to("cpu").to("cuda:1")
    optimizer, x = make(net.parameters()), gpucnn.tensor(np.zeros((2, 3, 8, 8), np.float32))
    y = gpucnn.tensor([1, 2])
    for _ in range(2):
        train_step(net, nn.CrossEntropyLoss(), optimizer, x, y)
    optim.clip_grad_norm_(net.parameters(), 1.0)
    optim.clip_grad_norm_(net.parameters(), 1.0, float("inf"))
    optim.clip_grad_value_(net.parameters(), 0.1)
    optimizer.load_state_dict(optimizer.state_dict())
    net.load_state_dict(net.state_dict())

    def step(a: Tensor, b: Tensor) -> Any:
        return train_step(net, nn.CrossEntropyLoss(), optimizer, a, b)

    if isinstance(optimizer, (optim.Adam, optim.SGD)):  # the others' updates are not made for it
        step = gpucnn.capture(step, state=[net, optimizer])
    losses = [step(x, y)[0].item() for _ in range(3)]
    assert np.isfinite(losses).all()
    net.eval()(x).argmax(1).tolist()


LAYERS: dict[str, Callable[[Tensor], Tensor]] = {
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "softplus": F.softplus,
    "gelu": F.gelu,
    "gelu, tanh": lambda x: F.gelu(x, "tanh"),
    "hardsigmoid": F.hardsigmoid,
    "relu6": F.relu6,
    "sigmoid": F.sigmoid,
    "tanh": F.tanh,
    "softmax": lambda x: F.softmax(x, 1),
    "log_softmax": lambda x: F.log_softmax(x, 1),
    "group_norm": lambda x: F.group_norm(x, 2),
    "layer_norm": lambda x: F.layer_norm(x, (6, 6)),
    "dropout": lambda x: F.dropout(x) + F.dropout2d(x),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 3, padding=1, count_include_pad=False),
    "lp_pool2d": lambda x: F.lp_pool2d(x, 2, 2),
    "centre_pool2d": lambda x: F.centre_pool2d(x, 2),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, (4, 3)),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, (4, 3)),
    "max_unpool2d": lambda x: F.max_unpool2d(*F.max_pool2d_with_indices(x, 2), 2),
    "conv2d by columns": lambda x: F.conv2d(x, x.detach()[:, :2], groups=2, implementation="im2col"),
    "conv2d by loops": lambda x: F.conv2d(x, x.detach()[:1, :, :2, :2], implementation="loops"),
    "conv_transpose2d": lambda x: F.conv_transpose2d(x, x.detach().transpose(1, 0, 2, 3), gpucnn.tensor([1.0, 2.0])),
    "pad2d": lambda x: F.pad2d(x, (1, 1, 2, 2), "reflect"),
    "im2col": lambda x: F.im2col(x, 2),
    "nll_loss": lambda x: F.nll_loss(x.reshape(2, 144), gpucnn.tensor([1, 2]), weight=gpucnn.tensor([1.0] * 144)),
    "cross_entropy, smooth": lambda x: F.cross_entropy(x.reshape(2, 144), gpucnn.tensor([1, 2]), label_smoothing=0.1),
    "cross_entropy, none": lambda x: F.cross_entropy(x.reshape(2, 144), gpucnn.tensor([1, 2]), "none"),
    "cross_entropy, soft": lambda x: F.cross_entropy(x.reshape(2, 144), x.detach().reshape(2, 144)),
    "mse_loss": lambda x: F.mse_loss(x, x.detach() + 1),
    "l1_loss": lambda x: F.l1_loss(x, x.detach() + 1),
    "huber_loss": lambda x: F.huber_loss(x, x.detach() + 1),
    "hinge_loss": lambda x: F.hinge_loss(x, x.detach()),
    "binary_cross_entropy": lambda x: F.binary_cross_entropy(F.sigmoid(x), x.detach() * 0),
    "binary_cross_entropy_with_logits": lambda x: F.binary_cross_entropy_with_logits(x, x.detach() * 0),
}


@pytest.mark.parametrize("name", LAYERS)
def test_functions_and_their_gradients(second: Backend, name: str) -> None:
    host = np.random.default_rng(0).standard_normal((2, 4, 6, 6)).astype(np.float32)
    found = []
    for device in ("cuda:1", "cpu"):
        with gpucnn.use(device):
            x = gpucnn.tensor(host, requires_grad=True)
            y = LAYERS[name](x)
            y.sum().backward()
            assert x.grad is not None
            found.append((y.numpy(), x.grad.numpy()))
    if not name.startswith("dropout"):  # which each device draws by itself
        for ours, theirs in zip(*found, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
