"""Reports and plots: pages about a run or an image, curves and figures; text and bytes from arrays, no files."""

from gpucnn.report.image_report import Look, look, look_page
from gpucnn.report.notebook import LiveCurves
from gpucnn.report.outcome import Mistake, Outcome
from gpucnn.report.pictures import look_plot, plots
from gpucnn.report.run_report import Run, report

__all__ = [
    "LiveCurves",
    "Look",
    "Mistake",
    "Outcome",
    "Run",
    "look",
    "look_page",
    "look_plot",
    "plots",
    "report",
]
