"""The summary: hand-computed costs, receptive fields against PyTorch's dependencies, and a model left as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import functional as F
from gpucnn import inspect, models, nn
from gpucnn.backend import Backend, default_generator
from gpucnn.errors import DTypeError, ParameterError, ShapeError
from gpucnn.inspect import summary


def threes(count: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Conv2d(1, 1, 3, bias=False) for _ in range(count)))


@pytest.mark.parametrize(("count", "size", "deep", "wide"), [(2, 5, 18, 25), (3, 7, 27, 49)])
def test_deeper_is_cheaper(count: int, size: int, deep: int, wide: int) -> None:
    """The comparison of system 3."""
    stack, single = summary(threes(count), (1, 9, 9)), summary(nn.Conv2d(1, 1, size, bias=False), (1, 9, 9))
    assert stack.rows[-1].receptive_field == single.rows[-1].receptive_field == (size, size)
    assert (stack.parameters, single.parameters) == (deep, wide)
    assert stack.rows[-1].output_shape == single.rows[-1].output_shape


def test_lenet_by_hand(backend: Backend) -> None:
    result = summary(models.lenet(), (1, 28, 28))
    rows = [(row.kind, row.output_shape[1:], row.parameters, row.receptive_field, row.stride) for row in result.rows]
    assert rows == [
        ("Conv2d", (6, 28, 28), 156, (5, 5), (1, 1)),
        ("ReLU", (6, 28, 28), 0, (5, 5), (1, 1)),
        ("MaxPool2d", (6, 14, 14), 0, (6, 6), (2, 2)),
        ("Conv2d", (16, 10, 10), 2416, (14, 14), (2, 2)),
        ("ReLU", (16, 10, 10), 0, (14, 14), (2, 2)),
        ("MaxPool2d", (16, 5, 5), 0, (16, 16), (4, 4)),
        ("Flatten", (400,), 0, (16, 16), None),
        ("Linear", (120,), 48120, (32, 32), None),
        ("ReLU", (120,), 0, (32, 32), None),
        ("Linear", (84,), 10164, (32, 32), None),
        ("ReLU", (84,), 0, (32, 32), None),
        ("Linear", (10,), 850, (32, 32), None),
    ]
    assert result.parameters == result.trainable_parameters == 61706
    assert [row.multiply_adds for row in result.rows if row.multiply_adds] == [
        28 * 28 * 6 * 25, 10 * 10 * 16 * 6 * 25, 400 * 120, 120 * 84, 84 * 10,
    ]  # fmt: skip
    assert result.multiply_adds == 416_520
    assert [row.im2col_bytes for row in result.rows if row.im2col_bytes] == [4 * 784 * 25, 4 * 100 * 150]
    assert result.rows[0].activation_bytes == 4 * 6 * 28 * 28
    assert result.activation_bytes == 4 * (2 * 4704 + 1176 + 2 * 1600 + 2 * 400 + 2 * 120 + 2 * 84 + 10)
    assert result.im2col_bytes == 78_400 + 60_000


COSTS: dict[str, tuple[nn.Module, tuple[int, ...], int, int]] = {
    "grouped": (nn.Conv2d(4, 6, (3, 2), (2, 1), 1, groups=2), (4, 9, 8), 5 * 9 * 6 * 2 * 6, 5 * 9 * 4 * 6),
    "transposed": (nn.ConvTranspose2d(3, 5, 2, stride=2), (3, 4, 4), 16 * 3 * 5 * 4, 16 * 5 * 4),
    "transposed, grouped": (nn.ConvTranspose2d(4, 6, 2, groups=2), (4, 3, 3), 9 * 4 * 3 * 4, 9 * 6 * 4),
    "sequence": (nn.Conv1d(2, 3, 4), (2, 10), 7 * 3 * 2 * 4, 7 * 2 * 4),
    "linear on rows": (nn.Linear(6, 2), (3, 6), 3 * 12, 0),
    "pooling": (nn.MaxPool2d(2), (1, 4, 4), 0, 0),
}


@pytest.mark.parametrize("name", COSTS)
def test_costs_by_hand(name: str) -> None:
    layer, shape, work, columns = COSTS[name]
    (row,) = summary(layer, shape).rows
    assert (row.multiply_adds, row.im2col_bytes) == (work, 4 * columns)
    (double,) = summary(layer.to("float64"), shape).rows
    layer.to("float32")
    itemsize = 8 if columns or work else 4  # without parameters nothing says float64
    assert (double.im2col_bytes, 4 * double.activation_bytes) == (8 * columns, itemsize * row.activation_bytes)


def test_im2col_bytes_are_those_of_im2col() -> None:
    layer = nn.Conv2d(3, 4, (3, 5), (2, 1), "same", (1, 2))
    columns = F.im2col(gpucnn.tensor(np.zeros((1, 3, 11, 12), np.float32)), (3, 5), (2, 1), "same", (1, 2))
    assert summary(layer, (3, 11, 12)).rows[0].im2col_bytes == columns.numpy().nbytes > 0


# Chains that both libraries build; pooling by means, so that every pixel of a window counts.
CHAINS: dict[str, Callable[[Any], list[Any]]] = {
    "strides and padding": lambda lib: [lib.Conv2d(1, 1, 3, 2, 1), lib.AvgPool2d(3, 2, 1), lib.Conv2d(1, 1, (1, 5))],
    "dilation": lambda lib: [lib.Conv2d(1, 1, 3, dilation=(2, 3)), lib.Conv2d(1, 1, 2, 2, dilation=2)],
    "transposed, even": lambda lib: [lib.ConvTranspose2d(1, 1, 2, 2), lib.Conv2d(1, 1, 3)],
    "transposed, odd": lambda lib: [lib.ConvTranspose2d(1, 1, 3, 2, 1), lib.Conv2d(1, 1, 2)],
    "transposed, wide": lambda lib: [lib.ConvTranspose2d(1, 1, (4, 5), 2), lib.Conv2d(1, 1, 4, 2)],
    "down and up": lambda lib: [lib.Conv2d(1, 1, 3, 2), lib.ConvTranspose2d(1, 1, 2, 2), lib.AvgPool2d(2)],
    "p-norm": lambda lib: [lib.LPPool2d(2, 3), lib.Conv2d(1, 1, 2)],
    "thinned out": lambda lib: [lib.ConvTranspose2d(1, 1, 1, 3), lib.Conv2d(1, 1, (3, 4))],
    "transposed, dilated": lambda lib: [lib.ConvTranspose2d(1, 1, 3, 2, dilation=3), lib.Conv2d(1, 1, 2)],
    "bins": lambda lib: [lib.Conv2d(1, 1, 2, padding=0), lib.AdaptiveAvgPool2d((5, 3))],
}


@pytest.mark.parametrize("name", CHAINS)
def test_receptive_fields_are_what_pixels_depend_on(name: str) -> None:
    torch = pytest.importorskip("torch")
    n = 31
    theirs = torch.nn.Sequential(*CHAINS[name](torch.nn))
    for parameter in theirs.parameters():
        torch.nn.init.constant_(parameter, 0.5)
    x = torch.ones(1, 1, n, n, requires_grad=True)
    y = theirs(x)
    seen, places = [], range(y.shape[-1])
    for i in places:  # of all pixels on the diagonal, those that no edge cuts see most
        row, column = min(i, y.shape[2] - 1), i
        (gradient,) = torch.autograd.grad(y[0, 0, row, column], x, retain_graph=True)
        if not gradient.any():
            continue
        rows, columns = gradient[0, 0].abs().sum(1).nonzero(), gradient[0, 0].abs().sum(0).nonzero()
        seen.append((int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1))
    last = summary(nn.Sequential(*CHAINS[name](nn)), (1, n, n)).rows[-1]
    assert last.output_shape == tuple(y.shape)
    assert last.receptive_field == (max(rows for rows, _ in seen), max(columns for _, columns in seen))


def field(model: nn.Module, shape: tuple[int, ...] = (1, 20, 20)) -> Any:
    return summary(model, shape).rows[-1].receptive_field


def same(kernel: int) -> nn.Conv2d:
    return nn.Conv2d(None, 1, kernel, padding="same")


def test_branches_see_what_the_widest_of_them_sees() -> None:
    assert field(nn.Residual(nn.Sequential(same(3), nn.ReLU(), same(3)))) == (5, 5)
    assert field(nn.Residual(same(3), shortcut=same(7))) == (7, 7)
    assert field(nn.Parallel(same(1), same(9), same(3))) == (9, 9)
    assert field(nn.Concat(same(5), nn.Sequential(same(3), same(1)))) == (5, 5)
    assert field(nn.Sequential(same(3), nn.Residual(nn.Concat(same(3), name="c")), same(3))) == (7, 7)
    aside = nn.Parallel(nn.Conv2d(1, 1, 2, padding=(1, 0, 0, 0)), nn.Conv2d(1, 1, 2, padding=(0, 1, 0, 0)))
    assert field(aside) == (3, 2), "two rows each, one of which they share"


def test_the_rows_of_branches() -> None:
    result = summary(nn.Sequential(nn.Concat(same(3), same(5)), nn.ReLU()), (2, 6, 6))
    assert [(row.name, row.kind, row.output_shape) for row in result.rows] == [
        ("0.0", "Conv2d", (1, 1, 6, 6)),
        ("0.1", "Conv2d", (1, 1, 6, 6)),
        ("0", "Concat", (1, 2, 6, 6)),
        ("1", "ReLU", (1, 2, 6, 6)),
    ]


def test_the_whole_image_and_sequences() -> None:
    assert field(nn.Sequential(nn.Conv2d(1, 2, 3), nn.GlobalAvgPool2d())) == (20, 20)
    assert field(nn.Sequential(nn.Flatten(), nn.Linear(400, 3), nn.Linear(3, 2))) == (20, 20)
    assert field(nn.Sequential(nn.Conv1d(2, 3, 3, 2), nn.Conv1d(3, 1, 2, padding="same")), (2, 30)) == (1, 5)
    assert field(nn.Linear(4, 2), (4,)) is None


class Own(nn.Module):
    """A network with a parameter of its own, a layer called twice, and functions in between."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(gpucnn.tensor([2.0]))
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.unused = nn.Linear(5, 5)

    def forward(self, x: Any) -> Any:
        return self.conv(F.relu(self.conv(x))) * self.gain


