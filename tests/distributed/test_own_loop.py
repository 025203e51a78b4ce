"""``training.distributed``: a loop by hand on several processes does what one process does on all images."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from launching import launch
from runs import ROOT, environment

import gpucnn
from gpucnn import nn, optim
from gpucnn.distributed import Communicator
from gpucnn.errors import ParameterError
from gpucnn.training import distributed

PROGRAM = """
import json
import numpy as np
import gpucnn
from gpucnn import nn, optim
from gpucnn.distributed import init
from gpucnn.training import distributed

comm = init()
gpucnn.manual_seed(comm.rank)  # other weights in each process: those of rank 0 count
net = nn.Linear(3, 2)
first = comm.gather(net.weight.tolist())[0]
optimizer = distributed(optim.SGD(net.parameters(), lr=0.1, momentum=0.9), comm)
rng = np.random.default_rng(0)
x, y = rng.standard_normal((7, 3)).astype(np.float32), rng.integers(0, 2, 7)
cuts = [0, 4, 7, 7, 7][: comm.size] + [7]  # with four processes two have no images
own = slice(cuts[comm.rank], cuts[comm.rank + 1])
for _ in range(3):
    optimizer.zero_grad()
    if own.stop > own.start:
        nn.CrossEntropyLoss()(net(gpucnn.tensor(x[own])), gpucnn.tensor(y[own])).backward()
    optimizer.step(images=own.stop - own.start)
found = comm.gather([net.weight.tolist(), net.bias.tolist()])
if comm.rank == 0:
    print(json.dumps([first, found]), flush=True)
"""


@pytest.mark.parametrize("count", [1, 2, 4])
def test_processes_with_other_numbers_of_images(mpiexec: str, count: int) -> None:
    done = launch(mpiexec, count, PROGRAM)
    assert done.returncode == 0, done.stderr
    first, found = json.loads(done.stdout)
    gpucnn.manual_seed(0)
    net = nn.Linear(3, 2)
    assert net.weight.tolist() == first
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    rng = np.random.default_rng(0)
    x, y = gpucnn.tensor(rng.standard_normal((7, 3)).astype(np.float32)), gpucnn.tensor(rng.integers(0, 2, 7))
    for _ in range(3):
        optimizer.zero_grad()
        nn.CrossEntropyLoss()(net(x), y).backward()
        optimizer.step()
    assert all(one == found[0] for one in found)
    np.testing.assert_allclose(found[0][0], net.weight.tolist(), rtol=1e-5)
    np.testing.assert_allclose(found[0][1], net.bias.tolist(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("images", [-1, 1.5, "2", True])
def test_a_wrong_number_of_images(images: Any) -> None:
    optimizer = distributed(optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1), Communicator())
    with pytest.raises(ParameterError, match="step: images: expected an int of at least 0"):
        optimizer.step(images)


def test_wrong_arguments() -> None:
    with pytest.raises(ParameterError, match="distributed: optimizer: expected an Optimizer, got int"):
        distributed(3, Communicator())
    with pytest.raises(
        ParameterError, match=r"distributed: comm: expected a communicator of distributed\.init, got int"
    ):
        distributed(optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1), 3)  # type: ignore[arg-type]


def test_the_script_gives_the_same_losses_in_one_process_and_in_two(mpiexec: str) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "train_distributed.py"), "--images", "500", "--epochs", "2"]
    found = []
    for start in ([], [mpiexec, "-n", "2"]):
        done = subprocess.run(
            [*start, *command], capture_output=True, text=True, timeout=120, check=False, env=environment()
        )
        assert done.returncode == 0, done.stderr
        found.append([float(loss) for loss in re.findall(r"loss ([\d.]+)", done.stdout)])
    assert len(found[0]) == 2
    assert found[0][1] < found[0][0]
    np.testing.assert_allclose(found[1], found[0], atol=2e-4)
