"""System 4's experiment: convolution, dropout and two dense layers on a little of MNIST, SGD, batch 2, 10 epochs.

The original does not say which part of MNIST it takes; here 5,000 training and 1,000 test images are drawn by the seed.

python scripts/system_4.py --data FOLDER --seed 0 --seed 1 --seed 2
"""

from time import perf_counter

import click
import numpy as np

import gpucnn
from gpucnn import data, models, nn, optim
from gpucnn.training import Loader, LossAndAccuracy, Normalisation, evaluate, train_step

PUBLISHED = "published: test accuracy 0.926 (PyTorch with 5,000 images: 0.932)\ntarget: test accuracy 0.926"


def experiment(splits: data.Splits, seed: int, epochs: int) -> float:
    """Train from this seed and return the test accuracy."""
    gpucnn.manual_seed(seed)
    backend, zero_to_one = gpucnn.get_backend(), Normalisation((0.0,), (1.0,))
    draw = np.random.default_rng(seed)
    train = Loader(splits.train.subset(draw.permutation(len(splits.train))[:5_000]), backend, zero_to_one)
    test = Loader(splits.test.subset(draw.permutation(len(splits.test))[:1_000]), backend, zero_to_one)
    net, loss_fn = models.conv_mlp(channels=16, hidden=64, dropout=0.2), nn.CrossEntropyLoss()
    optimizer = optim.SGD(net.parameters(), lr=0.01)
    for epoch in range(1, epochs + 1):
        start, totals, order = perf_counter(), LossAndAccuracy(backend), train.order(seed, epoch)
        for first in range(0, len(order), 2):
            x, y = train.batch(order[first : first + 2])
            totals.update(*train_step(net, loss_fn, optimizer, x, y), y)
        print(f"epoch {epoch}: loss {totals.loss:.4f}, {perf_counter() - start:.1f} s", flush=True)
    accuracy = evaluate(net, test).accuracy
    print(f"seed {seed}: test accuracy {accuracy:.4f}", flush=True)
    return accuracy


@click.command(help=__doc__)
@click.option("--data", "source", default="mnist", show_default=True, help="Folder with MNIST's IDX files.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or auto.")
@click.option("--seed", "seeds", default=[0], multiple=True, show_default=True, help="May be given several times.")
@click.option("--epochs", default=10, show_default=True)
def main(source: str, device: str, seeds: tuple[int, ...], epochs: int) -> None:
    gpucnn.use(device)
    splits = data.load(source)
    results = [experiment(splits, seed, epochs) for seed in seeds]
    print(f"mean of {len(seeds)}: test accuracy {np.mean(results):.4f}\n{PUBLISHED}")


if __name__ == "__main__":
    main()
