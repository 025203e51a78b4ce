"""Networks as lists of operations: names, inputs, shapes, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpucnn import models, nn
from gpucnn.errors import ParameterError
from gpucnn.playground import Operation, operations_of


def names(net: nn.Module, shape: tuple[int, int, int]) -> list[str]:
    return [step.name for step in operations_of(net, shape)]


def test_layers_are_named_as_people_name_them() -> None:
    assert names(models.lenet(), (1, 28, 28)) == [
        "conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "flatten1", "linear1", "relu3", "linear2", "relu4", "linear3",
    ]  # fmt: skip


def test_own_names_are_kept_and_told_apart() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1, name="edges"), nn.ReLU(), nn.Conv2d(2, 2, 1, name="relu1"), nn.Flatten())
    assert names(nn.Sequential(net, nn.Linear(8, 2)), (1, 2, 2)) == ["edges", "relu1", "relu1'", "flatten1", "linear1"]


def test_a_residual_network_has_sums() -> None:
    steps = operations_of(models.resnet(blocks=1, width=4), (3, 8, 8))
    first, second, third = (step for step in steps if step.kind == "add")
    assert first.inputs == (8, 3)  # the block's second norm, and the block's input
    assert steps[second.inputs[1] - 1].path == "5.shortcut.1"
    assert third.shape == (16, 2, 2)
    assert all(step.inputs[0] <= place for place, step in enumerate(steps)), "in the order in which they run"


def test_arrays_are_float32_and_norms_are_scales() -> None:
    norm = nn.BatchNorm2d(2, eps=0.0)
    norm.load_state_dict({
        "weight": np.array([3.0, 1.0]), "bias": np.array([0.5, 0.0]),
        "running_mean": np.array([1.0, 2.0]), "running_var": np.array([4.0, 1.0]),
    })  # fmt: skip
    (step, *_) = operations_of(nn.Sequential(norm, nn.Flatten()), (2, 1, 1))
    assert {key: value.tolist() for key, value in step.arrays.items()} == {
        "mean": [1.0, 2.0], "scale": [1.5, 1.0], "shift": [0.5, 0.0],
    }  # fmt: skip
    assert {value.dtype for value in step.arrays.values()} == {np.dtype("float32")}


class Halved(nn.ReLU):
    """A layer that computes something else than its base class."""

    def forward(self, x: Any) -> Any:
        return x / 2


class Louder(nn.LeakyReLU):
    """An activation with a function of its own, in which ``forward`` is inherited."""

    function = staticmethod(lambda x, negative_slope: x * 2)


class Named(nn.ReLU):
    """A layer that computes what its base class does."""


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.ConvTranspose2d(1, 1, 2), "layer 1: expected one that the page can run, got ConvTranspose2d"),
        (nn.LayerNorm(2), "LayerNorm"),
        (nn.Lambda(lambda x: x), "Lambda"),
        (Halved(), "Halved()"),
        (Louder(), "Louder("),
        (nn.BatchNorm2d(1, track_running_stats=False), "layer 1: expected running statistics"),
        (nn.Linear(2, 2), "layer 1: expected an input without pixels"),
        (nn.Flatten(2), "layer 1: expected all axes but the batch"),
        (nn.Softmax(1), "layer 1: expected one axis, the classes"),
        (nn.Concat(nn.Identity(), nn.Identity(), axis=2), "layer 1: expected axis 1, the channels"),
    ],
)
def test_what_the_page_cannot_run_is_refused_by_its_place(layer: nn.Module, words: str) -> None:
    with pytest.raises(ParameterError, match="playground") as error:
        operations_of(nn.Sequential(nn.ReLU(), layer, nn.Flatten()), (1, 2, 2))
    assert words in str(error.value)


def test_a_layer_that_computes_the_same_is_taken() -> None:
    assert [step.kind for step in operations_of(nn.Sequential(Named(), nn.Flatten()), (1, 2, 2))] == [
        "activation",
        "flatten",
    ]


def test_a_result_with_pixels_is_refused() -> None:
    with pytest.raises(ParameterError, match="one number for each class"):
        operations_of(nn.Sequential(nn.Conv2d(1, 2, 1)), (1, 2, 2))


class Graph(nn.Module):
    """A module that says itself what it does."""

    def as_operations(self, steps: Any, value: int, path: str) -> int:
        flat = steps.add("flatten", (value,), (4,), path, name="row")
        return int(steps.add("linear", (flat,), (2,), path, arrays={"weight": np.ones((2, 4))}))


def test_a_graph_may_describe_itself() -> None:
    steps = operations_of(nn.Sequential(Graph()), (1, 2, 2))
    assert [(step.name, step.path, step.inputs) for step in steps] == [("row", "0", (0,)), ("linear1", "0", (1,))]
    assert isinstance(steps[0], Operation)


def test_layers_of_a_block_have_their_own_paths() -> None:
    steps = operations_of(nn.Sequential(nn.BasicBlock(1, 2), nn.GlobalAvgPool2d(), nn.Flatten()), (1, 4, 4))
    assert [step.path for step in steps] == [
        "0.conv1", "0.bn1", "0.relu", "0.conv2", "0.bn2", "0.downsample.0", "0.downsample.1", "0.0", "0.relu", "1", "2",
    ]  # fmt: skip
