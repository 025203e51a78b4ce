"""System 5's experiment: LeNet with sigmoids and average pooling, SGD at 0.9 without momentum, batch 256, 10 epochs.

The original trains on Fashion-MNIST: with its folder as --data, so does this.

python scripts/system_5.py --data FOLDER --seed 0 --seed 1 --seed 2
"""

from time import perf_counter

import click
import numpy as np

import gpucnn
from gpucnn import data, models, nn, optim
from gpucnn.training import Loader, LossAndAccuracy, Normalisation, evaluate, train_step

MODEL = "lenet:activation=sigmoid,pooling=avg,init=xavier_uniform"
PUBLISHED = (
    "published, on Fashion-MNIST: train loss 0.469, train accuracy 0.823, test accuracy 0.779, 88556.9 examples/s\n"
    "target, on MNIST: test accuracy 0.95"
)


def experiment(splits: data.Splits, seed: int, epochs: int) -> float:
    """Train from this seed and return the test accuracy."""
    gpucnn.manual_seed(seed)
    backend, zero_to_one = gpucnn.get_backend(), Normalisation((0.0,), (1.0,))
    train, test = Loader(splits.train, backend, zero_to_one), Loader(splits.test, backend, zero_to_one)
    net, loss_fn = models.build(MODEL), nn.CrossEntropyLoss()
    optimizer = optim.SGD(net.parameters(), lr=0.9)
    seconds, accuracy = 0.0, float("nan")
    for epoch in range(1, epochs + 1):
        start, totals, order = perf_counter(), LossAndAccuracy(backend), train.order(seed, epoch)
        for first in range(0, len(order), 256):
            x, y = train.batch(order[first : first + 256])
            totals.update(*train_step(net, loss_fn, optimizer, x, y), y)
        loss, known = totals.loss, totals.accuracy  # reading them waits for the device
        seconds += perf_counter() - start
        accuracy = evaluate(net, test).accuracy
        print(
            f"epoch {epoch}: train loss {loss:.3f}, train accuracy {known:.3f}, test accuracy {accuracy:.3f}",
            flush=True,
        )
    print(f"seed {seed}: test accuracy {accuracy:.4f}, {epochs * len(train) / seconds:.1f} examples/s", flush=True)
    return accuracy


@click.command(help=__doc__)
@click.option("--data", "source", default="mnist", show_default=True, help="Folder with the IDX files.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or auto.")
@click.option("--seed", "seeds", default=[0], multiple=True, show_default=True, help="May be given several times.")
@click.option("--epochs", default=10, show_default=True)
def main(source: str, device: str, seeds: tuple[int, ...], epochs: int) -> None:
    gpucnn.use(device)
    splits = data.load(source)
    results = [experiment(splits, seed, epochs) for seed in seeds]
    print(f"on {splits.name}, mean of {len(seeds)}: test accuracy {np.mean(results):.4f}\n{PUBLISHED}")


if __name__ == "__main__":
    main()
