"""Saliency: which pixels support a class, by gradients (Grad-CAM) or by covering them (occlusion)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpucnn import functional as F
from gpucnn import nn
from gpucnn.analysis.feature_maps import host_array
from gpucnn.analysis.hooks import check_module, home_of, watched
from gpucnn.autograd import Tensor, tensor
from gpucnn.checks import is_count
from gpucnn.errors import ParameterError, ShapeError
from gpucnn.nn.module import evaluating

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)

AT_ONCE = 256
"""Covered images per batch."""


def grad_cam(model: nn.Module, x: Any, target: int | None = None, layer: str | None = None) -> Any:
    """Return how much the surroundings of each pixel support class ``target``: (H, W) float32, 0 to 1 (most of this image).

    The feature maps of ``layer`` (1, K, h, w), each weighted by the mean of the class's gradient with respect to it, are
    summed; negative values are set to 0, and the sum is scaled to the image's size: Selvaraju et al. 2017, "Grad-CAM:
    Visual Explanations from Deep Networks via Gradient-Based Localization". All zero if nothing supports the class.

    x: one image as the model takes it, (C, H, W) or (1, C, H, W), normalised. target: by default the predicted class. layer:
    by default the last convolution, with the normalisation and activation that follow it. Runs in evaluation mode; modes,
    gradients and ``requires_grad`` are restored. ParameterError for a model without a convolution, a layer whose output is
    no feature map, or an unknown class; ShapeError unless there is one image.

    >>> net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.GlobalAvgPool2d(), nn.Flatten())
    >>> _ = net.load_state_dict({"0.weight": np.ones((1, 1, 1, 1))})
    >>> grad_cam(net, [[[0, 0], [0, 5]]]).tolist()
    [[0.0, 0.0], [0.0, 1.0]]
    """
    from PIL import Image

    check_module(model, "grad_cam")
    image = _one_image(model, x, "grad_cam")
    module = _layer_to_explain(model, image, layer)
    kept: list[Tensor] = []

    def cut(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """Let recording begin at the layer's output."""
        kept.append(output.detach().requires_grad_())
        return kept[-1]

    with _frozen(model), module.register_forward_hook(cut):
        logits = model(image)
    logits[0, _target(logits, target, "grad_cam")].backward()
    maps = kept[-1]
    if maps.grad is None:
        raise ParameterError.expected("grad_cam", "layer", "one that the answer depends on", repr(layer))
    weights = maps.grad.numpy()[0].mean((1, 2))
    total = np.maximum((weights[:, None, None] * maps.numpy()[0]).sum(0), 0)
    H, W = image.shape[2:]
    return _to_one(np.asarray(Image.fromarray(total.astype(np.float32)).resize((W, H), Image.Resampling.BILINEAR)))


