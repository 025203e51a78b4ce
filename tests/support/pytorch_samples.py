"""PyTorch's own sample inputs (``torch.testing._internal``), run through gpucnn: what agrees, differs, and is refused.

A sample is run in float64 by both. *agrees*: values, dtype and gradients of every tensor that has one are equal. *differs*:
they are not. *refused*: gpucnn raises one of its errors. *signature*: gpucnn's function does not take the arguments.
*unsupported*: the sample asks for what gpucnn says it does not have (``UNSUPPORTED``).
"""

from __future__ import annotations

import functools
import operator
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import gpucnn
import gpucnn.functional as F
from gpucnn import Tensor, nn, optim
from gpucnn.errors import GpucnnError

RANDOM = {"dropout", "dropout2d"}
"""Functions whose numbers are random, which no two libraries agree on; tests/functional has them."""


UNSUPPORTED = {"memory_format": "memory formats", "alpha": "the factor alpha of torch.add and torch.sub"}
"""Options that gpucnn does not have, and what they are."""


def method(name: str) -> Callable[..., Any]:
    return lambda x, *arguments, **options: getattr(x, name)(*arguments, **options)


OPERATIONS: dict[str, Callable[..., Any]] = {
    **{
        name: method(name)
        for name in (
            "abs",
            "argmax",
            "clamp",
            "clone",
            "exp",
            "expand",
            "flatten",
            "isfinite",
            "log",
            "mean",
            "permute",
            "repeat",
            "reshape",
            "sort",
            "sqrt",
            "squeeze",
            "std",
            "sum",
            "t",
            "topk",
            "transpose",
            "unsqueeze",
            "var",
            "view",
            "float",
            "double",
            "half",
            "long",
        )
    },
    **{
        name: getattr(operator, name)
        for name in ("add", "sub", "mul", "pow", "neg", "matmul", "eq", "ne", "lt", "le", "gt", "ge")
    },
    "div.no_rounding_mode": operator.truediv,
    "true_divide": operator.truediv,
    "__getitem__": operator.getitem,
    "__radd__": lambda x, y: y + x,
    "__rmul__": lambda x, y: y * x,
    "__rsub__": lambda x, y: y - x,
    "__rdiv__": lambda x, y: y / x,
    "__rpow__": lambda x, y: y**x,
    "__rmatmul__": lambda x, y: y @ x,
    "max.reduction_no_dim": method("max"),
    "min.reduction_no_dim": method("min"),
    **{
        name: getattr(gpucnn, name)
        for name in ("cat", "stack", "zeros", "ones", "full", "arange", "zeros_like", "ones_like")
    },
    "where": lambda x, condition, other: gpucnn.where(condition, x, other),
    "softmax.with_dtype": F.softmax,
    "log_softmax.with_dtype": F.log_softmax,
    "std.unbiased": lambda x, unbiased: x.std(unbiased=unbiased),
    "var.unbiased": lambda x, unbiased: x.var(unbiased=unbiased),
    "softmax": F.softmax,
    "log_softmax": F.log_softmax,
    "sigmoid": F.sigmoid,
    "tanh": F.tanh,
    **{
        f"nn.functional.{name}": getattr(F, name)
        for name in F.__all__
        if hasattr(torch.nn.functional, name) and name not in RANDOM
    },
}
OPERATIONS["squeeze.multiple"] = method("squeeze")
OPERATIONS |= {f"nn.functional.interpolate.{mode}": F.interpolate for mode in ("nearest", "bilinear")}


@dataclass
class Counts:
    """How the samples of one operation or layer came out, and the first words of each other outcome."""

    outcomes: Counter[str] = field(default_factory=Counter)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def add(self, outcome: str, note: str = "") -> None:
        self.outcomes[outcome] += 1
        if outcome != "agrees":
            self.notes.setdefault(outcome, []).append(note)


class Unsupported(Exception):
    """The sample asks for what gpucnn does not have, by the table of docs/pytorch.md."""


