"""Where a network looked: networks made by hand that look at one known place, and PyTorch's gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import models, nn
from gpucnn.backend import Backend
from gpucnn.errors import ParameterError, ShapeError
from gpucnn.inspect import grad_cam, occlusion


def lines_network() -> nn.Module:
    """Class 0 counts vertical strokes, class 1 horizontal ones, class 2 nothing."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, bias=False), nn.ReLU(), nn.GlobalAvgPool2d(), nn.Flatten(),
                        nn.Linear(2, 3, bias=False))  # fmt: skip
    upright = np.array([[-1.0, 2, -1]] * 3) / 6
    weights = np.stack([upright, upright.T])[:, None]
    net.load_state_dict({"0.weight": weights, "4.weight": np.array([[9.0, -9], [-9, 9], [0, 0]])})
    return net


def two_strokes() -> Any:
    """A vertical stroke in the left half, a horizontal one in the right."""
    image = np.zeros((1, 20, 20), np.float32)
    image[0, 4:16, 4] = 1
    image[0, 10, 11:19] = 1
    return image


@pytest.mark.parametrize(("target", "place"), [(0, (slice(3, 17), slice(3, 6))), (1, (slice(9, 12), slice(10, 20)))])
def test_both_point_at_the_stroke_of_the_class(backend: Backend, target: int, place: Any) -> None:
    net = lines_network().to(backend)
    inside = np.zeros((20, 20), bool)
    inside[place] = True
    for heat in (grad_cam(net, two_strokes(), target), occlusion(net, two_strokes(), target, size=3, stride=1)):
        assert (heat.shape, heat.dtype) == ((20, 20), np.float32)
        assert inside[np.unravel_index(heat.argmax(), heat.shape)]
        assert heat[inside].mean() > 5 * np.abs(heat[~inside]).mean()
    assert grad_cam(net, two_strokes(), target).max() == 1


def test_nothing_speaks_for_a_class_that_sees_nothing() -> None:
    assert not grad_cam(lines_network(), two_strokes(), 2).any()


@pytest.mark.bits
def test_the_class_is_the_answer_by_default() -> None:
    image = two_strokes()
    image[0, :, 10:] = 0
    net = lines_network()
    for look in (grad_cam, occlusion):
        np.testing.assert_array_equal(look(net, image), look(net, image, 0))
        np.testing.assert_array_equal(look(net, image[None]), look(net, gpucnn.tensor(image)))


@pytest.mark.parametrize("layer", [None, "1", "4"])
def test_grad_cam_by_pytorchs_gradients(layer: str | None) -> None:
    torch = pytest.importorskip("torch")

    def make(lib: Any) -> list[Any]:
        return [lib.Conv2d(2, 4, 3), lib.ReLU(), lib.MaxPool2d(2), lib.Conv2d(4, 5, 3), lib.BatchNorm2d(5), lib.ReLU(),
                lib.Flatten(), lib.Linear(5 * 25, 3)]  # fmt: skip

    net, layers = nn.Sequential(*make(nn)), make(torch.nn)
    theirs = torch.nn.Sequential(*layers).eval()
    theirs.load_state_dict(
        {n: torch.tensor(a) for n, a in net.state_dict().items() if "num_batches" not in n}, strict=False
    )
    x = np.random.default_rng(3).standard_normal((2, 16, 16)).astype(np.float32)
    split = 6 if layer is None else int(layer) + 1  # by default behind the ReLU that follows the last convolution
    maps = torch.nn.Sequential(*layers[:split])(torch.tensor(x)[None]).detach().requires_grad_()
    torch.nn.Sequential(*layers[split:])(maps)[0, 1].backward()
    cam = (maps.grad.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True).relu().detach()
    cam = torch.nn.functional.interpolate(cam, (16, 16), mode="bilinear")[0, 0].numpy()
    assert cam.max() > 0, "the example must have something to show"
    np.testing.assert_allclose(grad_cam(net, x, 1, layer), cam / cam.max(), rtol=1e-4, atol=1e-5)


def test_occlusion_by_covering_one_pixel_at_a_time() -> None:
    gpucnn.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 12, 4)).eval()
    x = np.random.default_rng(0).standard_normal((1, 5, 4)).astype(np.float32)

    def probability(image: Any) -> float:
        with gpucnn.no_grad():
            logits = net(gpucnn.tensor(image[None])).numpy()[0].astype(np.float64)
        return float(np.exp(logits[2]) / np.exp(logits).sum())

    expected = np.zeros((5, 4))
    for place in np.ndindex(5, 4):
        covered = x.copy()
        covered[0][place] = 0.5
        expected[place] = probability(x) - probability(covered)
    np.testing.assert_allclose(occlusion(net, x, 2, size=1, fill=0.5), expected, atol=1e-6)


@pytest.mark.parametrize(("size", "stride"), [(None, None), (4, 3), (2, 5), (50, 1)])
def test_every_pixel_is_covered(size: int | None, stride: int | None) -> None:
    heat = occlusion(lines_network(), two_strokes()[:, :13], 0, size, stride)
    assert heat.shape == (13, 20)
    assert np.isfinite(heat).all()


def test_the_network_stays_as_it_was() -> None:
    net = models.lenet().train()
    net[3].eval()
    net[0].weight.requires_grad_(False)
    net[7].weight.grad = gpucnn.tensor(np.ones(net[7].weight.shape, np.float32))
    before = net.state_dict()
    for look in (grad_cam, occlusion):
        look(net, np.random.default_rng(0).standard_normal((1, 28, 28)))
    assert [m.training for m in net] == [i != 3 for i in range(len(list(net)))]
    assert not net[0].weight.requires_grad
    assert net[3].weight.requires_grad
    assert all((array == before[name]).all() for name, array in net.state_dict().items())
    assert [name for name, p in net.named_parameters() if p.grad is not None] == ["7.weight"]
    assert (net[7].weight.grad.numpy() == 1).all()
    assert not any(module.has_hooks() for module in net.modules())


def test_residual_networks() -> None:
    gpucnn.manual_seed(0)
    net = models.build("resnet", classes=3, in_channels=3, image_size=16)
    heat = grad_cam(net, np.random.default_rng(0).standard_normal((3, 16, 16)))
    assert heat.shape == (16, 16)
    assert 0 <= heat.min() <= heat.max() <= 1


def test_mistakes() -> None:
    net, image = models.lenet(), np.zeros((1, 28, 28))
    with pytest.raises(ParameterError, match="one with a convolution, got Sequential"):
        grad_cam(nn.Sequential(nn.Flatten(), nn.Linear(784, 2)), image)
    with pytest.raises(ParameterError, match=r"one of 0, 1, .*got 'conv'"):
        grad_cam(net, image, layer="conv")
    with pytest.raises(ParameterError, match="one that gives maps"):
        grad_cam(net, image, layer="7")
    for look in (grad_cam, occlusion):
        with pytest.raises(ParameterError, match="a class from 0 to 9, got 10"):
            look(net, image, 10)
        with pytest.raises(ShapeError, match="one image"):
            look(net, np.zeros((2, 1, 28, 28)))
        with pytest.raises(ParameterError, match="a Module"):
            look(3, image)  # type: ignore[operator]
    with pytest.raises(ParameterError, match="a positive int, got 0"):
        occlusion(net, image, stride=0)
