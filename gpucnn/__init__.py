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
    from gpucnn.autograd import Tensor, concatenate, from_dlpack, no_grad, tensor
    from gpucnn.backend import Backend, Generator, get_array_module, get_backend, manual_seed, use
    from gpucnn.captured import capture
    from gpucnn.estimator import Classifier

__all__ = [
    "Backend",
    "Classifier",
    "Generator",
    "Tensor",
    "__version__",
    "capture",
    "concatenate",
    "from_dlpack",
    "get_array_module",
    "get_backend",
    "manual_seed",
    "no_grad",
    "tensor",
    "use",
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
