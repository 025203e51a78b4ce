"""Networks trained here, run by onnxruntime; and networks of others, run here: the same answers."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import skip_or_fail

import gpucnn
from gpucnn import models, nn, optim, training
from gpucnn.data.digits import draw_digits
from gpucnn.onnx import Preprocessing, export

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
HOW = Preprocessing((0.13,), (0.31,))


def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def prepared(images: Any) -> Any:
    return ((images / 255 - 0.13) / 0.31).astype(np.float32)


def digit_images(count: int) -> Any:
    """Return MNIST's test images where they are, else drawn digits."""
    home = os.environ.get("GPUCNN_DATA")
    if home is not None and Path(home, "mnist").is_dir():
        part = gpucnn.data.load(str(Path(home, "mnist"))).test
        return part[np.arange(min(count, len(part)))][0]
    return drawn(count, 1)[0]


def drawn(count: int, seed: int) -> tuple[Any, Any]:
    images, labels = draw_digits(count, seed)
    return images.reshape(count, 1, 28, 28), labels


@pytest.mark.parametrize(
    "net",
    [lambda: models.lenet(), lambda: models.resnet(in_channels=1, width=8, blocks=1)],
    ids=["lenet", "resnet"],
)
def test_onnxruntime_reads_every_digit_as_the_network_trained_here(
    net: Any, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    whole = bool(pytestconfig.getoption("--require-mnist"))
    gpucnn.manual_seed(0)
    trained = net()
    images, labels = drawn(1500, 0)
    batches = [(prepared(images[i : i + 50]), labels[i : i + 50]) for i in range(0, 1500, 50)]
    training.Loop(trained, nn.CrossEntropyLoss(), optim.Adam(trained.parameters(), lr=2e-3), batches).run(1)
    path = tmp_path / "net.onnx"
    export(trained, path, (1, 28, 28), preprocessing=HOW, probabilities=True)
    asked = digit_images(10_000 if whole else 1000)
    (theirs,) = session(path).run(None, {"image": asked})
    with gpucnn.no_grad():
        trained.eval()
        ours = np.concatenate(
            [trained(gpucnn.tensor(prepared(asked[i : i + 500]))).numpy() for i in range(0, len(asked), 500)]
        )
    assert len(set(ours.argmax(1).tolist())) > 5, "it has not learnt anything"
    assert (theirs.argmax(1) == ours.argmax(1)).all()


def rapid(pytestconfig: pytest.Config, name: str) -> Path:
    """Return a network of the package rapidocr-onnxruntime; it is not imported, as it needs much else."""
    found = importlib.util.find_spec("rapidocr_onnxruntime")
    if found is None or not found.submodule_search_locations:
        how = "pip install --no-deps rapidocr-onnxruntime"
        skip_or_fail(pytestconfig, "rapidocr", f"rapidocr-onnxruntime is not installed: {how}")
    (path,) = Path(found.submodule_search_locations[0], "models").glob(f"*{name}*.onnx")
    return path


def page(height: int, width: int, seed: int) -> Any:
    """Return a drawn picture with lines of text on it, as the networks take it: floats from -1 to 1."""
    from PIL import Image, ImageDraw

    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", (width, height), tuple(rng.integers(200, 256, 3).tolist()))
    pen = ImageDraw.Draw(picture)
    for y in range(4, height - 10, 24):
        words = "".join(chr(c) for c in rng.integers(65, 123, width // 8))
        pen.text((int(rng.integers(0, 20)), y), words, fill=tuple(rng.integers(0, 90, 3).tolist()))
    return np.asarray(picture, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1


@pytest.mark.parametrize(
    ("name", "sizes"), [("det", [(160, 224), (96, 320)]), ("cls", [(48, 192)]), ("rec", [(48, 256)])]
)
def test_the_networks_of_rapidocr_agree_with_onnxruntime(
    name: str, sizes: list[tuple[int, int]], pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    path = rapid(pytestconfig, name)
    net = gpucnn.onnx.load(path)
    theirs = session(path)
    for seed, (height, width) in enumerate(sizes):
        x = np.concatenate([page(height, width, 2 * seed), page(height, width, 2 * seed + 1)])
        (wanted,) = theirs.run(None, {net.graph.inputs[0].name: x})
        with gpucnn.no_grad():
            fast = net(gpucnn.tensor(x))
        recorded = net(gpucnn.tensor(x))
        np.testing.assert_allclose(fast.numpy(), wanted, rtol=0, atol=1e-4)
        np.testing.assert_allclose(recorded.numpy(), wanted, rtol=0, atol=1e-4)
        assert wanted.std() > 1e-3
    recorded.sum().backward()
    assert sum(parameter.grad is not None for parameter in net.parameters()) > 50
    if name != "rec":  # exported again, for one size, it is still the same
        done = export(net, tmp_path / "again.onnx", (3, height, width), batch=1)
        assert done.difference is not None
        assert done.difference < 1e-4
