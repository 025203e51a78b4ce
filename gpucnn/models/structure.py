"""The structure of a network as plain data (JSON), and the network of such data.

{"layer": "Conv2d", "arguments": {"in_channels": 1, ...}, "name": ..., "children": [[name, {...}], ...]}; the last two where
there are any. Class names come from the fixed table here and are looked up nowhere else: data that someone else made cannot
run code, and is refused where it asks for more memory, layers or depth than a sensible network has. Values of parameters
are the state dictionary's affair.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gpucnn import nn
from gpucnn.backend import get_backend
from gpucnn.checks import is_count
from gpucnn.errors import GpucnnError, ParameterError
from gpucnn.limits import check, on
from gpucnn.nn.layers import Weighted

DEEPEST = 50
MOST_LAYERS = 10_000
MOST_PARAMETERS = 2**28
MOST_ALONE = 2**26
"""Parameters that a structure may ask for without its weights: 256 MiB of float32."""
SPARE_PARAMETERS = 2**20
"""Parameters that are made beyond those that a file holds: what is wrong is better told when they are loaded."""
LARGEST = 2**31
DTYPES = ("float16", "float32", "float64")


@dataclass(frozen=True)
class Kind:
    """What the value of an argument may be."""

    words: str
    fits: Callable[[Any], bool]


def _shown(value: Any) -> str:
    """Return the beginning of ``repr(value)``, whatever it is."""
    try:
        return repr(value)[:80]
    except (ValueError, RecursionError):  # an int of thousands of digits, lists in lists in lists
        return type(value).__name__


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return value in ("inf", "-inf")
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST


def _is_length(value: Any) -> bool:
    return is_count(value, 0, LARGEST)


def _are_lengths(value: Any) -> bool:
    if isinstance(value, list):
        return 1 <= len(value) <= 4 and all(n is None or _is_length(n) for n in value)
    return value is None or _is_length(value)


FLAG = Kind("true or false", lambda value: isinstance(value, bool))
NUMBER = Kind("a number", _is_number)
COUNT = Kind(f"a whole number from 1 to {LARGEST}", lambda value: _is_length(value) and value > 0)
CHANNELS = Kind(f"null or {COUNT.words}", lambda value: value is None or COUNT.fits(value))
LENGTHS = Kind(f"null, or one to four whole numbers from 0 to {LARGEST}", _are_lengths)
AXIS = Kind("a whole number from -32 to 31", lambda value: is_count(value, -32) and value < 32)
WORD = Kind("a word", lambda value: isinstance(value, str) and len(value) <= 40)
PADDING = Kind(f"a word, {LENGTHS.words}", lambda value: WORD.fits(value) or _are_lengths(value))
BIAS = Kind("true, false or 'position'", lambda value: isinstance(value, bool) or value == "position")
DTYPE = Kind(", ".join(DTYPES), lambda value: isinstance(value, str) and value in DTYPES)

_CONV = {"in_channels": CHANNELS, "out_channels": COUNT, "kernel_size": LENGTHS, "stride": LENGTHS, "padding": PADDING,
         "dilation": LENGTHS, "groups": COUNT, "bias": FLAG, "dtype": DTYPE}  # fmt: skip
_POOL = {"kernel_size": LENGTHS, "stride": LENGTHS, "padding": PADDING}
_BATCH_NORM = {"num_features": COUNT, "eps": NUMBER, "momentum": NUMBER, "affine": FLAG, "track_running_stats": FLAG,
               "dtype": DTYPE}  # fmt: skip

LAYERS: dict[str, tuple[type[nn.Module], dict[str, Kind]]] = {
    kind.__name__: (kind, arguments)
    for kind, arguments in (
        (nn.Conv2d, {**_CONV, "bias": BIAS, "padding_mode": WORD, "exact": FLAG, "image_size": LENGTHS,
                     "implementation": WORD}),
        (nn.Conv1d, _CONV),
        (nn.ConvTranspose2d, {**_CONV, "output_padding": LENGTHS}),
        (nn.Linear, {"in_features": CHANNELS, "out_features": COUNT, "bias": FLAG, "dtype": DTYPE}),
        (nn.MaxPool2d, {**_POOL, "dilation": LENGTHS, "ceil_mode": FLAG}),
        (nn.AvgPool2d, {**_POOL, "dilation": LENGTHS, "ceil_mode": FLAG, "count_include_pad": FLAG,
                        "divisor_override": CHANNELS}),
        (nn.LPPool2d, {**_POOL, "norm_type": NUMBER, "dilation": LENGTHS, "ceil_mode": FLAG}),
        (nn.CentrePool2d, {**_POOL, "dilation": LENGTHS, "ceil_mode": FLAG}),
        (nn.MaxUnpool2d, _POOL),
        (nn.AdaptiveAvgPool2d, {"output_size": LENGTHS}),
        (nn.AdaptiveMaxPool2d, {"output_size": LENGTHS}),
        (nn.GlobalAvgPool2d, {}),
        (nn.GlobalMaxPool2d, {}),
        (nn.BatchNorm1d, _BATCH_NORM),
        (nn.BatchNorm2d, _BATCH_NORM),
        (nn.LayerNorm, {"normalized_shape": LENGTHS, "eps": NUMBER, "elementwise_affine": FLAG, "dtype": DTYPE}),
        (nn.GroupNorm,
         {"num_groups": COUNT, "num_channels": COUNT, "eps": NUMBER, "affine": FLAG, "dtype": DTYPE}),
        (nn.Dropout, {"p": NUMBER}), (nn.Dropout2d, {"p": NUMBER}),
        (nn.Flatten, {"start_dim": AXIS, "end_dim": AXIS}),
        (nn.ReLU, {}), (nn.Sigmoid, {}), (nn.Tanh, {}), (nn.Identity, {}),
        (nn.Softmax, {"dim": AXIS}), (nn.LogSoftmax, {"dim": AXIS}),
        (nn.LeakyReLU, {"negative_slope": NUMBER}), (nn.ELU, {"alpha": NUMBER}), (nn.SELU, {}),
        (nn.GELU, {"approximate": WORD}), (nn.SiLU, {}), (nn.Softplus, {"beta": NUMBER, "threshold": NUMBER}),
        (nn.Hardsigmoid, {}), (nn.Affine, {"slope": NUMBER, "intercept": NUMBER}), (nn.Exponential, {}),
        (nn.Sequential, {}), (nn.ConvBlock, {}), (nn.Parallel, {}), (nn.Concat, {"axis": AXIS}),
        (nn.Residual, {}), (nn.DepthwiseSeparableConv2d, {}),
    )
}  # fmt: skip
"""Every layer that can be described, with the arguments that make it another one like it."""

INSIDE: dict[str, tuple[tuple[str, ...], ...]] = {
    "Residual": (("block",), ("block", "shortcut")),
    "DepthwiseSeparableConv2d": (("depthwise", "pointwise"),),
    "ConvBlock": (("conv", "activation"), ("conv", "activation", "pool")),
}
"""The names of the layers inside those that have certain ones."""
FREE = ("Sequential", "Parallel", "Concat")
SIZES = ("in_channels", "out_channels", "kernel_size", "in_features", "out_features", "num_features", "num_channels",
         "normalized_shape")  # fmt: skip


# --- from a network ------------------------------------------------------------------------------------------------


def describe(model: nn.Module) -> dict[str, Any]:
    """Return the structure of ``model`` as dicts, lists, numbers and texts that ``json.dumps`` takes.

    Values of parameters, hooks, modes, devices and a dropout's own generator are no part of it. Raises ParameterError that
    names the layer: for one outside the table (a Lambda, a class of your own), and for parameters that two layers share.

    >>> describe(nn.Sequential(nn.ReLU(), nn.Flatten()))["children"][0]
    ['0', {'layer': 'ReLU', 'arguments': {}}]
    """
    if not isinstance(model, nn.Module):
        raise ParameterError.expected("describe", "model", "a Module", type(model).__name__)
    return _describe(model, "", {}, 0)


def _describe(layer: nn.Module, path: str, owners: dict[int, str], depth: int) -> dict[str, Any]:
    kind, place = type(layer).__name__, f"layer {path}" if path else "model"
    if LAYERS.get(kind, (None,))[0] is not type(layer):
        remedy = "save such a network by its class, and rebuild it with FILE.py:NAME"
        raise ParameterError.expected("describe", place, "a layer of gpucnn.nn's table", f"{layer!r:.80}", remedy)
    if depth > DEEPEST:
        raise ParameterError.expected("describe", place, f"layers at most {DEEPEST} deep", "a deeper one")
    children = dict(layer._modules)
    _check_inside(kind, tuple(children), "describe", place)
    for parameter in layer._parameters.values():
        if (owner := owners.setdefault(id(parameter), path)) != path:
            raise ParameterError.expected("describe", place, "parameters of its own", f"those of layer {owner}")
    arguments = {}
    for argument, wanted in LAYERS[kind][1].items():
        value = _plain(_argument(layer, argument))
        if not wanted.fits(value):
            raise ParameterError.expected("describe", f"{place}: {argument}", wanted.words, _shown(value))
        arguments[argument] = value
    found: dict[str, Any] = {"layer": kind, "arguments": arguments}
    if layer.name is not None:
        found["name"] = _checked_name(layer.name, "describe", place)
    if children:
        prefix = f"{path}." if path else ""
        found["children"] = [
            [name, _describe(child, prefix + name, owners, depth + 1)] for name, child in children.items()
        ]
    return found


def _argument(layer: Any, name: str) -> Any:
    """Return the value of a constructor's argument, from what the layer made of it."""
    if name == "dtype":
        tensors = (*layer._parameters.values(), *layer._buffers.values())
        dtype = next((tensor.dtype for tensor in tensors if tensor.dtype.kind == "f"), None)
        return str(dtype or get_backend("cpu").dtype(getattr(layer, "_dtype", None) or "float32"))
    if isinstance(layer, nn.Activation):
        return layer.options[name]
    if isinstance(layer, Weighted) and name == "bias":
        return "position" if getattr(layer, "bias_size", None) else layer._wants_bias
    if name == "image_size":
        return layer.bias_size
    if name in ("affine", "elementwise_affine"):
        return layer.weight is not None
    if name == "track_running_stats":
        return layer.running_mean is not None
    return getattr(layer, name)


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return str(float(value)) if math.isinf(value) else float(value)
    return value


