"""Measure gpucnn beside PyTorch in one run: alternating rounds of the loop that a user writes by hand.

python scripts/bench.py --batch-size 64 --batch-size 256 --json benchmarks/cpu.json

Both read the same images from memory, by a permutation, and train LeNet with Adam. PyTorch is tried in both memory formats
with its fused Adam; the faster one counts. Ratios are gpucnn's images/s over PyTorch's, round by round.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import click
import numpy as np

import gpucnn
from gpucnn import data, models, nn, optim

Step = Callable[[np.ndarray], None]


def gpucnn_steps(images: np.ndarray, labels: np.ndarray, device: str) -> dict[str, Step]:
    gpucnn.use(device)
    gpucnn.manual_seed(0)
    net, loss_fn = models.lenet(), nn.CrossEntropyLoss()
    optimizer = optim.Adam(net.parameters(), lr=1e-3)
    all_images, all_labels = gpucnn.tensor(images), gpucnn.tensor(labels)

    def train(chosen: np.ndarray) -> None:
        optimizer.zero_grad()
        loss = loss_fn(net(all_images[chosen]), all_labels[chosen])
        loss.backward()
        optimizer.step()

    def infer(chosen: np.ndarray) -> None:
        with gpucnn.no_grad():
            net(all_images[chosen]).argmax(1)

    return {"train": train, "infer": infer}


def torch_steps(images: np.ndarray, labels: np.ndarray, channels_last: bool) -> dict[str, Step]:
    import torch
    from torch import nn as tnn

    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = tnn.Sequential(
        tnn.Conv2d(1, 6, 5, padding=2), tnn.ReLU(), tnn.MaxPool2d(2), tnn.Conv2d(6, 16, 5), tnn.ReLU(), tnn.MaxPool2d(2),
        tnn.Flatten(), tnn.Linear(400, 120), tnn.ReLU(), tnn.Linear(120, 84), tnn.ReLU(), tnn.Linear(84, 10),
    ).to(memory_format=layout)  # fmt: skip
    loss_fn, optimizer = tnn.CrossEntropyLoss(), torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    all_images = torch.from_numpy(images).to(memory_format=layout)
    all_labels = torch.from_numpy(labels)

    def train(chosen: np.ndarray) -> None:
        index = torch.from_numpy(chosen)
        optimizer.zero_grad()
        loss = loss_fn(net(all_images[index]), all_labels[index])
        loss.backward()
        optimizer.step()

    def infer(chosen: np.ndarray) -> None:
        with torch.inference_mode():
            net(all_images[torch.from_numpy(chosen)]).argmax(1)

    return {"train": train, "infer": infer}


def images_per_second(step: Step, batch_size: int, count: int, seconds: float) -> float:
    """Run ``step`` on shuffled batches for some seconds, after a few to warm up."""
    order = np.random.default_rng(0).permutation(count)
    batches = [order[i : i + batch_size] for i in range(0, count - batch_size + 1, batch_size)]
    for chosen in batches[:3]:
        step(chosen)
    done, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        step(batches[done % len(batches)])
        done += 1
    return done * batch_size / spent


def summarise(rates: dict[str, list[float]]) -> dict[str, object]:
    """Return medians and the ratio to PyTorch's faster format, round by round."""
    row: dict[str, object] = {name: round(statistics.median(values)) for name, values in rates.items()}
    peers = [name for name in rates if name.startswith("torch")]
    if peers:
        best = max(peers, key=lambda name: statistics.median(rates[name]))
        ratios = [ours / theirs for ours, theirs in zip(rates["gpucnn"], rates[best], strict=True)]
        row |= {"peer": best, "ratio": round(statistics.median(ratios), 2)}
        row |= {"ratio_min": round(min(ratios), 2), "ratio_max": round(max(ratios), 2)}
    return row


@click.command(help=__doc__)
@click.option(
    "--batch-size", "batch_sizes", multiple=True, type=click.IntRange(1), default=[64, 256], show_default=True
)
@click.option("--mode", "modes", multiple=True, type=click.Choice(["train", "infer"]), default=["train", "infer"])
@click.option("--rounds", default=5, show_default=True, help="Alternating rounds.")
@click.option("--seconds", default=1.0, show_default=True, help="Length of each measurement.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the results here as well.")
def main(
    batch_sizes: tuple[int, ...],
    modes: tuple[str, ...],
    rounds: int,
    seconds: float,
    device: str,
    json_file: Path | None,
) -> None:
    digits, labels = data.draw_digits(10_000, seed=0)
    images = ((digits / np.float32(255) - np.float32(0.13)) / np.float32(0.31)).astype(np.float32)
    steps = {"gpucnn": gpucnn_steps(images, labels, device)}
    versions = {"gpucnn": gpucnn.__version__, "numpy": np.__version__, "python": platform.python_version()}
    try:
        import torch
    except ImportError:
        click.echo("PyTorch is not installed: measuring gpucnn alone.", err=True)
    else:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        versions["torch"] = torch.__version__
        steps |= {"torch": torch_steps(images, labels, False), "torch channels-last": torch_steps(images, labels, True)}
    results = []
    for mode in modes:
        for batch_size in batch_sizes:
            rates: dict[str, list[float]] = {name: [] for name in steps}
            for _ in range(rounds):
                for name, step in steps.items():
                    rates[name].append(images_per_second(step[mode], batch_size, len(images), seconds))
            row = {"mode": mode, "batch_size": batch_size, **summarise(rates)}
            click.echo("  ".join(f"{key}: {value}" for key, value in row.items()))
            results.append(row)
    if json_file is not None:
        machine = {"processor": processor_name(), "cores": len(os.sched_getaffinity(0))}
        report = {"date": date.today().isoformat(), "machine": machine, "versions": versions, "lenet": results}
        json_file.write_text(json.dumps(report, indent=1) + "\n")


def processor_name() -> str:
    """Return the processor's name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