def test_a_network_of_ones_own() -> None:
    result = summary(Own(), (1, 6, 6))
    rows = [(row.name, row.parameters, row.receptive_field, row.multiply_adds) for row in result.rows]
    assert rows == [("conv", 10, (3, 3), 324), ("conv", 0, None, 324), ("", 1, None, 0)]
    assert result.parameters == 1 + 10 + 30, "a parameter that is not used counts too"
    assert field(nn.Sequential(nn.Lambda(F.relu), nn.Conv2d(1, 1, 3))) is None


def test_frozen_parameters() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3))
    net[0].requires_grad_(False)
    result = summary(net, (1, 8, 8))
    assert (result.parameters, result.trainable_parameters) == (20, 10)
    assert "10 parameters are frozen" in str(result)


def test_the_model_stays_as_it_was() -> None:
    calls: list[str] = []
    net = models.lenet().train()
    net[1].eval()
    net[2].register_forward_hook(lambda *_: calls.append("own hook"))
    before = {name: array.copy() for name, array in net.state_dict().items()}
    summary(net, (1, 28, 28))
    with pytest.raises(ShapeError, match=r"in layer Linear\(400, 120\)"):
        summary(net, (1, 14, 14))
    assert [module.training for module in net] == [True, False, *[True] * 10]
    assert [module.has_hooks() for module in net] == [False, False, True, *[False] * 9]
    assert calls == ["own hook"] * 2
    assert all((array == before[name]).all() for name, array in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_layers_that_wait_go_on_waiting() -> None:
    def make() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(None, 6, 5), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(None, 10))

    net = make()
    drawn = default_generator.seed, default_generator.counter
    result = summary(net, (3, 12, 12))
    assert (default_generator.seed, default_generator.counter) == drawn
    assert [row.parameters for row in result.rows] == [6 * 75 + 6, 12, 0, 384 * 10 + 10]
    assert net[0].waits_for_input()
    assert net[3].waits_for_input()
    assert net(gpucnn.tensor(np.zeros((2, 1, 7, 7), np.float32))).shape == (2, 10), "other sizes are still open"


