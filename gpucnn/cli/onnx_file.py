"""Classifying images with an ONNX file, of gpucnn or of another program."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from gpucnn import functional as F
from gpucnn import limits
from gpucnn.autograd import Tensor, no_grad, tensor
from gpucnn.cli.terminal import say
from gpucnn.data import parse_image_size
from gpucnn.data.dataset import FRAMINGS
from gpucnn.data.pictures import read_picture
from gpucnn.errors import CheckpointError, UsageError, shortened
from gpucnn.onnx import load
from gpucnn.onnx.module import shape_words
from gpucnn.training.saved import LARGEST_IMAGE


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Return "0.5" or "0.485,0.456,0.406" as numbers; UsageError for anything else."""
    try:
        found = tuple(map(float, text.split(",")))
    except ValueError:
        found = ()
    if not found or not all(map(math.isfinite, found)) or (option == "--std" and min(found) <= 0):
        kind = "positive numbers" if option == "--std" else "numbers"
        raise UsageError.expected("predict", option, f"{kind}, one or one for each channel", repr(text))
    return found


class OnnxClassifier:
    """A network of an ONNX file, and how it reads images.

    What gpucnn wrote says so itself. For files of other programs: uint8 inputs are given pixels as they are; others get
    (x / 255 - mean) / std.
    """

    def __init__(
        self, path: Path, device: str, mean: str | None, std: str | None, image_size: int | str | None
    ) -> None:
        self.path = path
        self.net = load(path, device)
        (value,) = self.net.graph.inputs if len(self.net.graph.inputs) == 1 else (None,)
        if value is None or value.shape is None or len(value.shape) != 4:
            raise CheckpointError.expected(str(path), "inputs", "one of images (N, C, H, W)", self.net.extra_repr())
        self._pixels = value.dtype == "uint8"
        self._dtype = value.dtype
        about = self._about()
        shape = tuple(about.get("shape") or value.shape[1:])
        if image_size is not None:
            shape = (shape[0], *parse_image_size(image_size))
        if None in shape:
            remedy = "give --image-size S or HxW"
            raise UsageError.expected("predict", "image size", "one", f"a file for any, {shape_words(value)}", remedy)
        C, H, W = shape
        if C not in (1, 3) or (limits.on() and C * H * W > LARGEST_IMAGE):
            raise CheckpointError.expected(str(path), "inputs", "grey or colour images", shape_words(value))
        self.image_shape = (C, H, W)
        self.framing = str(about.get("framing", "cropped"))
        self._mean = self._for_channels(mean, "--mean", about.get("mean"), 0.0)
        self._std = self._for_channels(std, "--std", about.get("std"), 1.0)
        if not about and not self._pixels and mean is None and std is None:
            note = "the file does not say how it reads images; they are scaled to 0 to 1"
            say(f"Note: {note}. Other values: --mean, --std.", err=True)
        self.class_names = self._names()

    def _about(self) -> dict[str, Any]:
        """Return shape, mean, std and framing as gpucnn wrote them; CheckpointError where they are damaged."""
        texts = self.net.graph.metadata
        found: dict[str, Any] = {}
        try:
            for key in ("gpucnn.input", "gpucnn.preprocessing"):
                found |= json.loads(texts.get(key, "{}"))
            shape, channels = found.get("shape"), [found.get("mean"), found.get("std")]
            known: list[int] = shape or []
            sizes = shape is None or (len(shape) == 3 and all(type(n) is int and 1 <= n <= 2**20 for n in shape))
            floats = all(part is None or (len(part) == known[0] and all(map(math.isfinite, part))) for part in channels)
            if not sizes or not floats or found.get("framing", "cropped") not in FRAMINGS:
                raise ValueError("a shape, a mean and std for each channel, and a known framing")
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            words = f"{self.path}: the metadata is damaged ({shortened(error, 80)})."
            raise CheckpointError(words) from None
        return found

    def _for_channels(self, text: str | None, option: str, known: Any, usual: float) -> Any:
        C = self.image_shape[0]
        values = (usual,) if known is None else tuple(known)
        if text is not None:
            values = numbers(text, option)
        if len(values) not in (1, C):
            raise UsageError.expected("predict", option, f"1 or {C} numbers", len(values))
        return np.array(values * (C // len(values)), np.float64).reshape(C, 1, 1)

    def _names(self) -> list[str]:
        """Return the class names in the file, or numbers; as many as the outputs."""
        zeros = np.zeros((1, *self.image_shape), np.uint8)
        classes = self.outputs(zeros).shape[1]
        try:
            names = json.loads(self.net.graph.metadata.get("gpucnn.classes", "[]"))
        except (ValueError, RecursionError):
            names = []
        fits = isinstance(names, list) and len(names) == classes and all(isinstance(n, str) for n in names)
        return names if fits else [str(i) for i in range(classes)]

    def normalisation(self) -> tuple[list[float], list[float]]:
        """Return mean and standard deviation of each channel, of pixels from 0 to 1, that inputs are given with."""
        C = self.image_shape[0]
        if self._pixels:
            return [0.0] * C, [1 / 255] * C
        return self._mean.reshape(-1).tolist(), self._std.reshape(-1).tolist()

    def read_picture(self, path: Path) -> Any:
        """Return an image file as the network reads it: uint8 (C, H, W)."""
        return read_picture(path, self.image_shape, self.framing)

    def outputs(self, images: Any) -> Tensor:
        """Return the network's outputs for uint8 images (N, C, H, W), as (N, classes)."""
        x = images if self._pixels else ((images / 255 - self._mean) / self._std).astype(self._dtype)
        like = next(iter(self.net.parameters()), None)
        with no_grad():
            y = self.net(tensor(x, None, None if like is None else like.backend))
        first: Tensor = y[0] if isinstance(y, tuple) else y
        if not first.ndim or first.shape[0] != len(images) or first.dtype.kind != "f" or first.size <= 0:
            raise CheckpointError.expected(str(self.path), "output", "numbers for each image", f"shape {first.shape}")
        return first.reshape(len(images), -1)

    def probabilities(self, images: Any) -> Any:
        """Return a probability for each class: the outputs, if they are some already, or else their softmax."""
        y = self.outputs(images)
        values = y.numpy()
        if not np.isfinite(values).all():
            raise CheckpointError(f"{self.path}: the network's outputs are not finite.")
        if (values >= 0).all() and np.allclose(values.sum(1), 1, atol=1e-3):
            return values
        return F.softmax(y).numpy()
