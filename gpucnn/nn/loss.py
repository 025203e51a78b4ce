"""Losses as modules. ``gpucnn.functional`` computes them."""

from __future__ import annotations

from collections.abc import Callable

from gpucnn import functional as F
from gpucnn.autograd import Tensor
from gpucnn.checks import check_known, is_number, python_number
from gpucnn.functional.arguments import check_tensor
from gpucnn.functional.loss import check_class_options, check_reduction
from gpucnn.nn.activation import one_number
from gpucnn.nn.module import Module


def _keep(loss: Module, name: str, weight: Tensor | None) -> None:
    """Keep a weight as a buffer, which is moved and saved with the loss; DTypeError for another object."""
    if weight is None:
        setattr(loss, name, None)
    else:
        check_tensor(weight, type(loss).__name__, name)
        loss.register_buffer(name, weight)


class CrossEntropyLoss(Module):
    """-log softmax(input)[target] of (N, C) logits and (N,) integers or (N, C) probabilities.

    See ``functional.cross_entropy``. A label out of range raises ParameterError on the CPU; on a GPU, in float32, the loss
    is NaN.

    >>> import gpucnn
    >>> CrossEntropyLoss()(gpucnn.tensor([[0.0, 0.0]]), gpucnn.tensor([1])).item()
    0.6931471824645996
    """

    weight: Tensor | None

    def __init__(
        self,
        reduction: str = "mean",
        *,
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        check_reduction(reduction, "CrossEntropyLoss")
        check_class_options("CrossEntropyLoss", None, weight, ignore_index, label_smoothing)
        self.reduction, self.ignore_index, self.label_smoothing = reduction, ignore_index, label_smoothing
        _keep(self, "weight", weight)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(
            input,
            target,
            self.reduction,
            weight=self.weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
        )


class NLLLoss(Module):
    """-input[target] of (N, C) log probabilities and (N,) integers; see ``functional.nll_loss``.

    >>> import gpucnn
    >>> NLLLoss()(gpucnn.tensor([[-1.0, -2.0]]), gpucnn.tensor([1])).item()
    2.0
    """

    weight: Tensor | None

    def __init__(
        self,
        reduction: str = "mean",
        *,
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        check_reduction(reduction, "NLLLoss")
        check_class_options("NLLLoss", None, weight, ignore_index)
        self.reduction, self.ignore_index = reduction, ignore_index
        _keep(self, "weight", weight)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.nll_loss(input, target, self.reduction, weight=self.weight, ignore_index=self.ignore_index)


class ElementwiseLoss(Module):
    """Base class of element-wise losses of two tensors with one shape."""

    function: Callable[..., Tensor]

    def __init__(self, reduction: str = "mean", *, name: str | None = None, **options: float) -> None:
        super().__init__(name)
        check_known(options, type(self).function, type(self).__name__)
        check_reduction(reduction, type(self).__name__)
        self.reduction = reduction
        self.options = {name: python_number(value) if is_number(value) else value for name, value in options.items()}
        if options:  # call it once, so that a wrong option raises here
            type(self).function(one_number(), one_number(), reduction, **options)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return type(self).function(input, target, self.reduction, **self.options)


class MSELoss(ElementwiseLoss):
    """(input - target)^2 of two tensors of one shape; see ``functional.mse_loss``.

    >>> import gpucnn
    >>> MSELoss()(gpucnn.tensor([1.0, 3.0]), gpucnn.tensor([1.0, 1.0])).item()
    2.0
    """

    function = staticmethod(F.mse_loss)


class L1Loss(ElementwiseLoss):
    """|input - target|; see ``functional.l1_loss``.

    >>> import gpucnn
    >>> L1Loss()(gpucnn.tensor([1.0, 3.0]), gpucnn.tensor([1.0, 1.0])).item()
    1.0
    """

    function = staticmethod(F.l1_loss)


class HuberLoss(ElementwiseLoss):
    """Quadratic up to delta, linear beyond; see ``functional.huber_loss``.

    >>> import gpucnn
    >>> HuberLoss()(gpucnn.tensor([3.0]), gpucnn.tensor([0.0])).item()
    2.5
    """

    function = staticmethod(F.huber_loss)

    def __init__(self, reduction: str = "mean", delta: float = 1.0, *, name: str | None = None) -> None:
        super().__init__(reduction, name=name, delta=delta)


class BCELoss(ElementwiseLoss):
    """The binary cross-entropy of probabilities; see ``functional.binary_cross_entropy``.

    >>> import gpucnn
    >>> round(BCELoss()(gpucnn.tensor([0.5]), gpucnn.tensor([1.0])).item(), 4)
    0.6931
    """

    function = staticmethod(F.binary_cross_entropy)
    weight: Tensor | None

    def __init__(self, reduction: str = "mean", *, weight: Tensor | None = None, name: str | None = None) -> None:
        super().__init__(reduction, name=name)
        _keep(self, "weight", weight)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy(input, target, self.reduction, weight=self.weight)


class BCEWithLogitsLoss(ElementwiseLoss):
    """The binary cross-entropy of logits; see ``functional.binary_cross_entropy_with_logits``.

    >>> import gpucnn
    >>> round(BCEWithLogitsLoss()(gpucnn.tensor([0.0]), gpucnn.tensor([1.0])).item(), 4)
    0.6931
    """

    function = staticmethod(F.binary_cross_entropy_with_logits)
    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(
        self,
        reduction: str = "mean",
        *,
        weight: Tensor | None = None,
        pos_weight: Tensor | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(reduction, name=name)
        _keep(self, "weight", weight)
        _keep(self, "pos_weight", pos_weight)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(
            input, target, self.reduction, weight=self.weight, pos_weight=self.pos_weight
        )


class HingeLoss(ElementwiseLoss):
    """max(0, 1 - input target) for targets of -1 and 1; see ``functional.hinge_loss``.

    >>> import gpucnn
    >>> HingeLoss()(gpucnn.tensor([0.5]), gpucnn.tensor([1.0])).item()
    0.5
    """

    function = staticmethod(F.hinge_loss)