# --- to a network --------------------------------------------------------------------------------------------------


def rebuild(structure: Any, weights: Mapping[str, Any] | None = None) -> nn.Module:
    """Return the network that ``describe`` described, with new random weights: ``load_state_dict`` brings back the old.

    Raises ParameterError, which names the layer, for what ``describe`` does not return: an unknown layer or argument, a
    value of the wrong kind, more than 50 levels, 10,000 layers or 2**26 parameters. Safe on data from anyone. With
    ``weights``, the arrays that will be loaded, as many parameters are allowed as they hold, and somewhat more, up to 2**28.

    >>> rebuild({"layer": "Linear", "arguments": {"in_features": 2, "out_features": 1}})
    Linear(2, 1)
    """
    if weights is None:
        return _Builder(MOST_ALONE, True).build(structure, "", 0)
    held = sum(math.prod(array.shape) for array in weights.values())
    return _Builder(min(held + SPARE_PARAMETERS, MOST_PARAMETERS), False).build(structure, "", 0)


class _Builder:
    """Builds one network, and counts what it comes to."""

    def __init__(self, most: int, may_wait: bool) -> None:
        self.layers = self.parameters = 0
        self._most, self._may_wait = most, may_wait

    def build(self, structure: Any, path: str, depth: int) -> nn.Module:
        place = f"layer {path}" if path else "model"
        if depth > DEEPEST:
            raise ParameterError.expected("rebuild", place, f"layers at most {DEEPEST} deep", "a deeper one")
        self.layers += 1
        if self.layers > MOST_LAYERS:
            raise ParameterError.expected("rebuild", place, f"at most {MOST_LAYERS} layers", "more")
        if not isinstance(structure, dict) or structure.keys() - {"layer", "arguments", "name", "children"}:
            got = _shown(list(structure)) if isinstance(structure, dict) else type(structure).__name__
            raise ParameterError.expected("rebuild", place, "a dict of layer, arguments, name, children", got)
        kind = structure.get("layer")
        if not isinstance(kind, str) or kind not in LAYERS:
            raise ParameterError.expected("rebuild", place, "the name of a layer in the table", _shown(kind))
        arguments = self._arguments(structure.get("arguments", {}), kind, place)
        if structure.get("name") is not None:
            arguments["name"] = _checked_name(structure["name"], "rebuild", place)
        children = self._children(structure.get("children", []), kind, place, path, depth)
        try:
            return _assemble(LAYERS[kind][0], children, arguments)
        except (GpucnnError, TypeError) as error:
            raise ParameterError(f"rebuild: {place}: {error}") from None

    def _arguments(self, given: Any, kind: str, place: str) -> dict[str, Any]:
        known = LAYERS[kind][1]
        if not isinstance(given, dict) or given.keys() - known.keys():
            got = _shown(list(given)) if isinstance(given, dict) else type(given).__name__
            words = f"a dict of {', '.join(known) or 'nothing'}"
            raise ParameterError.expected("rebuild", f"{place}: arguments of {kind}", words, got)
        arguments: dict[str, Any] = {}
        size = 1
        for argument, value in given.items():
            if not known[argument].fits(value):
                where = f"{place}: {argument}"
                raise ParameterError.expected("rebuild", where, known[argument].words, _shown(value))
            if argument in SIZES:
                lengths = value if isinstance(value, list) else [value] * (2 if argument == "kernel_size" else 1)
                size *= math.prod(length or 1 for length in lengths)
            arguments[argument] = tuple(value) if isinstance(value, list) else value
            if known[argument] is NUMBER and isinstance(value, str):
                arguments[argument] = float(value)
        if "dtype" in known and arguments.get("affine", True) and arguments.get("elementwise_affine", True):
            self.parameters += size // arguments.get("groups", 1) + _positions(arguments)
            if (
                not self._may_wait
                and on()
                and any(arguments.get(key, 1) is None for key in ("in_channels", "in_features"))
            ):
                raise ParameterError.expected(
                    "rebuild", place, "in_channels that are known, as its weights are", "null"
                )
        check(f"rebuild: {place}", "parameters in all, those of the file", self.parameters, self._most, ParameterError)
        return arguments

    def _children(self, given: Any, kind: str, place: str, path: str, depth: int) -> dict[str, nn.Module]:
        pairs: list[Any] = given if isinstance(given, list) else [None]
        if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
            raise ParameterError.expected("rebuild", f"{place}: children", "a list of [name, layer]", _shown(given))
        names = tuple(_checked_name(name, "rebuild", place) for name, _ in pairs)
        if len(set(names)) != len(names):
            raise ParameterError.expected("rebuild", f"{place}: children", "each name once", _shown(names))
        _check_inside(kind, names, "rebuild", place)
        prefix = f"{path}." if path else ""
        return {
            name: self.build(inner, prefix + name, depth + 1) for name, (_, inner) in zip(names, pairs, strict=True)
        }


