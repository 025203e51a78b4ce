"""The exceptions that gpucnn raises deliberately, each with its exit code on the command line.

A message says where, what was expected, what was given and what to do, in one or two lines:

>>> str(UsageError.expected("model", "name", "lenet", "lenett", "did you mean lenet?"))
'model: name: expected lenet, got lenett. Did you mean lenet?'
>>> str(ShapeError.expected("conv2d", "input", "3 channels", "1 channel", "build the layer with in_channels=1"))
'conv2d: input: expected 3 channels, got 1 channel. Build the layer with in_channels=1.'
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Self


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "did you mean ...?" with the most similar of the ``known`` words; "" if none is similar.

    >>> did_you_mean("adm", ["adam", "sgd"])
    'did you mean adam?'
    """
    import difflib

    near = difflib.get_close_matches(word, list(known), 1)
    return f"did you mean {near[0]}?" if near else ""


def shortened(text: object, most: int = 200) -> str:
    """Return the first line of a text, truncated to ``most`` characters.

    >>> shortened("a" * 1000, 10)
    'aaaaaaa...'
    """
    line = next(iter(str(text).splitlines()), "")
    return line if len(line) <= most else line[: most - 3] + "..."


def kind_of(value: Any) -> str:
    """Return the name of the type of ``value``, with its library if gpucnn has a type of the same name.

    >>> kind_of(1), kind_of({}.keys())
    ('int', 'dict_keys')
    """
    kind = type(value)
    library = kind.__module__.partition(".")[0]
    ours = kind.__name__ in ("Tensor", "Parameter", "Module", "Generator")
    return f"{library}.{kind.__name__}" if ours and library != "gpucnn" else kind.__name__


IMAGE = "GPUCNN_IMAGE"
"""A variable set in the container image. The image has no pip: extras are added when it is built."""


def how_to_add(extra: str) -> str:
    """Return the command that installs an extra: with pip, or by rebuilding the container image.

    >>> how_to_add("plots")
    "pip install 'gpucnn[plots]'"
    """
    if not os.environ.get(IMAGE):
        return f"pip install 'gpucnn[{extra}]'"
    argument = f"CUDA={extra.removeprefix('cuda')}" if extra.startswith("cuda") else f"EXTRAS={extra}"
    return f"docker build -f docker/Dockerfile --build-arg {argument} -t gpucnn ."


LONGEST_GOT = 500
"""The most characters of a given value in a message. It may be a whole file."""


class GpucnnError(Exception):
    """Base class of all errors that the user can correct. ``exit_code`` is the exit code of the command line.

    Its contents are fields, which ``str`` formats: where (the function), argument, wanted, got, remedy, and the layer in
    which it happened. An error with its own message has that and, if there is one, a remedy.

    >>> error = ShapeError.expected("conv2d", "input", "3 channels", "1 channel")
    >>> error.where, error.argument, error.wanted, error.got
    ('conv2d', 'input', '3 channels', '1 channel')
    >>> str(error.at("my_layer"))
    'my_layer: input: expected 3 channels, got 1 channel.'
    """

    exit_code = 1
    where = argument = wanted = layer = ""
    got: Any = None

    def __init__(self, message: str = "", *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy

    @classmethod
    def expected(cls, where: str, argument: str, expected: str, got: Any, remedy: str = "") -> Self:
        """Return an error whose message has the function, the argument, the expected and given values, and the remedy."""
        error = cls(remedy=remedy)
        error.where, error.argument, error.wanted, error.got = where, argument, expected, shortened(got, LONGEST_GOT)
        return error

    def at(self, where: str, kind: type[GpucnnError] | None = None) -> GpucnnError:
        """Return the same error of another function, and of another kind if one is given."""
        return (kind or type(self)).expected(where, self.argument, self.wanted, self.got, self.remedy)

    @property
    def problem(self) -> str:
        """What is wrong, without the remedy."""
        if not self.argument:
            return str(self.args[0]) if self.args else ""
        return f"{self.where}: {self.argument}: expected {self.wanted}, got {self.got}."

    def __str__(self) -> str:
        remedy = self.remedy
        if remedy:
            remedy = f" {remedy[0].upper()}{remedy[1:]}{'' if remedy.endswith(('?', '.')) else '.'}"
        return self.problem + remedy + (f" (in layer {self.layer})" if self.layer else "")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


class ShapeError(GpucnnError, ValueError):
    """An array has the wrong shape or number of dimensions."""


class DTypeError(GpucnnError, TypeError):
    """An array has the wrong dtype, or two dtypes that must be equal differ."""


class ParameterError(GpucnnError, ValueError):
    """A parameter of a function, layer or optimiser is out of range or of the wrong type."""


class GraphError(GpucnnError, RuntimeError):
    """The recorded graph cannot compute the requested gradient."""


class CaptureError(GpucnnError, RuntimeError):
    """A step cannot be captured."""


class DeviceError(GpucnnError, RuntimeError):
    """The requested device cannot be used."""

    exit_code = 4


class OutOfMemoryError(DeviceError, MemoryError):
    """A device does not have enough free memory."""


class MixedDeviceError(GpucnnError, TypeError):
    """One operation was given arrays of different devices."""


class DataError(GpucnnError, ValueError):
    """A data set is missing, damaged or does not fit the task."""


class CheckpointError(GpucnnError, ValueError):
    """A checkpoint is missing, damaged or belongs to another model."""


class RunFolderError(GpucnnError, OSError):
    """A run folder cannot be written, or already holds a run."""


class UsageError(GpucnnError, ValueError):
    """The command line or a configuration file asks for something that does not exist."""

    exit_code = 2


class DivergedError(GpucnnError, ArithmeticError):
    """The loss of a training step was not finite."""

    exit_code = 3