def occlusion(
    model: nn.Module,
    x: Any,
    target: int | None = None,
    size: int | None = None,
    stride: int | None = None,
    fill: float = 0.0,
) -> Any:
    """Return how much covering each pixel lowers the probability of class ``target``: (H, W) float32.

    A square of ``size`` pixels (by default a fifth of the image's shorter side) is put on the image every ``stride`` pixels
    (half its size) and filled with ``fill``, 0 being the mean of normalised images. A pixel's value is the mean, over the
    squares that cover it, of the probability without a square minus that with it; below zero where covering helps. Zeiler
    & Fergus 2014, "Visualizing and Understanding Convolutional Networks", section 4.2.

    x, target, modes and errors are as for ``grad_cam``; the network needs no convolution.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    >>> _ = net.load_state_dict({"1.weight": np.array([[0, 0, 0, 0], [0, 0, 0, 1]])})
    >>> print(occlusion(net, [[[7, 7], [7, 7]]], target=1, size=1).round(2))
    [[0.  0. ]
     [0.  0.5]]
    """
    check_module(model, "occlusion")
    image = _one_image(model, x, "occlusion")
    H, W = image.shape[2:]
    size = max(min(H, W) // 5, 1) if size is None else size
    stride = max(size // 2, 1) if stride is None else stride
    for value, argument in ((size, "size"), (stride, "stride")):
        if not is_count(value, 1):
            raise ParameterError.expected("occlusion", argument, "a positive int", repr(value))
    corners = [(top, left) for top in _starts(H, size, stride) for left in _starts(W, size, stride)]
    with evaluating(model):
        logits = model(image)
        chosen = _target(logits, target, "occlusion")
        whole = F.softmax(logits).numpy()[0, chosen]
        lost, times = np.zeros((H, W)), np.zeros((H, W))
        for start in range(0, len(corners), AT_ONCE):
            part = corners[start : start + AT_ONCE]
            covered = image.numpy().repeat(len(part), 0)
            for one, (top, left) in zip(covered, part, strict=True):
                one[:, top : top + size, left : left + size] = fill
            left_over = F.softmax(model(tensor(covered, device=image.backend))).numpy()[:, chosen]
            for (top, left), probability in zip(part, left_over, strict=True):
                lost[top : top + size, left : left + size] += whole - probability
                times[top : top + size, left : left + size] += 1
    return (lost / times).astype(np.float32)


def _starts(pixels: int, size: int, stride: int) -> list[int]:
    """Return the first pixels of squares that together cover all pixels."""
    last = max(pixels - size, 0)
    return [*range(0, last, min(stride, size)), last]


def _one_image(model: nn.Module, x: Any, where: str) -> Tensor:
    """Return one image as (1, C, H, W) on the model's device, in its dtype."""
    backend, dtype = home_of(model)
    array = host_array(x, "x")
    array = array[None] if array.ndim == 3 else array
    if array.ndim != 4 or array.shape[0] != 1:
        raise ShapeError.expected(where, "x", "one image (C, H, W) or (1, C, H, W)", f"shape {array.shape}")
    return tensor(array.astype(dtype), device=backend)


def _target(logits: Tensor, target: int | None, where: str) -> int:
    classes = logits.shape[1]
    if target is None:
        return int(logits.detach().argmax(1))
    if not is_count(target, 0) or target >= classes:
        raise ParameterError.expected(where, "target", f"a class from 0 to {classes - 1}", repr(target))
    return target


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Within the block the model is in evaluation mode and its parameters get no gradient; both are restored."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.requires_grad_(False).eval()
        yield
    finally:
        for parameter, trained in before:
            parameter.requires_grad_(trained)
        for module, training in modes:
            object.__setattr__(module, "training", training)


def _layer_to_explain(model: nn.Module, image: Tensor, layer: str | None) -> nn.Module:
    """Return the layer of that name, or the last convolution with the element-wise layers that follow it."""
    if layer is not None:
        modules = dict(model.named_modules())
        if layer not in modules:
            raise ParameterError.expected(
                "grad_cam", "layer", f"one of {', '.join(filter(None, modules))}", repr(layer)
            )
    calls: list[tuple[nn.Module, tuple[int, ...]]] = []

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls.append((module, getattr(output, "shape", ())))

    leaves = [module for module in model.modules() if not any(module.children())]
    with watched(model, leaves if layer is None else [modules[layer]], note):
        model(image)
    if layer is not None:
        if not calls or len(calls[-1][1]) != 4:
            raise ParameterError.expected("grad_cam", "layer", "one that gives maps (1, K, h, w)", repr(layer))
        return modules[layer]
    last = max((i for i, (module, _) in enumerate(calls) if isinstance(module, CONVOLUTIONS)), default=None)
    if last is None:
        raise ParameterError.expected("grad_cam", "model", "one with a convolution", type(model).__name__)
    for module, shape in calls[last + 1 :]:
        if not (isinstance(module, nn.Layer) and module.elementwise) or shape != calls[last][1]:
            break
        last += 1
    return calls[last][0]


def _to_one(heat: Any) -> Any:
    """Return a non-negative map scaled to a maximum of 1."""
    most = heat.max()
    return (heat / most if most > 0 else heat).astype(np.float32)
