"""Optimisers and schedules, under the names of ``torch.optim``."""

from gpucnn.optim import lr_scheduler
from gpucnn.optim.adam import Adam
from gpucnn.optim.optimizer import Optimizer
from gpucnn.optim.sgd import SGD

__all__ = ["SGD", "Adam", "Optimizer", "lr_scheduler"]
