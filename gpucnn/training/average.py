"""The exponential moving average of a network's weights, kept on the device beside those that are trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gpucnn.autograd import Tensor, no_grad, tensor
from gpucnn.errors import CheckpointError
from gpucnn.nn import Module
from gpucnn.optim.optimizer import check_number

LIVE, AVERAGED = "live.", "average."
"""What names begin with in a checkpoint: weights as they are trained, and averages that the model's file has rounded."""


class EMA(Module):
    """Averages the parameters of a network: a <- decay a + (1 - decay) w after each step; the first step sets a to w.

    Averages of float16 weights are float32. Buffers (the statistics of batch normalisation) are those of the network.
    ``update`` can be captured: the decay is read from the device. Source: Polyak & Juditsky 1992; as PyTorch's
    ``AveragedModel`` with ``get_ema_multi_avg_fn``. Raises ParameterError.

    >>> import gpucnn
    >>> from gpucnn import nn
    >>> net = nn.Linear(1, 1, bias=False)
    >>> average = EMA(net, decay=0.5)
    >>> for value in (2.0, 4.0):
    ...     with gpucnn.no_grad():
    ...         net.weight[...] = value
    ...     average.update()
    >>> with average.applied():
    ...     net.weight.item()
    3.0
    """

    share: Tensor
    rest: Tensor

    def __init__(self, net: Module, decay: float) -> None:
        super().__init__()
        check_number(decay, "EMA", "decay", 0, 1)
        self.decay, self.network = decay, [net]  # in a list: the network is not a part of its average
        self._live: dict[str, Tensor] | None = None
        with no_grad():
            self._averages = {name: _wide(p).clone() for name, p in net.named_parameters()}
        for number, average in enumerate(self._averages.values()):
            self.register_buffer(f"average{number}", average)
        some = next(iter(self._averages.values()))
        for name, value in (("share", 1.0), ("rest", 1.0 - decay)):  # of the next weights: all at first, then the rest
            self.register_buffer(name, tensor(value, str(some.dtype), some.backend))

    def update(self) -> None:
        """Add the weights after a step to the average."""
        with no_grad():
            for name, parameter in self.network[0].named_parameters():
                average = self._averages[name]
                average.copy_(average + (_wide(parameter) - average) * self.share)
            self.share.copy_(self.rest)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the network has the averages; afterwards its own weights again."""
        if self._live is not None:  # it has them already
            yield
            return
        with no_grad():
            self._live = {name: p.detach().clone() for name, p in self.network[0].named_parameters()}
            self.take_over()
        try:
            yield
        finally:
            self._give(self._live)
            self._live = None

    def take_over(self) -> None:
        """Set the network's weights to the averages."""
        self._give(self._averages)

    def restart(self) -> None:
        """Restart the average from the network's weights."""
        with no_grad():
            for name, parameter in self.network[0].named_parameters():
                self._averages[name].copy_(_wide(parameter))

    def _give(self, weights: dict[str, Tensor]) -> None:
        with no_grad():
            for name, parameter in self.network[0].named_parameters():
                parameter.copy_(weights[name].to(str(parameter.dtype)))

    def arrays(self) -> dict[str, Any]:
        """Return what a checkpoint needs besides the averages, which are its model's weights: host arrays by name."""
        live = self._live or dict(self.network[0].named_parameters())
        found = {LIVE + name: weight.numpy() for name, weight in live.items()}
        rounded = {name: a for name, a in self._averages.items() if a.dtype != live[name].dtype}
        return found | {AVERAGED + name: average.numpy() for name, average in rounded.items()}

    def restore(self, arrays: dict[str, Any]) -> dict[str, Any]:
        """Take what ``arrays`` returned out of ``arrays``, where the network has the averages; return the rest.

        CheckpointError if a weight is missing or has another shape.
        """
        rest = {name: value for name, value in arrays.items() if not name.startswith((LIVE, AVERAGED))}
        self.restart()
        with no_grad():
            for name, parameter in self.network[0].named_parameters():
                live, averaged = arrays.get(LIVE + name), arrays.get(AVERAGED + name)
                if live is None or live.shape != parameter.shape:
                    raise CheckpointError.expected("EMA", name, f"trained weights of shape {parameter.shape}", "others")
                parameter.copy_(tensor(live, device=parameter.backend))
                if averaged is not None:
                    self._averages[name].copy_(tensor(averaged, device=parameter.backend))
            self.share.copy_(self.rest)
        return rest


def _wide(weight: Tensor) -> Tensor:
    weight = weight.detach()
    return weight.to("float32") if str(weight.dtype) == "float16" else weight
