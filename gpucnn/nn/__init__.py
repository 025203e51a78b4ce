"""Layers, losses and networks, under the names of ``torch.nn``."""

from gpucnn.autograd import Parameter
from gpucnn.nn import init
from gpucnn.nn.containers import Sequential
from gpucnn.nn.layers import (
    AvgPool2d,
    Conv2d,
    Dropout,
    Flatten,
    Linear,
    LogSoftmax,
    MaxPool2d,
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
)
from gpucnn.nn.losses import CrossEntropyLoss, MSELoss
from gpucnn.nn.module import Module

__all__ = [
    "AvgPool2d",
    "Conv2d",
    "CrossEntropyLoss",
    "Dropout",
    "Flatten",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "MaxPool2d",
    "Module",
    "Parameter",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "init",
]
