"""Module, the base class of layers and networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Self

from gpucnn.autograd import Parameter, Tensor, no_grad
from gpucnn.backend import Backend, get_backend
from gpucnn.backend.precision import is_half
from gpucnn.errors import CheckpointError, DTypeError, GpucnnError, ParameterError, kind_of
from gpucnn.nn.state import HookHandle, IncompatibleKeys, as_tensor_like

ForwardHook = Callable[["Module", tuple[Any, ...], Any], Any]
ForwardPreHook = Callable[["Module", tuple[Any, ...]], Any]


class Module:
    """Base class of all layers and networks. Override ``forward``; assign parameters and modules as attributes.

    Names and behaviour are those of ``torch.nn.Module``. State dictionaries are interchangeable.

    >>> import gpucnn
    >>> class Double(Module):
    ...     def forward(self, x):
    ...         return x * 2
    >>> Double()(gpucnn.tensor([1.0])).tolist()
    [2.0]
    """

    optional_state: ClassVar[tuple[str, ...]] = ()
    """Names of parameters and buffers that a state dictionary may omit. They keep their values."""

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
        target: dict[str, Any] | None = None
        if isinstance(value, Parameter):
            target = self._parameters
        elif isinstance(value, Module):
            target = self._modules
        elif isinstance(value, Tensor) and name in self._buffers:
            target = self._buffers
        for registry in (self._parameters, self._modules, self._buffers):
            if registry is not target:
                registry.pop(name, None)
        if target is not None:
            target[name] = value  # reassignment keeps the order
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        for registry in (self._parameters, self._modules, self._buffers):
            registry.pop(name, None)
        object.__delattr__(self, name)

    def register_buffer(self, name: str, value: Tensor) -> None:
        """Register ``value``: it is saved and moved with the module, but not trained."""
        if not isinstance(value, Tensor):
            raise DTypeError.expected("register_buffer", name, "a Tensor", kind_of(value), "use gpucnn.tensor(...)")
        object.__setattr__(self, name, value)
        self._buffers[name] = value

    def add_module(self, name: str, module: Module) -> None:
        """Register ``module`` as ``name``, which may be a number in text form, as in ``Sequential``."""
        if not isinstance(module, Module):
            raise ParameterError.expected("add_module", str(name), "a Module", kind_of(module))
        self._modules[name] = module
        object.__setattr__(self, name, module)

    def add_new(self, name: str, module: Module) -> None:
        """Register ``module`` with a name that is not in use; otherwise raise ParameterError."""
        where = type(self).__name__
        if not isinstance(module, Module):
            raise ParameterError.expected(where, f"layer {name}", "a Module", kind_of(module))
        if not isinstance(name, str) or "." in name or hasattr(self, name):
            raise ParameterError.expected(where, "layer name", "an unused name without dots", repr(name))
        self.add_module(name, module)

    # --- calling -------------------------------------------------------------------------------------------------

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Return the output. Subclasses override this. Hooks receive only ``inputs``, as in PyTorch."""
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
        """Add the layer to the error message, once, in the layer that has no layers inside."""
        if not self._modules and not error.layer:
            error.layer = f"{self.name + ': ' if self.name else ''}{self!r}"

    def register_forward_hook(self, hook: ForwardHook) -> HookHandle:
        """Call ``hook(module, inputs, output)`` after forward. A return value other than None replaces the output."""
        return HookHandle(self._forward_hooks, hook)

    def register_forward_pre_hook(self, hook: ForwardPreHook) -> HookHandle:
        """Call ``hook(module, inputs)`` before forward. A return value other than None replaces the inputs."""
        return HookHandle(self._forward_pre_hooks, hook)

    def has_hooks(self) -> bool:
        """Whether this module itself has hooks."""
        return bool(self._forward_hooks or self._forward_pre_hooks)

    # --- traversal -----------------------------------------------------------------------------------------------

    def children(self) -> Iterator[Module]:
        """Yield the direct child modules, in registration order."""
        yield from self._modules.values()

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield (name, module) for the direct child modules, in registration order."""
        yield from self._modules.items()

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield (dotted name, module) for self and all modules inside, each once, in registration order."""
        seen: set[int] = set()
        yield from self._traverse(prefix, seen)

    def _traverse(self, prefix: str, seen: set[int]) -> Iterator[tuple[str, Module]]:
        if id(self) in seen:
            return
        seen.add(id(self))
        yield prefix, self
        for name, module in self._modules.items():
            yield from module._traverse(f"{prefix}.{name}" if prefix else name, seen)

    def modules(self) -> Iterator[Module]:
        """Yield self and all modules inside, each once."""
        return (module for _, module in self.named_modules())

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """Yield (dotted name, parameter), each parameter once, in registration order.

        ParameterError if a layer that infers its input channels has not been called yet.
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

    def named_buffers(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Yield (dotted name, buffer), such as running statistics, in registration order."""
        for path, module in self.named_modules(prefix):
            for name, buffer in module._buffers.items():
                yield f"{path}.{name}" if path else name, buffer

    def buffers(self) -> Iterator[Tensor]:
        """Yield each buffer, in registration order."""
        return (buffer for _, buffer in self.named_buffers())

    def apply(self, function: Callable[[Module], object]) -> Self:
        """Call ``function`` on every module inside, then on self; return self, for example to initialise weights."""
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    def waits_for_input(self) -> bool:
        """Whether the layer's parameters are not made yet, because the first call gives their shape."""
        return False

    def _refuse_to_wait(self) -> None:
        if self.waits_for_input():
            raise ParameterError(
                f"parameters: {self!r} infers its input size in the first call. "
                "Call the model once on an example (under no_grad), or give the size."
            )

    def materialise(self, in_size: int) -> None:
        """Make the parameters of a layer that waits for its input size."""

    # --- modes and devices ---------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Set training mode (in which dropout is active) for self and all modules inside; return self."""
        for module in self.modules():
            object.__setattr__(module, "training", mode)
        return self

    def eval(self) -> Self:
        """Set evaluation mode; return self."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Freeze (False) or unfreeze every parameter; return self."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients or, with set_to_none=False, fill existing ones with zeros."""
        for parameter in self.parameters():
            parameter.clear_grad(set_to_none)

    def to(self, target: str | Backend | Any = None, *, device: str | Backend | None = None, dtype: Any = None) -> Self:
        """Move to a device ("cpu", "cuda") or floating dtype, or both, in place; return self. Make the optimiser afterwards.

        Parameters that already match are unchanged. Nothing is moved if ``target`` is invalid. Buffers, such as the running
        statistics of normalisation, become float32 if ``target`` is float16.
        """
        given = [one for one in (dtype, target, device) if one is not None]
        if device is not None:
            get_backend(device)  # nothing is moved where there is no such device
        if not given:
            raise ParameterError.expected("Module.to", "target", "a device or a floating dtype", "nothing")
        for one in given:
            self._move(one)
        return self

    def cpu(self) -> Self:
        """Move to the CPU; return self."""
        return self.to("cpu")

    def cuda(self, device: int | None = None) -> Self:
        """Move to the first GPU, or the one of this number; return self."""
        return self.to("cuda" if device is None else f"cuda:{device}")

    def float(self) -> Self:
        """Change parameters and buffers to float32; return self."""
        return self.to("float32")

    def double(self) -> Self:
        """Change parameters and buffers to float64; return self."""
        return self.to("float64")

    def half(self) -> Self:
        """Change parameters to float16; return self. Buffers are float32."""
        return self.to("float16")

    def _move(self, target: Any) -> None:
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

    # --- state ---------------------------------------------------------------------------------------------------

    def _named_state(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Yield each module's parameters, its buffers, then those of its children. A shared one has all its names."""
        self._refuse_to_wait()
        for name, tensor in (*self._parameters.items(), *self._buffers.items()):
            yield prefix + name, tensor
        for name, module in self._modules.items():
            yield from module._named_state(f"{prefix}{name}.")

    def state_dict(self) -> dict[str, Any]:
        """Return {dotted name: C-ordered NumPy copy} of all parameters and buffers, with torch.nn's names."""
        return {name: tensor.numpy() for name, tensor in self._named_state()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy values from NumPy arrays, Tensors or PyTorch CPU tensors. If anything does not match, nothing is changed.

        Returns the names that are missing in ``state`` and those unknown to the model. With strict=False check them: if no
        name matches, nothing is loaded. bfloat16 is widened.
        CheckpointError for a wrong shape and, if strict, for missing or unknown names.

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
            for module, before in waiting:  # undo the sizes that they inferred
                module._parameters.clear()
                module.__dict__.update(before)
            raise
        with no_grad():
            for target, value in values:
                target.copy_(value)
        return keys

    def _optional_state(self) -> set[str]:
        """Return the names that a state dictionary may omit."""
        return {
            f"{path}.{name}" if path else name
            for path, module in self.named_modules()
            for name in module.optional_state
        }

    def _fitting(self, state: Mapping[str, Any], strict: bool) -> tuple[list[tuple[Tensor, Tensor]], IncompatibleKeys]:
        """Return each parameter and buffer with its new values; CheckpointError if anything does not match."""
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
        values = [(tensor, as_tensor_like(state[name], tensor, name)) for name, tensor in own.items() if name in state]
        return values, IncompatibleKeys(missing, unknown)

    # --- printing ------------------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """Return the text between the parentheses of ``repr``."""
        return ""

    def __repr__(self) -> str:
        lines = [f"  ({name}): {module!r}".replace("\n", "\n  ") for name, module in self._modules.items()]
        inside = "\n".join(["", *lines, ""]) if lines else self.extra_repr()
        return f"{type(self).__name__}({inside})"


@contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """Put the model in evaluation mode without recording within the block; then restore each module's mode.

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
