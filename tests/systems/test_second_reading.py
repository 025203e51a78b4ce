"""What a second reading of the five systems found missing, point by point.

Where a point has tests of its own elsewhere, the docstring names them; here it is typed once as its user would.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_objects import Descent
from PIL import Image
from runs import gpucnn as command

import gpucnn
import gpucnn.functional as F
from gpucnn import analysis, data, inspect, models, nn, optim
from gpucnn.errors import ParameterError
from gpucnn.training import Accuracy, Callback, DataLoader, Loop, Timer

RNG = np.random.default_rng(0)


def normal(*shape: int) -> Any:
    return gpucnn.tensor(RNG.standard_normal(shape).astype(np.float32))


# --- all five ---------------------------------------------------------------------------------------------------------


def test_all_functions_that_make_tensors(tmp_path: Path) -> None:
    """Also tests/autograd/test_pytorch_names.py."""
    assert gpucnn.ones(2, 2).tolist() == [[1, 1], [1, 1]]
    assert gpucnn.zeros(2).tolist() == [0, 0]
    assert gpucnn.full((2,), 3.0).tolist() == [3, 3]
    assert gpucnn.arange(3).dtype == gpucnn.int64
    for make in (gpucnn.rand, gpucnn.randn):
        assert make(2, 3).shape == (2, 3)
    assert gpucnn.normal(0.0, 1.0, (4,)).dtype == gpucnn.float32
    a, b = gpucnn.tensor([1.0, 2.0]), gpucnn.tensor([3.0, 4.0])
    assert gpucnn.stack([a, b]).tolist() == [[1, 2], [3, 4]]
    assert gpucnn.cat([a, b]).tolist() == [1, 2, 3, 4]
    assert gpucnn.matmul(a, b).item() == 11
    assert gpucnn.where(a > 1, a, b).tolist() == [3, 2]
    assert gpucnn.zeros_like(a).tolist() == [0, 0]
    assert gpucnn.ones_like(a).tolist() == [1, 1]
    assert gpucnn.from_numpy(np.arange(2)).tolist() == [0, 1]
    gpucnn.save(a, tmp_path / "a.safetensors")
    assert gpucnn.load(tmp_path / "a.safetensors").tolist() == [1, 2]


def test_all_methods_of_tensors() -> None:
    """Also tests/autograd/test_pytorch_names.py."""
    x = gpucnn.tensor(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert x.t().shape == x.transpose(0, 1).shape == x.permute(1, 0).shape == (3, 2)
    assert x.view(3, 2).tolist() == [[0, 1], [2, 3], [4, 5]]
    assert (x.unsqueeze(0).shape, x.unsqueeze(0).squeeze(0).shape, x.numel(), x.dim()) == ((1, 2, 3), (2, 3), 6, 2)
    assert [str(y.dtype) for y in (x.long(), x.double(), x.half(), x.float())] == [
        "int64",
        "float64",
        "float16",
        "float32",
    ]
    assert x.var(dim=1).tolist() == [1, 1]
    assert x.std(axis=0).tolist() == pytest.approx([4.5**0.5] * 3)
    assert x.clamp(1, 4).tolist() == [[1, 1, 2], [3, 4, 4]]
    assert x.topk(2, dim=1)[0].tolist() == [[2, 1], [5, 4]]
    assert x.sort(dim=1, descending=True)[1].tolist() == [[2, 1, 0]] * 2
    assert x[:, :1].expand(2, 2).tolist() == [[0, 0], [3, 3]]
    assert x.repeat(1, 2).shape == (2, 6)
    assert x.data.requires_grad is False
    assert F.softmax(x, dim=1).sum(dim=1).tolist() == pytest.approx([1, 1])


def test_all_methods_of_modules() -> None:
    """Also tests/nn/test_pytorch_names.py."""
    net = nn.Sequential([nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)])
    seen: list[str] = []
    net.apply(lambda module: seen.append(type(module).__name__))
    assert seen == ["Linear", "BatchNorm1d", "ReLU", "Linear", "Sequential"]
    assert [name for name, _ in net.named_children()] == ["0", "1", "2", "3"]
    assert len(list(net.buffers())) == 3
    assert [str(next(net.to(dtype=kind).parameters()).dtype) for kind in (gpucnn.float64, gpucnn.float32)] == [
        "float64", "float32"
    ]  # fmt: skip
    assert str(next(net.half().parameters()).dtype) == "float16"
    net.float().cpu()
    net[-1] = nn.Linear(4, 5)
    net.append(nn.Tanh())
    assert net[:2](normal(2, 3)).shape == (2, 4)
    assert net(normal(2, 3)).shape == (2, 5)
    parts = nn.ModuleDict({"a": nn.ModuleList([nn.Linear(1, 1)])})
    assert [name for name, _ in parts.named_parameters()] == ["a.0.weight", "a.0.bias"]


def test_all_optimisers_by_subclass() -> None:
    """Also tests/optim/test_own_optimizers.py."""
    a, b = (nn.Parameter(gpucnn.tensor([1.0])) for _ in range(2))
    optimizer = Descent([a], {"lr": 0.5})
    optimizer.add_param_group({"params": [b], "lr": 0.25})
    (a * a + b * b).sum().backward()
    optimizer.step()
    assert (a.item(), b.item()) == (0, 0.5)


# --- system 1 ---------------------------------------------------------------------------------------------------------


def test_system_1_texts_and_paddings() -> None:
    """LeNet's every argument, loops against products: test_lenet_loops_and_products.py."""
    x = gpucnn.tensor([-1.0, 2.0])
    assert nn.activation("affine(slope=2, intercept=1)")(x).tolist() == [-1, 5]
    weight = gpucnn.zeros(60, 60)
    nn.init.initialise(weight, "std_normal")
    assert abs(weight.std().item() - 1) < 0.05
    image = gpucnn.tensor(-np.ones((1, 1, 3, 3), np.float32))
    assert F.pad2d(image, 1).shape == (1, 1, 5, 5)
    assert F.pad2d(image, "same", kernel_size=2).shape == (1, 1, 4, 4)
    assert F.pad2d(image, "valid").shape == (1, 1, 3, 3)
    assert nn.MaxPool2d(2, 1, 1)(image).max().item() == -1, "as PyTorch: padding never wins"
    assert nn.MaxPool2d(2, 1, 1, zero_padded=True)(image)[0, 0, 0].tolist() == [0, 0, 0, 0]
    assert nn.MaxPool1d(2)(normal(1, 2, 6)).shape == nn.AvgPool1d(2)(normal(1, 2, 6)).shape == (1, 2, 3)
    assert nn.DepthwiseSeparableConv2d(None, 4, 3)(normal(1, 2, 5, 5)).shape == (1, 4, 3, 3)
    same = F.conv2d(normal(1, 1, 6, 6), normal(1, 1, 3, 3), stride=2, padding=(3, 4, 3, 4))
    assert same.shape == (1, 1, 6, 6), "the input's size under a stride, by four-sided padding"


