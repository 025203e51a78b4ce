"""``gpucnn data``."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from gpucnn import data
from gpucnn.cli import Group
from gpucnn.cli.options import image_size_option, no_limits_option
from gpucnn.cli.terminal import say, shortened
from gpucnn.data.download import whereabouts
from gpucnn.data.files import npz_bytes
from gpucnn.data.pictures import contact_sheet
from gpucnn.disk import write_atomically
from gpucnn.errors import DataError, UsageError, did_you_mean
from gpucnn.report.images import image_pixels, png

CLEAR = 5
"""Index of the default test image: in the built-in digits a clear 2, which even a network trained for seconds recognises."""


@click.group(cls=Group, name="data", short_help="List, show, download and convert data sets; write one image.")
def command() -> None:
    """List, show, download and convert data sets; write one image.

    A SOURCE is what `gpucnn train --data` takes: a name, an .npz file, a CSV file, or a folder of IDX files or of images.
    """


@command.command("list", short_help="List the data sets known by name and where each is stored.")
def list_sources() -> None:
    """List the data sets known by name and where each is stored."""
    say(f"{'digits':<14} handwritten-looking digits, 28x28 grey: built in")
    for name, source in data.SOURCES.items():
        say(f"{name:<14} {source.about}: {whereabouts(name)}")


@command.command(short_help="Show shape, dtype, SHA-256 and class counts of a data set.")
@click.argument("source")
@image_size_option
@click.option(
    "--sheet",
    type=click.Path(path_type=Path),
    metavar="FILE.png",
    help="Write a contact sheet with ten images of each class.",
)
@no_limits_option
def show(source: str, image_size: int | str | None, sheet: Path | None) -> None:
    """Show the shape, dtype, SHA-256 and class counts of the data set SOURCE."""
    splits = data.load(source, image_size)
    images, train_labels = splits.train[np.arange(len(splits.train))]
    parts = {"train": train_labels}
    for part, held in (("val", splits.validation), ("test", splits.test)):
        if held is not None:
            parts[part] = held[np.arange(len(held))][1]
    also = f", {len(parts['val']):,} validation" if "val" in parts else ""
    C, H, W = splits.train.image_shape
    say(f"{splits.name}: {len(train_labels):,} training{also} and {len(parts['test']):,} test images")
    say(f"image    {C} x {H} x {W} (channels, rows, columns), {images.dtype}, {images.min()} to {images.max()}")
    say(f"sha256   {splits.sha256()}")
    names = [shortened(name) for name in splits.train.class_names]
    width = max(len("class"), *map(len, names))
    say(f"{'class':<{width}}" + "".join(f" {part:>8}" for part in parts))
    counts = [np.bincount(labels, minlength=len(names)) for labels in parts.values()]
    for name, *row in zip(names, *counts, strict=True):
        say(f"{name:<{width}}" + "".join(f" {count:>8,}" for count in row))
    if sheet is not None:
        assert isinstance(splits.train, data.ArrayDataset)
        write_atomically(sheet, contact_sheet(splits.train))
        say(f"Contact sheet: {sheet}")


@command.command(short_help="Write one image of a data set as a PNG file.")
@click.argument("source")
@click.argument("out", metavar="OUT.png", type=click.Path(path_type=Path))
@click.option("--index", type=click.IntRange(0), default=CLEAR, show_default=True, help="Index of the test image.")
@image_size_option
@click.option("--overwrite", is_flag=True, help="Replace OUT.png if it exists.")
def sample(source: str, out: Path, index: int, image_size: int | None, overwrite: bool) -> None:
    """Write one test image of the data set SOURCE to OUT.png, a file for `gpucnn predict`, and print its class."""
    check_out(out, ".png", "data sample", overwrite)
    splits = data.load(source, image_size)
    if index >= len(splits.test):
        raise UsageError.expected("data sample", "--index", f"0 to {len(splits.test) - 1}", index)
    images, labels = splits.test[np.array([index])]
    write_atomically(out, png(image_pixels(images[0])))
    click.echo(f"{out}: test image {index} of {splits.name}, class {splits.train.class_names[labels[0]]}")


def check_out(out: Path, suffix: str, where: str, overwrite: bool) -> None:
    """Refuse an output file with the wrong suffix, one that exists, or one in a folder that does not."""
    if out.suffix.lower() != suffix:
        raise UsageError.expected(where, f"OUT{suffix}", f"a file name that ends in {suffix}", repr(str(out)))
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists. Replace it with --overwrite, or choose another name.")
    if not out.absolute().parent.is_dir():
        raise DataError(f"{out.parent}: no such folder.")


@command.command(short_help="Download data sets known by name.")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
def download(names: tuple[str, ...]) -> None:
    """Download each data set NAME, verify it, and print the folder where it is stored."""
    for name in names:
        if name not in data.SOURCES:
            remedy = did_you_mean(name, data.SOURCES)
            raise UsageError.expected("data download", "name", " or ".join(data.SOURCES), repr(name), remedy)
    for name in names:
        say(f"{name}: {data.fetch(name)}")


@command.command(short_help="Convert a data set to one .npz file.")
@click.argument("source")
@click.argument("out", metavar="OUT.npz", type=click.Path(path_type=Path))
@image_size_option
@click.option("--overwrite", is_flag=True, help="Replace OUT.npz if it exists.")
@no_limits_option
def convert(source: str, out: Path, image_size: int | str | None, overwrite: bool) -> None:
    """Convert the data set SOURCE to OUT.npz, a file that `--data` accepts."""
    check_out(out, ".npz", "data convert", overwrite)
    splits = data.load(source, image_size)
    write_atomically(out, npz_bytes(splits))
    say(f"{out}: {len(splits.train):,} training and {len(splits.test):,} test images")
