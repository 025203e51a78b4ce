"""A network in one safetensors file: its weights, and the structure from which it is rebuilt."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from gpucnn.backend import Backend, use
from gpucnn.checkpoint import packed, read_packed
from gpucnn.disk import write_atomically
from gpucnn.errors import CheckpointError, GpucnnError, shortened
from gpucnn.limits import applied
from gpucnn.models.structure import describe, rebuild
from gpucnn.nn import Module

KEY = "gpucnn.structure"


def save(net: Module, path: str | os.PathLike[str]) -> None:
    """Write weights and structure of ``net`` to one file, atomically. Any safetensors reader can read the weights.

    Raises ParameterError if a layer cannot be described (see ``describe``), CheckpointError if the file cannot be written.

    >>> import tempfile
    >>> from gpucnn import nn
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), folder + "/net.safetensors")
    ...     load(folder + "/net.safetensors")
    Sequential(
      (0): Linear(2, 3)
      (1): ReLU()
    )
    """
    write(net, path, {KEY: json.dumps(describe(net))})


def write(net: Module, path: str | os.PathLike[str], texts: dict[str, str]) -> None:
    """Write the weights of ``net`` and named strings to one file; CheckpointError if it cannot be written."""
    try:
        write_atomically(Path(path), packed(net.state_dict(), texts))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror}).") from None


def load(path: str | os.PathLike[str], device: str | Backend | None = None, limits: bool = True) -> Module:
    """Return the network that ``save`` wrote, on a device, in training mode like any new network.

    No code from the file is run: layers come from a fixed table. Unless ``limits`` is False, they may have only slightly
    more parameters than the file has. CheckpointError if the file is missing, damaged, or has weights without a structure.

    >>> load("nowhere.safetensors")
    Traceback (most recent call last):
    gpucnn.errors.CheckpointError: nowhere.safetensors: no such file.
    """
    with applied(limits):
        weights, texts = read_packed(Path(path))
        return restored(path, weights, texts, device)


def restored(
    path: str | os.PathLike[str], weights: dict[str, Any], texts: dict[str, str], device: str | Backend | None
) -> Module:
    """Return the network of a file's weights and strings; CheckpointError if they do not describe a network."""
    if KEY not in texts:
        cure = "build the network yourself and use load_state_dict"
        raise CheckpointError.expected(str(path), "metadata", f"a structure ({KEY})", "weights alone", cure)
    try:
        structure = json.loads(texts[KEY])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the structure is not valid JSON ({shortened(error)}).") from None
    try:
        if device is None:
            net = rebuild(structure, weights)
        else:
            with use(device):
                net = rebuild(structure, weights)
        net.load_state_dict(weights)
    except GpucnnError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return net
