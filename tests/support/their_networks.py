"""torchvision's networks, as an oracle: with the build of torchvision that fits PyTorch's, or another."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch


def torchvision_models(config: pytest.Config) -> Any:
    """Return ``torchvision.models``; skip the test, or fail it with --require-torchvision, where it is not installed."""
    from conftest import skip_or_fail

    try:
        return _imported()
    except ImportError as error:
        return skip_or_fail(config, "torchvision", str(error))


def _imported() -> Any:
    try:
        import torchvision.models
    except RuntimeError:  # its compiled operations are for PyTorch with CUDA, say; networks need none of them
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        operations = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            operations.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        _KEPT.append(operations)
        import torchvision.models
    return torchvision.models


_KEPT: list[Any] = []
"""Operations that are forgotten when their library is."""
