"""Layers tell of themselves what running them shows: arguments, output shape, multiply-adds, receptive field."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

import gpucnn
from gpucnn import nn
from gpucnn.errors import ParameterError, ShapeError
from gpucnn.nn.layer import arguments_of, at_most_parameters
from gpucnn.nn.receptive_field import Field

IMAGES, SEQUENCES, ROWS = (2, 4, 9, 11), (2, 4, 9), (2, 4)

CASES: list[tuple[Callable[[], nn.Layer], tuple[int, ...]]] = [
    (lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0, 2, 1), (1, 2), 2), IMAGES),
    (lambda: nn.Conv2d(4, 6, 3, padding="same", bias=False), IMAGES),
    (lambda: nn.Conv2d(None, 6, 3), IMAGES),
    (lambda: nn.Conv2d(4, 6, 3), IMAGES[1:]),
    (lambda: nn.Conv1d(4, 6, 3, 2, (1,), 2, 2), SEQUENCES),
    (lambda: nn.Conv1d(4, 6, 3, padding="full"), SEQUENCES[1:]),
    (lambda: nn.ConvTranspose2d(4, 6, (3, 2), 2, (1, 0), (1, 0), 2, False, 2), IMAGES),
    (lambda: nn.Linear(4, 3), ROWS),
    (lambda: nn.Linear(11, 3), IMAGES),
    (lambda: nn.MaxPool2d((3, 2), 2, (1, 0), (1, 2), True), IMAGES),
    (lambda: nn.MaxPool2d(3, 2, 2), IMAGES),
    (lambda: nn.AvgPool2d(3, 2, 1, True, False), IMAGES),
    (lambda: nn.MaxPool1d(3, 2, 1), SEQUENCES),
    (lambda: nn.AvgPool1d((3,), 2, 1, True), SEQUENCES[1:]),
    (lambda: nn.LPPool2d(2, 3, 2), IMAGES),
    (lambda: nn.CentrePool2d(3, 2, 1), IMAGES),
    (lambda: nn.AdaptiveAvgPool2d((None, 3)), IMAGES),
    (lambda: nn.AdaptiveMaxPool2d(2), IMAGES),
    (lambda: nn.GlobalAvgPool2d(), IMAGES),
    (lambda: nn.GlobalMaxPool2d(), IMAGES[1:]),
    (lambda: nn.BatchNorm2d(4), IMAGES),
    (lambda: nn.GroupNorm(2, 4), IMAGES),
    (lambda: nn.LayerNorm(11), IMAGES),
    (lambda: nn.Flatten(), IMAGES),
    (lambda: nn.Flatten(2, 3), IMAGES),
    (lambda: nn.Dropout(), IMAGES),
    (lambda: nn.Softmax(), IMAGES),
    (lambda: nn.GELU(), ROWS),
    (lambda: nn.Sequential(nn.Conv2d(4, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2)), IMAGES),
    (lambda: nn.ConvBlock(4, 2, 3), IMAGES),
    (lambda: nn.DepthwiseSeparableConv2d(4, 3, 3, 2, 1), IMAGES),
    (lambda: nn.Residual(nn.Conv2d(4, 4, 3, padding=1)), IMAGES),
    (lambda: nn.Residual(nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)), IMAGES),
    (lambda: nn.Parallel(nn.Linear(4, 3), nn.Linear(4, 3)), ROWS),
    (lambda: nn.Concat(nn.Identity(), nn.Conv2d(4, 2, 1)), IMAGES),
]


def ones(shape: tuple[int, ...]) -> gpucnn.Tensor:
    return gpucnn.tensor(np.ones(shape, np.float32))


@pytest.mark.parametrize("number", range(len(CASES)))
def test_the_output_has_the_shape_that_the_layer_tells(number: int) -> None:
    make, shape = CASES[number]
    layer = make()
    told = layer.output_shape(shape)
    assert told == layer(ones(shape)).shape
    assert told == layer.output_shape(shape)  # now that a waiting layer has its parameters


def test_max_unpooling_tells_its_shape() -> None:
    indices = gpucnn.tensor([[[[0, 2], [8, 10]]]])
    layer = nn.MaxUnpool2d(2)
    assert layer.output_shape((1, 1, 2, 2)) == layer(ones((1, 1, 2, 2)), indices).shape


@pytest.mark.parametrize(
    ("make", "shape", "words"),
    [
        (lambda: nn.Conv2d(4, 6, 3), (2, 3, 9, 9), "4 channels"), (lambda: nn.Conv2d(4, 6, 3), (2, 4, 2, 9), "at least 3x3"),
        (lambda: nn.Conv2d(4, 6, 3), (9,), r"\(N, C, H, W\)"), (lambda: nn.Conv1d(4, 6, 3), (9,), r"\(N, C, L\)"),
        (lambda: nn.Linear(4, 3), (2, 5), "4 features"), (lambda: nn.MaxPool2d(3), (1, 1, 2, 2), "at least 3x3"),
    ],
)  # fmt: skip
def test_a_shape_that_does_not_fit_is_refused(make: Callable[[], nn.Layer], shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        make().output_shape(shape)


def brute_force_multiply_adds(x: tuple[int, ...], y: tuple[int, ...], layer: nn.Conv2d) -> int:
    """Count by loops, padding included, as every im2col does."""
    count = 0
    for _ in itertools.product(*map(range, (y[0], y[1], y[2], y[3]))):
        count += x[1] // layer.groups * int(np.prod(layer.kernel_size))
    return count


def test_multiply_adds() -> None:
    conv = nn.Conv2d(4, 6, (3, 2), 2, 1, groups=2)
    y = conv.output_shape(IMAGES)
    assert conv.multiply_adds(IMAGES) == brute_force_multiply_adds(IMAGES, y, conv)
    assert conv.column_elements(IMAGES) == y[0] * y[2] * y[3] * 4 * 6
    assert nn.Conv1d(4, 6, 3).multiply_adds(SEQUENCES) == 2 * 6 * 7 * 4 * 3
    assert nn.ConvTranspose2d(4, 6, 3, 2).multiply_adds(IMAGES) == 2 * 4 * 9 * 11 * 6 * 9
    assert nn.Linear(4, 3).multiply_adds((5, 4)) == 60
    assert nn.ReLU().multiply_adds(IMAGES) == 0
    both = nn.Residual(nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1))
    assert nn.Sequential(both, nn.Flatten(), nn.Linear(198, 1)).multiply_adds(IMAGES) == 2 * 2 * 4 * 2 * 99 + 2 * 198


def test_receptive_fields_of_layers_in_layers() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Residual(nn.Conv2d(1, 1, 3, padding=1)))
    field = net.receptive_field(Field((12, 12)))
    assert field is not None
    assert (field.pixels, field.stride, field.size) == ((8, 8), (2, 2), (5, 5))
    whole = nn.Sequential(net, nn.Flatten(), nn.Linear(25, 2)).receptive_field(Field((12, 12)))
    assert whole is not None
    assert whole.stride is None
    assert whole.pixels == (16, 16)


def test_a_layer_prints_and_describes_itself_as_it_is_now() -> None:
    layer = nn.Dropout(0.5)
    layer.p = 0.25
    assert repr(layer) == "Dropout(p=0.25)"
    assert layer.arguments() == {"p": 0.25}
    waiting = nn.Linear(None, 2)
    assert waiting.arguments()["in_features"] is None
    waiting(ones((1, 3)))
    assert waiting.arguments() == {"in_features": 3, "out_features": 2, "bias": True, "dtype": "float32"}


def test_every_layer_keeps_its_arguments() -> None:
    for make, _ in CASES:
        layer = make()
        assert layer.arguments().keys() == arguments_of(type(layer)).keys()


def test_parameters_are_counted_before_they_take_memory() -> None:
    with at_most_parameters(100):
        nn.Linear(9, 10)
        with pytest.raises(ParameterError, match="at most 100 parameters in all"):
            nn.Linear(10**5, 10**5)
    nn.Linear(9, 20)


def test_a_module_that_does_not_tell_says_so() -> None:
    with pytest.raises(NotImplementedError, match="Lambda"):
        nn.Sequential(nn.Lambda(lambda x: x)).output_shape((1, 2))


def test_sequences_are_pooled_as_pytorch_does() -> None:
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(1).standard_normal((2, 3, 11)).astype(np.float32)
    for ours, theirs in (
        (nn.MaxPool1d(3, 2, 1, 2, True), torch.nn.MaxPool1d(3, 2, 1, 2, ceil_mode=True)),
        (nn.AvgPool1d(3, 2, 1, True, False), torch.nn.AvgPool1d(3, 2, 1, True, False)),
    ):
        for images in (x, x[0]):
            np.testing.assert_allclose(ours(gpucnn.tensor(images)).numpy(), theirs(torch.tensor(images)), rtol=1e-6)


def test_errors_of_sequences_speak_of_sequences() -> None:
    x = ones((1, 2, 6))
    for call in (
        lambda: gpucnn.functional.conv1d(x, ones((3, 5, 2))), lambda: nn.Conv1d(2, 3, 9)(x), lambda: nn.MaxPool1d(9)(x),
        lambda: nn.Conv1d(2, 3, (1, 2)), lambda: nn.AvgPool1d(2, stride=(1, 1)), lambda: nn.Conv1d(2, 3, 2)(ones((6,))),
    ):  # fmt: skip
        with pytest.raises((ShapeError, ParameterError)) as caught:
            call()
        assert "2d" not in str(caught.value)
