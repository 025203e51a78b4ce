"""System 1's experiment: LeNet with sigmoids on the first 10,000 images of MNIST, Adam, batch 64, 15 epochs.

python scripts/system_1.py --data FOLDER --seed 0 --seed 1 --seed 2

Its main experiment, convolution by loops against products of matrices on one LeNet, is --implementation loops and im2col:

python scripts/system_1.py --implementation loops --images 256 --epochs 1
"""

from time import perf_counter

import click
import numpy as np

import gpucnn
from gpucnn import data, models, nn, optim
from gpucnn.training import Loader, LossAndAccuracy, Normalisation, evaluate, train_step

MODEL = "lenet:activation=sigmoid,padding=0,hidden=128,init=xavier_normal"
PUBLISHED = "published, by im2col: loss 2.297 in epoch 1, 0.138 in epoch 15, test accuracy 0.9567, 312 s an epoch"
TARGET = "target: test accuracy 0.965 (in the original, the second convolution reuses the first one's parameters)"


def experiment(
    splits: data.Splits, seed: int, epochs: int, implementation: str = "auto", images: int = 10_000
) -> float:
    """Train from this seed and return the test accuracy."""
    gpucnn.manual_seed(seed)
    backend, minus_one_to_one = gpucnn.get_backend(), Normalisation((0.5,), (0.5,))
    train = Loader(splits.train.subset(np.arange(min(images, len(splits.train)))), backend, minus_one_to_one)
    test = Loader(splits.test, backend, minus_one_to_one)
    net, loss_fn = models.build(f"{MODEL},implementation={implementation}"), nn.CrossEntropyLoss()
    optimizer = optim.Adam(net.parameters(), lr=1e-3)
    for epoch in range(1, epochs + 1):
        start, totals, order = perf_counter(), LossAndAccuracy(backend), train.order(seed, epoch)
        for first in range(0, len(order), 64):
            x, y = train.batch(order[first : first + 64])
            totals.update(*train_step(net, loss_fn, optimizer, x, y), y)
        print(f"epoch {epoch}: loss {totals.loss:.3f}, {perf_counter() - start:.1f} s", flush=True)
    accuracy = evaluate(net, test).accuracy
    print(f"seed {seed}: test accuracy {accuracy:.4f}", flush=True)
    return accuracy


@click.command(help=__doc__)
@click.option("--data", "source", default="mnist", show_default=True, help="Folder with MNIST's IDX files.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or auto.")
@click.option("--seed", "seeds", default=[0], multiple=True, show_default=True, help="May be given several times.")
@click.option("--epochs", default=15, show_default=True)
@click.option("--implementation", type=click.Choice(["auto", "im2col", "loops"]), default="auto", show_default=True)
@click.option(
    "--images", default=10_000, show_default=True, help="Training images; loops take a second for each hundred."
)
def main(source: str, device: str, seeds: tuple[int, ...], epochs: int, implementation: str, images: int) -> None:
    gpucnn.use(device)
    splits = data.load(source)
    results = [experiment(splits, seed, epochs, implementation, images) for seed in seeds]
    print(f"mean of {len(seeds)}: test accuracy {np.mean(results):.4f}\n{PUBLISHED}\n{TARGET}")


if __name__ == "__main__":
    main()
