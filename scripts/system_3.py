"""System 3's experiment: SimpleConvNet (one convolution of 30 filters) on MNIST, Adam, batch 100, 20 epochs.

python scripts/system_3.py --data FOLDER --seed 0 --seed 1 --seed 2
python scripts/system_3.py --data FOLDER --pictures filters.png    # grey filters, before and after training
"""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

import click
import numpy as np
from PIL import Image

import gpucnn
from gpucnn import Tensor, data, inspect, models, nn, optim
from gpucnn.training import Loader, LossAndAccuracy, Normalisation, evaluate

PARAMETERS = {"filter_num": 30, "filter_size": 5, "pad": 0, "stride": 1}
PUBLISHED = "published: training accuracy about 0.998, test accuracy 0.9896\ntarget: test accuracy 0.987"


class SimpleConvNet:
    """conv - relu - pool - affine - relu - affine - softmax, with the methods that the text gives it."""

    def __init__(self, conv_param: dict[str, int], hidden_size: int = 100, weight_init_std: float = 0.01) -> None:
        self.net = models.simple_convnet(**conv_param, hidden=hidden_size, init_std=weight_init_std)
        self.loss_fn = nn.CrossEntropyLoss()

    @property
    def params(self) -> dict[str, Any]:
        """The parameters by name."""
        return dict(self.net.named_parameters())

    def predict(self, x: Tensor) -> Tensor:
        """Return the logits of a batch."""
        return self.net(x)

    def loss(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the cross-entropy of a batch; t: labels, or one-hot rows."""
        return self.loss_fn(self.predict(x), t)

    def gradient(self, x: Tensor, t: Tensor) -> dict[str, Tensor]:
        """Return the gradient of the loss for each parameter, by backpropagation."""
        self.net.zero_grad()
        self.loss(x, t).backward()
        return {name: parameter.grad for name, parameter in self.params.items()}

    def accuracy(self, x: Tensor, t: Tensor, batch_size: int = 100) -> float:
        """Return the share of correct answers; t: labels, or one-hot rows."""
        labels = t.argmax(dim=1) if t.ndim == 2 else t
        right = 0
        with gpucnn.no_grad():
            for first in range(0, len(x), batch_size):
                part = slice(first, first + batch_size)
                right += int((self.predict(x[part]).argmax(dim=1) == labels[part]).sum().item())
        return right / len(x)

    def save_params(self, path: str = "params.safetensors") -> None:
        gpucnn.save(self.net.state_dict(), path)

    def load_params(self, path: str = "params.safetensors") -> None:
        self.net.load_state_dict(gpucnn.load(path))


def grey(filters: Any, columns: int = 10, scale: int = 8) -> Any:
    """Return filters (F, 1, KH, KW) as one grey picture, each stretched from black to white."""
    low, high = filters.min((1, 2, 3), keepdims=True), filters.max((1, 2, 3), keepdims=True)
    tiles = (255 * (filters - low) / np.maximum(high - low, 1e-12)).astype(np.uint8)[:, 0]
    tiles = np.pad(
        tiles.repeat(scale, 1).repeat(scale, 2), ((0, -len(tiles) % columns), (2, 2), (2, 2)), constant_values=255
    )
    return np.concatenate([np.concatenate(list(row), 1) for row in tiles.reshape(-1, columns, *tiles.shape[1:])])


def experiment(splits: data.Splits, seed: int, epochs: int, pictures: Path | None = None) -> float:
    """Train from this seed and return the test accuracy."""
    gpucnn.manual_seed(seed)
    backend, zero_to_one = gpucnn.get_backend(), Normalisation((0.0,), (1.0,))
    train, test = Loader(splits.train, backend, zero_to_one), Loader(splits.test, backend, zero_to_one)
    network = SimpleConvNet(PARAMETERS)
    before = inspect.filters(network.net)
    optimizer = optim.Adam(network.net.parameters(), lr=1e-3)
    for epoch in range(1, epochs + 1):
        start, totals, order = perf_counter(), LossAndAccuracy(backend), train.order(seed, epoch)
        for first in range(0, len(order), 100):
            x, y = train.batch(order[first : first + 100])
            optimizer.zero_grad()
            logits = network.predict(x)
            loss = network.loss_fn(logits, y)
            loss.backward()
            optimizer.step()
            totals.update(loss.detach(), logits.detach(), y)
        print(f"epoch {epoch}: loss {totals.loss:.4f}, {perf_counter() - start:.1f} s", flush=True)
    accuracy, known = evaluate(network.net, test).accuracy, evaluate(network.net, train).accuracy
    print(f"seed {seed}: training accuracy {known:.4f}, test accuracy {accuracy:.4f}", flush=True)
    if pictures is not None:
        side_by_side = [grey(before), grey(inspect.filters(network.net))]
        Image.fromarray(np.pad(np.concatenate(side_by_side, 1), 4, constant_values=255)).save(pictures)
    return accuracy


@click.command(help=__doc__)
@click.option("--data", "source", default="mnist", show_default=True, help="Folder with MNIST's IDX files.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or auto.")
@click.option("--seed", "seeds", default=[0], multiple=True, show_default=True, help="May be given several times.")
@click.option("--epochs", default=20, show_default=True)
@click.option("--pictures", type=click.Path(path_type=Path), help="File for the filters, before and after training.")
def main(source: str, device: str, seeds: tuple[int, ...], epochs: int, pictures: Path | None) -> None:
    gpucnn.use(device)
    splits = data.load(source)
    results = [experiment(splits, seed, epochs, pictures) for seed in seeds]
    print(f"mean of {len(seeds)}: test accuracy {np.mean(results):.4f}\n{PUBLISHED}")


if __name__ == "__main__":
    main()
