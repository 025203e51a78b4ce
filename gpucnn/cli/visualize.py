"""``gpucnn visualize``."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np

from gpucnn import data, inspect
from gpucnn.analysis.profile import Profile
from gpucnn.cli.options import (
    checkpoint_option,
    complete_source,
    device_option,
    model_option,
    no_limits_option,
    note_on_floats,
    trust_option,
)
from gpucnn.cli.run_report import (
    OF_THE_BEST,
    draw_pictures,
    gather,
    only_noted,
    outcome_of,
    state_of,
    times_of,
)
from gpucnn.cli.terminal import say
from gpucnn.cli.training_images import balance_of
from gpucnn.data import ArrayDataset
from gpucnn.data.pictures import original_pixels
from gpucnn.disk import write_atomically
from gpucnn.errors import GpucnnError, RunFolderError, UsageError, did_you_mean
from gpucnn.formats import percent
from gpucnn.report.curves import epochs_of
from gpucnn.report.image_report import SIDE
from gpucnn.report.pictures import check_drawer
from gpucnn.report.training_images import Balance
from gpucnn.training import PRECISIONS, Loader, RunFolder, SavedModel, Settings, evaluate, read_toml
from gpucnn.training.factory import training_and_validation


@click.command(short_help="Draw the report of a run, or explain the prediction for one image.")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("image", required=False, type=click.Path(path_type=Path))
@click.option(
    "--data",
    "source",
    metavar="SOURCE",
    shell_complete=complete_source,
    help="Data set whose test images are evaluated.  [default: that of the run]",
)
@click.option("--class", "about", metavar="NAME", help="With IMAGE: class to explain.  [default: the predicted class]")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="With IMAGE: file to write, .html or .png.  [default: RUN/looks/IMAGE.html]",
)
@click.option("--png", is_flag=True, help="Without IMAGE: also write the report's pictures as PNG files (extra png).")
@device_option("auto")
@checkpoint_option
@model_option
@trust_option
@no_limits_option
def command(
    run: Path,
    image: Path | None,
    source: str | None,
    about: str | None,
    out: Path | None,
    png: bool,
    device: str,
    checkpoint: str | None,
    model: str | None,
    trust: bool,
) -> None:
    """Draw the report of the run in folder RUN again: curves, classes, confusion matrix, worst mistakes, filters.

    With IMAGE, an image file, write one page about its prediction instead: saliency (Grad-CAM and occlusion), the feature
    maps of each convolution, the probabilities, and edges found by hand-made filters. PNG files need the png extra:
    pip install 'gpucnn[png]'.
    """
    if image is None and (about is not None or out is not None):
        raise UsageError("--class and --out need an IMAGE: name it after the run.")
    if image is not None and source is not None:
        raise UsageError("--data is about the whole run: leave it out, or leave out the image.")
    if image is not None and png:
        raise UsageError("--png is about the whole run: name a file with --out, such as looks/IMAGE.png.")
    if png:
        check_drawer()
    folder = RunFolder.open(run)
    checkpoint = checkpoint or folder.default_checkpoint()
    saved = SavedModel.load(folder, device, checkpoint, model, trust)
    with saved.as_trained():
        if image is None:
            redraw(folder, saved, source, checkpoint, png)
        else:
            look_at(saved, image, about, out or folder.place("looks", f"{image.stem}.html"))


def redraw(folder: RunFolder, saved: SavedModel, source: str | None, checkpoint: str, png: bool) -> None:
    """Write the report of a run again, and with ``png`` its pictures."""
    read = Settings(**read_toml(folder.path / "config.toml"))
    settings = asdict(read)
    name, outcome = saved.data if source is None else source, None
    try:
        name, test = saved.test_set(source)
        loader = saved.feed(test)
        measured = evaluate(saved.net, loader)
        outcome = outcome_of(saved.net, loader, measured, test, saved.class_names, name)
    except GpucnnError as error:
        if source is not None:
            raise
        warnings.warn(f"report without confusion matrix and mistakes: {error}", stacklevel=2)
    epochs = epochs_of(folder.metrics())
    state = state_of(epochs[-1]["epoch"] if epochs else 0, settings["epochs"], "not finished")
    if checkpoint == "best" and not folder.best_is_last():
        state += OF_THE_BEST
    summary = inspect.summary(saved.net, saved.image_shape)
    title = f"{settings['model']} on {name if source is None else Path(saved.data).stem}"
    described = gather(folder, title, state, settings, saved.net, summary, outcome, *of_training(read, saved))
    folder.write("report.html", inspect.report(described).encode())
    say(f"Report: {folder.path / 'report.html'}")
    if png:
        draw_pictures(folder, described)


def of_training(settings: Settings, saved: SavedModel) -> tuple[Balance | None, Profile | None]:
    """Return what the report shows of the training images, and by them; None, with a warning, where they cannot be read."""
    with only_noted("training images in the report"):
        train, _ = training_and_validation(data.load(settings.data, settings.image_size), settings)
        precision = PRECISIONS[saved.precision]
        loader = Loader(train, saved.backend, saved.normalisation, precision, settings.augmentation)
        return balance_of(loader, saved.normalisation, settings), times_of(saved.net, loader)
    return None, None


def look_at(saved: SavedModel, path: Path, about: str | None, out: Path) -> None:
    """Write a page, or a PNG file, that explains the prediction for an image file."""
    if out.suffix.lower() not in (".html", ".png"):
        raise UsageError.expected("visualize", "--out", "a file name that ends in .html or .png", out.name)
    target = None
    if about is not None:
        if about not in saved.class_names:
            known, remedy = ", ".join(saved.class_names[:20]), did_you_mean(about, saved.class_names)
            raise UsageError.expected("visualize", "--class", f"one of {known}", repr(about), remedy)
        target = saved.class_names.index(about)
    note_on_floats(saved)
    pixels = saved.read_picture(path)
    x, _ = saved.feed(ArrayDataset(pixels[None], [0], saved.class_names)).batch(np.arange(1))
    found = inspect.look(saved.net, pixels, saved.class_names, x, target, original_pixels(path, SIDE))
    draw = inspect.look_plot if out.suffix.lower() == ".png" else inspect.look_page
    content = draw(found, path.name)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise RunFolderError(f"{out}: cannot be written ({error.strerror}).") from None
    answer = int(found.probabilities.argmax())
    say(f"{path}: {saved.class_names[answer]} ({percent(found.probabilities[answer], 1)})")
    say(f"Written: {out}")
