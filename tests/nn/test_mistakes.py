"""A layer refuses at once what its first call could not do: where, what was expected, what came."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gpucnn import nn
from gpucnn.errors import DTypeError, GpucnnError, ParameterError

MISTAKES: dict[str, Callable[[], nn.Module]] = {
    "MaxPool2d: padding, by a wrong name": lambda: nn.MaxPool2d(2, padding="huge"),
    "MaxPool2d: padding, as large as the kernel": lambda: nn.MaxPool2d(2, padding=2),
    "MaxPool2d: padding, below 0": lambda: nn.MaxPool2d(2, padding=-1),
    "AvgPool2d: padding, by a wrong name": lambda: nn.AvgPool2d(2, padding="huge"),
    "AvgPool2d: padding, as large as the kernel": lambda: nn.AvgPool2d(2, padding=(0, 2)),
    "AvgPool2d: divisor_override, 0": lambda: nn.AvgPool2d(2, divisor_override=0),
    "AvgPool2d: divisor_override, text": lambda: nn.AvgPool2d(2, divisor_override="x"),  # type: ignore[arg-type]
    "LPPool2d: norm_type, text": lambda: nn.LPPool2d("x", 2),  # type: ignore[arg-type]
    "LPPool2d: norm_type, 0": lambda: nn.LPPool2d(0, 2),
    "LPPool2d: stride, text": lambda: nn.LPPool2d(2, 2, stride="x"),  # type: ignore[arg-type]
    "LPPool2d: padding, by a wrong name": lambda: nn.LPPool2d(2, 2, padding="huge"),
    "LPPool2d: dilation, 0": lambda: nn.LPPool2d(2, 2, dilation=0),
    "CentrePool2d: stride, 0": lambda: nn.CentrePool2d(2, stride=0),
    "CentrePool2d: padding, by a wrong name": lambda: nn.CentrePool2d(2, padding="huge"),
    "CentrePool2d: dilation, 0": lambda: nn.CentrePool2d(2, dilation=0),
    "AdaptiveAvgPool2d: output_size, text": lambda: nn.AdaptiveAvgPool2d("x"),  # type: ignore[arg-type]
    "AdaptiveAvgPool2d: output_size, 0": lambda: nn.AdaptiveAvgPool2d(0),
    "AdaptiveMaxPool2d: output_size, three": lambda: nn.AdaptiveMaxPool2d((1, 2, 3)),  # type: ignore[arg-type]
    "AdaptiveMaxPool2d: output_size, None": lambda: nn.AdaptiveMaxPool2d(None),  # type: ignore[arg-type]
    "MaxUnpool2d: kernel_size, text": lambda: nn.MaxUnpool2d("x"),  # type: ignore[arg-type]
    "MaxUnpool2d: stride, 0": lambda: nn.MaxUnpool2d(2, stride=0),
    "MaxUnpool2d: padding, below 0": lambda: nn.MaxUnpool2d(2, padding=-1),
    "BatchNorm2d: eps, text": lambda: nn.BatchNorm2d(3, eps="x"),  # type: ignore[arg-type]
    "BatchNorm1d: momentum, text": lambda: nn.BatchNorm1d(3, momentum="x"),  # type: ignore[arg-type]
    "BatchNorm1d: momentum, above 1": lambda: nn.BatchNorm1d(3, momentum=1.5),
    "LayerNorm: eps, below 0": lambda: nn.LayerNorm(3, eps=-1),
    "LayerNorm: normalized_shape, empty": lambda: nn.LayerNorm(()),
    "GroupNorm: eps, not a number": lambda: nn.GroupNorm(1, 2, eps=float("nan")),
    "Conv1d: in_channels, text": lambda: nn.Conv1d("x", 1, 3),  # type: ignore[arg-type]
    "Conv1d: stride, text": lambda: nn.Conv1d(1, 1, 3, stride="x"),  # type: ignore[arg-type]
    "Conv1d: padding, by a wrong name": lambda: nn.Conv1d(1, 1, 3, padding="huge"),
    "Conv1d: padding, below 0": lambda: nn.Conv1d(1, 1, 3, padding=-1),
    "Conv1d: dilation, 0": lambda: nn.Conv1d(1, 1, 3, dilation=0),
    "Conv2d: padding, by a wrong name": lambda: nn.Conv2d(1, 1, 3, padding="huge"),
    "Conv2d: padding, three": lambda: nn.Conv2d(1, 1, 3, padding=(1, 1, 1)),
    "ConvTranspose2d: output_padding, as large as the stride": lambda: nn.ConvTranspose2d(1, 1, 3, output_padding=1),
    "Concat: axis, text": lambda: nn.Concat(nn.Identity(), axis="x"),  # type: ignore[arg-type]
    "Flatten: start_dim, text": lambda: nn.Flatten("x"),  # type: ignore[arg-type]
    "Flatten: end_dim, text": lambda: nn.Flatten(1, "x"),  # type: ignore[arg-type]
    "Softmax: dim, text": lambda: nn.Softmax("x"),  # type: ignore[arg-type]
    "LogSoftmax: dim, a float": lambda: nn.LogSoftmax(1.0),  # type: ignore[arg-type]
    "huber_loss: delta, text": lambda: nn.HuberLoss(delta="x"),  # type: ignore[arg-type]
    "huber_loss: delta, 0": lambda: nn.HuberLoss(delta=0),
    "CrossEntropyLoss: label_smoothing, above 1": lambda: nn.CrossEntropyLoss(label_smoothing=3),
    "CrossEntropyLoss: ignore_index, text": lambda: nn.CrossEntropyLoss(ignore_index="x"),  # type: ignore[arg-type]
    "NLLLoss: ignore_index, a float": lambda: nn.NLLLoss(ignore_index=0.5),  # type: ignore[arg-type]
    "leaky_relu: negative_slope, text": lambda: nn.LeakyReLU("x"),  # type: ignore[arg-type]
    "elu: alpha, text": lambda: nn.ELU("x"),  # type: ignore[arg-type]
    "softplus: beta, text": lambda: nn.Softplus("x"),  # type: ignore[arg-type]
    "gelu: approximate, by a wrong name": lambda: nn.GELU("x"),
    "affine: slope, text": lambda: nn.Affine("x"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_layer_names_what_is_wrong_when_it_is_made(name: str) -> None:
    where, _, argument = name.partition(",")[0].partition(": ")
    with pytest.raises(ParameterError, match=f"^{where}: {argument}: expected .*, got "):
        MISTAKES[name]()


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss, nn.NLLLoss])
def test_class_weights_are_a_tensor(loss: Callable[..., nn.Module]) -> None:
    with pytest.raises(DTypeError, match="weight: expected a Tensor, got list"):
        loss(weight=[1.0])


def test_what_is_right_is_taken() -> None:
    for make in (
        lambda: nn.MaxPool2d(3, padding=1),
        lambda: nn.MaxPool2d(2, padding="same"),
        lambda: nn.AvgPool2d(3, padding=(1, 0, 0, 1)),
        lambda: nn.LPPool2d(float("inf"), (2, 3), padding="full"),
        lambda: nn.AdaptiveMaxPool2d((None, 2)),
        lambda: nn.Conv1d(1, 1, 3, padding="same"),
        lambda: nn.Conv2d(1, 1, 3, padding=(7, 8, 9, 0)),
        lambda: nn.ConvTranspose2d(1, 1, 3, output_padding=1, dilation=2),
        lambda: nn.BatchNorm2d(3, eps=0, momentum=None),
        lambda: nn.Concat(nn.Identity(), axis=-1),
        lambda: nn.GELU("tanh"),
    ):
        try:
            make()
        except GpucnnError as error:
            pytest.fail(str(error))
