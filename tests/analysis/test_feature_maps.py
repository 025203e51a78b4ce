"""Filters, responses and feature maps, against numbers worked out by hand and PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import models, nn
from gpucnn.backend import Backend
from gpucnn.errors import DTypeError, ParameterError, ShapeError
from gpucnn.inspect import edge_filter, feature_maps, filters, most_exciting, responses


def test_filters_are_the_weights(backend: Backend) -> None:
    net = models.lenet()
    first = filters(net)
    assert (first == net.state_dict()["0.weight"]).all()
    assert filters(net[3]).shape == (16, 6, 5, 5)
    first[...] = 0
    assert filters(net).any(), "it was a copy"


@pytest.mark.parametrize("groups", [1, 2])
def test_filters_of_a_transposed_convolution(groups: int) -> None:
    layer = nn.ConvTranspose2d(4, 6, 3, groups=groups, bias=False)
    stack = filters(layer)
    assert stack.shape == (6, 4 // groups, 3, 3)
    for f in range(6):
        group = f // (6 // groups)
        for c in range(4):
            x = np.zeros((1, 4, 1, 1), np.float32)
            x[0, c] = 1
            answer = layer(gpucnn.tensor(x)).numpy()[0, f]
            own = c // (4 // groups) == group
            np.testing.assert_array_equal(answer, stack[f, c % (4 // groups)] if own else np.zeros((3, 3)))


def test_no_filters() -> None:
    with pytest.raises(ParameterError, match="a convolution, or a network with one, got Linear"):
        filters(nn.Linear(2, 2))
    with pytest.raises(ParameterError, match="Call the model once on an example"):
        filters(nn.Conv2d(None, 2, 3))
    with pytest.raises(ParameterError, match="a Module, got int"):
        filters(3)  # type: ignore[arg-type]


def test_edges_of_system_5(backend: Backend) -> None:
    image = np.ones((6, 8))
    image[:, 2:6] = 0
    expected = np.zeros((6, 7))
    expected[:, 1], expected[:, 5] = 1, -1
    found = responses(image, edge_filter("vertical"))
    assert (found == expected).all()
    assert found.dtype == np.float64
    assert (responses(image.T, edge_filter("vertical")) == np.zeros((8, 5))).all()
    assert (responses(image.T, edge_filter("horizontal")) == expected.T).all()


def test_numbers_of_systems_1_and_5() -> None:
    image, kernel = np.arange(9).reshape(3, 3), np.arange(4).reshape(2, 2)
    assert responses(image, kernel).tolist() == [[19, 25], [37, 43]]
    two = np.stack([image, image + 1])
    stack = np.stack([np.stack([kernel + i, kernel + 1 + i]) for i in range(3)])
    assert responses(two, stack).tolist() == [[[56, 72], [104, 120]], [[76, 100], [148, 172]], [[96, 128], [192, 224]]]


@pytest.mark.bits
def test_shapes_of_responses() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (7, 6), np.uint8)
    kernels = rng.integers(-3, 4, (4, 3, 3)).astype(np.float32)  # whole numbers: exact in any order of summing
    many = responses(image, kernels, padding=1)
    assert (many.shape, many.dtype) == ((4, 7, 6), np.float32)
    np.testing.assert_array_equal(many[2], responses(image, kernels[2], padding=1))
    np.testing.assert_array_equal(many, responses(image[None], kernels[:, None], padding=1))
    batch = responses(np.stack([image, image])[:, None], kernels, padding=1)
    np.testing.assert_array_equal(batch[1], many)
    assert responses(gpucnn.tensor(image[None, None]), kernels[0], stride=2).shape == (1, 3, 2)


def test_mistakes_in_responses() -> None:
    with pytest.raises(ShapeError, match=r"image: expected \(H, W\)"):
        responses(np.zeros(3), edge_filter("vertical"))
    with pytest.raises(ShapeError, match=r"kernels: expected \(KH, KW\)"):
        responses(np.zeros((3, 3)), np.zeros(3))
    with pytest.raises(ShapeError, match="1 channels"):
        responses(np.zeros((3, 5, 5)), np.zeros((2, 2)))
    for bad in (["a"], [[1], [1, 2]], None):
        with pytest.raises(DTypeError, match="an array of numbers"):
            responses(bad, np.zeros((2, 2)))
    with pytest.raises(ParameterError, match="vertical or horizontal"):
        edge_filter("diagonal")


@pytest.mark.bits
def test_feature_maps_are_those_of_pytorch(backend: Backend) -> None:
    torch = pytest.importorskip("torch")

    def make(lib: Any) -> Any:
        return lib.Sequential(lib.Conv2d(1, 3, 3), lib.ReLU(), lib.MaxPool2d(2), lib.Dropout(0.5), lib.Flatten())

    ours, theirs = make(nn), make(torch.nn).eval()
    theirs.load_state_dict({name: torch.tensor(array) for name, array in ours.state_dict().items()})
    images = np.random.default_rng(0).standard_normal((2, 1, 6, 8)).astype(np.float32)
    maps = feature_maps(ours, images)
    assert list(maps) == ["0", "1", "2", "3", "4"]
    expected = torch.tensor(images)
    with torch.no_grad():
        for name, layer in theirs.named_children():
            expected = layer(expected)
            np.testing.assert_allclose(maps[name], expected.numpy(), rtol=1e-5, atol=1e-6)
    assert all(module.training for module in ours.modules())
    assert not any(module.has_hooks() for module in ours.modules())
    np.testing.assert_array_equal(feature_maps(ours, gpucnn.tensor(images), "2"), maps["2"])
    np.testing.assert_array_equal(feature_maps(ours, images.astype(np.float64), "2"), maps["2"])


def test_one_layer_by_its_name() -> None:
    net = nn.Sequential(nn.Residual(nn.Sequential(nn.ReLU()), name="res"), nn.ReLU())
    x = [[-1.0, 2.0]]
    assert feature_maps(net, x, "res").tolist() == [[-1.0, 4.0]]
    assert feature_maps(net, x, "res.block.0").tolist() == [[0.0, 2.0]]
    assert feature_maps(net, x, "").tolist() == [[0.0, 4.0]]
    assert list(feature_maps(net, x)) == ["res.block.0", "1"]


def test_mistakes_in_feature_maps() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3, name="conv"), nn.ReLU())
    net.add_module("spare", nn.Sequential())
    with pytest.raises(ParameterError, match=r"one of conv, 1, spare, got 'cnov'. Did you mean conv\?"):
        feature_maps(net, np.zeros((1, 1, 5, 5)), "cnov")
    lonely = nn.Residual(nn.ReLU())
    lonely.add_module("spare", nn.ReLU())
    with pytest.raises(ParameterError, match="one that the model calls"):
        feature_maps(lonely, np.zeros((1, 2)), "spare")


def test_the_images_that_excite_a_filter_most(backend: Backend) -> None:
    """A filter of vertical edges is excited by the images that have them, wherever they are."""
    rng = np.random.default_rng(0)
    images = (0.1 * rng.random((25, 1, 6, 7))).astype(np.float32)
    for strength, number in enumerate((4, 17, 11), 1):
        images[number, 0, :, strength:] += strength
    net = nn.Sequential(nn.Conv2d(1, 2, (2, 2), bias=False), nn.ReLU())
    edges = np.array([[[[-1.0, 1], [-1, 1]]], [[[1, 1], [-1, -1]]]], np.float32)
    net.load_state_dict({"0.weight": edges})
    indices, values = most_exciting(net, images, "1", 0, count=3, batch_size=10)
    assert indices.tolist() == [11, 17, 4]
    maps = net(gpucnn.tensor(images)).numpy()[:, 0]
    np.testing.assert_allclose(values, np.sort(maps.reshape(25, -1).max(1))[::-1][:3], rtol=1e-6)
    assert len(most_exciting(net, images, "0", 1, count=100)[0]) == 25
    for wrong in (
        {"layer": "2", "channel": 0}, {"layer": "1", "channel": 2}, {"layer": "1", "channel": -1},
        {"layer": "1", "channel": 0, "count": 0}, {"layer": "1", "channel": 0, "batch_size": 1.5},
    ):  # fmt: skip
        with pytest.raises(ParameterError):
            most_exciting(net, images, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ShapeError):
        most_exciting(net, images[0], "1", 0)
