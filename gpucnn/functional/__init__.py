"""The network's operations as functions, under PyTorch's names: ``import gpucnn.functional as F``."""

from gpucnn.functional.activation import log_softmax, relu, sigmoid, softmax, tanh
from gpucnn.functional.class_loss import nll_loss
from gpucnn.functional.conv import col2im, conv2d, im2col
from gpucnn.functional.conv_variants import conv1d, conv2d_loops, conv_transpose2d, corr2d
from gpucnn.functional.dropout import dropout, dropout2d
from gpucnn.functional.elementwise_loss import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    hinge_loss,
    huber_loss,
    l1_loss,
)
from gpucnn.functional.fused import conv2d_relu_max_pool2d
from gpucnn.functional.linear import linear
from gpucnn.functional.loss import cross_entropy, mse_loss
from gpucnn.functional.norm import batch_norm, group_norm, layer_norm
from gpucnn.functional.pad import PADDING_MODES, pad2d
from gpucnn.functional.pool import avg_pool2d, max_pool2d
from gpucnn.functional.pool_variants import (
    adaptive_avg_pool2d,
    adaptive_max_pool2d,
    centre_pool2d,
    global_avg_pool2d,
    global_max_pool2d,
    lp_pool2d,
    max_pool2d_with_indices,
    max_unpool2d,
)
from gpucnn.functional.units import affine, elu, exponential, gelu, hardsigmoid, leaky_relu, selu, silu, softplus

__all__ = [
    "PADDING_MODES",
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "affine",
    "avg_pool2d",
    "batch_norm",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "centre_pool2d",
    "col2im",
    "conv1d",
    "conv2d",
    "conv2d_loops",
    "conv2d_relu_max_pool2d",
    "conv_transpose2d",
    "corr2d",
    "cross_entropy",
    "dropout",
    "dropout2d",
    "elu",
    "exponential",
    "gelu",
    "global_avg_pool2d",
    "global_max_pool2d",
    "group_norm",
    "hardsigmoid",
    "hinge_loss",
    "huber_loss",
    "im2col",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "lp_pool2d",
    "max_pool2d",
    "max_pool2d_with_indices",
    "max_unpool2d",
    "mse_loss",
    "nll_loss",
    "pad2d",
    "relu",
    "selu",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "tanh",
]