def test_as_text_and_as_json() -> None:
    result = summary(models.lenet(), (1, 28, 28))
    lines = str(result).splitlines()
    assert lines[0] == "Sequential on one image of 1x28x28, float32"
    assert [line.split() for line in lines[3:5]] == [
        ["0", "Conv2d", "1x6x28x28", "156", "117,600", "18,816", "78,400", "5x5", "1x1"],
        ["1", "ReLU", "1x6x28x28", "0", "0", "18,816", "0", "5x5", "1x1"],
    ]
    assert lines[-1].split() == ["total", "61,706", "416,520", "60,008", "138,400"]
    assert (
        len({lines[1].index("multiply-adds") + 13, lines[3].index("117,600") + 7, lines[-1].index("416,520") + 7}) == 1
    )
    values = json.loads(json.dumps(result.to_dict()))
    assert values["parameters"] == 61706
    assert values["layers"][3]["output_shape"] == [1, 16, 10, 10]
    assert values["layers"][3]["receptive_field"] == [14, 14]
    assert values["layers"][-1]["stride"] is None
    assert sum(layer["multiply_adds"] for layer in values["layers"]) == values["multiply_adds"]


def test_mistakes() -> None:
    for shape in ((), (0, 3), (1, 2.0, 3), 28, "1,28,28"):
        with pytest.raises(ShapeError, match="positive ints"):
            summary(models.lenet(), shape)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match=r"model: expected a Module, got str"):
        inspect.summary("lenet", (1, 28, 28))  # type: ignore[arg-type]
    with pytest.raises(DTypeError, match="dtype of numbers"):
        summary(models.lenet(), (1, 28, 28), dtype="banana")
