"""Measuring leaves every layer in the mode it was in."""

import numpy as np

from gpucnn import get_backend, nn
from gpucnn.data import ArrayDataset
from gpucnn.training import Loader, Normalisation, evaluate


def test_a_layer_that_was_frozen_in_evaluation_mode_stays_so() -> None:
    frozen = nn.BatchNorm2d(1).eval()
    net = nn.Sequential(frozen, nn.Flatten(), nn.Dropout(), nn.Linear(4, 2))
    data = ArrayDataset(np.zeros((3, 2, 2), np.uint8), [0, 1, 1])
    evaluate(net, Loader(data, get_backend("cpu"), Normalisation((0.0,), (1.0,))))
    assert [layer.training for layer in net] == [False, True, True, True]
    assert net.training
