"""``gpucnn train``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from gpucnn import data, models
from gpucnn.backend import get_backend
from gpucnn.cli.models import FROM_DATA
from gpucnn.cli.options import (
    DEVICE_HELP,
    check_device,
    complete_described,
    complete_device,
    complete_recipe,
    complete_source,
    image_size_option,
    no_limits_option,
    setting_option,
    trust_option,
)
from gpucnn.cli.processes import check_processes, run_processes
from gpucnn.cli.progress import reporter_for
from gpucnn.cli.run_report import ReportWriter
from gpucnn.cli.terminal import say
from gpucnn.cli.together import FOLDER, TellRun, one_speaks, shared_folder, speak_to_the_parents_terminal
from gpucnn.distributed import init
from gpucnn.distributed.launch import launched_processes, local_rank
from gpucnn.errors import UsageError
from gpucnn.training import (
    PRECISIONS,
    Callback,
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
from gpucnn.training.config import MOST_SHARDS
from gpucnn.training.factory import VALIDATION
from gpucnn.training.objective import LOSSES
from gpucnn.training.registry import OPTIMIZERS, SCHEDULES

OPTIMIZER_CLASSES = {name: make for name, (make, _, _) in OPTIMIZERS.items()}


def either(names: Iterable[str]) -> str:
    """Return names as a list in a sentence.

    >>> either(["a", "b", "c"])
    'a, b or c'
    """
    *others, last = names
    return f"{', '.join(others)} or {last}"


@click.command(short_help="Train a network and keep the run in a folder.")
@setting_option(
    "--model", "Network: a name that `gpucnn models` lists, or FILE.py:NAME; for example lenet:pooling=avg.",
    metavar="NAME[:OPTION=VALUE,...]", shell_complete=complete_described(models.MODELS, FROM_DATA),
)  # fmt: skip
@setting_option(
    "--data", "Data set: a name that `gpucnn data list` prints, an .npz or .csv file, or a folder.",
    metavar="SOURCE", shell_complete=complete_source,
)  # fmt: skip
@setting_option(
    "--init-from", "Start from the weights of a safetensors file, an .npz file or a run folder; if the classes differ, the "
    "last layer starts from random weights.", metavar="FILE|RUN", type=click.Path(),
)  # fmt: skip
@setting_option(
    "--freeze", "Parameters that are not trained, as patterns separated by commas: features.*, or *,!fc.* for all but fc.",
    metavar="PATTERNS",
)  # fmt: skip
@setting_option("--device", DEVICE_HELP, callback=check_device, metavar="DEVICE", shell_complete=complete_device)
@setting_option(
    "--precision", "Precision of weights and activations. tf32 is float32 with products in TF32 (GPUs from Ampere on); "
    "float16 halves the memory and computes in float32.",
    type=click.Choice(list(PRECISIONS)),
)  # fmt: skip
@setting_option("--epochs", "Passes over the training images; with --resume, the total.", type=click.IntRange(1))
@setting_option("--batch-size", "Images per step.", type=click.IntRange(1))
@setting_option(
    "--optimizer", f"Optimiser: {either(OPTIMIZERS)}; for example sgd:nesterov=true.",
    metavar="NAME[:OPTION=VALUE,...]", shell_complete=complete_described(OPTIMIZER_CLASSES, ("lr", "weight_decay")),
)  # fmt: skip
@setting_option(
    "--lr", "Learning rate; the highest one under one-cycle.",
    ", ".join(f"{name} {lr:g}" for name, (_, lr, _) in OPTIMIZERS.items()), type=click.FloatRange(0),
)  # fmt: skip
@setting_option(
    "--loss", f"Loss: {either(LOSSES)}; for example focal:gamma=2. Validation and test show the cross-entropy.",
    metavar="NAME[:OPTION=VALUE,...]", shell_complete=complete_described(LOSSES, ("weight", "label_smoothing")),
)  # fmt: skip
@setting_option(
    "--class-weights", "Weights of the classes in the loss: balanced makes rare classes count as much as frequent ones.",
    "all the same", type=click.Choice(["balanced"]),
)  # fmt: skip
@setting_option(
    "--label-smoothing",
    "Part of each label that is spread over all classes; for example 0.1.",
    type=click.FloatRange(0, 1),
)
@setting_option(
    "--clip-norm", "Scale the gradients down to this norm if theirs is larger.", "off", type=click.FloatRange(0)
)
@setting_option(
    "--ema", "Decay of an average of the weights, for example 0.999. The average is validated, tested and saved.", "off",
    type=click.FloatRange(0, 1),
)  # fmt: skip
@setting_option(
    "--early-stopping", "Stop after this many epochs without a better validation accuracy, and use the best checkpoint.",
    "off", type=click.IntRange(1), metavar="PATIENCE",
)  # fmt: skip
@setting_option(
    "--mixup", "Blend each image and label with another of its batch, in a proportion from Beta(N, N); for example 0.2.",
    "off", type=click.FloatRange(0, 1000), metavar="N",
)  # fmt: skip
@setting_option(
    "--cutmix", "Paste a box of another image into each one and mix the labels by area; for example 1. With --mixup, each "
    "batch is mixed one way or the other.",
    "off", type=click.FloatRange(0, 1000), metavar="N",
)  # fmt: skip
@setting_option(
    "--accumulate", "Cut each batch into N parts and add their gradients: less memory for the same update.",
    type=click.IntRange(1), metavar="N",
)  # fmt: skip
@setting_option(
    "--shards", "Parts of each batch, a power of two, divided among the processes. The same number gives the same bits on "
    "any number of processes that divides it. For several processes the default is their number.",
    type=click.IntRange(1, MOST_SHARDS), metavar="N",
)  # fmt: skip
@setting_option(
    "--workers", "Threads that read and augment images in advance; the results do not depend on their number.",
    "one per processor for images read from files, otherwise 0", type=click.IntRange(0, 255), metavar="N",
)  # fmt: skip
@setting_option("--momentum", "SGD momentum.", type=click.FloatRange(0, 1))
@setting_option(
    "--weight-decay", "Weight decay (L2 penalty on the weights); decoupled from the gradient in adamw.",
    ", ".join(["0", *(f"{name} {decay:g}" for name, (_, _, decay) in OPTIMIZERS.items() if decay)]),
    type=click.FloatRange(0),
)  # fmt: skip
@setting_option(
    "--schedule", f"Learning rate schedule: {either(SCHEDULES)}; for example cosine:warmup=1. Lengths are in epochs.",
    metavar="NAME[:OPTION=VALUE,...]", shell_complete=complete_described(SCHEDULES),
)  # fmt: skip
@setting_option("--seed", "Seed of initial weights, shuffling, augmentation and dropout.", type=click.IntRange(0))
@setting_option(
    "--limit", "Use only N training images, chosen by a seeded shuffle.", "all", type=click.IntRange(1), metavar="N"
)  # fmt: skip
@setting_option(
    "--validation", "Hold out N training images for validation.", f"{VALIDATION}, at most a fifth",
    type=click.IntRange(0), metavar="N",
)  # fmt: skip
@setting_option(
    "--val-split", "Hold out this fraction of the training images for validation.",
    type=click.FloatRange(0, 1, max_open=True),
)  # fmt: skip
@setting_option(
    "--augment", "Augmentation of training images: one or more of shift=2, rotate=10, scale=0.1, flip, elastic=1, "
    "cutout=8, noise=0.05, crop=4, resized_crop=0.5, colour=0.4, hue=0.1, grey=0.1, blur=1, separated by commas.",
    "none", metavar="LIST",
)  # fmt: skip
@image_size_option
@setting_option(
    "--target-accuracy", "Exit with code 3 if the final validation accuracy is lower.", type=click.FloatRange(0, 1)
)  # fmt: skip
@click.option(
    "--test-each-epoch", is_flag=True, default=None,
    help="Measure the test set after each epoch too, not only the best checkpoint at the end.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path), help="Run folder.  [default: runs/MODEL-DATA-N with the first free N]"
)  # fmt: skip
@click.option(
    "--config", type=click.Path(path_type=Path), metavar="FILE.toml", help="Read settings from a file; options override it."
)  # fmt: skip
@click.option(
    "--recipe", "recipe_name", metavar="NAME", shell_complete=complete_recipe,
    help="Use settings that come with gpucnn; options override them. Recipes: fast (MNIST to 99 %).",
)  # fmt: skip
@click.option(
    "--resume", type=click.Path(path_type=Path), metavar="RUN", help="Continue this run from its last checkpoint."
)  # fmt: skip
@click.option(
    "--processes", type=click.IntRange(1, MOST_SHARDS), metavar="N",
    help="Train in N processes, a power of two, on this machine (extra mpi). On several: `mpirun -n N gpucnn train`.",
)  # fmt: skip
@click.option(
    "--timeout", type=click.FloatRange(1), default=600, show_default=True, metavar="SECONDS",
    help="With --processes: end all processes when they have waited this long for one of them.",
)  # fmt: skip
@click.option(
    "--max-restarts", type=click.IntRange(0), default=0, show_default=True, metavar="K",
    help="With --processes: resume from the last checkpoint after a failure, at most K times.",
)  # fmt: skip
@trust_option
@click.option("--overwrite", is_flag=True, help="Replace the run in the --out folder.")
@click.option("--live", is_flag=True, help="Update the report after each epoch; an open page reloads itself.")
@click.option("--png", is_flag=True, help="Also write the report's pictures as PNG files (extra png).")
@click.option("--tensorboard", is_flag=True, help="Also write TensorBoard files, to tensorboard/ in the run folder.")
@click.option(
    "--json", "as_json", is_flag=True,
    help="Print only JSON on standard output: one object per epoch, and one for the test at the end.",
)  # fmt: skip
@no_limits_option
def command(
    out: Path | None,
    config: Path | None,
    recipe_name: str | None,
    resume: Path | None,
    processes: int | None,
    timeout: float,
    max_restarts: int,
    trust: bool,
    overwrite: bool,
    live: bool,
    png: bool,
    tensorboard: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Train a network and keep the run in a folder.

    Without options it trains LeNet on the built-in digits, in half a minute on two cores. `gpucnn models` lists the
    networks.
    """
    given = {key: value for key, value in options.items() if value is not None}
    started = FOLDER in os.environ  # by the parent below
    if started and (again := os.environ.get(f"{FOLDER}_RESUME")):
        resume, out, config, recipe_name, overwrite = Path(again), None, None, None, False
    if resume is not None and (out is not None or config is not None or recipe_name is not None or overwrite):
        raise UsageError(
            "--resume takes everything from the run folder: leave out --out, --config, --recipe and --overwrite."
        )
    if config is not None and recipe_name is not None:
        raise UsageError("--config and --recipe both give the settings: leave one out.")
    if recipe_name is not None:
        config = recipe(recipe_name)
    if overwrite and out is None:
        raise UsageError("--overwrite replaces the run in the --out folder: name it with --out.")
    file = config if resume is None else RunFolder.open(resume).path / "config.toml"
    launched = launched_processes()
    together = launched if launched > 1 else processes or 1
    settings = read_settings(file, given if resume is not None else {"shards": together} | given)
    if file is not None:
        check_trusted(settings.model, given.get("model"), str(resume or config), trust)
    check_named(settings)
    check_model(settings.model)  # report a wrong device or name before reading the data
    if together > launched:
        check_processes(settings.shards, together)
        RunFolder.open(resume) if resume else RunFolder.new(out, run_name(settings), overwrite)  # before they start
        return run_processes(together, timeout, max_restarts)
    if launched > 1 and get_backend(settings.device).kind == "cuda" and ":" not in settings.device:
        settings = replace(settings, device=f"cuda:{local_rank()}")  # a GPU for each process of a machine
    with one_speaks(init(get_backend(settings.device).kind)) as (comm, status):
        if comm.rank == 0:
            speak_to_the_parents_terminal()
        check_precision(settings, get_backend(settings.device))
        folder = shared_folder(
            comm, lambda: RunFolder.open(resume) if resume else RunFolder.new(out, run_name(settings), overwrite)
        )
        say(f"Reading {settings.data} ...", as_json)
        reporters: list[Callback] = []
        if comm.rank == 0:
            extra = [TensorBoard()] if tensorboard else []
            reporters = [TellRun(status), reporter_for(as_json), *extra, ReportWriter(live, quiet=as_json, png=png)]
        splits = data.load(settings.data, settings.image_size)
        trainer = Trainer(settings, splits, folder, Reporters(*reporters), comm)
        if resume is not None:
            trainer.resume()
        trainer.train()
    last = trainer.history[-1]
    if settings.target_accuracy is not None and last["val_accuracy"] < settings.target_accuracy:
        message = (
            f"Target missed: validation accuracy {last['val_accuracy']:.4f}, wanted {settings.target_accuracy:.4f}."
        )
        status.tell(ended=3)
        if comm.rank == 0:
            say(message, err=True)
        return 3 if comm.rank == 0 else 0
    return 0


def read_settings(file: Path | None, given: dict[str, Any]) -> Settings:
    """Return the settings: options win over the file, and the file over GPUCNN_DEVICE, with a note.

    Without a model, a run to begin from says which.
    """
    from_file = read_toml(file) if file is not None else {}
    for key, other in (("validation", "val_split"), ("val_split", "validation")):
        if key in given:
            from_file.pop(other, None)
    environment = os.environ.get("GPUCNN_DEVICE")
    if environment and "device" not in given and from_file.setdefault("device", environment) != environment:
        say(f"Note: {file} sets device {from_file['device']}; GPUCNN_DEVICE={environment} is not used.", err=True)
    settings = {**from_file, **given}
    source = settings.get("init_from")
    if source is not None and "model" not in settings and os.path.isdir(source):
        begun = read_toml(RunFolder.open(source).path / "config.toml")
        settings["model"] = begun.get("model", Settings.model)
        check_trusted(settings["model"], None, source)
    return Settings(**settings).resolved()
