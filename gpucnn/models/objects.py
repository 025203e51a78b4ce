"""``gpucnn.save`` and ``gpucnn.load``: a tensor, a state dictionary or a network in one safetensors file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpucnn import checkpoint
from gpucnn.autograd import Tensor, tensor
from gpucnn.backend import Backend
from gpucnn.disk import write_atomically
from gpucnn.errors import CheckpointError, kind_of
from gpucnn.limits import applied
from gpucnn.models import saved
from gpucnn.nn import Module

KIND = "gpucnn.kind"
TENSOR, STATE = "tensor", "state"


def save(obj: Tensor | Mapping[str, Any] | Module, path: str | os.PathLike[str]) -> None:
    """Write a tensor, a dict of tensors or arrays such as ``state_dict()``, or a network (``models.save``) to one file.

    The file is in the safetensors format, whatever its name, and written whole or not at all. CheckpointError for other
    objects and where it cannot be written; ParameterError for a network with layers of your own: save its state_dict().

    >>> import gpucnn, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     gpucnn.save({"w": gpucnn.ones(2)}, folder + "/w.safetensors")
    ...     gpucnn.load(folder + "/w.safetensors")["w"].tolist()
    [1.0, 1.0]
    """
    if isinstance(obj, Module):
        saved.save(obj, path)
        return
    single = isinstance(obj, Tensor)
    entries = {TENSOR: obj} if isinstance(obj, Tensor) else obj
    if not isinstance(entries, Mapping):
        raise CheckpointError.expected("save", "obj", "a Tensor, a dict of them or a Module", kind_of(obj))
    arrays = {}
    for name, value in entries.items():
        if not isinstance(name, str) or not hasattr(value, "shape") or not hasattr(value, "dtype"):
            raise CheckpointError.expected("save", f"entry {name!r:.40}", "a text and an array", kind_of(value))
        arrays[name] = value.numpy() if isinstance(value, Tensor) else value
    try:
        write_atomically(Path(path), checkpoint.packed(arrays, {KIND: TENSOR if single else STATE}))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror}).") from None


def load(path: str | os.PathLike[str], device: str | Backend | None = None, limits: bool = True) -> Any:
    """Return what ``save`` wrote, on a device: a Tensor, a dict of Tensors by name, or a network.

    Any safetensors file of weights alone is a dict of Tensors. No code of the file is run. CheckpointError for a file that
    is missing, damaged or of PyTorch's own format.

    >>> load("nowhere.safetensors")
    Traceback (most recent call last):
    gpucnn.errors.CheckpointError: nowhere.safetensors: no such file.
    """
    file = Path(path)
    checkpoint.refuse_pickle(file)
    with applied(limits):
        arrays, texts = checkpoint.read_packed(file)
        if saved.KEY in texts:
            return saved.restored(path, arrays, texts, device)
        tensors = {name: tensor(array, device=device) for name, array in arrays.items()}
        return tensors[TENSOR] if texts.get(KIND) == TENSOR and TENSOR in tensors else tensors
