"""Two processes of one core each against one, in turns; and PyTorch's DistributedDataParallel (gloo) in the same run.

    python scripts/bench_distributed.py
    python scripts/bench_distributed.py --rounds 1 --seconds 0.5      # a quick look

Each measurement is a start of its own: batches are read from an .npz on disk through a DataLoader, and the images of the
steps after a warm-up are counted. Needs the extra mpi, and PyTorch for its rows.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import numpy as np

NETWORKS = {"lenet": ((1, 28, 28), 256), "resnet": ((3, 32, 32), 64)}
OWN_CORE = """
import os
rank = int(os.environ.get("PMI_RANK") or os.environ.get("OMPI_COMM_WORLD_RANK") or 0)
cores = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, {cores[rank % len(cores)]})
"""
OURS = """
import sys, time
import numpy as np
import gpucnn
from gpucnn import models, nn, optim
from gpucnn.data import ArrayDataset
from gpucnn.distributed import init
from gpucnn.training import DataLoader, distributed
name, file, batch, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
with init() as comm:
    gpucnn.manual_seed(0)
    net = models.build(name)
    stored = np.load(file)
    batches = DataLoader(ArrayDataset(stored["images"], stored["labels"]), batch, shuffle=True, comm=comm)
    optimizer, loss_function = distributed(optim.Adam(net.parameters(), lr=1e-3), comm), nn.CrossEntropyLoss()
    images, start = 0, None
    while start is None or time.perf_counter() - start < seconds:
        for x, y in batches:
            optimizer.zero_grad()
            loss_function(net(x), y).backward()
            optimizer.step()
            images += batch
        if start is None:
            images, start = 0, time.perf_counter()
        over = np.array([float(time.perf_counter() - start >= seconds)])
        comm.all_reduce(over)
        if over[0]:
            break
    if comm.rank == 0:
        print(images / (time.perf_counter() - start))
"""
THEIRS = """
import sys, time
import numpy as np
import torch
import torch.distributed as dist
torch.set_num_threads(1)
name, file, batch, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
rank, size = int(os.environ.get("PMI_RANK", "0")), int(os.environ.get("PMI_SIZE", "1"))
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29511")
dist.init_process_group("gloo", rank=rank, world_size=size)
sys.path.insert(0, sys.argv[5])
import bench
torch.manual_seed(0)
from gpucnn import benchmark, models
net = bench.torch_twin(models.describe(benchmark.make(name, tuple(map(int, sys.argv[6].split(","))), "cpu")))
net = torch.nn.parallel.DistributedDataParallel(net)
stored = np.load(file)
x_all = torch.from_numpy(stored["images"]).float().div(255)
y_all = torch.from_numpy(stored["labels"])
optimizer, loss_function = torch.optim.Adam(net.parameters(), lr=1e-3), torch.nn.CrossEntropyLoss()
images, start = 0, None
while True:
    order = torch.randperm(len(x_all), generator=torch.Generator().manual_seed(0))
    for first in range(0, len(order), batch):
        chosen = order[first : first + batch].chunk(size)[rank]
        optimizer.zero_grad()
        loss_function(net(x_all[chosen]), y_all[chosen]).backward()
        optimizer.step()
        images += batch
    if start is None:
        images, start = 0, time.perf_counter()
    over = torch.tensor([float(time.perf_counter() - start >= seconds)])
    dist.all_reduce(over)
    if over.item():
        break
if rank == 0:
    print(images / (time.perf_counter() - start))
dist.destroy_process_group()
"""


def rate(mpiexec: str, processes: int, program: str, *arguments: str) -> float:
    """Return the images a second of a program in so many processes of one core."""
    command = [mpiexec, "-n", str(processes), sys.executable, "-c", OWN_CORE + program, *arguments]
    environment = os.environ | {"GPUCNN_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise click.ClickException(f"{processes} processes: {done.stderr.strip().splitlines()[-1:]}")
    return float(done.stdout.split()[-1])


@click.command()
@click.option("--rounds", default=5, show_default=True, help="Alternating rounds.")
@click.option("--seconds", default=5.0, show_default=True, help="Length of each measurement.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write the results here as well.")
def main(rounds: int, seconds: float, file: Path | None) -> None:
    """Measure two processes of one core against one, and PyTorch's DDP beside them."""
    beside = Path(sys.executable).with_name("mpiexec")
    mpiexec = str(beside) if beside.exists() else shutil.which("mpiexec")
    if mpiexec is None:
        raise click.ClickException("no mpiexec: pip install 'gpucnn[mpi]'")
    try:
        import torch  # noqa: F401

        peers = True
    except ImportError:
        peers = False
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (shape, batch) in NETWORKS.items():
            images = np.random.default_rng(0).integers(0, 256, (batch * 20, *shape), np.uint8)
            data = Path(folder, f"{name}.npz")
            np.savez(data, images=images, labels=np.arange(len(images)) % 10)
            common = (name, str(data), str(batch), str(seconds))
            sides = {f"gpucnn {count}": (count, OURS, common) for count in (1, 2)}
            if peers:
                more = (str(Path(__file__).parent), ",".join(map(str, shape)))
                sides |= {f"torch {count}": (count, THEIRS, (*common, *more)) for count in (1, 2)}
            rates: dict[str, list[float]] = {side: [] for side in sides}
            for _ in range(rounds):
                for side, (count, program, arguments) in sides.items():
                    rates[side].append(rate(mpiexec, count, program, *arguments))
            row = {"what": name, "batch": batch, **{side: statistics.median(some) for side, some in rates.items()}}
            gains = [two / one for one, two in zip(rates["gpucnn 1"], rates["gpucnn 2"], strict=True)]
            row |= {"gain": statistics.median(gains), "min": min(gains), "max": max(gains)}
            if peers:
                for count in (1, 2):
                    pairs = zip(rates[f"gpucnn {count}"], rates[f"torch {count}"], strict=True)
                    row[f"against torch, {count}"] = statistics.median(ours / theirs for ours, theirs in pairs)
            found.append(row)
            print(
                json.dumps({key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()}),
                flush=True,
            )
    if file is not None:
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
