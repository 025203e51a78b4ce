"""gpucnn: convolutional networks on NumPy or CuPy from one layer code base.

>>> import gpucnn
>>> from gpucnn import nn
>>> net = nn.Sequential(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1176, 10))
>>> net(gpucnn.tensor([[[[0.0] * 28] * 28]])).shape
(1, 10)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gpucnn.version import __version__

_HOME = {
    "Backend": "gpucnn.backend",
    "Generator": "gpucnn.backend",
    "get_array_module": "gpucnn.backend",
    "get_backend": "gpucnn.backend",
    "manual_seed": "gpucnn.backend",
    "use": "gpucnn.backend",
    "Classifier": "gpucnn.estimator",
    "capture": "gpucnn.captured",
    "Tensor": "gpucnn.autograd",
    "concatenate": "gpucnn.autograd",
    "from_dlpack": "gpucnn.autograd",
    "no_grad": "gpucnn.autograd",
    "tensor": "gpucnn.autograd",
    "arange": "gpucnn.autograd",
    "cat": "gpucnn.autograd",
    "from_numpy": "gpucnn.autograd",
    "full": "gpucnn.autograd",
    "matmul": "gpucnn.autograd",
    "normal": "gpucnn.autograd",
    "ones": "gpucnn.autograd",
    "ones_like": "gpucnn.autograd",
    "rand": "gpucnn.autograd",
    "randn": "gpucnn.autograd",
    "stack": "gpucnn.autograd",
    "where": "gpucnn.autograd",
    "zeros": "gpucnn.autograd",
    "zeros_like": "gpucnn.autograd",
    "double": "gpucnn.backend.dtypes",
    "float16": "gpucnn.backend.dtypes",
    "float32": "gpucnn.backend.dtypes",
    "float64": "gpucnn.backend.dtypes",
    "half": "gpucnn.backend.dtypes",
    "int16": "gpucnn.backend.dtypes",
    "int32": "gpucnn.backend.dtypes",
    "int64": "gpucnn.backend.dtypes",
    "int8": "gpucnn.backend.dtypes",
    "long": "gpucnn.backend.dtypes",
    "uint8": "gpucnn.backend.dtypes",
    "save": "gpucnn.models.objects",
    "load": "gpucnn.models.objects",
}
_ROOMS = (
    "analysis",
    "autograd",
    "backend",
    "data",
    "distributed",
    "errors",
    "functional",
    "inspect",
    "models",
    "nn",
    "onnx",
    "optim",
    "report",
    "training",
)

if TYPE_CHECKING:
    from gpucnn.autograd import (
        Tensor,
        arange,
        cat,
        concatenate,
        from_dlpack,
        from_numpy,
        full,
        matmul,
        no_grad,
        normal,
        ones,
        ones_like,
        rand,
        randn,
        stack,
        tensor,
        where,
        zeros,
        zeros_like,
    )
    from gpucnn.backend import Backend, Generator, get_array_module, get_backend, manual_seed, use
    from gpucnn.backend.dtypes import (
        double,
        float16,
        float32,
        float64,
        half,
        int8,
        int16,
        int32,
        int64,
        long,
        uint8,
    )
    from gpucnn.captured import capture
    from gpucnn.estimator import Classifier
    from gpucnn.models.objects import load, save

__all__ = [
    "Backend",
    "Classifier",
    "Generator",
    "Tensor",
    "__version__",
    "arange",
    "capture",
    "cat",
    "concatenate",
    "double",
    "float16",
    "float32",
    "float64",
    "from_dlpack",
    "from_numpy",
    "full",
    "get_array_module",
    "get_backend",
    "half",
    "int8",
    "int16",
    "int32",
    "int64",
    "load",
    "long",
    "manual_seed",
    "matmul",
    "no_grad",
    "normal",
    "ones",
    "ones_like",
    "rand",
    "randn",
    "save",
    "stack",
    "tensor",
    "uint8",
    "use",
    "where",
    "zeros",
    "zeros_like",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif name in _ROOMS:
        value = importlib.import_module(f"gpucnn.{name}")
    else:
        raise AttributeError(f"module 'gpucnn' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_ROOMS})
