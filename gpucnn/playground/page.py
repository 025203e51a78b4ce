"""The playground's page: a network, its preprocessing, and the program that runs it, in one HTML file."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from gpucnn import nn
from gpucnn.errors import ParameterError
from gpucnn.formats import cut
from gpucnn.playground.operations import Operation, operations_of
from gpucnn.report.html import UNPRINTABLE, breakable, text
from gpucnn.report.images import SIGNED, WARM
from gpucnn.version import __version__

SCRIPTS = (
    "data", "kernels", "activations", "gradients", "network", "explain", "picture", "paint", "pad", "layers",
    "inspector", "app",
)  # fmt: skip
"""The parts of the program, in the order in which they are put together."""

MOST_BYTES = 10_000_000
"""Most bytes of weights: a page of twice that size would open slowly and be too large for e-mail."""


LONGEST_TITLE = 80
"""Characters of the longest title that is shown whole."""


@dataclass(frozen=True)
class Subject:
    """The content of a page: a description of the network, the network, and its preprocessing of images.

    image_shape: (C, H, W). mean, std: of each channel, of pixels from 0 to 1. centred: whether the ink of a grey image is
    centred before the network sees it. images (N, C, H, W), uint8 or floats, and labels (N,): test images to take.
    filters_before: of the first convolution, as initialised. gives_probabilities: whether the network's outputs are
    probabilities, so that no softmax follows.
    """

    title: str
    about: str
    net: nn.Module
    class_names: Sequence[str]
    image_shape: tuple[int, int, int]
    mean: Sequence[float]
    std: Sequence[float]
    centred: bool = False
    images: Any = None
    labels: Sequence[int] = ()
    filters_before: Any = None
    gives_probabilities: bool = False


def playground(subject: Subject) -> str:
    """Return the page as HTML: one file that needs no other and no network.

    Raises ParameterError, which names the layer, for one that the page cannot run, for a network of more than 10 MB of
    weights, for images other than grey or RGB, and for weights that are not finite.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> html = playground(Subject("<mine>", "", net, ["a", "b"], (1, 2, 2), [0.5], [0.5]))
    >>> "<h1>&lt;mine&gt;</h1>" in html
    True
    """
    if subject.image_shape[0] not in (1, 3):
        raise ParameterError.expected(
            "playground", "network", "one that reads grey or RGB images", f"{subject.image_shape[0]} channels"
        )
    operations = operations_of(subject.net, subject.image_shape)
    _check(subject, operations)
    numbers = _Numbers()
    described = [
        {
            "kind": step.kind,
            "name": _printable(step.name),
            "path": _printable(step.path),
            "inputs": step.inputs,
            "shape": step.shape,
            "arguments": step.arguments,
            "arrays": {name: numbers.place(array) for name, array in step.arrays.items()},
        }
        for step in operations
    ]
    images = np.zeros((0, 1)) if subject.images is None else np.asarray(subject.images)
    given = {
        "about": _printable(subject.about),
        "classes": [_printable(name) for name in subject.class_names],
        "image": subject.image_shape,
        "normalisation": {"mean": list(subject.mean), "std": list(subject.std)},
        "framing": "centred" if subject.centred else "cropped",
        "images": {
            "count": len(images),
            "floats": images.dtype != np.uint8,
            "labels": [int(k) for k in subject.labels],
        },
        "palettes": {"signed": SIGNED.tolist(), "warm": WARM.tolist()},
        "filtersBefore": _filters_before(subject, operations, numbers),
        "operations": described,
        "givesProbabilities": subject.gives_probabilities,
    }
    kept = images if images.dtype == np.uint8 else images.astype(np.float32)
    return _html(
        cut(subject.title, LONGEST_TITLE),
        given,
        {"numbers": numbers.bytes(), "images": np.ascontiguousarray(kept).tobytes()},
    )


def _check(subject: Subject, operations: Sequence[Operation]) -> None:
    """ParameterError for a network that is too large, is damaged or has another number of classes."""
    size = sum(array.nbytes for step in operations for array in step.arrays.values())
    if size > MOST_BYTES:
        kind = f"network {subject.title}"
        raise ParameterError.expected(
            "playground", kind, f"at most {MOST_BYTES / 1e6:g} MB of weights", f"{size / 1e6:.1f} MB"
        )
    for step in operations:
        if not all(np.isfinite(array).all() for array in step.arrays.values()):
            raise ParameterError.expected("playground", f"layer {step.path}, {step.name}", "finite weights", "others")
    if operations[-1].shape != (len(subject.class_names),):
        raise ParameterError.expected(
            "playground", "network", f"a number for each of {len(subject.class_names)} classes", operations[-1].shape
        )


def _filters_before(subject: Subject, operations: Sequence[Operation], numbers: _Numbers) -> dict[str, Any] | None:
    """Return where the first filters as initialised are, if they are those of the first convolution."""
    before = subject.filters_before
    first = next((k for k, step in enumerate(operations) if step.kind == "conv"), None)
    if before is None or first is None or before.shape != operations[first].arrays["weight"].shape:
        return None
    return {"operation": first, "place": numbers.place(np.nan_to_num(np.ascontiguousarray(before, np.float32)))}


class _Numbers:
    """All numbers of a page, one array after the other."""

    def __init__(self) -> None:
        self._arrays: list[Any] = []
        self._count = 0

    def place(self, array: Any) -> tuple[int, int]:
        """Add an array and return its offset and length."""
        self._arrays.append(array)
        self._count += array.size
        return self._count - array.size, array.size

    def bytes(self) -> bytes:
        """Return them as little-endian float32, as browsers read them."""
        return b"".join(array.astype("<f4").tobytes() for array in self._arrays)


def _printable(value: Any) -> str:
    return UNPRINTABLE.sub("\ufffd", str(value))


def _html(title: str, given: dict[str, Any], blocks: dict[str, bytes]) -> str:
    """Return the page. Its policy lets nothing run but this very program, whatever names came with the data."""
    folder = files("gpucnn.playground") / "page"
    read = {name: (folder / name).read_text(encoding="utf-8") for name in ("body.html", "style.css")}
    program = "\n".join((folder / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{program}}})();\n'
    style = read["style.css"]
    policy = (
        f"default-src 'none'; script-src {_source(script)}; style-src {_source(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    described = json.dumps(given, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    data = "".join(
        f'<script type="text/plain" id="given-{name}">{base64.b64encode(content).decode()}</script>\n'
        for name, content in blocks.items()
    )
    body = read["body.html"].replace("@version@", __version__).replace("@heading@", breakable(title))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{text(title)}: playground</title>\n<style>{style}</style>\n</head>\n'
        f'<body>\n{body}<script type="application/json" id="given">{described}</script>\n{data}'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _source(content: str) -> str:
    """Return a script or style as a policy names it: by its hash."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
