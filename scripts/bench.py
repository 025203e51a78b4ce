"""Measure gpucnn beside PyTorch in one run: alternating rounds of the loop that a user writes by hand.

python scripts/bench.py --json benchmarks/cpu.json
python scripts/bench.py --onnx detector.onnx --input-shape 3,320,320 --batch-size 1
python scripts/bench.py Conv2d:in_channels=64,out_channels=64,kernel_size=3,padding=1 --input-shape 64,32,32 --batch-size 32

PyTorch runs the same network with the same weights, its images in memory too, in both memory formats and with the fused
Adam; the faster format counts. Ratios are gpucnn's images/s over PyTorch's, round by round. Memory is the peak of training
above what five steps at batch 16 leave, each in a process of its own. On a GPU both also run as CUDA graphs.
"""

import copy
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

from gpucnn import benchmark, models
from gpucnn.backend import get_backend
from gpucnn.benchmark import Step

GLOBAL = {"GlobalAvgPool2d": "AdaptiveAvgPool2d", "GlobalMaxPool2d": "AdaptiveMaxPool2d"}
CONV = "Conv2d:in_channels=16,out_channels=16,kernel_size=3,padding=1"


def torch_twin(structure: dict[str, Any]) -> Any:
    """Return the PyTorch module with the structure that ``models.describe`` gave."""
    from torch import nn

    children = {name: torch_twin(child) for name, child in structure.get("children", [])}
    if structure["layer"] in ("Sequential", "ConvBlock"):
        return nn.Sequential(*children.values())
    if structure["layer"] == "Residual":
        return residual(**children)
    if structure["layer"] in GLOBAL:
        return getattr(nn, GLOBAL[structure["layer"]])(1)
    if not hasattr(nn, structure["layer"]):
        raise click.UsageError(
            f"PyTorch has no {structure['layer']} to compare with; gpucnn bench measures ours alone."
        )
    ours = {"exact", "image_size", "implementation", "zero_padded"}
    arguments = {key: value for key, value in structure["arguments"].items() if key not in ours}
    arguments.pop("dtype", None)
    if structure["layer"] == "AvgPool2d":
        arguments.pop("dilation")
    as_tuples = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    return getattr(nn, structure["layer"])(**as_tuples)


def residual(block: Any, shortcut: Any = None) -> Any:
    """Return PyTorch's module for block(x) + shortcut(x)."""
    from torch import nn

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.shortcut = block, shortcut or nn.Identity()

        def forward(self, x: Any) -> Any:
            return self.block(x) + self.shortcut(x)

    return Residual()


