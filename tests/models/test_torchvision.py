"""The networks under torchvision's names: its weights load unchanged, and outputs and gradients are its."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import models, nn
from gpucnn.backend import Backend
from gpucnn.checkpoint import read_packed
from gpucnn.errors import UsageError

NETWORKS = {
    "alexnet": 67, "vgg11": 35, "vgg16": 32, "vgg16_bn": 32, "resnet18": 45, "resnet34": 40, "resnet50": 37,
    "mobilenet_v2": 50, "squeezenet1_1": 41, "densenet121": 33,
}  # fmt: skip
"""Each network and the side of the images it is tried on; their size is odd where that shows a mistake in padding."""
NARROW = {
    "alexnet": "hidden=8", "vgg11": "hidden=8,width=2", "vgg16": "hidden=8,width=2", "vgg16_bn": "hidden=8,width=2",
    "resnet18": "width=4", "resnet34": "width=4", "resnet50": "width=4", "mobilenet_v2": "width_mult=0.1",
    "squeezenet1_1": "", "densenet121": "growth_rate=4",
}  # fmt: skip


@pytest.fixture(scope="session")
def theirs(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Return a function that makes torchvision's network of a name, with 7 classes and no dropout, in evaluation mode."""
    torch = pytest.importorskip("torch")
    their_networks = pytest.importorskip("their_networks")
    tv = their_networks.torchvision_models(request.config)

    def make(name: str, **options: Any) -> Any:
        torch.manual_seed(1)
        net = getattr(tv, name)(weights=None, num_classes=7, **options)
        for module in net.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if isinstance(module, torch.nn.BatchNorm2d):  # numbers other than those at the start
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 1.5)
        return net.eval()

    return make


