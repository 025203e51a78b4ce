"""The settings of a training run, as one flat record that ``config.toml`` holds."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from gpucnn.checks import is_count, is_number, python_number, shown
from gpucnn.data import Augmentation, parse_image_size
from gpucnn.errors import DataError, UsageError, did_you_mean, shortened
from gpucnn.models import split_model
from gpucnn.training.objective import LOSSES
from gpucnn.training.registry import OPTIMIZERS, SCHEDULES, check_name

RECIPES = Path(__file__).parents[1] / "recipes"
PRECISIONS = {"float32": "float32", "float64": "float64", "tf32": "float32", "float16": "float16"}
"""The dtype of images, weights and activations in each precision."""
LARGEST = 1e30
"""The largest rate or decay that is taken: float32 has numbers up to 3e38, and squares of rates are formed."""
MOST_SHARDS = 4096
"""The most shards of a batch: the number of a random draw has bits for no more."""
LARGEST_FILE = 2**20
"""The largest file of settings in bytes."""
OBJECT = " (object)"
"""The end of the name of a user's own object, where settings would name a network, a loss or an optimiser."""
NEED_VALIDATION = ("target_accuracy", "early_stopping")
DEVICE = r"cpu|auto|cuda(:\d{1,3})?"


@dataclass
class Settings:
    """The settings of ``gpucnn train``; each field is described by the option of the same name.

    ``validation=None`` holds out the fraction ``val_split`` of the training images; by default 5,000, or a fifth if that is
    fewer. ``lr`` and ``weight_decay`` are by default those of the optimiser (``registry.OPTIMIZERS``).
    """

    model: str = "lenet"
    data: str = "digits"
    device: str = "auto"
    precision: str = "float32"
    epochs: int = 5
    batch_size: int = 64
    optimizer: str = "adam"
    lr: float | None = None
    momentum: float = 0.9
    weight_decay: float | None = None
    schedule: str = "one-cycle"
    seed: int = 0
    limit: int | None = None
    validation: int | None = None
    val_split: float | None = None
    augment: str | None = None
    image_size: int | str | None = None
    target_accuracy: float | None = None
    test_each_epoch: bool = False
    init_from: str | None = None
    freeze: str | None = None
    loss: str = "cross-entropy"
    class_weights: str | None = None
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    ema: float | None = None
    early_stopping: int | None = None
    accumulate: int = 1
    shards: int = 1
    workers: int | None = None
    mixup: float | None = None
    cutmix: float | None = None

    @property
    def augmentation(self) -> Augmentation | None:
        """The augmentation that ``augment`` describes; UsageError if it is no list of augmentations."""
        return None if self.augment is None else Augmentation.parse(self.augment)

    def resolved(self) -> Self:
        """Return the settings with every default filled in and NumPy's numbers as Python's; UsageError for invalid ones."""
        numbers: dict[str, Any] = {key: python_number(value) for key, value in vars(self).items() if is_number(value)}
        return dataclasses.replace(self, **numbers)._resolved()

    def _resolved(self) -> Self:
        if not isinstance(self.test_each_epoch, bool):
            raise UsageError.expected("settings", "test_each_epoch", "true or false", shown(self.test_each_epoch))
        for key in ("model", "data", "init_from", "freeze"):
            unset = getattr(self, key) is None and key in ("init_from", "freeze")
            if not unset and not isinstance(getattr(self, key), str):
                raise UsageError.expected("settings", key, "a text", shown(getattr(self, key)))
        for key in ("model", "loss", "optimizer"):
            if str(getattr(self, key)).endswith(OBJECT):
                remedy = "the run was made from objects in Python: go on with it there"
                raise UsageError.expected("settings", key, "a name", shown(getattr(self, key)), remedy)
        check_name(self.optimizer, OPTIMIZERS, "optimizer")
        check_name(self.schedule, SCHEDULES, "schedule")
        check_name(self.loss, LOSSES, "loss")
        if self.class_weights not in (None, "balanced"):
            raise UsageError.expected("settings", "class_weights", "balanced", shown(self.class_weights))
        if not isinstance(self.precision, str) or self.precision not in PRECISIONS:
            remedy = did_you_mean(str(self.precision), PRECISIONS)
            raise UsageError.expected("settings", "precision", " or ".join(PRECISIONS), repr(self.precision), remedy)
        if not re.fullmatch(DEVICE, str(self.device)):
            raise UsageError.expected("settings", "device", "cpu, cuda, cuda:N or auto", repr(self.device))
        counts = {
            "epochs": 1,
            "batch_size": 1,
            "validation": 0,
            "seed": 0,
            "limit": 1,
            "early_stopping": 1,
            "accumulate": 1,
            "workers": 0,
        }
        for key, least in counts.items():
            value = getattr(self, key)
            if value is None and key in ("validation", "limit", "early_stopping", "workers"):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UsageError.expected("settings", key, f"a whole number of at least {least}", shown(value))
            most = {"seed": 63, "workers": 8}.get(key, 31)
            if value >= 2**most:
                raise UsageError.expected("settings", key, f"a whole number below 2**{most}", shown(value))
        if not is_count(self.shards, 1, MOST_SHARDS) or self.shards & (self.shards - 1):
            raise UsageError.expected("settings", "shards", f"a power of two up to {MOST_SHARDS}", shown(self.shards))
        shares: dict[str, float | None] = {
            "momentum": 1,
            "target_accuracy": 1,
            "val_split": 1,
            "label_smoothing": 1,
            "ema": 1,
        }
        for key, high in (
            {"lr": None, "weight_decay": None, "clip_norm": None, "mixup": 1000, "cutmix": 1000} | shares
        ).items():
            value = getattr(self, key)
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST
            if value is None and key not in ("momentum", "label_smoothing"):
                continue
            if not number or value < 0 or (high is not None and value > high):
                limit = "a finite number of at least 0" + ("" if high is None else f" and at most {high}")
                raise UsageError.expected("settings", key, limit, shown(value))
        if self.momentum == 1:
            raise UsageError.expected("settings", "momentum", "a number below 1", self.momentum)
        if self.validation is not None and self.val_split is not None:
            raise UsageError.expected("settings", "validation", "one of validation and val_split", "both")
        if self.augment is not None and not isinstance(self.augment, str):
            raise UsageError.expected("settings", "augment", "a text such as shift=2,flip", shown(self.augment))
        _ = self.augmentation  # what is wrong with it is told before the data are read
        for key in NEED_VALIDATION:
            if getattr(self, key) is not None and self.validation == 0:
                raise UsageError.expected("settings", key, "a validation split to measure it on", "validation=0")
        size: int | str | None = None
        if self.image_size is not None:
            try:
                H, W = parse_image_size(self.image_size)
            except DataError as error:
                raise error.at("settings", UsageError) from None
            size = H if H == W else f"{H}x{W}"
        for key in ("data", "model", "init_from", "freeze"):
            if not is_utf8(str(getattr(self, key))):
                got = repr(getattr(self, key))
                raise UsageError.expected("settings", key, "a name in UTF-8, as config.toml is", got, "rename it")
        named = self.data == "digits" or not os.path.exists(self.data)
        data = self.data if named else os.path.abspath(self.data)
        _, lr, weight_decay = OPTIMIZERS[self.optimizer.partition(":")[0]]
        lr = lr if self.lr is None else float(self.lr)
        weight_decay = weight_decay if self.weight_decay is None else float(self.weight_decay)
        model = absolute_model(self.model)
        init_from = None if self.init_from is None else os.path.abspath(self.init_from)
        return dataclasses.replace(
            self, lr=lr, weight_decay=weight_decay, data=data, model=model, image_size=size, init_from=init_from
        )

    def to_toml(self) -> str:
        """Return the settings as TOML; what is not set is left out."""
        import tomli_w

        return tomli_w.dumps({key: value for key, value in dataclasses.asdict(self).items() if value is not None})


