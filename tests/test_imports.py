"""Which package imports which, by the layers of docs/design.md; and what `import gpucnn` does not load."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import gpucnn

SOURCES = Path(gpucnn.__file__).parent

# Which packages each package imports; what those import is allowed too. Of the packages of one layer under `cli`, those that
# drive a training import `training`.
LAYERS: dict[str, set[str]] = {
    "version": set(),
    "errors": set(),
    "formats": set(),
    "checks": {"errors"},
    "limits": {"errors"},
    "backend": {"checks", "disk"},
    "autograd": {"backend"},
    "distributed": {"backend"},
    "functional": {"autograd"},
    "nn": {"functional", "limits"},
    "options": {"errors"},
    "models": {"nn", "options", "checkpoint", "limits"},
    "optim": {"autograd"},
    "captured": {"nn", "optim"},
    "data": {"limits"},
    "disk": {"errors"},
    "checkpoint": {"disk", "limits"},
    "training": {"models", "optim", "data", "checkpoint", "options", "captured", "version", "distributed"},
    "analysis": {"nn"},
    "report": {"analysis", "formats", "version"},
    "inspect": {"report"},
    "playground": {"report", "formats"},
    "onnx": {"analysis", "models", "limits", "disk", "version"},
    "estimator": {"training", "analysis", "captured"},
    "benchmark": {"training", "options"},
    "doctor": {"training"},
    "cli": {"estimator", "benchmark", "doctor", "onnx", "training", "inspect", "report", "playground", "formats"},
    "__main__": {"cli"},
}
# Packages whose arrays are the backend's: they name no array module.
NO_ARRAY_MODULE = {"errors", "autograd", "functional", "nn", "models", "optim", "captured"}
ARRAY_MODULES = {"numpy", "cupy", "cupyx"}


def below(package: str) -> set[str]:
    """Return all packages that ``package`` may import."""
    found: set[str] = set()
    for layer in LAYERS[package]:
        found |= {layer} | below(layer)
    return found


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports(tree: ast.AST, module: str, is_package: bool, inside_function: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield (dotted name, whether inside a function) of each import, those for type checkers aside."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, inside_function) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = ""
            if node.level:
                parts = module.split(".") if is_package else module.split(".")[:-1]
                start = ".".join(parts[: len(parts) - node.level + 1])
            base = ".".join(part for part in (start, node.module or "") if part)
            yield from ((f"{base}.{alias.name}", inside_function) for alias in node.names)
        elif is_type_checking(node):
            assert isinstance(node, ast.If)
            for other in node.orelse:
                yield from imports(ast.Module([other], []), module, is_package, inside_function)
        else:
            function = inside_function or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from imports(node, module, is_package, function)


def faults(sources: dict[str, str]) -> list[str]:
    """Return what is wrong with modules given as {dotted name, ending in .__init__ for packages: text}."""
    found, circles = [], graphlib.TopologicalSorter[str]()
    for name, text in sources.items():
        is_package = name.endswith(".__init__")
        module = name.removesuffix(".__init__")
        package = module.split(".")[1] if "." in module else ""
        if package not in LAYERS and package:
            found.append(f"{module}: the package {package} is on no layer")
            continue
        for target, inside_function in imports(ast.parse(text), module, is_package):
            top, _, rest = target.partition(".")
            if top in ARRAY_MODULES and (package in NO_ARRAY_MODULE or not package):
                found.append(f"{module} imports {top}")
            if top != "gpucnn" or not package:
                continue
            to = rest.partition(".")[0]
            if to in LAYERS and to != package and to not in below(package):
                found.append(f"{module} imports {target}")
            if to == package and not inside_function:
                other = target if target in sources or f"{target}.__init__" in sources else target.rpartition(".")[0]
                if other != module:
                    circles.add(module, other)
    try:
        circles.prepare()
    except graphlib.CycleError as error:
        found.append(f"in a circle: {' -> '.join(error.args[1])}")
    return found


def all_imports(text: str, module: str, is_package: bool) -> Iterator[str]:
    """Yield the dotted name of each import, those for type checkers and within functions too."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (name for name, _ in imports(ast.Module([node], []), module, is_package))


def drawn(sources: dict[str, str]) -> dict[str, set[str]]:
    """Return which modules of gpucnn each module imports, at any time and for any reason."""
    found: dict[str, set[str]] = {}
    for name, text in sources.items():
        module = name.removesuffix(".__init__")
        for target in all_imports(text, module, name.endswith(".__init__")):
            other = target if target in sources or f"{target}.__init__" in sources else target.rpartition(".")[0]
            if other != module and other.partition(".")[0] == "gpucnn":
                found.setdefault(module, set()).add(other)
    return found


