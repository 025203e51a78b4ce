"""System 3's experiment: SimpleConvNet (one convolution of 30 filters) on MNIST, Adam, batch 100, 20 epochs.

python scripts/system_3.py --data FOLDER --seed 0 --seed 1 --seed 2
"""

from time import perf_counter

import click
import numpy as np

import gpucnn
from gpucnn import data, models, nn, optim
from gpucnn.training import Loader, LossAndAccuracy, Normalisation, evaluate, train_step

PARAMETERS = {"filter_num": 30, "filter_size": 5, "pad": 0, "stride": 1}
PUBLISHED = "published: training accuracy about 0.998, test accuracy 0.9896\ntarget: test accuracy 0.987"


def experiment(splits: data.Splits, seed: int, epochs: int) -> float:
    """Train from this seed and return the test accuracy."""
    gpucnn.manual_seed(seed)
    backend, zero_to_one = gpucnn.get_backend(), Normalisation((0.0,), (1.0,))
    train, test = Loader(splits.train, backend, zero_to_one), Loader(splits.test, backend, zero_to_one)
    net, loss_fn = models.simple_convnet(**PARAMETERS, hidden=100, init_std=0.01), nn.CrossEntropyLoss()
    optimizer = optim.Adam(net.parameters(), lr=1e-3)
    for epoch in range(1, epochs + 1):
        start, totals, order = perf_counter(), LossAndAccuracy(backend), train.order(seed, epoch)
        for first in range(0, len(order), 100):
            x, y = train.batch(order[first : first + 100])
            totals.update(*train_step(net, loss_fn, optimizer, x, y), y)
        print(f"epoch {epoch}: loss {totals.loss:.4f}, {perf_counter() - start:.1f} s", flush=True)
    accuracy, known = evaluate(net, test).accuracy, evaluate(net, train).accuracy
    print(f"seed {seed}: training accuracy {known:.4f}, test accuracy {accuracy:.4f}", flush=True)
    return accuracy


@click.command(help=__doc__)
@click.option("--data", "source", default="mnist", show_default=True, help="Folder with MNIST's IDX files.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or auto.")
@click.option("--seed", "seeds", default=[0], multiple=True, show_default=True, help="May be given several times.")
@click.option("--epochs", default=20, show_default=True)
def main(source: str, device: str, seeds: tuple[int, ...], epochs: int) -> None:
    gpucnn.use(device)
    splits = data.load(source)
    results = [experiment(splits, seed, epochs) for seed in seeds]
    print(f"mean of {len(seeds)}: test accuracy {np.mean(results):.4f}\n{PUBLISHED}")


if __name__ == "__main__":
    main()