def read_toml(path: Path) -> dict[str, Any]:
    """Return the settings that a TOML file gives; UsageError for a missing file, bad TOML, an unknown or mistyped key."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise ValueError(f"more than {LARGEST_FILE:,} bytes")
        values = tomllib.loads(content.decode())
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is no readable TOML ({shortened(error)}).") from None
    known = _kinds()
    for key, value in values.items():
        if key not in known:
            expected = f"one of {', '.join(known)}"
            raise UsageError.expected(str(path), "key", expected, repr(key), did_you_mean(key, known))
        kinds = known[key]
        taken = (*kinds, int) if float in kinds else kinds
        if not isinstance(value, taken) or isinstance(value, bool) != (bool in kinds):
            raise UsageError.expected(str(path), key, " or ".join(k.__name__ for k in kinds), shown(value))
    return values


@functools.cache
def _kinds() -> dict[str, tuple[type, ...]]:
    """Return the types that each setting may have."""
    return {
        field.name: tuple(kind for kind in (str, int, float, bool) if kind.__name__ in str(field.type))
        for field in dataclasses.fields(Settings)
    }


def recipes() -> dict[str, Path]:
    """Return the recipes that come with gpucnn: names and files."""
    return {path.stem: path for path in sorted(RECIPES.glob("*.toml"))}


def recipe(name: str) -> Path:
    """Return the file of a recipe that comes with gpucnn; UsageError for an unknown name.

    >>> recipe("fast").name
    'fast.toml'
    """
    known = recipes()
    if name not in known:
        raise UsageError.expected("recipe", "name", " or ".join(known), repr(name), did_you_mean(name, known))
    return known[name]


def is_utf8(name: str) -> bool:
    """Whether a file's name can be written as text; names of files may be any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_file_model(model: str) -> bool:
    """Whether a model's description names a Python file, which is run when the network is built."""
    return split_model(model)[0].endswith(".py")


def absolute_model(model: str) -> str:
    """Return a model's description with its Python file, if it names one, as an absolute path."""
    file, rest = split_model(model)
    return os.path.abspath(file) + rest if is_file_model(model) else model


def check_trusted(saved: str, asked: str | None, where: str, trust: bool = False) -> None:
    """UsageError if the network comes from a Python file that the user has neither named nor declared trusted.

    A run folder, or a file of settings, may be untrusted; opening it must not run code.
    """
    named = asked is not None and absolute_model(asked) == absolute_model(saved)
    if is_file_model(saved) and not named and not trust:
        raise UsageError(
            f"{where}: the network comes from a Python file, which would be run. If you trust it, pass --model {saved} "
            "or --trust"
        )
