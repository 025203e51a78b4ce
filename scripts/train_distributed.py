"""A loop by hand in several processes: each takes its part of every batch, and the gradients are averaged.

    pip install 'gpucnn[mpi]'
    mpirun -n 4 python scripts/train_distributed.py
    python scripts/train_distributed.py                 # the same program in one process

`gpucnn train --processes 4` does this with checkpoints, a report and the same bits for any number of processes; see
docs/distributed.md for when to use which.
"""

import time

import click

import gpucnn
from gpucnn import nn, optim
from gpucnn.data import ArrayDataset, draw_digits
from gpucnn.distributed import init
from gpucnn.training import DataLoader, distributed


@click.command()
@click.option("--images", default=10_000, show_default=True, help="Digits that are drawn to train on.")
@click.option("--epochs", default=2, show_default=True)
@click.option("--batch-size", default=256, show_default=True, help="Of all processes together.")
@click.option("--lr", default=3e-3, show_default=True)
def main(images: int, epochs: int, batch_size: int, lr: float) -> None:
    """Train LeNet by hand on drawn digits, in as many processes as the launcher starts."""
    with init() as comm:  # where one process fails, it is named, and all end
        gpucnn.manual_seed(0)  # the same weights everywhere
        net = gpucnn.models.build("lenet")
        data = ArrayDataset(*draw_digits(images, seed=0))
        batches = DataLoader(data, batch_size, shuffle=True, seed=0, comm=comm)
        optimizer = distributed(optim.Adam(net.parameters(), lr=lr), comm)
        loss_function = nn.CrossEntropyLoss()
        for epoch in range(epochs):
            start, total = time.perf_counter(), gpucnn.zeros(2, dtype="float64")
            for x, y in batches:
                optimizer.zero_grad()
                if len(x):
                    loss = loss_function(net(x), y)
                    loss.backward()
                    total += gpucnn.tensor([loss.item() * len(x), len(x)], dtype="float64")
                optimizer.step(images=len(x))
            comm.all_reduce(total.array)
            seconds = time.perf_counter() - start
            if comm.rank == 0:
                mean, count = total[0].item() / total[1].item(), int(total[1].item())
                print(
                    f"epoch {epoch + 1}: loss {mean:.4f}, {count / seconds:,.0f} images/s on {comm.size} processes",
                    flush=True,
                )


if __name__ == "__main__":
    main()
