"""The weights after training have the same bits on 1, 2 and 4 processes, with a last batch that does not divide."""

from __future__ import annotations

import json
from typing import Any

import pytest
from launching import launch

PROGRAM = """
import hashlib, json, sys
import numpy as np
import gpucnn
from gpucnn import models, nn, optim
from gpucnn.backend import Generator, drawing_from
from gpucnn.data import ArrayDataset, Augmentation, draw_digits
from gpucnn.distributed import init
from gpucnn.training import Loader, Loop, LossAndAccuracy, Normalisation, TopK

comm = init()
augmentation = Augmentation.parse(sys.argv[2]) if sys.argv[2] else None
data = ArrayDataset(*draw_digits(103, 0))
with drawing_from(Generator(3)):
    net = models.build(sys.argv[1], classes=10, in_channels=1, image_size=28)
loader = Loader(data, gpucnn.get_backend("cpu"), Normalisation.of(data), augmentation=augmentation)
optimizer = optim.Adam(net.named_parameters(), lr=1e-3)
loop = Loop(
    net, nn.CrossEntropyLoss(), optimizer, loader.batches(50, 5), [LossAndAccuracy(), TopK(3)],
    comm=comm, shards=4, generator=Generator(3), clip_norm=1.0, ema=0.9,
)
history = loop.run(3)
digest = hashlib.sha256()
for name, array in net.state_dict().items():
    digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
measured = [{key: values[key] for key in ("loss", "accuracy", "top_3")} for values in history]
found = comm.gather([digest.hexdigest(), measured])
if comm.rank == 0:
    print(json.dumps(found), flush=True)
"""


@pytest.mark.parametrize(
    ("model", "augmentation"),
    [
        ("lenet", ""),
        ("resnet:width=4,blocks=1", ""),
        ("conv_mlp", "shift=2"),
    ],  # batch norm; dropout, batches read ahead
)
def test_weights_and_metrics(mpiexec: str, model: str, augmentation: str) -> None:
    found: list[Any] = []
    for count in (1, 2, 4):
        done = launch(mpiexec, count, PROGRAM, model, augmentation)
        assert done.returncode == 0, done.stderr
        ranks = json.loads(done.stdout)
        assert len(ranks) == count
        found += ranks
    assert all(one == found[0] for one in found)
