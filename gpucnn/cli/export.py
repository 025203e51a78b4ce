"""``gpucnn export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from gpucnn.cli.options import checkpoint_option, model_option, no_limits_option, note_on_floats, trust_option
from gpucnn.cli.terminal import say, say_json
from gpucnn.errors import ParameterError, UsageError
from gpucnn.training import RunFolder, SavedModel

FROM_ENVIRONMENT = ("date", "seed", "command", "commit")
"""What of ``environment.json`` the file tells about the training."""


def read_batch(context: click.Context, option: click.Parameter, value: str) -> int | str:
    """Return "dynamic", or a positive int; BadParameter for anything else."""
    if value == "dynamic":
        return value
    if not value.isascii() or not value.isdigit() or not 1 <= int(value[:9]) <= 2**16:
        raise click.BadParameter(f"expected dynamic, or a number of images from 1 to {2**16}, got {value!r}.")
    return int(value)


@click.command(short_help="Write a trained network to an ONNX file.")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("file", metavar="MODEL.onnx", type=click.Path(path_type=Path))
@click.option("--opset", type=int, help="Operator set of the file, from 13 on.  [default: the newest]")
@click.option(
    "--batch", default="dynamic", show_default=True, callback=read_batch, metavar="dynamic|N",
    help="Number of images that the file takes at once: any, or N.",
)  # fmt: skip
@click.option(
    "--raw", is_flag=True,
    help="Leave out preprocessing and softmax: the file takes normalised floats and gives the network's own outputs.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@checkpoint_option
@model_option
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: file, opset, nodes, bytes, difference.")
@no_limits_option
def command(
    run: Path,
    file: Path,
    opset: int | None,
    batch: int | str,
    raw: bool,
    overwrite: bool,
    checkpoint: str | None,
    model: str | None,
    trust: bool,
    as_json: bool,
) -> None:
    """Write the network in folder RUN to an ONNX file, which onnxruntime and many other programs run.

    The file takes uint8 images (N, C, H, W) and gives a probability for each class: normalisation and softmax are part of
    it. Class names, the data set and the origin of the run are in its metadata. The file is checked and, if onnxruntime is
    installed, run: the largest difference from gpucnn's own probabilities is printed.
    """
    from gpucnn.onnx import Preprocessing, export

    if file.exists() and not overwrite:
        raise UsageError.expected("export", "MODEL.onnx", "a new file", str(file), "pass --overwrite to replace it")
    folder = RunFolder.open(run)
    saved = SavedModel.load(folder, "cpu", checkpoint, model, trust)
    note_on_floats(saved)
    how = Preprocessing(saved.normalisation.mean, saved.normalisation.std, saved.framing)
    about = {**provenance(folder), "run": folder.path.name, "data": saved.data}
    if raw:
        about["preprocessing"] = json.dumps(vars(how))
    try:
        done = export(
            saved.net, file, saved.image_shape, opset=opset, batch=batch, preprocessing=None if raw else how,
            probabilities=not raw, class_names=saved.class_names, metadata=about, overwrite=overwrite,
        )  # fmt: skip
    except ParameterError as error:
        if error.argument == "opset":
            raise UsageError(str(error).replace("export: opset", "--opset")) from None
        raise
    if as_json:
        say_json(
            {
                "file": str(file),
                "opset": done.opset,
                "nodes": done.nodes,
                "bytes": done.size,
                "difference": done.difference,
            }
        )
        return
    say(f"{file}: {done.nodes} nodes, operator set {done.opset}, {done.size:,} bytes")
    if done.difference is None:
        say("Checked by onnx. onnxruntime is not installed, so nothing was compared: pip install onnxruntime.")
    else:
        what = "outputs" if raw else "probabilities"
        say(f"Checked by onnx, and by onnxruntime: its {what} differ from gpucnn's by at most {done.difference:.1e}.")


def provenance(folder: RunFolder) -> dict[str, str]:
    """Return what the run's ``environment.json`` tells about the training; nothing where it is missing or damaged."""
    try:
        about: Any = json.loads((folder.path / "environment.json").read_text(encoding="utf-8"))
        found = {key: about[key] for key in FROM_ENVIRONMENT if key in about}
        found["data_sha256"] = about["data"]["sha256"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}
    return {key: str(value)[:1000] for key, value in found.items()}