def images(side: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(side).standard_normal((count, 3, side, side + 3))


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_weights_saved_from_torchvision_give_its_outputs(name: str, theirs: Callable[..., Any], tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    net = theirs(name)
    safetensors.save_file(net.state_dict(), tmp_path / "weights.safetensors")
    weights, _ = read_packed(tmp_path / "weights.safetensors")
    ours = models.build(name, classes=7)
    keys = ours.load_state_dict(weights)
    assert keys == ([], [])
    assert list(ours.state_dict()) == list(net.state_dict())
    x = images(NETWORKS[name]).astype(np.float32)
    with torch.no_grad():
        wanted = net(torch.tensor(x)).numpy()
    np.testing.assert_allclose(ours.eval()(gpucnn.tensor(x)).numpy(), wanted, rtol=1e-4, atol=1e-4 * abs(wanted).max())
    with gpucnn.no_grad():  # neighbours are fused otherwise
        got = ours(gpucnn.tensor(x)).numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4 * abs(wanted).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_torchvisions(name: str, theirs: Callable[..., Any]) -> None:
    """In training, with batch norm's statistics of the batch, in float64."""
    torch = pytest.importorskip("torch")
    net = theirs(name).double().train()
    ours = models.build(name, classes=7, dropout=0.0).to("float64").train()
    ours.load_state_dict(net.state_dict())
    side = max(NETWORKS[name], 64 if name == "vgg16_bn" else 0)  # a batch norm of two equal numbers has no gradient
    x, labels = images(side, 3), np.array([1, 5, 3])
    theirs_x, ours_x = torch.tensor(x, requires_grad=True), gpucnn.tensor(x, requires_grad=True)
    torch.nn.functional.cross_entropy(net(theirs_x), torch.tensor(labels)).backward()
    nn.CrossEntropyLoss()(ours(ours_x), gpucnn.tensor(labels)).backward()
    wanted = {key: parameter.grad.numpy() for key, parameter in net.named_parameters()} | {"x": theirs_x.grad.numpy()}
    got = {key: parameter.grad for key, parameter in ours.named_parameters()} | {"x": ours_x.grad}
    assert list(got) == list(wanted)
    largest = max(abs(values).max() for values in wanted.values())
    for key, values in wanted.items():
        grad = got[key]
        assert grad is not None, key
        # what is zero by definition (a bias before batch norm) is rounding of what the others are
        scale = abs(values).max() if abs(values).max() > 1e-12 * largest else largest
        assert abs(grad.numpy() - values).max() <= 1e-6 * scale, key
    for key, values in net.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[key], values.numpy(), rtol=1e-9, atol=1e-12, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_initial_weights_have_torchvisions_spread(name: str, theirs: Callable[..., Any]) -> None:
    ours, net = models.build(name, classes=7), theirs(name)
    for (key, values), wanted in zip(ours.named_parameters(), net.parameters(), strict=True):
        a, b = values.detach().numpy(), wanted.detach().numpy()
        assert abs(a).any() == abs(b).any(), key
        if a.size >= 1000:
            assert a.std() == pytest.approx(b.std(), rel=0.15), key
        if a.size >= 100_000:
            assert abs(a).max() == pytest.approx(abs(b).max(), rel=0.3), "normal or uniform"


@pytest.mark.slow
def test_options_of_torchvision(theirs: Callable[..., Any]) -> None:
    for name, their_options, options in (
        ("mobilenet_v2", {"width_mult": 0.35}, "width_mult=0.35"),
        ("resnet50", {"zero_init_residual": True}, "zero_init_residual=true"),
    ):
        ours, net = models.build(f"{name}:{options}", classes=7), theirs(name, **their_options)
        assert [(k, v.shape) for k, v in ours.state_dict().items()] == [
            (k, tuple(v.shape)) for k, v in net.state_dict().items()
        ]
    assert not abs(ours.state_dict()["layer1.0.bn3.weight"]).any()


@pytest.mark.parametrize("name", NETWORKS)
def test_narrow_ones_learn_and_know_their_shapes(name: str, backend: Backend) -> None:
    net = models.build(f"{name}:{NARROW[name]}", classes=3, in_channels=2)
    side = max(NETWORKS[name], 63)
    assert isinstance(net, nn.Layer)
    assert net.output_shape((5, 2, side, side)) == (5, 3)
    assert net.multiply_adds((1, 2, side, side)) > 0
    assert net.eval()(gpucnn.tensor(np.zeros((2, 2, side, side), np.float32))).shape == (2, 3)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_narrow_one_is_saved_and_loaded(name: str, tmp_path: Path) -> None:
    net = models.build(f"{name}:{NARROW[name]}", classes=3)
    models.save(net, tmp_path / "net.safetensors")
    again = models.load(tmp_path / "net.safetensors")
    assert repr(again) == repr(net)
    x = gpucnn.tensor(images(63).astype(np.float32))
    np.testing.assert_array_equal(again.eval()(x).numpy(), net.eval()(x).numpy())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("resnet18:width=0", "width"),
        ("vgg16:width=1.5", "width"),
        ("mobilenet_v2:width_mult=-1", "width_mult"),
        ("densenet121:growth_rate=0", "growth_rate"),
        ("alexnet:dropout=2", "probability"),
        ("squeezenet1_1:hidden=3", "hidden"),
    ],
)
def test_a_wrong_option_is_wrong_usage(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        models.build(text)


def test_hooks_see_every_layer_inside_a_block_and_change_nothing() -> None:
    gpucnn.manual_seed(0)
    for block in (
        nn.BasicBlock(4, 8, 2), nn.Bottleneck(4, 1), nn.InvertedResidual(4, 4, 1, 6), nn.Fire(4, 2, 3, 4),
        nn.DenseLayer(4, 2, dropout=0.5),
    ):  # fmt: skip
        x = gpucnn.tensor(np.random.default_rng(0).standard_normal((2, 4, 6, 5)).astype(np.float32))
        plain, seen = block.eval()(x).numpy(), []
        for path, layer in block.named_modules():
            if not list(layer.children()):
                layer.register_forward_hook(lambda *_, path=path, seen=seen: seen.append(path))
        np.testing.assert_allclose(block(x).numpy(), plain, rtol=1e-5, atol=1e-6)
        assert set(seen) == {path for path, layer in block.named_modules() if not list(layer.children())}


def test_a_layer_put_in_anothers_place_counts() -> None:
    block = nn.BasicBlock(4, 4).eval()
    x = gpucnn.tensor(np.random.default_rng(0).standard_normal((2, 4, 6, 5)).astype(np.float32))
    before = block(x).numpy()
    block.relu = nn.Identity()
    assert (block(x).numpy() < 0).any()
    assert not (before < 0).any()
