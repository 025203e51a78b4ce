"""Train LeNet on drawn digits alone and let it read MNIST, which it has never seen: mean of three seeds.

python scripts/digits_to_mnist.py --mnist FOLDER
"""

from pathlib import Path

import click
import numpy as np

import gpucnn
from gpucnn import data, models, nn, optim
from gpucnn.training import Loader, Normalisation, evaluate, train_step


def accuracy_on(test: data.Dataset, drawn: data.Dataset, seed: int, epochs: int, batch_size: int, lr: float) -> float:
    """Return the share of ``test`` that a LeNet trained on ``drawn`` reads rightly."""
    gpucnn.manual_seed(seed)
    backend, normalisation = gpucnn.get_backend(), Normalisation.of(drawn)
    loader = Loader(drawn, backend, normalisation)
    net, loss_fn = models.lenet(), nn.CrossEntropyLoss()
    optimizer = optim.Adam(net.parameters())
    batches = -(-len(drawn) // batch_size)
    schedule = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=epochs * batches)
    for epoch in range(epochs):
        for chosen in np.array_split(loader.order(seed, epoch), batches):
            train_step(net, loss_fn, optimizer, *loader.batch(chosen))
            schedule.step()
    return evaluate(net, Loader(test, backend, normalisation)).accuracy


@click.command(help=__doc__)
@click.option("--mnist", required=True, type=click.Path(path_type=Path), help="Folder with MNIST's IDX files.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or auto.")
@click.option("--count", default=60_000, show_default=True, help="Drawn digits to train on.")
@click.option("--epochs", default=4, show_default=True)
@click.option("--batch-size", default=64, show_default=True)
@click.option("--lr", default=5e-3, show_default=True, help="Highest learning rate of the one-cycle schedule.")
@click.option("--seeds", default=3, show_default=True, help="Seeds 0, 1, ... of drawing, weights and shuffling.")
def main(mnist: Path, device: str, count: int, epochs: int, batch_size: int, lr: float, seeds: int) -> None:
    gpucnn.use(device)
    test = data.load(str(mnist)).test
    results = []
    for seed in range(seeds):
        drawn = data.ArrayDataset(*data.draw_digits(count, seed))
        results.append(accuracy_on(test, drawn, seed, epochs, batch_size, lr))
        print(f"seed {seed}: {results[-1]:.4f}", flush=True)
    print(f"mean of {seeds}: {np.mean(results):.4f}")


if __name__ == "__main__":
    main()
