"""Analysis of a network: cost and receptive field of its layers, feature maps, saliency, gradient checks."""

from gpucnn.analysis.feature_maps import edge_filter, feature_maps, filters, most_exciting, responses
from gpucnn.analysis.gradient_check import GradientCheck, GradientReport, check_gradients
from gpucnn.analysis.profile import LayerTime, Profile, profile
from gpucnn.analysis.saliency import grad_cam, occlusion
from gpucnn.analysis.summary import Summary, SummaryRow, summary

__all__ = [
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
]
