"""``Classifier``: an estimator in the style of scikit-learn, which accepts it but is not required."""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import math
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np

from gpucnn import functional as F
from gpucnn import models, nn
from gpucnn.autograd import Tensor, no_grad
from gpucnn.backend import Backend, Generator, drawing_from, get_backend, use
from gpucnn.checkpoint import read_packed
from gpucnn.data import ArrayDataset, Dataset
from gpucnn.errors import (
    CheckpointError,
    DataError,
    DivergedError,
    DTypeError,
    GpucnnError,
    ParameterError,
    ShapeError,
    UsageError,
    did_you_mean,
    kind_of,
    shortened,
)
from gpucnn.optim import Optimizer
from gpucnn.training import (
    EMA,
    Callback,
    EarlyStopping,
    Loader,
    Loop,
    LossAndAccuracy,
    Metric,
    Normalisation,
    Progress,
    Schedule,
    Settings,
    build_model,
)
from gpucnn.training.callbacks import callbacks_of
from gpucnn.training.config import is_file_model
from gpucnn.training.evaluation import evaluate
from gpucnn.training.factory import fitted, split_validation, structure_of
from gpucnn.training.fine_tuning import prepare, trainable
from gpucnn.training.mixing import mixed
from gpucnn.training.objective import loss_for
from gpucnn.training.registry import make_optimizer, make_schedule
from gpucnn.training.saved import LARGEST_IMAGE

SETTINGS = (
    "optimizer", "lr", "schedule", "seed", "validation", "freeze", "class_weights", "label_smoothing", "clip_norm",
    "ema", "early_stopping", "mixup", "cutmix", "accumulate", "augment", "workers",
)  # fmt: skip
"""Arguments that are settings of ``gpucnn train`` and mean the same."""

BATCH = 1000
"""Images per batch in prediction."""

COLOURS = (1, 3)
"""Channels of images: grey and colour."""

KEY, FORMAT = "gpucnn.classifier", 1
"""Metadata key of a saved classifier's file, and the version of its format."""


class NotFittedError(GpucnnError, ValueError, AttributeError):
    """A classifier was used before ``fit``."""


