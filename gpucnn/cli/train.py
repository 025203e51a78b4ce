"""``gpucnn train``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from gpucnn import data
from gpucnn.backend import get_backend
from gpucnn.cli.options import check_device, image_size_option, no_limits_option, trust_option
from gpucnn.cli.progress import reporter_for
from gpucnn.cli.run_report import ReportWriter
from gpucnn.cli.terminal import say
from gpucnn.errors import UsageError
from gpucnn.training import (
    PRECISIONS,
    Reporters,
    RunFolder,
    Settings,
    TensorBoard,
    Trainer,
    check_model,
    check_named,
    check_precision,
    check_trusted,
    read_toml,
    recipe,
    run_name,
)


@click.command(short_help="Train a network and keep the run in a folder.")
@click.option("--model", metavar="NAME[:OPTION=VALUE,...]", help="Network, e.g. lenet:pooling=avg.  [lenet]")
@click.option("--data", metavar="SOURCE", help="digits (built in), mnist, cifar10 ..., an .npz, or a folder.  [digits]")
@click.option(
    "--device",
    callback=check_device,
    metavar="DEVICE",
    help="cpu, cuda, cuda:N, or auto: the GPU if one works.  [auto]",
)
@click.option(
    "--precision",
    type=click.Choice(list(PRECISIONS)),
    help="Of weights and activations. tf32: float32 that multiplies in TF32, on GPUs from Ampere on; float16: half the "
    "memory, computed in float32.  [float32]",
)
@click.option(
    "--epochs", type=click.IntRange(1), help="Passes over the training images; with --resume, the total.  [5]"
)
@click.option("--batch-size", type=click.IntRange(1), help="Images per step.  [64]")
@click.option(
    "--optimizer",
    metavar="NAME[:OPTION=VALUE,...]",
    help="sgd, adam, adamw, rmsprop, adagrad or adadelta, e.g. sgd:nesterov=true.  [adam]",
)
@click.option(
    "--lr", type=click.FloatRange(0), help="Learning rate; of one-cycle, the highest.  [adam 0.005, sgd 0.1, ...]"
)
@click.option("--momentum", type=click.FloatRange(0, 1), help="Of sgd.  [0.9]")
@click.option(
    "--weight-decay", type=click.FloatRange(0), help="Added to the gradient, times the weight.  [0; adamw 0.01]"
)
@click.option(
    "--schedule",
    metavar="NAME[:OPTION=VALUE,...]",
    help="Of the learning rate: one-cycle, constant, cosine, polynomial, exponential, step, multi-step, warm-up or "
    "plateau, e.g. cosine:warmup=1 (lengths in epochs).  [one-cycle]",
)
@click.option("--seed", type=click.IntRange(0), help="Of initial weights, shuffling and dropout.  [0]")
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="Use N training images, after a seeded shuffle.  [all]"
)
@click.option(
    "--validation",
    type=click.IntRange(0),
    metavar="N",
    help="Hold N training images out for validation.  [5000, at most a fifth]",
)
@click.option("--val-split", type=click.FloatRange(0, 1, max_open=True), help="The same as a share of the images.")
@click.option(
    "--augment",
    metavar="LIST",
    help="Change training images at random: some of shift=2 rotate=10 scale=0.1 flip elastic=1 cutout=8 noise=0.05, "
    "commas between.  [none]",
)
@image_size_option
@click.option(
    "--target-accuracy", type=click.FloatRange(0, 1), help="Exit with 3 if the validation accuracy ends below."
)
@click.option(
    "--test-each-epoch", is_flag=True, default=None,
    help="Measure the test set after each epoch too, and not only at the end, on the best checkpoint.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="Run folder.  [runs/MODEL-DATA-N, the first free N]")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE.toml", help="Settings; options win over it.")
@click.option(
    "--recipe", "recipe_name", metavar="NAME", help="Settings that come with gpucnn; options win: fast (MNIST to 99 %)."
)
@click.option(
    "--resume", type=click.Path(path_type=Path), metavar="RUN", help="Continue this run from its last checkpoint."
)
@trust_option
@click.option("--overwrite", is_flag=True, help="Replace the run that --out holds.")
@click.option("--live", is_flag=True, help="Draw the report after each epoch too; opened once, it reloads itself.")
@click.option("--tensorboard", is_flag=True, help="Also write TensorBoard files, to tensorboard/ in the run folder.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="One JSON object per epoch, and one of the test at the end, on standard output, nothing else there.",
)
@no_limits_option
def command(
    out: Path | None,
    config: Path | None,
    recipe_name: str | None,
    resume: Path | None,
    trust: bool,
    overwrite: bool,
    live: bool,
    tensorboard: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Train a network and keep the run in a folder.

    Without options: LeNet on the built-in digits, five epochs, in about a minute.
    """
    given = {key: value for key, value in options.items() if value is not None}
    if resume is not None and (out is not None or config is not None or recipe_name is not None or overwrite):
        raise UsageError(
            "--resume takes everything from the run's folder: leave out --out, --config, --recipe and --overwrite."
        )
    if config is not None and recipe_name is not None:
        raise UsageError("--config and --recipe both give the settings: leave one out.")
    if recipe_name is not None:
        config = recipe(recipe_name)
    if overwrite and out is None:
        raise UsageError("--overwrite replaces the run that --out holds: name it with --out.")
    file = config if resume is None else RunFolder.open(resume).path / "config.toml"
    settings = read_settings(file, given)
    folder = RunFolder.new(out, run_name(settings), overwrite) if resume is None else RunFolder.open(resume)
    if file is not None:
        check_trusted(settings.model, given.get("model"), str(resume or config), trust)
    extra = [TensorBoard()] if tensorboard else []
    check_precision(settings, get_backend(settings.device))
    check_named(settings)
    check_model(settings.model)  # a wrong device or name is better known before the data is read
    say(f"Reading {settings.data} ...", as_json)
    reporter = Reporters(reporter_for(as_json), *extra, ReportWriter(live, quiet=as_json))
    trainer = Trainer(settings, data.load(settings.data, settings.image_size), folder, reporter)
    if resume is not None:
        trainer.resume()
    trainer.train()
    last = trainer.history[-1]
    if settings.target_accuracy is not None and last["val_accuracy"] < settings.target_accuracy:
        message = (
            f"Target missed: validation accuracy {last['val_accuracy']:.4f}, wanted {settings.target_accuracy:.4f}."
        )
        say(message, err=True)
        return 3
    return 0


def read_settings(file: Path | None, given: dict[str, Any]) -> Settings:
    """Return the settings: options win over the file, and the file over the environment's device, with a note."""
    from_file = read_toml(file) if file is not None else {}
    for key, other in (("validation", "val_split"), ("val_split", "validation")):
        if key in given:
            from_file.pop(other, None)
    environment = os.environ.get("GPUCNN_DEVICE")
    if environment and "device" not in given and from_file.setdefault("device", environment) != environment:
        say(f"Note: {file} sets device {from_file['device']}; GPUCNN_DEVICE={environment} is not used.", err=True)
    return Settings(**{**from_file, **given}).resolved()
