"""``gpucnn playground``."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import click
import numpy as np

from gpucnn.cli.options import (
    checkpoint_option,
    complete_source,
    model_option,
    no_limits_option,
    note_on_floats,
    trust_option,
)
from gpucnn.cli.run_report import PLAYGROUND_FILE, PLAYGROUND_LINK, kept_first_filters
from gpucnn.cli.terminal import say
from gpucnn.data import Dataset, load_test
from gpucnn.disk import write_atomically
from gpucnn.errors import DataError, GpucnnError, RunFolderError, UsageError
from gpucnn.nn import Module
from gpucnn.playground import Subject, operations_of, playground
from gpucnn.report.run_report import PLAYGROUND
from gpucnn.training import RunFolder, SavedModel, read_toml

MOST_IMAGES = 30
"""Most test images in a page."""

MOST_IMAGE_BYTES = 200_000
"""Most bytes that they take; one image is there whatever it takes."""

SAMPLE = 500
"""Images, spread over the test set, among which those of each class are looked for."""


@click.command(short_help="Write a page that runs the network in the browser.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"File to write, .html.  [default: RUN/{PLAYGROUND_FILE}; of an ONNX file, its name with .html]",
)
@click.option(
    "--data",
    "source",
    metavar="SOURCE",
    shell_complete=complete_source,
    help="Data set whose test images the page offers.  [default: that of the run; none with an ONNX file]",
)
@checkpoint_option
@model_option
@trust_option
@no_limits_option
def command(
    run: Path,
    out: Path | None,
    source: str | None,
    checkpoint: str | None,
    model: str | None,
    trust: bool,
) -> None:
    """Write a page that holds the network of folder RUN and runs it in the browser. It is one file and needs no server.
    RUN may be an ONNX file, whose name ends with .onnx.

    Draw on the page, drop an image or take a test image, and watch the probabilities, the feature maps of every layer and
    Grad-CAM. Point at a pixel of a feature map to see the window, the filter and the sum that made it, and go back layer by
    layer; switch filters off.

    A network of more than 10 MB of weights, or with a layer that the page cannot run, is refused.
    """
    if out is not None and out.suffix.lower() not in (".html", ".htm"):
        raise UsageError.expected("playground", "--out", "a file name that ends in .html", out.name)
    if run.suffix == ".onnx":
        if checkpoint or model or trust:
            raise UsageError("playground: --checkpoint, --model and --trust are for run folders. Leave them out.")
        content = playground(_of_file(run, source)).encode()
        _write(out or run.with_suffix(".html"), content)
        return
    folder = RunFolder.open(run)
    content = playground(_of_run(folder, SavedModel.load(folder, "cpu", checkpoint, model, trust), source)).encode()
    if out is not None:
        _write(out, content)
        return
    folder.write(PLAYGROUND_FILE, content)
    _link_from_report(folder)
    _say(folder.path / PLAYGROUND_FILE, content)


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be written ({error.strerror}).") from None
    _say(path, content)


def _say(path: Path, content: bytes) -> None:
    say(f"Playground: {path} ({len(content) / 1e6:.2f} MB)")


def _about(net: Module, classes: int) -> str:
    count = sum(parameter.size for parameter in net.parameters())
    return f"This page runs the network itself: {count:,} parameters, {classes} classes."


def _of_run(folder: RunFolder, saved: SavedModel, source: str | None) -> Subject:
    """Return the network of a run with what its page needs."""
    note_on_floats(saved)
    images, labels = _test_images(saved, source)
    settings: dict[str, Any] = read_toml(folder.path / "config.toml")
    return Subject(
        f"{settings.get('model', 'network')} on {Path(saved.data).stem}",
        _about(saved.net, len(saved.class_names)),
        saved.net,
        saved.class_names,
        saved.image_shape,
        saved.normalisation.mean,
        saved.normalisation.std,
        saved.framing == "centred",
        images,
        labels,
        kept_first_filters(folder),
    )


def _of_file(path: Path, source: str | None) -> Subject:
    """Return the network of an ONNX file with what its page needs."""
    from gpucnn.cli.onnx_file import OnnxClassifier

    network = OnnxClassifier(path, "cpu", None, None, None)
    images: Any = None
    labels: list[int] = []
    if source is not None:
        _, test = load_test(source, network.image_shape, network.framing)
        if test.classes > len(network.class_names):
            raise DataError.expected("data", "classes", f"at most {len(network.class_names)}", test.classes)
        images, labels = some_of_each(test)
    mean, std = network.normalisation()
    last = operations_of(network.net, network.image_shape)[-1]
    return Subject(
        path.stem, _about(network.net, len(network.class_names)), network.net, network.class_names, network.image_shape,
        mean, std, network.framing == "centred", images, labels, gives_probabilities=last.kind == "softmax",
    )  # fmt: skip


def _test_images(saved: SavedModel, source: str | None) -> tuple[Any, list[int]]:
    """Return test images and their labels; none, with a warning, where the run's own data set is not at hand."""
    try:
        _, test = saved.test_set(source)
        return some_of_each(saved.feed(test).data)
    except GpucnnError as error:
        if source is not None:
            raise
        warnings.warn(f"page without test images: {error}", stacklevel=2)
        return None, []


def some_of_each(data: Dataset) -> tuple[Any, list[int]]:
    """Return images (N, C, H, W) and labels: one of each class, then a second of each, as many as a page takes.

    >>> from gpucnn.data import ArrayDataset
    >>> some_of_each(ArrayDataset(np.zeros((6, 1, 2, 2), np.uint8), [0, 0, 0, 0, 1, 1]))[1]
    [0, 1, 0, 1, 0, 0]
    """
    images, labels = data[np.linspace(0, len(data) - 1, min(len(data), SAMPLE)).astype(int)]
    most = min(MOST_IMAGES, max(MOST_IMAGE_BYTES // max(images[:1].nbytes, 1), 1))
    seen: dict[int, int] = {}
    order = []
    for place, label in enumerate(labels.tolist()):
        seen[label] = seen.get(label, 0) + 1
        order.append((seen[label], label, place))
    chosen = [place for _, _, place in sorted(order)[:most]]
    return images[chosen], labels[chosen].tolist()


def _link_from_report(folder: RunFolder) -> None:
    """Let the report of a run lead to the page that now is beside it."""
    path = folder.path / "report.html"
    try:
        report = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return
    if PLAYGROUND in report:
        link = f'<p><a href="{PLAYGROUND_FILE}">{PLAYGROUND_LINK}</a></p>'
        folder.write(path.name, report.replace(PLAYGROUND, link, 1))
