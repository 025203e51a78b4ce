"""Inspect a network: cost and receptive field of its layers, what they have learnt, and whether gradients are correct.

This module has the names of ``gpucnn.analysis`` and ``gpucnn.report``, each imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpucnn.analysis import (
        GradientCheck,
        GradientReport,
        LayerTime,
        Profile,
        Summary,
        SummaryRow,
        check_gradients,
        edge_filter,
        feature_maps,
        filters,
        grad_cam,
        most_exciting,
        occlusion,
        profile,
        responses,
        summary,
    )
    from gpucnn.report import LiveCurves, Look, Mistake, Outcome, Run, look, look_page, look_plot, plots, report

__all__ = [
    "GradientCheck",
    "GradientReport",
    "LayerTime",
    "LiveCurves",
    "Look",
    "Mistake",
    "Outcome",
    "Profile",
    "Run",
    "Summary",
    "SummaryRow",
    "check_gradients",
    "edge_filter",
    "feature_maps",
    "filters",
    "grad_cam",
    "look",
    "look_page",
    "look_plot",
    "most_exciting",
    "occlusion",
    "plots",
    "profile",
    "report",
    "responses",
    "summary",
]

_ANALYSIS = {
    "GradientCheck",
    "GradientReport",
    "LayerTime",
    "Profile",
    "Summary",
    "SummaryRow",
    "check_gradients",
    "edge_filter",
    "feature_maps",
    "filters",
    "grad_cam",
    "most_exciting",
    "occlusion",
    "profile",
    "responses",
    "summary",
}
"""The names of ``gpucnn.analysis``; the others are those of ``gpucnn.report``."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'gpucnn.inspect' has no attribute {name!r}")
    value = getattr(importlib.import_module("gpucnn.analysis" if name in _ANALYSIS else "gpucnn.report"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
