"""Comparing a model's outputs with onnxruntime's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpucnn.errors import GpucnnError, shortened


def session(content: bytes) -> Any:
    """Return onnxruntime's session of a model on the CPU; None if it is not installed. GpucnnError if it refuses."""
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's classes are of C++ and have no common base
        raise GpucnnError(f"export: onnxruntime refuses the model ({shortened(error)}).") from None


def largest_difference(content: bytes, inputs: Mapping[str, Any], wanted: Sequence[Any]) -> float | None:
    """Return the largest difference between onnxruntime's outputs and the expected ones; None if it is not installed."""
    found = session(content)
    if found is None:
        return None
    largest = 0.0
    for ours, theirs in zip(wanted, found.run(None, dict(inputs)), strict=True):
        if ours.shape != theirs.shape:
            raise GpucnnError(f"export: onnxruntime gives shape {theirs.shape}, gpucnn {ours.shape}.")
        gap = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
        largest = max(largest, float(gap.max(initial=0.0)))
    return largest