def in_circles(arrows: dict[str, set[str]]) -> set[str]:
    """Return the modules that reach themselves."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for other in arrows.get(waiting.pop(), set()) - seen:
                seen.add(other)
                waiting.append(other)
        return seen

    return {module for module in arrows if module in reached(module)}


def test_no_import_runs_in_a_circle_or_up_not_even_for_types() -> None:
    arrows = drawn(installed_sources())
    assert in_circles(arrows) == set()
    packages = {(a.split(".")[1], b.split(".")[1]) for a, some in arrows.items() for b in some if "." in a and "." in b}
    assert {(a, b) for a, b in packages if a != b and b not in below(a)} == set()


def test_a_planted_circle_for_types_is_found() -> None:
    first = "if TYPE_CHECKING:\n    from gpucnn.nn.b import x"
    assert in_circles(drawn({"gpucnn.nn.a": first, "gpucnn.nn.b": "def f():\n    from gpucnn.nn import a"})) == {
        "gpucnn.nn.a",
        "gpucnn.nn.b",
    }
    assert in_circles(drawn({"gpucnn.nn.a": first, "gpucnn.nn.b": ""})) == set()


def installed_sources() -> dict[str, str]:
    return {
        ".".join(("gpucnn", *path.relative_to(SOURCES).with_suffix("").parts)): path.read_text()
        for path in sorted(SOURCES.rglob("*.py"))
    }


def test_every_import_points_down() -> None:
    sources = installed_sources()
    assert len(sources) > 40
    assert faults(sources) == []


PLANTED: dict[str, tuple[str, str, str]] = {
    "upwards": ("gpucnn.backend.cpu", "from gpucnn.nn import Module", "gpucnn.backend.cpu imports gpucnn.nn.Module"),
    "upwards, the whole package": ("gpucnn.functional.conv", "import gpucnn.nn", "imports gpucnn.nn"),
    "upwards from the package": ("gpucnn.optim.sgd", "from gpucnn import nn", "imports gpucnn.nn"),
    "upwards, relative": ("gpucnn.functional.conv", "from ..nn import layer", "imports gpucnn.nn.layer"),
    "upwards from a package": ("gpucnn.functional.__init__", "from ..nn import init", "imports gpucnn.nn.init"),
    "upwards inside a function": ("gpucnn.nn.module", "def f():\n    from gpucnn import models", "imports gpucnn.models"),
    "upwards inside a method": (
        "gpucnn.nn.module", "class A:\n    def f(self):\n        if 1:\n            import gpucnn.optim", "gpucnn.optim"),
    "upwards beside a type check": (
        "gpucnn.errors", "if TYPE_CHECKING:\n    pass\nelse:\n    import gpucnn.backend", "imports gpucnn.backend"),
    "sideways": ("gpucnn.data.files", "from gpucnn.backend import Backend", "imports gpucnn.backend.Backend"),
    "numpy in a layer": ("gpucnn.nn.layer", "import numpy as np", "gpucnn.nn.layer imports numpy"),
    "numpy in a function": ("gpucnn.functional.conv", "def f():\n    from numpy import ones", "imports numpy"),
    "cupy in an optimiser": ("gpucnn.optim.adam", "import cupy.cuda", "imports cupy"),
    "numpy at the door": ("gpucnn.__init__", "import numpy", "imports numpy"),
    "an unknown package": ("gpucnn.cellar.writer", "", "the package cellar is on no layer"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_wrong_arrow_is_found(name: str) -> None:
    module, text, words = PLANTED[name]
    (found,) = faults({module: text})
    assert words in found


def test_a_planted_circle_is_found() -> None:
    circle = {"gpucnn.nn.a": "from gpucnn.nn.b import x", "gpucnn.nn.b": "from gpucnn.nn import a"}
    (found,) = faults(circle)
    assert "circle" in found
    assert faults({**circle, "gpucnn.nn.b": "def f():\n    from gpucnn.nn import a"}) == []


def test_what_is_allowed_is_not_found() -> None:
    for module, text in (
        ("gpucnn.backend.cpu", "import numpy as np\nfrom gpucnn.errors import ShapeError"),
        ("gpucnn.nn.layer", "if TYPE_CHECKING:\n    import numpy\n    from gpucnn.models import lenet"),
        ("gpucnn.cli.train", "from gpucnn.backend import get_backend\nimport numpy"),
        ("gpucnn.training.loop", "def f():\n    import gpucnn.optim"),
    ):
        assert faults({module: text}) == []


@pytest.mark.parametrize(
    "module", ["gpucnn", "gpucnn.nn", "gpucnn.optim", "gpucnn.models", "gpucnn.data", "gpucnn.training", "gpucnn.cli"]
)
def test_importing_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "gpucnn" in loaded
    assert not {"cupy", "matplotlib", "rich", "torch", "PIL", "hypothesis"} & set(loaded)


def test_names_are_loaded_when_asked_for() -> None:
    code = (
        "import sys, gpucnn; print('numpy' in sys.modules, hasattr(gpucnn, 'banana')); "
        "gpucnn.tensor; print('numpy' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False", "True"]
    assert set(gpucnn.__all__) <= set(dir(gpucnn))


def test_inspect_loads_nothing_until_a_name_is_used() -> None:
    code = (
        "import sys, gpucnn.inspect; before = {n for n in sys.modules if n.startswith('gpucnn')}; "
        "gpucnn.inspect.summary; print(sorted(before), 'gpucnn.analysis' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "['gpucnn', 'gpucnn.inspect', 'gpucnn.version'] True"