def test_system_1_a_fit_that_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    """Also tests/test_estimator.py and test_estimator_files.py."""
    x, y = data.draw_digits(64, seed=0)
    classifier = gpucnn.Classifier(epochs=1, batch_size=32, device="cpu", verbose=2, warm_start=True, clip_norm=1.0)
    classifier.fit(x, np.eye(10)[y])
    first = classifier.history[-1]["loss"]
    assert "epoch 1/1, batch 2/2: loss" in capsys.readouterr().out
    for _ in range(4):
        classifier.partial_fit(x, y)
    assert classifier.fit(x, y).history[-1]["loss"] < first


# --- system 2 ---------------------------------------------------------------------------------------------------------


def test_system_2_rectangular_images_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("train/a", "train/b", "test/a", "test/b"):
        Path("pictures", place).mkdir(parents=True)
        for i in range(12):
            pixels = RNG.integers(0, 255, (20, 32), np.uint8)
            Image.fromarray(pixels).save(f"pictures/{place}/{i}.png")
    options = ("--data", "pictures", "--image-size", "20x32", "--epochs", 1, "--device", "cpu")
    for model in ("lenet", "resnet:blocks=1"):
        run = f"run-{model[:5]}"
        assert command("train", "--model", model, *options, "--out", run).code == 0
        assert command("evaluate", run, "--device", "cpu").code == 0
        assert command("predict", run, "pictures/train/a/0.png", "--device", "cpu").code == 0
    assert "x20x32" in command("summary", "lenet", "--input-shape", "1,20,32").out.replace(" ", "")
    for name in ("lenet", "vgg", "resnet", "conv_mlp", "simple_convnet"):
        net = models.build(name, in_channels=1, image_size=(20, 32), classes=3)
        assert net(normal(1, 1, 20, 32)).shape == (1, 3), name
    x = RNG.random((20, 1, 20, 32)).astype(np.float32)
    assert gpucnn.Classifier(epochs=1, device="cpu").fit(x, np.arange(20) % 2).predict(x).shape == (20,)


def test_system_2_options_of_layers() -> None:
    """Also tests/nn/test_blocks.py, test_worked_convolution.py."""
    assert nn.Conv2d(1, 2, 3)(normal(5, 5)).shape == (2, 3, 3)
    assert nn.MaxPool2d(2)(normal(4, 4)).shape == (2, 2)
    assert F.output_size((20, 32), 3, stride=2, padding=1) == (10, 16)
    for pooling in ("max", "avg", "l2"):
        block = nn.ConvBlock(
            2, 4, 3, 2, 2, "tanh", padding=1, pooling=pooling, dilation=1, groups=2, bias=False, pool_padding=1
        )
        assert block(normal(1, 2, 6, 6)).shape == (1, 4, 4, 4)
    for how in ("loops", "im2col"):
        layer = nn.Conv2d(1, 2, 3, bias="position", image_size=5, implementation=how)
        assert layer(normal(1, 1, 5, 5)).shape == (1, 2, 3, 3)
    for make in (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d):
        with pytest.raises(ParameterError, match="bias"):
            make(1, 1, 3, bias="nonsense")
    with pytest.raises(ParameterError, match="bias"):
        nn.Linear(1, 1, bias="nonsense")  # type: ignore[arg-type]


