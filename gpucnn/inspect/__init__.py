"""Looking into a network: what its layers cost and see, what they have learnt, and whether gradients are right."""

from gpucnn.inspect.attention import grad_cam, occlusion
from gpucnn.inspect.gradients import GradientCheck, GradientReport, check_gradients
from gpucnn.inspect.live import LiveCurves
from gpucnn.inspect.look import Look, look, look_page
from gpucnn.inspect.maps import edge_filter, feature_maps, filters, responses
from gpucnn.inspect.plots import look_plot, plots
from gpucnn.inspect.report import Mistake, Outcome, Run, report
from gpucnn.inspect.summary import Summary, SummaryRow, summary

__all__ = [
    "GradientCheck",
    "GradientReport",
    "LiveCurves",
    "Look",
    "Mistake",
    "Outcome",
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
    "occlusion",
    "plots",
    "report",
    "responses",
    "summary",
]