def torch_steps(
    what: str, shape: tuple[int, int, int], kind: str, device: str, least: int, precision: str = "float32"
) -> dict[str, Step]:
    """Return PyTorch's "train" and "infer"; ``kind`` is contiguous, channels-last or graphs.

    float16 is PyTorch's automatic mixed precision with its gradient scaler.
    """
    import torch
    from torch import nn

    torch.set_num_threads(int(os.environ.get("GPUCNN_THREADS") or len(os.sched_getaffinity(0))))
    torch.manual_seed(0)
    # By default PyTorch convolves in TF32, where ours computes in float32.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    half = precision == "float16"
    scaler = torch.amp.GradScaler(device, enabled=half)
    images, labels = benchmark.images_of(shape, least)
    layout = torch.channels_last if kind == "channels-last" else torch.contiguous_format
    net = torch_twin(models.describe(benchmark.make(what, shape, "cpu"))).to(device, memory_format=layout)
    all_images = torch.from_numpy(images).to(device).to(memory_format=layout)
    all_labels = torch.from_numpy(labels).to(device)
    if what[:1].isupper():
        return torch_layer_steps(net, all_images)
    loss_fn = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True, capturable=kind == "graphs")

    def work(x: Any, y: Any) -> None:
        optimizer.zero_grad(set_to_none=kind != "graphs")
        with torch.autocast(device, torch.float16, enabled=half):
            loss = loss_fn(net(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    resting, graphs = copy.deepcopy(net).eval(), dict[int, Any]()

    def train(chosen: np.ndarray) -> None:
        index = torch.from_numpy(chosen).to(device)
        if kind != "graphs":
            work(all_images[index], all_labels[index])
            return
        if len(chosen) not in graphs:
            graphs[len(chosen)] = captured(work, all_images[index], all_labels[index])
        graph, x, y = graphs[len(chosen)]
        torch.index_select(all_images, 0, index, out=x)
        torch.index_select(all_labels, 0, index, out=y)
        graph.replay()

    def infer(chosen: np.ndarray) -> None:
        with torch.inference_mode(), torch.autocast(device, torch.float16, enabled=half):
            resting(all_images[torch.from_numpy(chosen).to(device)]).argmax(1)

    return {"train": train, "infer": infer}


def captured(work: Any, x: Any, y: Any) -> tuple[Any, Any, Any]:
    """Return a CUDA graph of ``work`` and the tensors it reads."""
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work(x, y)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work(x, y)
    return graph, x, y


def torch_layer_steps(layer: Any, images: Any) -> dict[str, Step]:
    import torch

    batches: dict[int, Any] = {}

    def batch(size: int) -> Any:
        if size not in batches:
            batches.clear()
            x = images[:size].clone().requires_grad_()
            batches[size] = x, layer(x).detach()
        return batches[size]

    def train(chosen: np.ndarray) -> None:
        x, gradient = batch(len(chosen))
        for tensor in (x, *layer.parameters()):
            tensor.grad = None
        layer(x).backward(gradient)

    def infer(chosen: np.ndarray) -> None:
        x, _ = batch(len(chosen))
        with torch.inference_mode():
            layer(x)

    return {"train": train, "infer": infer}


def torch_wait(device: str) -> Any:
    """Return something whose ``synchronize`` waits for PyTorch's device; None for the CPU."""
    if device == "cpu":
        return None
    import torch

    return torch.cuda


def compare(
    what: str,
    shape: tuple[int, int, int],
    device: str,
    modes: tuple[str, ...],
    sizes: tuple[int, ...],
    rounds: int,
    seconds: float,
    precision: str = "float32",
) -> list[dict[str, Any]]:
    """Return for each mode and batch size the median rates and the ratio to PyTorch's faster kind, round by round."""
    least = max(sizes)
    count = benchmark.image_count(shape, least)
    sides = {"gpucnn": (benchmark.steps_of(what, shape, device, least, False, precision), get_backend(device))}
    if device != "cpu" and not what[:1].isupper():
        captured_steps = benchmark.steps_of(what, shape, device, least, True, precision)
        sides["gpucnn captured"] = captured_steps, get_backend(device)
    if has_torch():
        kinds = ("contiguous", "channels-last") if device == "cpu" else ("contiguous", "channels-last", "graphs")
        if precision == "float16":
            kinds = kinds[:2]  # PyTorch's scaler looks at the gradients on the host, which no graph can hold
        for kind in kinds if device == "cpu" or not what[:1].isupper() else kinds[:2]:
            theirs = torch_steps(what, shape, kind, torch_device(device), least, precision)
            sides[f"torch {kind}"] = theirs, torch_wait(device)
    rows = []
    for mode in modes:
        for size in sizes:
            rates: dict[str, list[float]] = {name: [] for name in sides}
            for _ in range(rounds):
                for name, (steps, wait) in sides.items():
                    rates[name].append(benchmark.images_per_second(steps[mode], size, seconds, wait, count))
            rows.append({"mode": mode, "batch": size, **summarise(rates)})
            click.echo(f"measured {mode} at batch {size}", err=True)
    return rows


def summarise(rates: dict[str, list[float]]) -> dict[str, Any]:
    row: dict[str, Any] = {name: statistics.median(values) for name, values in rates.items()}
    peers = [name for name in rates if name.startswith("torch")]
    if peers:
        best = max(peers, key=lambda name: statistics.median(rates[name]))
        own = rates.get("gpucnn captured", rates["gpucnn"])
        ratios = [ours / theirs for ours, theirs in zip(own, rates[best], strict=True)]
        row |= {
            "ratio": round(statistics.median(ratios), 2),
            "min": round(min(ratios), 2),
            "max": round(max(ratios), 2),
        }
    return row


def memory(what: str, shape: tuple[int, int, int], sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    """Return the peak memory of training on the CPU, in MB, of both; PyTorch's in the format that takes less."""
    rows = []
    for size in sizes:
        row: dict[str, Any] = {"batch": size, "gpucnn MB": benchmark.memory_of(what, shape, size) / 1e6}
        if has_torch():
            folder = str(Path(__file__).parent)
            row["torch MB"] = (
                min(
                    benchmark.peak_memory_apart(
                        f"import sys; sys.path.insert(0, {folder!r}); import bench\n"
                        f"steps = bench.torch_steps({what!r}, {shape!r}, {kind!r}, 'cpu', {size})\n"
                        f"print(bench.benchmark.peak_memory(steps['train'], {size}, {benchmark.image_count(shape, size)}))"
                    )
                    for kind in ("contiguous", "channels-last")
                )
                / 1e6
            )
            row["ratio"] = round(row["gpucnn MB"] / row["torch MB"], 2)
        rows.append(row)
    return rows


def scaling(device: str, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Return the time per pixel of a 3x3 convolution, 16 to 16 channels, forward and backward, as batch and image grow."""
    cases = [("batch", size, (16, 28, 28), size) for size in (64, 128, 256, 512, 1024, 2048, 4096)]
    cases += [("area", side, (16, side, side), 16) for side in (28, 56, 112, 224, 512)]
    rows: list[dict[str, Any]] = []
    for what, value, shape, size in cases:
        steps = benchmark.steps_of(CONV, shape, device, size)["train"]
        rate = max(benchmark.images_per_second(steps, size, seconds, get_backend(device)) for _ in range(rounds))
        cost = 1e9 / rate / (shape[1] * shape[2])
        before = rows[-1] if rows and rows[-1]["grows"] == what else None
        row = {"grows": what, "to": value, "ns a pixel": round(cost, 2)}
        rows.append({**row, "against the one before": round(cost / before["ns a pixel"], 2) if before else None})
    return rows


def onnx_rows(
    file: Path, shape: tuple[int, int, int], device: str, sizes: tuple[int, ...], rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Return images/s of an ONNX file here and by onnxruntime on the CPU, in alternating rounds, on random images."""
    import onnxruntime

    import gpucnn

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("GPUCNN_THREADS") or len(os.sched_getaffinity(0)))
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    net, backend = gpucnn.onnx.load(file, device), get_backend(device)
    (value,) = net.graph.inputs
    rows = []
    for size in sizes:
        x = (np.random.default_rng(0).random((size, *shape)) * 255).astype(value.dtype)
        x = x if value.dtype == "uint8" else x / np.float32(255)
        given = gpucnn.tensor(x, device=backend)

        def ours(chosen: np.ndarray, given: Any = given) -> None:
            with gpucnn.no_grad():
                net(given)

        def theirs(chosen: np.ndarray, x: Any = x) -> None:
            session.run(None, {value.name: x})

        rates: dict[str, list[float]] = {"gpucnn": [], "onnxruntime": []}
        for _ in range(rounds):
            rates["gpucnn"].append(benchmark.images_per_second(ours, size, seconds, backend, size))
            rates["onnxruntime"].append(benchmark.images_per_second(theirs, size, seconds, None, size))
        ratios = [a / b for a, b in zip(rates["gpucnn"], rates["onnxruntime"], strict=True)]
        best = {name: round(max(values), 1) for name, values in rates.items()}
        spread = {"ratio": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
        rows.append({"file": file.name, "batch": size, **best, **{k: round(v, 2) for k, v in spread.items()}})
    return rows


def has_torch() -> bool:
    try:
        import torch  # noqa: F401
    except ImportError:
        return False
    return True


def torch_device(device: str) -> str:
    return "cpu" if device == "cpu" else "cuda"


@click.command(help=__doc__)
@click.argument("model", default="lenet", metavar="[NAME[:OPTION=VALUE,...]]")
@click.option("--input-shape", default="1,28,28", show_default=True, metavar="C,H,W")
@click.option(
    "--batch-size", "sizes", multiple=True, type=click.IntRange(1), default=[1, 64, 256, 1000], show_default=True
)
@click.option("--mode", "modes", multiple=True, type=click.Choice(["train", "infer"]), default=["train", "infer"])
@click.option("--rounds", default=7, show_default=True, help="Alternating rounds.")
@click.option("--seconds", default=0.5, show_default=True, help="Length of each measurement.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option(
    "--precision", type=click.Choice(["float32", "tf32", "float16"]), default="float32", show_default=True,
    help="Of both; PyTorch's TF32 flags are set accordingly.",
)  # fmt: skip
@click.option("--memory", "with_memory", is_flag=True, help="Also the peak memory of training, on the CPU.")
@click.option("--scaling", "with_scaling", is_flag=True, help="Also the cost against batch size and image area.")
@click.option(
    "--onnx", "onnx_file", type=click.Path(path_type=Path), help="An ONNX file beside onnxruntime, instead of a model."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the results here as well.")
def main(
    model: str,
    input_shape: str,
    sizes: tuple[int, ...],
    modes: tuple[str, ...],
    rounds: int,
    seconds: float,
    device: str,
    precision: str,
    with_memory: bool,
    with_scaling: bool,
    onnx_file: Path | None,
    json_file: Path | None,
) -> None:
    C, H, W = map(int, input_shape.split(","))
    if onnx_file is not None:
        found = onnx_rows(onnx_file, (C, H, W), device, sizes, rounds, seconds)
        click.echo(benchmark.table(found))
        if json_file is not None:
            benchmark.write_json(json_file, {"machine": benchmark.machine(device), "onnx": found})
        return
    if not has_torch():
        click.echo("PyTorch is not installed: measuring gpucnn alone.", err=True)
    about = {"model": model, "input_shape": [C, H, W], "precision": precision}
    report: dict[str, Any] = {**about, "machine": benchmark.machine(device)}
    if has_torch():
        report["machine"]["versions"]["torch"] = sys.modules["torch"].__version__
    report["rates"] = benchmark.rates(device)
    click.echo("; ".join(f"{name.replace(', ', ': ')}: {rate:,}" for name, rate in report["rates"].items()))
    report["speed"] = compare(model, (C, H, W), device, modes, sizes, rounds, seconds, precision)
    click.echo(benchmark.table(report["speed"]))
    if with_memory:
        report["memory"] = memory(model, (C, H, W), sizes)
        click.echo("\n" + benchmark.table(report["memory"]))
    if with_scaling:
        report["scaling"] = scaling(device, rounds, seconds)
        click.echo("\n" + benchmark.table(report["scaling"]))
    if json_file is not None:
        benchmark.write_json(json_file, report)


if __name__ == "__main__":
    main()