def test_system_2_an_activation_by_its_output() -> None:
    """Also tests/functional/test_resize.py."""
    x = gpucnn.tensor([0.0, 1.0], requires_grad=True)
    y = F.by_output(x, F.tanh, lambda y: 1 - y * y)
    y.sum().backward()
    assert x.grad.tolist() == pytest.approx([1, 1 - np.tanh(1) ** 2])  # type: ignore[union-attr]


# --- system 3 ---------------------------------------------------------------------------------------------------------


def test_system_3_looking_at_what_was_learnt() -> None:
    """Grey pictures of filters and its object with predict, loss, gradient, accuracy: test_simple_convnet.py."""
    net = models.simple_convnet()
    profile = analysis.profile(net, normal(8, 1, 28, 28), repeats=1)
    assert all(layer.forward > 0 for layer in profile.layers)
    assert [layer.title for layer in profile.layers][:3] == ["conv1", "relu1", "maxpool1"]
    x = np.zeros((6, 1, 28, 28), np.float32)
    x[4, 0, 10:20, 10:20] = 5
    x = np.zeros((6, 1, 28, 28), np.float32)
    x[4], x[2] = 5, 1
    net.load_state_dict({**net.state_dict(), "0.weight": np.ones((30, 1, 5, 5), np.float32)})
    indices, values = inspect.most_exciting(net, x, "0", 0, count=2)
    assert indices.tolist() == [4, 2]
    assert values[0] - values[1] == pytest.approx(25 * 4, rel=1e-5)


# --- system 4 ---------------------------------------------------------------------------------------------------------


def test_system_4_dense_targets_sequences_and_larger_images() -> None:
    """Objects of one's own in the trainer: tests/training/test_objects.py; in the loop: test_small_framework.py."""
    logits, target = normal(2, 3, 4, 5), RNG.integers(0, 3, (2, 4, 5))
    p = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)
    expected = -np.log(np.take_along_axis(p, target[:, None], 1)).mean()
    assert F.cross_entropy(logits, gpucnn.tensor(target)).item() == pytest.approx(expected, rel=1e-5)
    assert nn.Upsample(scale_factor=2)(gpucnn.tensor([[[[1.0, 2.0]]]])).tolist() == [[[[1, 1, 2, 2], [1, 1, 2, 2]]]]
    one_hot = data.ArrayDataset(RNG.integers(0, 255, (6, 1, 5, 5), np.uint8), np.eye(3)[[0, 1, 2, 0, 1, 2]])
    assert one_hot[np.arange(3)][1].tolist() == [0, 1, 2]


# --- system 5 ---------------------------------------------------------------------------------------------------------


def test_system_5_unshared_and_true_convolution() -> None:
    """Also tests/functional/test_resize.py, tests/nn/test_unshared.py."""
    layer = nn.LocallyConnected2d(1, 1, 2, image_size=3, bias=False)
    x = RNG.standard_normal((3, 3)).astype(np.float32)
    V, y = layer.weight.numpy()[:, :, 0, 0], layer(gpucnn.tensor(x[None, None])).numpy()[0, 0]
    for i, j in np.ndindex(2, 2):
        expected = sum(V[i, j, a, b] * x[i + a, j + b] for a, b in np.ndindex(2, 2))
        assert y[i, j] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    image, kernel = normal(1, 1, 5, 5), normal(1, 1, 2, 2)
    flipped = gpucnn.tensor(kernel.numpy()[:, :, ::-1, ::-1].copy())
    np.testing.assert_array_equal(F.convolve2d(image, kernel).numpy(), F.conv2d(image, flipped).numpy())


def test_system_5_batches_curves_metrics_and_examples_a_second() -> None:
    """Curves within epochs: tests/training/test_loop.py; drawn live: tests/report/test_notebook.py."""
    x, y = data.draw_digits(500, seed=0)
    loader = DataLoader(data.ArrayDataset(x, y), batch_size=8, shuffle=True, seed=0, drop_last=True)
    assert len(loader) == 62
    images, labels = next(iter(loader))
    assert (images.shape, labels.shape) == ((8, 1, 28, 28), (8,))
    noted: list[float] = []

    class Curve(Callback):
        def log(self, loop: Loop, values: dict[str, Any]) -> None:
            noted.append(values["progress"])

    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    timer = Timer()
    timer.start()
    loop = Loop(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=0.1), loader, [Accuracy()], [Curve()])
    loop.run(1)
    assert timer.stop() > 0
    assert noted == pytest.approx([12 / 62, 24 / 62, 36 / 62, 48 / 62, 60 / 62])
    assert 0 <= loop.history[-1]["accuracy"] <= 1
    assert loop.history[-1]["images_per_second"] > 0