def ours(value: Any) -> Any:
    """Return a sample's value for gpucnn."""
    if isinstance(value, torch.nn.Parameter):
        return nn.Parameter(gpucnn.tensor(value.detach().numpy()))
    if isinstance(value, torch.Tensor):
        if value.is_complex() or value.dtype == torch.bfloat16:
            raise Unsupported("complex numbers and bfloat16")
        made = gpucnn.tensor(value.detach().resolve_conj().numpy())
        return made.requires_grad_() if value.requires_grad else made
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, torch.device):
        return str(value)
    if isinstance(value, dict):
        return {key: ours(one) for key, one in value.items()}
    if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
        return type(value)(ours(one) for one in value)
    return tuple(value) if isinstance(value, torch.Size) else value


def tensors_in(value: Any) -> Iterator[Any]:
    if isinstance(value, (torch.Tensor, Tensor)):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from tensors_in(one)
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from tensors_in(one)


def fresh(value: Any) -> Any:
    """Return a sample's value with leaves of its own, so that each sample has its own gradients."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, dict):
        return {key: fresh(one) for key, one in value.items()}
    if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
        return type(value)(fresh(one) for one in value)
    return value


def compare(function: Callable[..., Any], theirs: Callable[..., Any], arguments: Any, options: Any) -> tuple[str, str]:
    """Return the outcome of one sample and a note."""
    arguments, options = fresh(arguments), fresh(options)
    try:
        for option, reason in UNSUPPORTED.items():
            if option in options:
                raise Unsupported(reason)
        if function is F.interpolate and arguments[0].ndim != 4:
            raise Unsupported("interpolation of sequences and volumes")
        mine, my_options = ours(arguments), ours(options)
    except Unsupported as reason:
        return "unsupported", str(reason)
    wanted = theirs(*arguments, **options)
    try:
        got = function(*mine, **my_options)
    except GpucnnError as error:
        return "refused", f"{shapes(arguments)} {shapes(options)}: {error}"
    except (TypeError, AttributeError) as error:
        return "signature", f"{shapes(arguments)} {shapes(options)}: {error}"
    return compared(got, wanted, (mine, my_options), (arguments, options))


def compared(got: Any, wanted: Any, mine: Any, yours: Any, tolerance: float = 1e-7) -> tuple[str, str]:
    """Compare results, and then the gradients of their sum weighted by fixed numbers."""
    results, targets = list(tensors_in(got)), list(tensors_in(wanted))
    if len(results) != len(targets):
        return "differs", f"{len(results)} results, not {len(targets)}"
    for a, b in zip(results, targets, strict=True):
        if problem := unlike(a, b.detach(), tolerance):
            return "differs", f"value: {problem} for {shapes(yours)}"
    for a, b in zip(results, targets, strict=True):
        if b.requires_grad:
            if not a.requires_grad:
                return "differs", "no gradient"
            weights = (
                np.random.default_rng(0).standard_normal(tuple(b.shape)).astype(str(b.dtype).removeprefix("torch."))
            )
            b.backward(torch.from_numpy(np.asarray(weights)), retain_graph=True)
            a.backward(gpucnn.tensor(np.asarray(weights)))
            break
    for a, b in zip(tensors_in(mine), tensors_in(yours), strict=True):
        if b.grad is None:
            if a.grad is not None and a.grad.numpy().any():
                return "differs", "a gradient where there is none"
        elif a.grad is None:
            if b.grad.any():
                return "differs", f"no gradient where there is one, for {shapes(yours)}"
        elif problem := unlike(a.grad, b.grad, tolerance):
            return "differs", f"gradient: {problem} for {shapes(yours)}"
    return "agrees", ""


def unlike(a: Tensor, b: torch.Tensor, tolerance: float) -> str:
    x, y = a.detach().numpy(), b.numpy()
    if x.dtype != y.dtype or x.shape != y.shape:
        return f"{x.dtype} {x.shape}, not {y.dtype} {y.shape}"
    finite = y[np.isfinite(y)] if y.dtype.kind == "f" else y
    scale = float(abs(finite).max()) if finite.size and y.dtype.kind == "f" else 1.0
    if not np.allclose(x, y, rtol=tolerance, atol=tolerance * max(scale, 1e-6), equal_nan=True):
        return f"{x.ravel()[:3]}, not {y.ravel()[:3]}"
    return ""


def shapes(value: Any) -> str:
    """Return a short text of a sample's arguments."""
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype)[6:]}{tuple(value.shape)}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}={shapes(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(shapes(one) for one in value) + ")"
    return f"{value!r:.30}"


@functools.cache
def operations() -> dict[str, Any]:
    """Return PyTorch's descriptions of the operations that gpucnn offers, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
    known = {op.name + (f".{op.variant_test_name}" if op.variant_test_name else ""): op for op in op_db}
    return {name: known[name] for name in OPERATIONS if name in known}


def run_operation(name: str) -> Counts:
    """Run all samples of an operation."""
    op, counts = operations()[name], Counts()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gradients = torch.float64 in op.backward_dtypes if op.supports_autograd else False
        for sample in op.sample_inputs("cpu", torch.float64, requires_grad=gradients):
            arguments = (sample.input, *sample.args)
            counts.add(*compare(OPERATIONS[name], op.op, arguments, sample.kwargs))
    return counts


# --- layers ----------------------------------------------------------------------------------------------------------


@functools.cache
def modules() -> dict[str, Any]:
    """Return PyTorch's descriptions of the layers and losses that gpucnn offers, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_modules import module_db
    known = {info.name.removeprefix("nn."): info for info in module_db}
    return {name: known[name] for name in known if hasattr(nn, name)}


def run_module(name: str) -> Counts:
    """Run all samples of a layer, in training and in evaluation: its output, the gradients of input and parameters."""
    info, counts = modules()[name], Counts()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for training in (True, False):
            samples = info.module_inputs_func(
                info, device="cpu", dtype=torch.float64, requires_grad=True, training=training
            )
            for sample in samples:
                counts.add(*_run_sample(name, info, sample, training))
    return counts


def _run_sample(name: str, info: Any, sample: Any, training: bool) -> tuple[str, str]:
    made, given = sample.constructor_input, sample.forward_input
    theirs = info.module_cls(*made.args, **made.kwargs).double().train(training)
    try:
        arguments, options = ours(made.args), ours(made.kwargs)
        inputs, more = fresh(given.args), fresh(given.kwargs)
        my_inputs, my_more = ours(inputs), ours(more)
    except Unsupported as reason:
        return "unsupported", str(reason)
    text = f"{shapes(made.args)} {shapes(made.kwargs)} on {shapes(inputs)}"
    try:
        mine = getattr(nn, name)(*arguments, **options).to("float64").train(training)
        mine.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    except GpucnnError as error:
        return "refused", f"{text}: {error}"
    except (TypeError, AttributeError) as error:
        return "signature", f"{text}: {error}"
    torch.manual_seed(0)
    wanted = theirs(*inputs, **more)
    try:
        got = mine(*my_inputs, **my_more)
    except GpucnnError as error:
        return "refused", f"{text}: {error}"
    except (TypeError, AttributeError) as error:
        return "signature", f"{text}: {error}"
    parameters = (list(mine.parameters()), list(theirs.parameters()))
    return compared(got, wanted, (my_inputs, parameters[0]), (inputs, parameters[1]))


# --- optimisers ------------------------------------------------------------------------------------------------------


@functools.cache
def optimizers() -> dict[str, Any]:
    """Return PyTorch's descriptions of the optimisers that gpucnn offers, by name."""
    from torch.testing._internal.common_optimizers import optim_db

    return {info.optim_cls.__name__: info for info in optim_db if hasattr(optim, info.optim_cls.__name__)}


def run_optimizer(name: str) -> Counts:
    """Run ten steps with each set of options from one start, on the sum of squares of a product."""
    info, counts = optimizers()[name], Counts()
    rng = np.random.default_rng(0)
    start, factors = rng.standard_normal((4, 3)), rng.standard_normal((5, 4))
    for sample in info.optim_inputs_func(device="cpu"):
        theirs = torch.nn.Parameter(torch.tensor(start))
        mine = nn.Parameter(gpucnn.tensor(start))
        reference = info.optim_cls([theirs], **sample.kwargs)
        if any(isinstance(value, torch.Tensor) for value in sample.kwargs.values()):
            counts.add("unsupported", "a learning rate as a tensor")
            continue
        try:
            own = getattr(optim, name)([mine], **{"lr": reference.defaults["lr"], **sample.kwargs})
        except GpucnnError as error:
            counts.add("refused", f"{sample.kwargs}: {error}")
            continue
        except TypeError as error:
            counts.add("signature", f"{sample.kwargs}: {error}")
            continue
        for _ in range(10):
            reference.zero_grad(), own.zero_grad()
            ((torch.tensor(factors) @ theirs) ** 2).sum().backward()
            ((gpucnn.tensor(factors) @ mine) ** 2).sum().backward()
            reference.step(), own.step()
        problem = unlike(mine, theirs.detach(), 1e-9)
        counts.add("differs" if problem else "agrees", f"{sample.kwargs}: {problem}")
    return counts


# --- mistakes --------------------------------------------------------------------------------------------------------


def run_mistakes(name: str) -> Counts:
    """Run the inputs that PyTorch refuses: gpucnn has to refuse them too, in its own words."""
    op, counts = operations()[name], Counts()
    if op.error_inputs_func is None:
        return counts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for mistake in op.error_inputs("cpu"):
            sample = mistake.sample_input
            if (
                not any(True for _ in tensors_in(sample.input))
                and OPERATIONS[name].__module__ != "gpucnn.autograd.creation"
            ):
                continue  # Python's own arithmetic, of two numbers
            try:
                arguments, options = ours((sample.input, *sample.args)), ours(sample.kwargs)
                OPERATIONS[name](*arguments, **options)
            except (GpucnnError, TypeError, Unsupported):
                counts.add("agrees")
            except Exception as error:  # what a user would not understand
                counts.add(
                    "differs",
                    f"{shapes((sample.input, *sample.args))} {shapes(sample.kwargs)}: {type(error).__name__} {error}",
                )
            else:
                counts.add("accepted", f"{shapes((sample.input, *sample.args))} {shapes(sample.kwargs)}")
    return counts


def tallied(run: Callable[[str], Counts], names: Any) -> Counts:
    """Return the outcomes of several operations together; notes begin with the operation."""
    total = Counts()
    for name in names:
        counts = run(name)
        total.outcomes += counts.outcomes
        for outcome, notes in counts.notes.items():
            total.notes.setdefault(outcome, []).extend(f"{name}: {note}" for note in notes)
    return total


PARTS: dict[str, tuple[Callable[[str], Counts], Callable[[], dict[str, Any]]]] = {
    "functions and methods": (run_operation, operations),
    "layers and losses": (run_module, modules),
    "optimisers": (run_optimizer, optimizers),
    "inputs that PyTorch refuses": (run_mistakes, operations),
}
"""What is run, by the words of the table in docs/pytorch.md."""
OUTCOMES = ("agrees", "differs", "refused", "signature", "unsupported", "accepted")


def row(part: str) -> str:
    """Return a part's line of the table in docs/pytorch.md."""
    run, names = PARTS[part]
    found = tallied(run, names()).outcomes
    return f"| {part} | {len(names())} | " + " | ".join(str(found[outcome]) for outcome in OUTCOMES) + " |"


if __name__ == "__main__":  # for the page: prints the table, and what did not agree
    for part in PARTS:
        print(row(part))
    for run, names in PARTS.values():
        for outcome, notes in tallied(run, names()).notes.items():
            print(f"\n{outcome}:", *(note.replace("\n", " ")[:200] for note in notes), sep="\n  ")
