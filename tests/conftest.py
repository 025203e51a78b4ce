"""Fixtures and options of all tests: the backends that one test body runs on, and where data sets are found."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import browser
import pytest
from hypothesis import HealthCheck, settings

from gpucnn import use
from gpucnn.backend import Backend, get_backend, registry
from gpucnn.backend.cpu import CpuDevice, blocks, conv, fused, pool, workspace
from gpucnn.backend.dispatch import OPERATIONS
from gpucnn.errors import DeviceError

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as some shells start what stands before an &
    signal.signal(signal.SIGINT, signal.default_int_handler)

# One backend serves all examples of a test: nothing is set back between them.
SHARED_FIXTURE = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
settings.register_profile(
    "ci", deadline=None, derandomize=True, database=None, max_examples=100, suppress_health_check=SHARED_FIXTURE
)
settings.register_profile("search", deadline=None, max_examples=300, suppress_health_check=SHARED_FIXTURE)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_addoption(parser: pytest.Parser) -> None:
    for name, what in (
        ("cuda", "a working GPU"),
        ("standin", "the real CuPy, which the stand-in for it takes its names from"),
        ("mnist", "MNIST in the folder GPUCNN_DATA/mnist"),
        ("mpi", "mpi4py, an MPI and its launcher"),
        ("rapidocr", "the networks of the package rapidocr-onnxruntime"),
        ("browser", "Chromium or Chrome"),
        ("torchvision", "torchvision and PyTorch"),
    ):
        parser.addoption(f"--require-{name}", action="store_true", help=f"fail, rather than skip, without {what}")


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of the tests' own: nothing is read from the user's, or left there."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPUCNN_CACHE", str(folder))
        yield folder


@functools.cache
def missing() -> dict[str, str]:
    """Return what is not here, of what ``--require-...`` names, and why."""
    import kernels_on_cpu

    reasons = {}
    try:
        import cupy  # noqa: F401

        kernels_on_cpu.compiler()
    except (ImportError, kernels_on_cpu.NoCompiler) as error:
        reasons["standin"] = str(error)
    try:
        get_backend("cuda")
    except DeviceError as error:
        reasons["cuda"] = str(error)
    return reasons


def needed(item: pytest.Item) -> str | None:
    """Return which of ``missing`` a test needs, as its fixtures and marks say."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    if parameters.get("backend") == "cuda-standin" or "standin" in getattr(item, "fixturenames", ()):
        return "standin"
    return "cuda" if item.get_closest_marker("cuda") else None


def pytest_report_header(config: pytest.Config) -> list[str]:
    return [
        f"left out, as --require-{name} is not given: {reason}"
        for name, reason in missing().items()
        if not config.getoption(f"--require-{name}")
    ]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the thousands of tests that need a GPU or CuPy where there is none, rather than list each as skipped."""
    absent = {name for name in missing() if not config.getoption(f"--require-{name}")}
    dropped = [item for item in items if needed(item) in absent]
    if dropped:
        items[:] = [item for item in items if needed(item) not in absent]
        config.hook.pytest_deselected(items=dropped)


def skip_or_fail(config: pytest.Config, option: str, reason: str) -> None:
    """Skip the test, or fail it where the command line requires what is missing."""
    if config.getoption(f"--require-{option}"):
        pytest.fail(f"--require-{option}: {reason}", pytrace=False)
    pytest.skip(reason)


def replace_backend(stack: ExitStack, name: str, backend: Backend | None) -> None:
    """Let ``get_backend(name)`` return ``backend`` (or make a new one, for None) until the stack is left."""
    before = registry._devices.pop(name, None)

    def restore() -> None:
        registry._devices.pop(name, None)
        if before is not None:
            registry._devices[name] = before

    stack.callback(restore)
    if backend is not None:
        registry._devices[name] = backend


@pytest.fixture
def standin(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """The CUDA backend on the strict stand-in for CuPy; ``get_backend("cuda")`` and ``import cupy`` find it."""
    try:
        import cupy  # noqa: F401
    except ImportError as error:
        skip_or_fail(request.config, "standin", f"the real CuPy cannot be imported: {error}")
    import kernels_on_cpu
    from standin import installed

    try:
        kernels_on_cpu.compiler()
    except kernels_on_cpu.NoCompiler as error:
        skip_or_fail(request.config, "standin", str(error))
    with ExitStack() as stack:
        stack.enter_context(installed())
        folder = request.getfixturevalue("cache") / "kernels"  # the kernels are proved once for all tests
        stack.enter_context(pytest.MonkeyPatch.context()).setenv("CUPY_CACHE_DIR", str(folder))
        replace_backend(stack, "cuda:0", None)
        yield get_backend("cuda")


@pytest.fixture(params=["cpu", "cpu-numpy", "cuda-standin", pytest.param("cuda", marks=pytest.mark.cuda)])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Each backend in turn; tensors of the test's own thread are made on it."""
    if request.param == "cpu":
        chosen = get_backend("cpu")
    elif request.param == "cpu-numpy":
        chosen = get_backend("cpu")
        request.getfixturevalue("monkeypatch").setattr(chosen, "kernels", None)
    elif request.param == "cuda-standin":
        chosen = request.getfixturevalue("standin")
    else:
        try:
            chosen = get_backend("cuda")
        except DeviceError as error:
            skip_or_fail(request.config, "cuda", str(error))
    with use(chosen):
        yield chosen


@pytest.fixture
def cut_small(monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    """A CPU backend that cuts even small work into blocks and takes all its memory, used before, from the workspace."""
    for kernels in (blocks, fused, pool):
        monkeypatch.setattr(kernels, "BLOCK_BYTES", 300)
    monkeypatch.setattr(workspace, "SMALLEST", 4)
    chosen = CpuDevice(compiled=False)
    with use(chosen):
        yield chosen


@pytest.fixture
def by_rows(cut_small: Backend, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """A CPU backend that makes each row of output pixels a product wherever it can, a few rows at a time."""
    for limit in ("LONG", "LONG_SUM"):
        monkeypatch.setattr(conv, limit, 1)
    monkeypatch.setattr(conv, "BAND_BYTES", 2000)
    return cut_small


@pytest.fixture(scope="session")
def mnist(pytestconfig: pytest.Config) -> Path:
    """The folder with MNIST's four IDX files."""
    home = os.environ.get("GPUCNN_DATA")
    if home is None or not (folder := Path(home, "mnist")).is_dir():
        skip_or_fail(pytestconfig, "mnist", "no MNIST: set GPUCNN_DATA to a folder that holds mnist/")
    return folder


@pytest.fixture(autouse=True)
def implementations_stay() -> Iterator[None]:
    """What a test announced of its own, or switched off on a device, is gone after it."""
    yield
    for operation in OPERATIONS.values():
        for kind in set(operation.implementations) - {"cpu", "cuda"}:
            del operation.implementations[kind]
        for known in operation.implementations.values():
            known[:] = [one for one in known if one[1].__module__.startswith("gpucnn.")]


@pytest.fixture(scope="module")
def window(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    """A headless browser for the tests of a module."""
    if browser.find() is None:
        skip_or_fail(request.config, "browser", f"no browser is installed: none of {', '.join(browser.NAMES)}")
    try:
        one = browser.Browser(tmp_path_factory.mktemp("profile"))
    except (OSError, RuntimeError, TimeoutError) as error:
        skip_or_fail(request.config, "browser", f"the browser does not start: {error}")
    yield one
    one.close()
