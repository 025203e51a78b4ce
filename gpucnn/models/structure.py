"""The structure of a network as plain data (JSON), and networks rebuilt from such data.

{"layer": "Conv2d", "arguments": {"in_channels": 1, ...}, "name": ..., "children": [[name, {...}], ...]}; "name" and
"children" are optional. Layers are looked up only among the classes of ``gpucnn.nn``. The allowed values of their arguments
come from the constructors' type hints, and the constructors check them. Data from elsewhere cannot run code, and is refused
if it asks for more memory, layers or depth than a sensible network has. The values of parameters are in the state
dictionary instead.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any

from gpucnn import nn
from gpucnn.checks import is_count, shown
from gpucnn.errors import GpucnnError, ParameterError
from gpucnn.limits import on
from gpucnn.nn.layer import arguments_of, at_most_parameters

DEEPEST = 50
MOST_LAYERS = 10_000
MOST_PARAMETERS = 2**28
MOST_ALONE = 2**26
"""The most parameters of a structure without weights: 256 MiB of float32."""
SPARE_PARAMETERS = 2**20
"""Parameters allowed beyond those in the file: loading the weights then reports the mismatch better."""
LARGEST = 2**31
DTYPES = ("float16", "float32", "float64")


@cache
def layer_classes() -> dict[str, type[nn.Layer]]:
    """Return every layer that can be described, by name: those of ``gpucnn.nn`` except its base classes.

    >>> "Conv2d" in layer_classes(), "Lambda" in layer_classes()
    (True, False)
    """
    found = {name: getattr(nn, name) for name in nn.__all__}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, type) and issubclass(value, nn.Layer) and value not in (nn.Layer, nn.Activation)
    }


@dataclass(frozen=True)
class Kind:
    """The allowed values of an argument."""

    words: str
    fits: Callable[[Any], bool]
    reads_infinity: bool = False


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return value in ("inf", "-inf")
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST


def _is_whole(value: Any) -> bool:
    return is_count(value, -LARGEST, LARGEST)


def _are_lengths(value: Any) -> bool:
    return isinstance(value, list) and 1 <= len(value) <= 4 and all(n is None or is_count(n, 0, LARGEST) for n in value)


KINDS: dict[Any, Kind] = {
    NoneType: Kind("null", lambda value: value is None),
    bool: Kind("true or false", lambda value: isinstance(value, bool)),
    int: Kind(f"a whole number up to {LARGEST}", _is_whole),
    float: Kind("a number", _is_number, True),
    str: Kind("a word", lambda value: isinstance(value, str) and len(value) <= 40),
    tuple: Kind(f"one to four whole numbers from 0 to {LARGEST}", _are_lengths),
}
"""The values allowed by each type hint. A list counts as a tuple."""
DTYPE = Kind(", ".join(DTYPES), lambda value: isinstance(value, str) and value in DTYPES)


def _kind_of_hint(hint: Any) -> Kind:
    """Return the values that a type hint allows."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, UnionType):
        hints = sorted(typing.get_args(hint), key=lambda one: one is not NoneType)  # so that messages name null first
        kinds = {kind.words: kind for kind in map(_kind_of_hint, hints)}
        return Kind(
            " or ".join(kinds),
            lambda value: any(kind.fits(value) for kind in kinds.values()),
            any(kind.reads_infinity for kind in kinds.values()),
        )
    return KINDS[tuple if origin in (tuple, list) else hint]


@cache
def argument_kinds(name: str) -> dict[str, Kind]:
    """Return the arguments of a layer with their allowed values, from its constructor's type hints."""
    kind = layer_classes()[name]
    hints = typing.get_type_hints(kind.__init__)
    kinds = {
        argument: DTYPE if argument == "dtype" else _kind_of_hint(hints[argument]) for argument in arguments_of(kind)
    }
    return {} if issubclass(kind, (nn.ConvBlock, nn.DepthwiseSeparableConv2d)) else kinds


# --- network to data ------------------------------------------------------------------------------------------------


def describe(model: nn.Module) -> dict[str, Any]:
    """Return the structure of ``model`` as dicts, lists, numbers and strings for ``json.dumps``.

    It does not include values of parameters, hooks, modes, devices or the generator of a dropout. Raises ParameterError,
    which names the layer, for a layer outside the table (a Lambda, your own class) or parameters that two layers share.

    >>> describe(nn.Sequential(nn.ReLU(), nn.Flatten()))["children"][0]
    ['0', {'layer': 'ReLU', 'arguments': {}}]
    """
    if not isinstance(model, nn.Module):
        raise ParameterError.expected("describe", "model", "a Module", type(model).__name__)
    return _describe(model, "", {}, 0)


def _describe(layer: nn.Module, path: str, owners: dict[int, str], depth: int) -> dict[str, Any]:
    kind, place = type(layer).__name__, f"layer {path}" if path else "model"
    if not isinstance(layer, nn.Layer) or layer_classes().get(kind) is not type(layer):
        remedy = "save such a network by its class, and rebuild it with FILE.py:NAME"
        raise ParameterError.expected("describe", place, "a layer of gpucnn.nn", f"{layer!r:.80}", remedy)
    if depth > DEEPEST:
        raise ParameterError.expected("describe", place, f"layers at most {DEEPEST} deep", "a deeper one")
    children = dict(layer._modules)
    _check_inside(kind, tuple(children), "describe", place)
    for parameter in layer._parameters.values():
        if (owner := owners.setdefault(id(parameter), path)) != path:
            raise ParameterError.expected("describe", place, "parameters of its own", f"those of layer {owner}")
    arguments = {}
    for argument, wanted in argument_kinds(kind).items():
        value = _plain(layer.argument(argument))
        if not wanted.fits(value):
            raise ParameterError.expected("describe", f"{place}: {argument}", wanted.words, shown(value))
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


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return str(float(value)) if math.isinf(value) else float(value)
    return value