class Classifier:
    """A network with ``fit``, ``predict`` and ``score``.

    model: a name with options ("lenet:activation=tanh", see ``models.build``), a callable (classes, in_channels,
    image_size) -> Module, where image_size is (H, W) if they differ, or a Module, which is copied and not changed (one with
    lazy layers has to be on the device). lr=None: the optimiser's default. device=None: that of ``gpucnn.use``. validation:
    number of images held out and evaluated after each epoch. verbose: print a line per epoch; 2: one per batch too. loss: a
    name with options ("focal:gamma=2"), or a function of (logits, class indices); cross-entropy by default. metrics: further
    entries of ``history`` (see ``training.metrics``). init_from: initial weights, from a safetensors file, an .npz file or a
    run folder; if the classes differ, the last layer is new, with a note. freeze: the parameters that are not trained
    ("features.*"; "*,!fc.*" for all but fc); layers that are frozen entirely run as in evaluation. The other parameters are
    the options of ``gpucnn train``; ``fit`` checks all of them.

    x, in all methods: images (N, H, W), (N, C, H, W) or flattened square ones (N, H*W), uint8 (0 to 255) or floating, of the
    same kind in every call; also (N, H, W, C), with a note, if only the last axis can be the channels (1 or 3, and the
    others longer). Pixels are normalised by the mean and standard deviation of the images of ``fit``.

    After ``fit``: ``history`` (a list of a dict for each epoch), ``classes_`` (the labels, sorted), ``net_`` (the trained
    Module), ``image_shape_`` (C, H, W).

    >>> from gpucnn.data import draw_digits
    >>> x, y = draw_digits(64, seed=0)
    >>> classifier = Classifier("lenet", epochs=1, device="cpu").fit(x, y)
    >>> classifier.predict(x).shape, classifier.predict_proba(x).shape, sorted(classifier.history[0])
    ((64,), (64, 10), ['accuracy', 'epoch', 'images_per_second', 'loss', 'seconds'])
    """

    _estimator_type = "classifier"

    history: list[dict[str, Any]]
    classes_: Any
    net_: nn.Module
    image_shape_: tuple[int, int, int]
    _backend: Backend
    _normalisation: Normalisation
    _pixels: str
    _generator: Generator
    _passes: int = 0
    _optimizer: Optimizer | None = None

    def __init__(
        self,
        model: str | nn.Module | Callable[[int, int, Any], nn.Module] = "lenet",
        epochs: int = 5,
        batch_size: int = 64,
        lr: float | None = None,
        optimizer: str = "adam",
        schedule: str = "one-cycle",
        seed: int = 0,
        device: str | Backend | None = None,
        validation: int = 0,
        verbose: bool | int = False,
        loss: str | Callable[[Tensor, Tensor], Tensor] | None = None,
        metrics: Iterable[Metric] = (),
        init_from: str | None = None,
        freeze: str | None = None,
        class_weights: str | None = None,
        label_smoothing: float = 0.0,
        clip_norm: float | None = None,
        ema: float | None = None,
        early_stopping: int | None = None,
        mixup: float | None = None,
        cutmix: float | None = None,
        warm_start: bool = False,
        accumulate: int = 1,
        augment: str | None = None,
        workers: int | None = None,
    ) -> None:
        self.model, self.epochs, self.batch_size, self.lr = model, epochs, batch_size, lr
        self.optimizer, self.schedule, self.seed, self.device = optimizer, schedule, seed, device
        self.validation, self.verbose, self.loss, self.metrics = validation, verbose, loss, metrics
        self.init_from, self.freeze = init_from, freeze
        self.class_weights, self.label_smoothing, self.clip_norm = class_weights, label_smoothing, clip_norm
        self.warm_start, self.accumulate = warm_start, accumulate
        self.augment, self.workers = augment, workers
        self.ema, self.early_stopping, self.mixup, self.cutmix = ema, early_stopping, mixup, cutmix

    # --- parameters ----------------------------------------------------------------------------------------------

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor's arguments; ``deep`` is there for scikit-learn and has no effect.

        >>> Classifier(lr=0.01).get_params()["lr"]
        0.01
        """
        names = list(inspect.signature(type(self).__init__).parameters)[1:]
        return {name: getattr(self, name) for name in names}

    def set_params(self, **params: Any) -> Self:
        """Change constructor arguments; returns self. ParameterError, and no change, for an unknown name.

        >>> Classifier().set_params(epochs=2)
        Classifier(epochs=2)
        """
        known = self.get_params()
        for name in params:
            if name not in known:
                remedy = did_you_mean(name, known)
                raise ParameterError.expected("Classifier", "parameter", f"one of {', '.join(known)}", name, remedy)
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        usual = {name: p.default for name, p in inspect.signature(type(self).__init__).parameters.items()}
        changed = (
            f"{name}={value!r}"
            for name, value in self.get_params().items()
            if value is not usual[name] and value != usual[name]
        )
        return f"{type(self).__name__}({', '.join(changed)})"

    def __sklearn_is_fitted__(self) -> bool:
        return "net_" in self.__dict__

    def __sklearn_tags__(self) -> Any:
        tags = importlib.import_module("sklearn.utils")  # which scikit-learn, who asks, has loaded
        return tags.Tags(
            estimator_type="classifier",
            target_tags=tags.TargetTags(required=True),
            classifier_tags=tags.ClassifierTags(),
            input_tags=tags.InputTags(three_d_array=True),
        )

    def __getattr__(self, name: str) -> Any:
        if name in ("history", "classes_", "net_", "image_shape_"):
            raise NotFittedError(f"Classifier: not fitted, so it has no {name} yet. Call fit(x, y) first.")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    # --- learning ------------------------------------------------------------------------------------------------

    def fit(
        self,
        x: Any,
        y: Any = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        callback: Callable[[dict[str, Any]], object] | Callback | Iterable[Any] | None = None,
    ) -> Self:
        """Train a new network on images ``x`` with labels ``y``: (N,) of any kind that sorts, or one-hot (N, C).

        x may be a ``data.Dataset``, of this package or your own, without ``y``: its images are read batch by batch, so they
        may be more than the memory holds, and ``classes_`` are its class names.
        epochs and batch_size override the constructor's. callback: a function that is called with each dict of ``history``
        and ends the training by returning True, a ``training.Callback`` such as ``training.EarlyStopping(patience=3)``, or a
        list of these.
        The same seed gives the same network; each fit has its own random generator. Each dict of ``history`` has epoch,
        loss, accuracy (0 to 1), seconds, images_per_second, with validation val_loss and val_accuracy, and the values of
        ``metrics``.
        Raises ShapeError, DTypeError or DataError for images and labels that do not fit, UsageError or ParameterError for a
        parameter, DivergedError if the loss is no longer finite; the result of an earlier ``fit`` is then kept. After Ctrl-C
        or an exception in the callback, ``net_``, ``history`` and the rest are those of the training so far.
        With ``warm_start`` a fitted classifier continues from its weights; the labels must be among ``classes_``.
        """
        asked = {
            "epochs": self.epochs if epochs is None else epochs,
            "batch_size": self.batch_size if batch_size is None else batch_size,
        }
        on = self.warm_start and self.__sklearn_is_fitted__()
        return self._learn(x, y, asked, callback, self.classes_ if on else None, on, "Classifier.fit")

    def partial_fit(self, x: Any, y: Any, classes: Any = None) -> Self:
        """Train one more epoch on these images and labels, with the optimiser's state from the last call.

        classes: in the first call, all labels that later calls may have; by default those in ``y``. The learning rate is
        constant; ``schedule``, ``validation``, ``ema`` and ``early_stopping`` are for ``fit``. Pixels are normalised as in
        the first call, whose images should be representative. Raises as ``fit``, and DataError for an unknown label.

        >>> from gpucnn.data import draw_digits
        >>> x, y = draw_digits(64, seed=0)
        >>> classifier = Classifier(device="cpu", batch_size=32)
        >>> for start in (0, 32):
        ...     _ = classifier.partial_fit(x[start : start + 32], y[start : start + 32], classes=range(10))
        >>> classifier.predict(x).shape
        (64,)
        """
        on = self.__sklearn_is_fitted__()
        known = self.classes_ if on else None if classes is None else np.unique(np.asarray(list(classes)))
        asked = {"epochs": 1, "batch_size": self.batch_size, "schedule": "constant", "validation": 0}
        asked |= {"ema": None, "early_stopping": None}
        return self._learn(x, y, asked, None, known, on, "Classifier.partial_fit", partial=True)

    def _learn(
        self, x: Any, y: Any, changes: dict[str, Any], callback: Any, known: Any, on: bool, where: str,
        partial: bool = False,
    ) -> Self:  # fmt: skip
        """Train a new network or, if ``on``, the one that there is, on labels of which all are ``known``, if given."""
        data, classes, dtype = _training_set(x, y, where, known)
        backend = get_backend(self.device)
        asked = {name: getattr(self, name) for name in SETTINGS}
        if isinstance(self.loss, str):
            asked["loss"] = self.loss
        asked["init_from"] = None if self.init_from is None else os.fspath(self.init_from)
        asked |= changes
        plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in asked.items()}
        settings = Settings(device=backend.name, **plain).resolved()
        train, held_out = split_validation(data, None, settings.validation, settings.seed)
        callbacks = callbacks_of(callback)
        if on:
            self._check_as_before(data.image_shape, dtype, where)
            backend, normalisation, passes = self._backend, self._normalisation, self._passes
            net, generator = self.net_ if partial else copy.deepcopy(self.net_), self._generator
        else:
            normalisation, generator, passes = Normalisation.of(train), Generator(settings.seed), 0
            with drawing_from(generator):
                net = self._build(data.image_shape, len(classes), backend)
        frozen = prepare(net, None if on else settings.init_from, settings.freeze)
        optimizer = self._optimizer if partial and on else None
        if optimizer is None:
            optimizer = make_optimizer(
                settings.optimizer, trainable(net), settings.lr, settings.momentum, settings.weight_decay
            )
        loader = Loader(train, backend, normalisation, augmentation=settings.augmentation, workers=settings.workers)
        batches = loader.batches(settings.batch_size, settings.seed + passes)
        loop = _Fit(
            net,
            self._loss(settings, train, backend),
            optimizer,
            mixed(batches, settings.seed + passes, settings.mixup, settings.cutmix),
            [LossAndAccuracy(), *copy.deepcopy(list(self.metrics))],
            [
                Schedule(make_schedule(settings.schedule, optimizer, settings.epochs * len(batches), len(batches))),
                *([Progress(each_batch=self.verbose > 1)] if self.verbose else []),
                *([EarlyStopping(settings.early_stopping)] if settings.early_stopping is not None else []),
                *callbacks,
            ],
            validation=None if held_out is None else Loader(held_out, backend, normalisation).batches(BATCH),
            generator=generator,
            clip_norm=settings.clip_norm,
            ema=settings.ema,
            accumulate=settings.accumulate,
        )
        loop.lr, loop.frozen = settings.lr or 0.0, frozen
        learnt = {
            "net_": net, "classes_": classes, "image_shape_": data.image_shape, "history": loop.history,
            "_backend": backend, "_normalisation": normalisation, "_pixels": dtype.kind,
            "_generator": generator, "_passes": passes + settings.epochs, "_optimizer": optimizer if partial else None,
        }  # fmt: skip
        try:
            loop.run(settings.epochs)
        except DivergedError:
            net.eval()  # that of before, in partial_fit: no step with such a loss changed it
            raise
        except BaseException:  # Ctrl-C, or a mistake in the callback: what was learnt so far is kept
            self._keep(learnt, loop.average)
            raise
        return self._keep(learnt, loop.average)

    def _loss(self, settings: Settings, train: Dataset, backend: Backend) -> Callable[[Tensor, Tensor], Tensor]:
        if self.loss is None or isinstance(self.loss, str):
            return loss_for(settings, train, backend)
        if self.class_weights is not None or self.label_smoothing:
            raise ParameterError.expected(
                "Classifier", "loss", "a name, with class_weights or label_smoothing", type(self.loss).__name__,
                "give the weights to the loss itself",
            )  # fmt: skip
        return self.loss

    def _keep(self, learnt: dict[str, Any], average: EMA | None) -> Self:
        if average is not None:
            average.take_over()
        learnt["net_"].eval()
        self.__dict__.update(learnt)
        return self

    def _check_as_before(self, shape: tuple[int, int, int], dtype: Any, where: str) -> None:
        if shape != self.image_shape_:
            raise ShapeError.expected(where, "x", f"images of shape {self.image_shape_}, as before", shape)
        if dtype.kind != self._pixels:
            kinds = {"u": "uint8", "f": "floating"}
            raise DTypeError.expected(where, "x", f"{kinds[self._pixels]} pixels, as before", dtype)

    def _build(self, image_shape: tuple[int, int, int], classes: int, backend: Backend) -> nn.Module:
        """Return a new network on the device, whose outputs have been checked."""
        if isinstance(self.model, str):
            return build_model(self.model, image_shape, classes, "float32", backend)
        C, H, W = image_shape
        if isinstance(self.model, nn.Module):
            net = copy.deepcopy(self.model)
            if not any(module.waits_for_input() for module in net.modules()):
                net.to(backend)
        elif not callable(self.model):
            raise ParameterError.expected(
                "Classifier", "model", "a name, a Module or a callable that makes one", repr(self.model)
            )
        else:
            with use(backend):
                net = self.model(classes, C, H if H == W else (H, W))
        if not isinstance(net, nn.Module):
            raise ParameterError.expected("Classifier", "model", "a callable that returns a Module", type(net).__name__)
        with no_grad():
            outputs = net.eval()(Tensor(backend.asarray(np.zeros(image_shape, np.float32)[None]), backend))
        if outputs.shape != (1, classes):
            raise ShapeError.expected("Classifier", "model", f"outputs of shape (N, {classes})", outputs.shape)
        return net

    # --- answering -----------------------------------------------------------------------------------------------

    def predict_proba(self, x: Any) -> Any:
        """Return the probability of each of ``classes_``: (N, classes) float32. x: images, or a ``data.Dataset``.

        NotFittedError before ``fit``.
        """
        loader, net = self._loader_of(x, "Classifier.predict"), self.net_
        probabilities = np.empty((len(loader), len(self.classes_)), np.float32)
        with no_grad():
            for start in range(0, len(loader), BATCH):
                chosen = np.arange(start, min(start + BATCH, len(loader)))
                batch, _ = loader.batch(chosen)
                probabilities[chosen] = F.softmax(net(batch)).numpy()
        return probabilities

    def _loader_of(self, x: Any, where: str) -> Loader:
        """Return the loader of images for prediction, which fit those of ``fit``."""
        shape = self.image_shape_
        if isinstance(x, Dataset):
            if len(x):
                self._check_as_before(x.image_shape, x[np.arange(1)][0].dtype, where)
            return Loader(x, self._backend, self._normalisation)
        images = _images(x, where)
        if images.ndim == 3:
            images = images[:, None]
        if images.ndim == 4 and images.shape[1:] != shape == (images.shape[3], *images.shape[1:3]):
            images = np.moveaxis(images, 3, 1)
        if images.shape[1:] != shape:
            raise ShapeError.expected(where, "x", f"images of shape {shape}, as in fit", images.shape[1:])
        if images.dtype.kind != self._pixels:
            kinds = {"u": "uint8", "f": "floating"}
            raise DTypeError.expected(where, "x", f"{kinds[self._pixels]} pixels, as in fit", images.dtype)
        data = ArrayDataset(images, np.zeros(len(images), np.int64), ["unknown"], where)
        return Loader(data, self._backend, self._normalisation)

    def predict(self, x: Any) -> Any:
        """Return the most probable label of each image: (N,), of the dtype of ``fit``'s labels."""
        return self.classes_[self.predict_proba(x).argmax(1)]

    def score(self, x: Any, y: Any = None) -> float:
        """Return the accuracy, 0 to 1, on images and labels, or on a ``data.Dataset`` with the classes of ``fit``.

        DataError without images, and for labels of another kind than those of ``fit``; ShapeError unless there are N labels.
        """
        if isinstance(x, Dataset):
            loader = self._loader_of(x, "Classifier.score")
            _check_names(x, y, "Classifier.score", self.classes_)
            return evaluate(self.net_, loader).accuracy
        answers = self.predict(x)
        labels = _labels(y, len(answers), "Classifier.score")
        if _kind(labels) != _kind(self.classes_):
            expected = f"labels of the kind of fit's ({self.classes_.dtype})"
            raise DataError.expected(
                "Classifier.score", "y", expected, labels.dtype, "convert them: others equal no answer"
            )
        if not len(answers):
            raise DataError.expected("Classifier.score", "x", "at least one image", "none")
        return float(np.mean(answers == labels))

    # --- in a file -----------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted classifier to one file (safetensors), whole or not at all; ``load`` and ``models.load`` read it.

        NotFittedError before ``fit``; DTypeError for labels other than numbers and strings; CheckpointError if the file
        cannot be written.
        """
        classes = self.classes_
        if classes.dtype.kind not in "biufUO" or not all(isinstance(c, (str, int, float)) for c in classes.tolist()):
            raise DTypeError.expected("Classifier.save", "classes_", "numbers or text", f"dtype {classes.dtype}")
        parameters = {
            name: value
            for name, value in self.get_params().items()
            if name not in ("model", "device", "loss", "metrics", "init_from")
        }
        if isinstance(self.model, str) and not is_file_model(
            self.model
        ):  # a file's code is not run by another's say-so
            parameters["model"] = self.model
        learnt = {
            "format": FORMAT,
            "parameters": parameters,
            "classes": {"dtype": classes.dtype.str, "values": classes.tolist()},
            "image_shape": self.image_shape_,
            "pixels": self._pixels,
            "mean": self._normalisation.mean,
            "std": self._normalisation.std,
            "history": self.history,
        }
        texts = {KEY: json.dumps(learnt, default=lambda number: number.item())}
        structure = structure_of(self.net_)
        if structure is not None:
            texts[models.saved.KEY] = json.dumps(structure)
        models.saved.write(self.net_, path, texts)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], device: str | Backend | None = None, model: nn.Module | None = None
    ) -> Self:
        """Return the fitted classifier that ``save`` wrote, on a device; runs no code of the file's.

        model: the network, needed if it has layers of your own; it gets the file's weights.
        CheckpointError for a file that is missing, damaged or of another kind.

        >>> Classifier.load("nowhere.safetensors")
        Traceback (most recent call last):
        gpucnn.errors.CheckpointError: nowhere.safetensors: no such file.
        """
        weights, texts = read_packed(Path(path))
        if KEY not in texts:
            raise CheckpointError.expected(
                str(path), "content", "a saved Classifier", "other weights", "use models.load"
            )
        backend = get_backend(device)
        try:
            learnt = json.loads(texts[KEY])
            if learnt["format"] > FORMAT:
                raise CheckpointError.expected(
                    str(path), "format", f"at most {FORMAT}", learnt["format"], "update gpucnn"
                )
            C, H, W = (int(size) for size in learnt["image_shape"])
            kind = np.dtype(str(learnt["classes"]["dtype"]))
            classes = np.array(learnt["classes"]["values"], str if kind.kind == "U" else kind)
            mean, std = (tuple(map(float, learnt[key])) for key in ("mean", "std"))
            history = [dict(values) for values in learnt["history"]]
            parameters, pixels = dict(learnt["parameters"]), str(learnt["pixels"])
            sound = len(mean) == len(std) == C > 0 and H > 0 and W > 0 and C * H * W <= LARGEST_IMAGE
            sound = sound and classes.ndim == 1 and classes.dtype.kind in "biufUO" and pixels in ("u", "f")
            named = parameters.pop("model", None)
            if not sound or not isinstance(named, (str, type(None))) or (named and is_file_model(named)):
                raise ValueError("sizes, classes, pixels or a model that do not belong together")
            classifier = cls(**parameters)
        except CheckpointError:
            raise
        except (LookupError, TypeError, ValueError, OverflowError, RecursionError, MemoryError) as error:
            raise CheckpointError(
                f"{path}: the classifier is damaged ({type(error).__name__}: {shortened(error)})."
            ) from None
        if model is None:
            net = models.saved.restored(path, weights, texts, backend)
        else:
            net = model.to(backend)
            net.load_state_dict(weights)
        try:
            fitted(net, str(path), (C, H, W), len(classes), "float32", backend)
        except UsageError as error:
            raise CheckpointError(f"{path}: {error}") from None
        classifier.model, classifier.device = named or net if model is None else model, device
        classifier.net_, classifier.classes_, classifier.image_shape_ = net.eval(), classes, (C, H, W)
        classifier.history, classifier._backend, classifier._pixels = history, backend, pixels
        classifier._normalisation, classifier._generator = Normalisation(mean, std), Generator(classifier.seed)
        return classifier


class _Fit(Loop):
    """The loop of a classifier, whose learning rate was ``lr``."""

    lr: float

    def diverged(self, loss: float) -> DivergedError:
        return DivergedError(
            f"Classifier.fit: the loss is {loss} in epoch {self.epoch + 1}. Try a smaller lr than {self.lr:g}."
        )


def _images(x: Any, where: str) -> Any:
    """Return ``x`` as (N, H, W) or (N, C, H, W)."""
    if isinstance(x, Tensor):
        x = x.numpy()
    try:
        images = np.asarray(x)
    except ValueError:
        raise ShapeError.expected(where, "x", "images of one size", "lists of different lengths") from None
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise DTypeError.expected(
            where, "x", "uint8 (0 to 255) or floating pixels", images.dtype, "convert with x.astype('uint8')"
        )
    if images.ndim == 2:
        side = math.isqrt(images.shape[1])
        if not side or side * side != images.shape[1]:
            raise ShapeError.expected(
                where, "x", "square images (N, H*W)", f"shape {images.shape}", "reshape to (N, C, H, W)"
            )
        return images.reshape(len(images), side, side)
    if images.ndim not in (3, 4):
        raise ShapeError.expected(where, "x", "(N, H, W), (N, C, H, W) or (N, H*W)", f"shape {images.shape}")
    return images


def _channels_first(images: Any, where: str) -> Any:
    """Return images for ``fit`` as (N, H, W) or (N, C, H, W): others where only the last axis can be the channels."""
    if images.ndim == 4 and images.shape[3] in COLOURS and min(images.shape[1:3]) > max(COLOURS):
        warnings.warn(f"{where}: images are taken as (N, H, W, C), with {images.shape[3]} channels", stacklevel=3)
        return np.moveaxis(images, 3, 1)
    return images


def _labels(y: Any, count: int, where: str) -> Any:
    try:
        labels = y.numpy() if isinstance(y, Tensor) else np.asarray(y)
    except ValueError:
        raise ShapeError.expected(where, "y", "a list of labels", "lists of different lengths") from None
    if labels.ndim == 2 and labels.shape[0] == count and labels.shape[1] > 1 and labels.dtype.kind in "biuf":
        if not (((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all()):
            raise DataError.expected(where, "y", "one 1 in each row of zeros, for labels of two axes", "other numbers")
        return labels.argmax(1)  # one-hot
    if labels.shape != (count,):
        raise ShapeError.expected(where, "y", f"one label for each of {count} images", f"shape {labels.shape}")
    return labels


def _kind(labels: Any) -> str:
    """Return the kind of labels that can be compared: "number", or the letter of a dtype, of texts U, of bytes S."""
    kind = str(labels.dtype.kind)
    if kind == "O" and len({type(label) for label in labels.tolist()}) == 1:
        kind = np.asarray(labels.tolist()).dtype.kind
    return "number" if kind in "biuf" else kind


def _training_set(x: Any, y: Any, where: str, known: Any) -> tuple[Dataset, Any, Any]:
    """Return the data set of ``fit``'s arguments, its classes and the dtype of its pixels."""
    if isinstance(x, Dataset):
        _check_names(x, y, where, known)
        if not len(x):
            raise DataError.expected(where, "x", "at least one image", "none")
        return x, np.array(x.class_names) if known is None else known, x[np.arange(1)][0].dtype
    if y is None:
        raise ParameterError.expected(where, "y", "labels", "none", "only a data.Dataset brings its own")
    images = _channels_first(_images(x, where), where)
    classes, labels = _encoded(y, len(images), where, known)
    return ArrayDataset(images, labels, [str(name) for name in classes], where), classes, images.dtype


