"""Optimisers, learning-rate schedules and gradient clipping, with the names of ``torch.optim``."""

from gpucnn.optim import lr_scheduler
from gpucnn.optim.adam import Adam, AdamW
from gpucnn.optim.adaptive import Adadelta, Adagrad, RMSprop
from gpucnn.optim.clip import clip_grad_norm_, clip_grad_value_
from gpucnn.optim.optimizer import Optimizer
from gpucnn.optim.sgd import SGD

__all__ = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Optimizer",
    "RMSprop",
    "clip_grad_norm_",
    "clip_grad_value_",
    "lr_scheduler",
]