# --- data to network --------------------------------------------------------------------------------------------------


def rebuild(structure: Any, weights: Mapping[str, Any] | None = None) -> nn.Module:
    """Return the network that ``describe`` described, with new random weights. ``load_state_dict`` restores the old ones.

    Raises ParameterError, which names the layer, for an unknown layer or argument, a value of the wrong kind, more than 50
    levels, 10,000 layers or 2**26 parameters. Safe for untrusted data. ``weights``: the arrays to be loaded. Then slightly
    more parameters than they have are allowed, up to 2**28.

    >>> rebuild({"layer": "Linear", "arguments": {"in_features": 2, "out_features": 1}})
    Linear(2, 1)
    """
    most = MOST_ALONE
    if weights is not None:
        most = min(sum(math.prod(array.shape) for array in weights.values()) + SPARE_PARAMETERS, MOST_PARAMETERS)
    with at_most_parameters(most):
        return _Builder(may_wait=weights is None).build(structure, "", 0)


class _Builder:
    """Builds one network and counts its layers."""

    def __init__(self, may_wait: bool) -> None:
        self.layers = 0
        self._may_wait = may_wait

    def build(self, structure: Any, path: str, depth: int) -> nn.Module:
        place = f"layer {path}" if path else "model"
        if depth > DEEPEST:
            raise ParameterError.expected("rebuild", place, f"layers at most {DEEPEST} deep", "a deeper one")
        self.layers += 1
        if self.layers > MOST_LAYERS:
            raise ParameterError.expected("rebuild", place, f"at most {MOST_LAYERS} layers", "more")
        if not isinstance(structure, dict) or structure.keys() - {"layer", "arguments", "name", "children"}:
            got = shown(list(structure)) if isinstance(structure, dict) else type(structure).__name__
            raise ParameterError.expected("rebuild", place, "a dict of layer, arguments, name, children", got)
        kind = structure.get("layer")
        if not isinstance(kind, str) or kind not in layer_classes():
            raise ParameterError.expected("rebuild", place, "the name of a layer in the table", shown(kind))
        arguments = self._arguments(structure.get("arguments", {}), kind, place)
        if structure.get("name") is not None:
            arguments["name"] = _checked_name(structure["name"], "rebuild", place)
        children = self._children(structure.get("children", []), place, path, depth)
        _check_inside(kind, tuple(children), "rebuild", place)
        try:
            return layer_classes()[kind].assembled(children, arguments)
        except (GpucnnError, TypeError) as error:
            raise ParameterError(f"rebuild: {place}: {error}") from None

    def _arguments(self, given: Any, kind: str, place: str) -> dict[str, Any]:
        known = argument_kinds(kind)
        if not isinstance(given, dict) or given.keys() - known.keys():
            got = shown(list(given)) if isinstance(given, dict) else type(given).__name__
            words = f"a dict of {', '.join(known) or 'nothing'}"
            raise ParameterError.expected("rebuild", f"{place}: arguments of {kind}", words, got)
        arguments: dict[str, Any] = {}
        for argument, value in given.items():
            if not known[argument].fits(value):
                where = f"{place}: {argument}"
                raise ParameterError.expected("rebuild", where, known[argument].words, shown(value))
            arguments[argument] = tuple(value) if isinstance(value, list) else value
            if known[argument].reads_infinity and isinstance(value, str):
                arguments[argument] = float(value)
            if value is None and argument in ("in_channels", "in_features") and not self._may_wait and on():
                words = "in_channels that are known, as its weights are"
                raise ParameterError.expected("rebuild", place, words, "null")
        return arguments

    def _children(self, given: Any, place: str, path: str, depth: int) -> dict[str, nn.Module]:
        pairs: list[Any] = given if isinstance(given, list) else [None]
        if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
            raise ParameterError.expected("rebuild", f"{place}: children", "a list of [name, layer]", shown(given))
        names = tuple(_checked_name(name, "rebuild", place) for name, _ in pairs)
        if len(set(names)) != len(names):
            raise ParameterError.expected("rebuild", f"{place}: children", "each name once", shown(names))
        prefix = f"{path}." if path else ""
        return {
            name: self.build(inner, prefix + name, depth + 1) for name, (_, inner) in zip(names, pairs, strict=True)
        }


def _checked_name(name: Any, where: str, place: str) -> str:
    """Return the name of a layer; ParameterError if it is an attribute of layers or not a valid string."""
    if not isinstance(name, str) or not 0 < len(name) <= 100 or "." in name or hasattr(nn.Sequential(), name):
        raise ParameterError.expected(where, f"{place}: name", "an unused name without dots", shown(name))
    return name


def _check_inside(kind: str, names: tuple[str, ...], where: str, place: str) -> None:
    """Raise ParameterError unless a layer of this kind may contain layers of these names."""
    allowed = layer_classes()[kind].names_inside
    if allowed is not None and names not in allowed:
        words = " or ".join(", ".join(some) or "none" for some in allowed)
        got = f"{', '.join(names) or 'none':.80}"
        raise ParameterError.expected(where, f"{place}: layers inside {kind}", words, got)