def _check_names(data: Dataset, y: Any, where: str, known: Any) -> None:
    if y is not None:
        raise ParameterError.expected(where, "y", "none beside a data.Dataset, which has labels of its own", kind_of(y))
    if known is not None and data.class_names != [str(name) for name in known]:
        expected = f"a data set with the classes {shortened([str(name) for name in known])}"
        raise DataError.expected(where, "x", expected, shortened(data.class_names))


def _encoded(y: Any, count: int, where: str, known: Any = None) -> tuple[Any, Any]:
    """Return the sorted distinct labels, or the ``known`` ones, and the index among them of each label."""
    labels = _labels(y, count, where)
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise DataError.expected(where, "y", "labels", "NaN or infinity")
    try:
        classes, places = np.unique(labels, return_inverse=True)
    except TypeError:
        raise DTypeError.expected(where, "y", "labels that can be sorted", "labels of several kinds") from None
    if known is not None:
        if _kind(labels) != _kind(known) or not np.isin(classes, known).all():
            raise DataError.expected(
                where, "y", f"labels of the classes {shortened(str(known.tolist()), 80)}", "others"
            )
        return known, np.searchsorted(known, labels)
    if len(classes) < 2:
        raise DataError.expected(where, "y", "at least two classes", len(classes))
    return classes, places
