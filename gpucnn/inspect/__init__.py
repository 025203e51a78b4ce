"""Looking into a network: what its layers cost and see, what they have learnt, and whether gradients are right."""

from gpucnn.inspect.attention import grad_cam, occlusion
from gpucnn.inspect.gradients import GradientCheck, GradientReport, check_gradients
from gpucnn.inspect.maps import edge_filter, feature_maps, filters, responses
from gpucnn.inspect.summary import Summary, SummaryRow, summary

__all__ = [
    "GradientCheck",
    "GradientReport",
    "Summary",
    "SummaryRow",
    "check_gradients",
    "edge_filter",
    "feature_maps",
    "filters",
    "grad_cam",
    "occlusion",
    "responses",
    "summary",
]
