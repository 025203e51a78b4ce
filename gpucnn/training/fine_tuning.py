"""Fine-tuning: initial weights from a file or a run, a new last layer if the classes differ, and frozen parameters."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from gpucnn import nn
from gpucnn.checkpoint import read_packed, refuse_pickle
from gpucnn.data.files import read_arrays
from gpucnn.errors import CheckpointError, DataError, GpucnnError, UsageError, did_you_mean, shortened
from gpucnn.nn.layer import Weighted
from gpucnn.training.run_folder import RunFolder

PREFIX = "module."
"""What PyTorch's DataParallel puts before every name."""


def read_weights(source: str) -> dict[str, Any]:
    """Return the arrays of a state dictionary by name: of a safetensors file, an .npz, or a run folder's checkpoint.

    CheckpointError or UsageError for anything else. No code of the file is run.
    """
    path = Path(source)
    if path.is_dir():
        folder = RunFolder.open(path)
        return folder.load(folder.default_checkpoint()).model
    kind = path.suffix.lower()
    if not path.exists():
        raise UsageError.expected("init_from", source, "a file or a run folder", "none there", "check the path")
    refuse_pickle(path)
    if kind == ".onnx":
        remedy = "train its network in Python: Classifier(model=gpucnn.onnx.load(FILE))"
        raise CheckpointError.expected(source, "content", "a state dictionary", "an ONNX file", remedy)
    if kind == ".npz":
        try:
            return read_arrays(path)
        except DataError as error:
            raise CheckpointError(str(error)) from None
    return read_packed(path)[0]


def start_from(source: str, net: nn.Module) -> None:
    """Give ``net`` the weights of a file or run; if the classes differ, its last layer stays as it is, with a note.

    CheckpointError, without any change, if anything else does not fit, or a weight is not finite.
    """
    weights = read_weights(source)
    if weights and all(name.startswith(PREFIX) for name in weights):
        weights = {name.removeprefix(PREFIX): array for name, array in weights.items()}
    own = {name: tuple(tensor.shape) for name, tensor in net._named_state()}
    head = head_of(net)
    new = _replaced(weights, own, head)
    optional = net._optional_state()
    missing = [name for name in own if name not in weights and name not in optional and name not in new]
    unknown = [name for name in weights if name not in own and name not in new]
    if missing or unknown:
        short = [shortened(", ".join(names), 120) or "none" for names in (unknown, missing)]
        got = f"{short[0]} too many, {short[1]} missing"
        raise CheckpointError.expected(source, "weights", "those of the network", got, "choose it with --model")
    fitting = {name: array for name, array in weights.items() if name not in new}
    for name, array in fitting.items():
        if np.asarray(array).dtype.kind == "f" and not np.isfinite(array).all():
            raise CheckpointError.expected(source, shortened(name, 60), "finite numbers", "others")
    try:
        net.load_state_dict(fitting, strict=False)
    except GpucnnError as error:
        raise CheckpointError(f"{source}: {error}") from None
    if new:
        before = len(weights[new[0]]) if new[0] in weights else "no"
        warnings.warn(
            f"{source}: {before} classes, here {own[new[0]][0]}: the last layer, {head}, is new", stacklevel=2
        )


def head_of(net: nn.Module) -> str:
    """Return the name of the last layer with weights.

    >>> head_of(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)))
    '2'
    """
    return [name for name, layer in net.named_modules() if isinstance(layer, Weighted)][-1]


def _replaced(weights: Mapping[str, Any], own: Mapping[str, tuple[int, ...]], head: str) -> list[str]:
    """Return the names of the head's parameters where they stay new: there are none in the file, or of other classes."""
    names = [name for name in own if name.rpartition(".")[0] == head]
    given = [name for name in names if name in weights]
    if not given:
        return names
    shapes = {name: tuple(np.shape(weights[name])) for name in given}
    others = all(shape[1:] == own[name][1:] and shape[:1] != own[name][:1] for name, shape in shapes.items())
    return names if others else []


def freeze(net: nn.Module, patterns: str) -> list[nn.Module]:
    """Freeze the parameters whose names match; return the layers that are then frozen entirely.

    patterns: names with ``*`` and ``?``, separated by commas. A pattern beginning with ``!`` unfreezes what it matches; the
    last match decides: ``*,!fc.*`` freezes all but ``fc``. UsageError if a pattern matches nothing, or all are frozen.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> freeze(net, "0.*"), [p.requires_grad for p in net.parameters()]
    ([Linear(2, 3)], [False, False, True, True])
    """
    parameters = dict(net.named_parameters())
    frozen: set[str] = set()
    for pattern in patterns.split(","):
        wanted = pattern.strip().removeprefix("!")
        found = {name for name in parameters if fnmatchcase(name, wanted)}
        if not found:
            remedy = did_you_mean(wanted, parameters) or f"the parameters are {shortened(', '.join(parameters), 120)}"
            raise UsageError.expected("freeze", "pattern", "one that matches a parameter", repr(wanted), remedy)
        frozen = frozen - found if pattern.strip().startswith("!") else frozen | found
    if len(frozen) == len(parameters):
        raise UsageError.expected(
            "freeze", "patterns", "a parameter that is left to train", f"{patterns!r}, all of them"
        )
    for name in frozen:
        parameters[name].requires_grad_(False)
    whole = [layer for layer in net.modules() if _is_frozen(layer)]
    inside = {id(child) for layer in whole for child in layer.modules() if child is not layer}
    return [layer for layer in whole if id(layer) not in inside]


def _is_frozen(layer: nn.Module) -> bool:
    states = [parameter.requires_grad for parameter in layer.parameters()]
    return bool(states) and not any(states)


def prepare(net: nn.Module, init_from: str | None, patterns: str | None) -> list[nn.Module]:
    """Give ``net`` its initial weights and freeze what the settings name; return the layers that are frozen entirely.

    A loop keeps those in evaluation mode, so their batch norms keep their statistics.
    """
    if init_from is not None:
        start_from(init_from, net)
    return [] if patterns is None else freeze(net, patterns)


def trainable(net: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters that are not frozen, with their names.

    >>> [name for name, _ in trainable(nn.Linear(2, 1))]
    ['weight', 'bias']
    """
    return [(name, parameter) for name, parameter in net.named_parameters() if parameter.requires_grad]
