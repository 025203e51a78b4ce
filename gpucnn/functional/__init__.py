"""The network's operations as functions, under PyTorch's names: ``import gpucnn.functional as F``."""

from gpucnn.functional.activation import log_softmax, relu, sigmoid, softmax, tanh
from gpucnn.functional.conv import col2im, conv2d, im2col
from gpucnn.functional.dropout import dropout
from gpucnn.functional.linear import linear
from gpucnn.functional.loss import cross_entropy, mse_loss
from gpucnn.functional.pool import avg_pool2d, max_pool2d

__all__ = [
    "avg_pool2d",
    "col2im",
    "conv2d",
    "cross_entropy",
    "dropout",
    "im2col",
    "linear",
    "log_softmax",
    "max_pool2d",
    "mse_loss",
    "relu",
    "sigmoid",
    "softmax",
    "tanh",
]
