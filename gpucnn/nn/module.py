"""Module: something with parameters that maps tensors to tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple, Self

from gpucnn.autograd import Parameter, Tensor, no_grad
from gpucnn.backend import Backend
from gpucnn.backend.precision import is_half
from gpucnn.errors import CheckpointError, DTypeError, GpucnnError, ParameterError, kind_of

ForwardHook = Callable[["Module", tuple[Any, ...], Any], Any]
ForwardPreHook = Callable[["Module", tuple[Any, ...]], Any]


class HookHandle:
    """Takes a hook away again: ``handle.remove()``, or leave its ``with`` block."""

    def __init__(self, hooks: list[Any], hook: Any) -> None:
        self._hooks, self._hook = hooks, hook
        hooks.append(hook)

    def remove(self) -> None:
        if self._hook in self._hooks:
            self._hooks.remove(self._hook)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


class IncompatibleKeys(NamedTuple):
    """What ``load_state_dict`` did not match: names of the model that were missing, and names that it has not."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """Base of all layers and networks: write ``forward``, assign parameters and modules as attributes.

    Names and behaviour are those of ``torch.nn.Module``; state dictionaries move between the two unchanged.

    >>> import gpucnn
    >>> class Double(Module):
    ...     def forward(self, x):
    ...         return x * 2
    >>> Double()(gpucnn.tensor([1.0])).tolist()
    [2.0]
    """

    optional_state: ClassVar[tuple[str, ...]] = ()
    """Names of parameters and buffers that a state dictionary need not have: they keep their values."""

    training: bool
    name: str | None
    _parameters: dict[str, Parameter]
    _modules: dict[str, Module]
    _buffers: dict[str, Tensor]
    _forward_hooks: list[ForwardHook]
    _forward_pre_hooks: list[ForwardPreHook]

    def __init__(self, name: str | None = None) -> None:
        registries: dict[str, Any] = {
            "_parameters": {}, "_modules": {}, "_buffers": {}, "_forward_hooks": [], "_forward_pre_hooks": [],
        }  # fmt: skip
        self.__dict__.update(registries, training=True, name=name)

    # --- attributes ----------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        if "_parameters" not in self.__dict__:
            raise GpucnnError(f"{type(self).__name__}: call super().__init__() before assigning {name!r}.")
        home: dict[str, Any] | None = None
        if isinstance(value, Parameter):
            home = self._parameters
        elif isinstance(value, Module):
            home = self._modules
        elif isinstance(value, Tensor) and name in self._buffers:
            home = self._buffers
        for registry in (self._parameters, self._modules, self._buffers):
            if registry is not home:
                registry.pop(name, None)
        if home is not None:
            home[name] = value  # what is assigned again keeps its place in the order
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        for registry in (self._parameters, self._modules, self._buffers):
            registry.pop(name, None)
        object.__delattr__(self, name)

    def register_buffer(self, name: str, value: Tensor) -> None:
        """Keep ``value`` in the state dictionary and move it along, without training it."""
        if not isinstance(value, Tensor):
            raise DTypeError.expected("register_buffer", name, "a Tensor", kind_of(value), "use gpucnn.tensor(...)")
        object.__setattr__(self, name, value)
        self._buffers[name] = value

    def add_module(self, name: str, module: Module) -> None:
        """Register ``module`` under ``name``, which may be a number as in ``Sequential``."""
        if not isinstance(module, Module):
            raise ParameterError.expected("add_module", str(name), "a Module", kind_of(module))
        self._modules[name] = module
        object.__setattr__(self, name, module)

    def add_new(self, name: str, module: Module) -> None:
        """Register ``module`` under a name that nothing here has yet; ParameterError else."""
        where = type(self).__name__
        if not isinstance(module, Module):
            raise ParameterError.expected(where, f"layer {name}", "a Module", kind_of(module))
        if not isinstance(name, str) or "." in name or hasattr(self, name):
            raise ParameterError.expected(where, "layer name", "an unused name without dots", repr(name))
        self.add_module(name, module)

    # --- calling -------------------------------------------------------------------------------------------------

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Return the output; what a subclass writes. Hooks see ``inputs`` alone, as in PyTorch."""
        raise NotImplementedError(f"{type(self).__name__} has no forward method")

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        try:
            for pre_hook in tuple(self._forward_pre_hooks):
                changed = pre_hook(self, inputs)
                if changed is not None:
                    inputs = changed if isinstance(changed, tuple) else (changed,)
            output = self.forward(*inputs, **options)
            for hook in tuple(self._forward_hooks):
                changed = hook(self, inputs, output)
                output = output if changed is None else changed
        except GpucnnError as error:
            self._name_the_layer(error)
            raise
        return output

    def _name_the_layer(self, error: GpucnnError) -> None:
        """Say once, in the innermost layer, where the error happened."""
        if not self._modules and not error.layer:
            error.layer = f"{self.name + ': ' if self.name else ''}{self!r}"

    def register_forward_hook(self, hook: ForwardHook) -> HookHandle:
        """Call ``hook(module, inputs, output)`` after forward; what it returns, if not None, replaces the output."""
        return HookHandle(self._forward_hooks, hook)

    def register_forward_pre_hook(self, hook: ForwardPreHook) -> HookHandle:
        """Call ``hook(module, inputs)`` before forward; what it returns, if not None, replaces the inputs."""
        return HookHandle(self._forward_pre_hooks, hook)

    def has_hooks(self) -> bool:
        """Whether a hook watches calls of this module itself."""
        return bool(self._forward_hooks or self._forward_pre_hooks)

    # --- walking -------------------------------------------------------------------------------------------------

    def children(self) -> Iterator[Module]:
        """Yield the modules directly inside, in registration order."""
        yield from self._modules.values()

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield (dotted name, module) for self and everything inside, each once, in registration order."""
        seen: set[int] = set()
        yield from self._walk(prefix, seen)

    def _walk(self, prefix: str, seen: set[int]) -> Iterator[tuple[str, Module]]:
        if id(self) in seen:
            return
        seen.add(id(self))
        yield prefix, self
        for name, module in self._modules.items():
            yield from module._walk(f"{prefix}.{name}" if prefix else name, seen)

    def modules(self) -> Iterator[Module]:
        """Yield self and everything inside, each once."""
        return (module for _, module in self.named_modules())

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """Yield (dotted name, parameter), each parameter once, in registration order.

        ParameterError where a layer that infers its input channels has not been called yet.
        """
        seen: set[int] = set()
        for path, module in self.named_modules(prefix):
            module._refuse_to_wait()
            for name, parameter in module._parameters.items():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield f"{path}.{name}" if path else name, parameter

    def parameters(self) -> Iterator[Parameter]:
        """Yield each parameter once, in registration order."""
        return (parameter for _, parameter in self.named_parameters())

    def waits_for_input(self) -> bool:
        """Whether the layer's parameters are made at the first call."""
        return False

    def _refuse_to_wait(self) -> None:
        if self.waits_for_input():
            raise ParameterError(
                f"parameters: {self!r} learns its input size at the first call. "
                "Call the model once on an example (under no_grad), or give the size."
            )

    def materialise(self, in_size: int) -> None:
        """Make the parameters of a layer that waits for its input size."""

    # --- modes and places ----------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Set training mode (dropout drops) for self and everything inside; returns self."""
        for module in self.modules():
            object.__setattr__(module, "training", mode)
        return self

    def eval(self) -> Self:
        """Set evaluation mode; returns self."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Freeze (False) or unfreeze every parameter; returns self."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients; with set_to_none=False those that are there become zeros."""
        for parameter in self.parameters():
            parameter.clear_grad(set_to_none)

    def to(self, target: str | Backend | Any) -> Self:
        """Move to a device ("cpu", "cuda") or floating dtype, in place; returns self. Make the optimiser afterwards.

        Parameters that are there already stay as they are. Nothing is moved where ``target`` makes no sense. Buffers, the
        running values of normalisation say, stay float32 where ``target`` is float16.
        """
        is_device = isinstance(target, Backend) or str(target).split(":")[0] in ("cpu", "cuda", "auto")
        moved = [(parameter, parameter.detach().to(target)) for parameter in self.parameters()]
        for _, values in moved:
            if values.dtype.kind != "f":
                raise DTypeError.expected("Module.to", "target", "a device or a floating dtype", repr(target))
        for parameter, values in moved:
            parameter.move_(values)
        for module in self.modules():
            for name, buffer in list(module._buffers.items()):
                if is_device or buffer.dtype.kind == "f":
                    values = buffer.detach().to(target)
                    module.register_buffer(name, values.to("float32") if is_half(values) else values)
        return self

    # --- state ---------------------------------------------------------------------------------------------------

    def _named_state(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Yield each module's parameters, then its buffers, then its children's; under every name that a shared one has."""
        self._refuse_to_wait()
        for name, tensor in (*self._parameters.items(), *self._buffers.items()):
            yield prefix + name, tensor
        for name, module in self._modules.items():
            yield from module._named_state(f"{prefix}{name}.")

    def state_dict(self) -> dict[str, Any]:
        """Return {dotted name: C-ordered NumPy copy} of all parameters and buffers, under torch.nn's names."""
        return {name: tensor.numpy() for name, tensor in self._named_state()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy values in; NumPy arrays, Tensors or PyTorch CPU tensors. Nothing is changed where something does not fit.

        Returns the names that the model has and ``state`` lacks, and those of ``state`` that the model has not: with
        strict=False look at them, for where no name fits nothing is loaded. bfloat16 is widened.
        CheckpointError for a wrong shape and, when strict, for missing or unknown names.

        >>> from gpucnn import nn
        >>> nn.ReLU().load_state_dict({"module.weight": 1.0}, strict=False)
        IncompatibleKeys(missing_keys=[], unexpected_keys=['module.weight'])
        """
        if not isinstance(state, Mapping):
            raise CheckpointError.expected("load_state_dict", "state", "a dictionary", kind_of(state))
        waiting = [(module, dict(module.__dict__)) for module in self.modules() if module.waits_for_input()]
        try:
            values, keys = self._fitting(state, strict)
        except GpucnnError:
            for module, before in waiting:  # what they have learnt is wrong: they wait again
                module._parameters.clear()
                module.__dict__.update(before)
            raise
        with no_grad():
            for target, value in values:
                target.copy_(value)
        return keys

    def _optional_state(self) -> set[str]:
        """Return the names of the state that a state dictionary may lack."""
        return {
            f"{path}.{name}" if path else name
            for path, module in self.named_modules()
            for name in module.optional_state
        }

    def _fitting(self, state: Mapping[str, Any], strict: bool) -> tuple[list[tuple[Tensor, Tensor]], IncompatibleKeys]:
        """Return each parameter and buffer with its new values; CheckpointError where something does not fit."""
        for path, module in self.named_modules():
            name = f"{path}.weight" if path else "weight"
            if module.waits_for_input() and name in state:
                shape = tuple(getattr(state[name], "shape", ()))
                if len(shape) < 2 or not shape[1]:
                    raise CheckpointError.expected("load_state_dict", name, "at least 2 dimensions", f"shape {shape}")
                module.materialise(int(shape[1]))
        own = dict(self._named_state())
        optional = self._optional_state()
        missing = [name for name in own if name not in state and name not in optional]
        unknown = [name for name in state if name not in own]
        if strict and (missing or unknown):
            raise CheckpointError.expected(
                "load_state_dict",
                "names",
                f"those of the model (missing: {missing or 'none'})",
                f"unknown: {unknown or 'none'}",
            )
        values = [(tensor, _as_tensor(state[name], tensor, name)) for name, tensor in own.items() if name in state]
        return values, IncompatibleKeys(missing, unknown)

    # --- printing ------------------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """Return what stands between the brackets when the layer prints itself."""
        return ""

    def __repr__(self) -> str:
        lines = [f"  ({name}): {module!r}".replace("\n", "\n  ") for name, module in self._modules.items()]
        inside = "\n".join(["", *lines, ""]) if lines else self.extra_repr()
        return f"{type(self).__name__}({inside})"


def _as_tensor(value: Any, like: Tensor, name: str) -> Tensor:
    """Return an array, a Tensor or a tensor of PyTorch as a Tensor like ``like``; CheckpointError where it cannot be."""
    if not hasattr(value, "shape"):
        raise CheckpointError.expected("load_state_dict", name, "an array", kind_of(value))
    if tuple(value.shape) != like.shape:
        raise CheckpointError.expected("load_state_dict", name, f"shape {like.shape}", tuple(value.shape))
    value = value.detach() if hasattr(value, "detach") else value
    if str(value.dtype).endswith("bfloat16"):  # of PyTorch, which NumPy has not, or of ml_dtypes
        value = value.float() if hasattr(value, "float") else value.astype("float32")
    try:
        return Tensor(
            like.backend.asarray(value.numpy() if hasattr(value, "numpy") else value, like.dtype), like.backend
        )
    except (TypeError, ValueError) as error:
        raise CheckpointError.expected("load_state_dict", name, f"numbers for {like.dtype}", error) from None


@contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """Within the block the model is in evaluation mode and nothing is recorded; each module's own mode is restored.

    >>> from gpucnn import nn
    >>> net = nn.Dropout()
    >>> with evaluating(net):
    ...     net.training
    False
    >>> net.training
    True
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with no_grad():
            yield
    finally:
        for module, training in modes:
            object.__setattr__(module, "training", training)
