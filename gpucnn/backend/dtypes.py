"""Dtypes by PyTorch's names. They are NumPy's: ``x.dtype == gpucnn.float32`` holds, and ``x.dtype == "float32"``."""

from __future__ import annotations

import numpy as np

float16 = half = np.dtype("float16")
float32 = np.dtype("float32")
float64 = double = np.dtype("float64")
uint8 = np.dtype("uint8")
int8 = np.dtype("int8")
int16 = np.dtype("int16")
int32 = np.dtype("int32")
int64 = long = np.dtype("int64")

NAMES = ("double", "float16", "float32", "float64", "half", "int16", "int32", "int64", "int8", "long", "uint8")