def _positions(arguments: dict[str, Any]) -> int:
    """Return at least how many numbers a bias per position has: no side of the output is longer than image and border."""
    if arguments.get("bias") != "position":
        return 0
    words = [arguments.get(key) or 0 for key in ("image_size", "kernel_size", "dilation", "padding")]
    image, kernel, dilation, border = (max(n or 0 for n in w) if isinstance(w, tuple) else w for w in words)
    border = (kernel or 1) * (dilation or 1) if isinstance(border, str) else border
    return int(arguments.get("out_channels", 1) * (image + 2 * border) ** 2)


def _checked_name(name: Any, where: str, place: str) -> str:
    """Return the name of a layer; ParameterError for one that is an attribute of layers, or no sensible text."""
    if not isinstance(name, str) or not 0 < len(name) <= 100 or "." in name or hasattr(nn.Sequential(), name):
        raise ParameterError.expected(where, f"{place}: name", "an unused name without dots", _shown(name))
    return name


def _check_inside(kind: str, names: tuple[str, ...], where: str, place: str) -> None:
    """ParameterError unless a layer of this kind may hold layers of these names."""
    allowed = INSIDE.get(kind, ((),))
    if kind not in FREE and names not in allowed:
        words = " or ".join(", ".join(some) or "none" for some in allowed)
        raise ParameterError.expected(
            where, f"{place}: layers inside {kind}", words, f"{', '.join(names) or 'none':.80}"
        )


def _assemble(kind: type[Any], children: dict[str, nn.Module], arguments: dict[str, Any]) -> nn.Module:
    """Return a layer of this class with these layers inside, under these names."""
    if not children or kind is nn.Sequential:
        layer: nn.Module = kind(children, **arguments) if kind is nn.Sequential else kind(**arguments)
    elif kind is nn.Residual:
        layer = kind(**children, **arguments)
    elif kind is nn.Concat or kind is nn.Parallel:
        layer = kind(*children.values(), **arguments)
    else:  # ConvBlock and DepthwiseSeparableConv2d make their layers themselves: here they get those that were described
        layer = object.__new__(kind)
        nn.Module.__init__(layer, **arguments)
        for name, child in children.items():
            layer.add_module(name, child)
    if tuple(layer._modules) != tuple(children):
        raise ParameterError.expected(
            kind.__name__, "children", "names that are the layers' own, or their places", f"{tuple(children)!r:.80}"
        )
    return layer
