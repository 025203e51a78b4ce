"""Filters of a network, their responses to an image, and feature maps, as arrays to draw."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn import functional as F
from gpucnn import nn
from gpucnn.analysis.hooks import check_module, home_of, watched
from gpucnn.autograd import Tensor, tensor
from gpucnn.checks import is_count
from gpucnn.errors import DTypeError, ParameterError, ShapeError, did_you_mean
from gpucnn.functional.arguments import Padding, PairLike

EDGES = {"vertical": [[1.0, -1.0]], "horizontal": [[1.0], [-1.0]]}


def filters(layer: nn.Module) -> Any:
    """Return the filters of a convolution, or of a network's first one: a NumPy copy (F, C/groups, KH, KW).

    Those of a transposed convolution come in the same order, each with the channels that it reads. ParameterError if there
    is no two-dimensional convolution, or its parameters do not exist yet.

    >>> filters(nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU())).shape
    (6, 1, 5, 5)
    """
    check_module(layer, "filters")
    for module in layer.modules():
        if not isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            continue
        if module.weight is None:
            raise ParameterError.expected(
                "filters", "layer", "one that has its filters", repr(module), "call the model once on an example"
            )
        weight = module.weight.numpy()
        if isinstance(module, nn.ConvTranspose2d):
            C, filters_each, KH, KW = weight.shape
            grouped = weight.reshape(module.groups, C // module.groups, filters_each, KH, KW)
            weight = np.ascontiguousarray(grouped.swapaxes(1, 2)).reshape(-1, C // module.groups, KH, KW)
        return weight
    raise ParameterError.expected("filters", "layer", "a convolution, or a network with one", type(layer).__name__)


def edge_filter(direction: str) -> Any:
    """Return the difference filter, float32, that responds to edges: "vertical" (1, 2) or "horizontal" (2, 1).

    ParameterError for another direction.

    >>> edge_filter("vertical").tolist()
    [[1.0, -1.0]]
    """
    if direction not in EDGES:
        raise ParameterError.expected("edge_filter", "direction", " or ".join(EDGES), repr(direction))
    return np.array(EDGES[direction], np.float32)


def responses(image: Any, kernels: Any, stride: PairLike = 1, padding: Padding = 0) -> Any:
    """Return the responses of filters to an image: the cross-correlations, a NumPy array.

    image: (H, W), (C, H, W) or (N, C, H, W), an array, nested lists or a Tensor; its values are not normalised, and become
    float32 unless they are float64. kernels: one filter (KH, KW), giving (OH, OW) for each image; filters (F, KH, KW) for
    images of one channel, or (F, C, KH, KW), giving (F, OH, OW). A batch adds an axis in front. stride and padding: as for
    ``functional.conv2d``, whose errors it raises. ShapeError for other numbers of dimensions.

    >>> responses([[1, 1, 0, 0, 1]], edge_filter("vertical")).tolist()
    [[0.0, 1.0, 0.0, -1.0]]
    """
    x, w = host_array(image, "image"), host_array(kernels, "kernels")
    dtype = np.float64 if x.dtype == np.float64 and not isinstance(image, (list, tuple)) else np.float32
    if x.ndim not in (2, 3, 4):
        raise ShapeError.expected("responses", "image", "(H, W), (C, H, W) or (N, C, H, W)", f"shape {x.shape}")
    if w.ndim not in (2, 3, 4):
        raise ShapeError.expected("responses", "kernels", "(KH, KW), (F, KH, KW) or (F, C, KH, KW)", f"shape {w.shape}")
    images = x.reshape(1, *x.shape) if x.ndim == 2 else x
    stack = w.reshape(-1, 1, *w.shape[-2:]) if w.ndim < 4 else w
    y = F.conv2d(
        tensor(images.astype(dtype), device="cpu"),
        tensor(stack.astype(dtype), device="cpu"),
        stride=stride,
        padding=padding,
    ).numpy()
    return y.squeeze(-3) if w.ndim == 2 else y


def feature_maps(model: nn.Module, x: Any, layer: str | None = None) -> Any:
    """Return the outputs of the layers for ``x``: {dotted name: NumPy array} in call order, or one array.

    x: the model's input, a Tensor or an array (moved to the model's device and floating dtype). layer: any name of
    ``named_modules``; by default every layer without layers inside. For a layer that is called several times it is the last
    output. Runs in evaluation mode without recording and restores the mode. ParameterError for an unknown name, or a layer
    that was not called.

    >>> net = nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2))
    >>> image = np.zeros((1, 1, 28, 28), np.float32)
    >>> {name: maps.shape for name, maps in feature_maps(net, image).items()}
    {'0': (1, 6, 24, 24), '1': (1, 6, 24, 24), '2': (1, 6, 12, 12)}
    >>> feature_maps(net, image, "2").shape
    (1, 6, 12, 12)
    """
    check_module(model, "feature_maps")
    modules = dict(model.named_modules())
    if layer is None:
        chosen = {name: module for name, module in modules.items() if not any(module.children())}
    elif layer in modules:
        chosen = {layer: modules[layer]}
    else:
        known = ", ".join(name for name in modules if name)
        raise ParameterError.expected(
            "feature_maps", "layer", f"one of {known}", repr(layer), did_you_mean(layer, modules)
        )
    names = {id(module): name for name, module in chosen.items()}
    maps: dict[str, Any] = {}

    def keep(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor):
            maps[names[id(module)]] = output.numpy()

    if not isinstance(x, Tensor):
        backend, dtype = home_of(model)
        x = tensor(host_array(x, "x").astype(dtype), device=backend)
    with watched(model, chosen.values(), keep):
        model(x)
    if layer is None:
        return maps
    if layer not in maps:
        raise ParameterError.expected(
            "feature_maps", "layer", "one that the model calls and that gives a Tensor", repr(layer)
        )
    return maps[layer]


def most_exciting(
    model: nn.Module, images: Any, layer: str, channel: int, count: int = 9, batch_size: int = 100
) -> tuple[Any, Any]:
    """Return (indices, values) of the images to which a filter of a layer responds most, the strongest first.

    images: (N, C, H, W), as the model takes them. layer: a name of ``named_modules``; channel: the index of its output. An
    image's response is the largest value of that feature map. Source: Zeiler & Fergus 2014, "Visualizing and understanding
    convolutional networks". ParameterError for an unknown layer or channel, ShapeError for other images.

    >>> net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False))
    >>> net.load_state_dict({"0.weight": np.ones((1, 1, 1, 1))}).missing_keys
    []
    >>> indices, values = most_exciting(net, np.array([1.0, 3.0, 2.0]).reshape(3, 1, 1, 1), "0", 0, count=2)
    >>> indices.tolist(), values.tolist()
    ([1, 2], [3.0, 2.0])
    """
    where = "most_exciting"
    x = host_array(images, "images")
    if x.ndim != 4 or not len(x):
        raise ShapeError.expected(where, "images", "(N, C, H, W) with at least one image", f"shape {x.shape}")
    for argument, number in (("count", count), ("batch_size", batch_size)):
        if not is_count(number, 1):
            raise ParameterError.expected(where, argument, "a positive int", repr(number))
    peaks = []
    for start in range(0, len(x), batch_size):
        maps = feature_maps(model, x[start : start + batch_size], layer)
        if not is_count(channel, 0, maps.shape[1] - 1):
            raise ParameterError.expected(where, "channel", f"an int from 0 to {maps.shape[1] - 1}", repr(channel))
        peaks.append(maps[:, int(channel)].reshape(len(maps), -1).max(1))
    values = np.concatenate(peaks)
    indices = np.argsort(-values, kind="stable")[:count]
    return indices, values[indices]


def host_array(data: Any, argument: str) -> Any:
    """Return an array, nested lists or a Tensor as a NumPy array of numbers."""
    try:
        array = data.numpy() if isinstance(data, Tensor) else np.asarray(data)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "fiub":
        raise DTypeError.expected("inspect", argument, "an array of numbers", type(data).__name__)
    return array
