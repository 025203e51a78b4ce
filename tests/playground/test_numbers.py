"""The page's numbers in a real browser are those of Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser
from playground_page import COLOUR, GREY, ODD, as_script, images, seasoned, shown

from gpucnn import inspect, models, nn, no_grad, tensor

CLOSE = 1e-4
ACTIVATIONS = [
    nn.Sigmoid(), nn.Tanh(), nn.LeakyReLU(0.2), nn.ELU(0.7), nn.SELU(), nn.GELU(), nn.GELU("tanh"), nn.SiLU(),
    nn.Softplus(2.0, 3.0), nn.Hardsigmoid(), nn.Affine(0.5, 0.25), nn.Exponential(), nn.Dropout(0.5), nn.Identity(),
    nn.Hardtanh(-0.5, 0.75), nn.ReLU6(),
]  # fmt: skip


def odd_windows() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, (3, 5), (2, 1), (0, 1, 2, 1), dilation=(2, 1), groups=3),
        nn.Conv2d(6, 8, 3, padding=2, padding_mode="reflect"),
        nn.Conv2d(8, 5, 3, padding="same", padding_mode="replicate", bias=False),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        nn.Conv2d(5, 7, 1, bias="position", image_size=(3, 4)),
        nn.AvgPool2d(2, 1, divisor_override=3),
        nn.Flatten(), nn.Linear(7 * 2 * 3, 4, bias=False), nn.LogSoftmax(),
    )  # fmt: skip


def branches() -> nn.Module:
    return nn.Sequential(
        nn.ConvBlock(3, 4, 3, activation="silu"),
        nn.DepthwiseSeparableConv2d(4, 6, 3, padding=1),
        nn.Parallel(nn.Conv2d(6, 6, 1), nn.Identity(), nn.Sequential(nn.Sigmoid(), nn.CentrePool2d(3, 1, 1))),
        nn.Concat(nn.Conv2d(6, 2, 1), nn.Sequential(nn.BatchNorm2d(6, bias=False), nn.Tanh()), nn.Identity()),
        nn.AdaptiveAvgPool2d((3, 2)), nn.AdaptiveMaxPool2d((2, None)),
        nn.Flatten(), nn.BatchNorm1d(14 * 2 * 2), nn.Linear(14 * 2 * 2, 4), nn.Softmax(),
    )  # fmt: skip


def activations() -> nn.Module:
    many = [one for layer in ACTIVATIONS for one in (nn.Conv2d(4, 4, 1), layer)]
    return nn.Sequential(nn.Conv2d(3, 4, 3), *many, nn.GlobalAvgPool2d(), nn.Flatten(), nn.Linear(4, 4))


def conv_mlp() -> nn.Module:
    return models.conv_mlp(4, 3, (13, 9), channels=3, hidden=5)


def blocks() -> nn.Module:
    return nn.Sequential(
        nn.BasicBlock(3, 4, 2), nn.Bottleneck(4, 1), nn.InvertedResidual(4, 4, 1, 6), nn.InvertedResidual(4, 5, 2, 1),
        nn.Fire(5, 2, 3, 4), nn.DenseLayer(7, 2, dropout=0.5), nn.GlobalAvgPool2d(), nn.Flatten(), nn.Linear(9, 4),
    )  # fmt: skip


NETS: dict[str, tuple[Any, tuple[int, int, int], int]] = {
    "lenet": (models.lenet, GREY, 10),
    "lenet with sigmoids": (lambda: models.lenet(activation="sigmoid", pooling="avg", padding=0), GREY, 10),
    "vgg": (models.vgg, COLOUR, 10),
    "resnet": (models.resnet, COLOUR, 10),
    "odd windows": (odd_windows, ODD, 4),
    "branches": (branches, ODD, 4),
    "activations": (activations, ODD, 4),
    "blocks": (blocks, ODD, 4),
    "conv_mlp": (conv_mlp, ODD, 4),
}


def made(name: str) -> nn.Module:
    make, shape, _ = NETS[name]
    return seasoned(make, shape)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", NETS)
def test_its_numbers_are_those_of_python(window: Browser, tmp_path: Path, name: str) -> None:
    _, shape, classes = NETS[name]
    net, count = made(name), 100
    shown(window, tmp_path / "page.html", net, shape, classes)
    x = images(shape, count)
    with no_grad():
        expected = net(tensor(x)).numpy()
    got = window.evaluate(
        f"(() => {{ const all = {as_script(x)}; const n = all.length / {count}; return Array.from({{length: {count}}}, "
        "(_, i) => Array.from(playground.forward(all.subarray(i * n, (i + 1) * n)).at(-1))); })()"
    )
    np.testing.assert_allclose(got, expected, rtol=0, atol=CLOSE)
    assert window.problems == []


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("vgg", "resnet")]


@pytest.mark.parametrize("name", ["lenet", "silu", *SLOW])
def test_a_network_of_an_onnx_file_gives_pythons_numbers(window: Browser, tmp_path: Path, name: str) -> None:
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    from gpucnn import onnx

    if name == "silu":
        shape = GREY
        net: Any = seasoned(lambda: models.lenet(activation="silu", pooling="avg"), shape)
    else:
        net, shape = made(name), NETS[name][1]
    onnx.export(net, tmp_path / "net.onnx", shape, probabilities=True)
    loaded = onnx.load(tmp_path / "net.onnx").eval()
    shown(window, tmp_path / "page.html", loaded, shape, 10, gives_probabilities=True)
    x = images(shape, 100)
    with no_grad():
        expected = [net(tensor(x[start : start + 50])) for start in (0, 50)]
    logits = np.concatenate([y.numpy() for y in expected])
    powers = np.exp(logits - logits.max(1, keepdims=True))
    got = window.evaluate(
        f"(() => {{ const all = {as_script(x)}; const n = all.length / 100; return Array.from({{length: 100}}, "
        "(_, i) => Array.from(playground.forward(all.subarray(i * n, (i + 1) * n)).at(-1))); })()"
    )
    np.testing.assert_allclose(got, powers / powers.sum(1, keepdims=True), rtol=0, atol=CLOSE)
    assert window.problems == []


@pytest.mark.parametrize("name", NETS)
def test_grad_cam_is_that_of_python(window: Browser, tmp_path: Path, name: str) -> None:
    _, shape, classes = NETS[name]
    net = made(name)
    shown(window, tmp_path / "page.html", net, shape, classes)
    x = images(shape, 1)
    first = next(path for path, layer in net.named_modules() if isinstance(layer, nn.Conv2d))
    for layer, value in ((None, "playground.usualLayer()"), (first, "1")):
        if layer is None and name == "odd windows":
            continue  # its last convolution has a bias per position
        expected = inspect.grad_cam(net, x[0], 2, layer)
        got = window.evaluate(
            f"Array.from(playground.gradCam(playground.forward({as_script(x)}), 2, {value}, new Map()))"
        )
        np.testing.assert_allclose(np.reshape(got, expected.shape), expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", NETS)
def test_what_is_said_of_a_number_leads_to_it(window: Browser, tmp_path: Path, name: str) -> None:
    _, shape, classes = NETS[name]
    shown(window, tmp_path / "page.html", made(name), shape, classes)
    worst = window.evaluate(
        f"""(() => {{
        const values = playground.forward({as_script(images(shape, 1))});
        let worst = 0;
        playground.operations.forEach((operation, k) => {{
          const size = values[k + 1].length;
          for (let i = 0; i < size; i += Math.ceil(size / 50)) {{
            const told = playground.explain(k + 1, i, values);
            const sum = told.parts.reduce((all, part) => all + part.sum, 0) + (told.bias ?? 0);
            const x = told.parts[0].sum;
            let y = sum;
            if (operation.kind.includes("max") && !operation.kind.includes("soft"))
              y = values[told.parts[0].from][told.parts[0].chosen];
            else if (told.formula?.kind === "norm") y = (x - told.formula.mean) * told.formula.scale + told.formula.shift;
            else if (told.formula) y = told.y;
            if (!playground.biggestCause(told)) worst = Infinity;
            worst = Math.max(worst, Math.abs(y - values[k + 1][i]));
          }}
        }});
        return worst; }})()"""
    )
    assert worst < CLOSE


def test_a_map_that_is_switched_off_is_zeros(window: Browser, tmp_path: Path) -> None:
    net = made("resnet")
    shown(window, tmp_path / "page.html", net, COLOUR, 10)
    x = images(COLOUR, 1)
    got = window.evaluate(f"Array.from(playground.forward({as_script(x)}, new Map([[1, new Set([3, 5])]])).at(-1))")

    def cut(module: nn.Module, inputs: Any, y: Any) -> Any:
        kept = np.ones((1, 16, 1, 1), np.float32)
        kept[0, [3, 5]] = 0
        return y * tensor(kept)

    first = next(layer for layer in net.modules() if isinstance(layer, nn.Conv2d))
    with no_grad(), first.register_forward_hook(cut):
        expected = net(tensor(x)).numpy()[0]
    np.testing.assert_allclose(got, expected, rtol=0, atol=CLOSE)
    assert not np.allclose(got, net(tensor(x)).detach().numpy()[0], atol=1e-3)
