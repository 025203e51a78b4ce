"""What the benchmarks measure is measured rightly; how fast anything is, is no test."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import ROOT, assert_refused, environment, gpucnn, python

from gpucnn import benchmark, nn
from gpucnn.errors import GpucnnError


def test_rates_are_images_over_seconds() -> None:
    sizes = []

    def step(chosen: np.ndarray) -> None:
        sizes.append(len(chosen))
        time.sleep(0.01)

    rate = benchmark.images_per_second(step, 32, seconds=0.1)
    assert set(sizes) == {32}
    assert len(sizes) > benchmark.WARM_UP
    assert rate <= 32 / 0.01
    assert rate >= 32 / 0.1


def test_batches_are_of_the_size_asked_for_even_above_the_images_there_are() -> None:
    sizes = []
    benchmark.images_per_second(lambda chosen: sizes.append(len(chosen)), 5000, seconds=0, count=100)
    assert set(sizes) == {5000}


def test_large_images_are_fewer_and_no_other_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "image_count", lambda shape, least=1: max(5, least))
    for row in benchmark.measure("lenet", (1, 28, 28), (2, 8), ("infer",), rounds=1, seconds=0.01, device="cpu"):
        assert row["images_per_second"] > 0


@pytest.mark.slow
def test_images_of_half_a_gigabyte() -> None:
    images, labels = benchmark.images_of((3, 700, 700))
    assert len(images) == len(labels) == benchmark.image_count((3, 700, 700)) < benchmark.IMAGES
    assert benchmark.memory_of("lenet", (3, 700, 700), 1) > 0


def test_steps_train_and_infer() -> None:
    net = benchmark.make("lenet", (1, 28, 28), "cpu")
    before = {name: values.copy() for name, values in net.state_dict().items()}
    steps = benchmark.network_steps(net, *benchmark.images_of((1, 28, 28)), "cpu")
    steps["infer"](np.arange(8))
    assert all(np.array_equal(values, before[name]) for name, values in net.state_dict().items())
    steps["train"](np.arange(8))
    assert not any(np.array_equal(values, before[name]) for name, values in net.state_dict().items())


def test_a_layer_is_run_forward_and_backward() -> None:
    layer = nn.Conv2d(2, 3, 3, device="cpu")
    benchmark.layer_steps(layer, benchmark.images_of((2, 6, 6))[0], "cpu")["train"](np.arange(4))
    assert layer.weight is not None
    assert layer.weight.grad is not None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the highest resident size since a moment")
def test_memory_is_what_a_step_takes_at_its_peak() -> None:
    took = benchmark.peak_memory_apart(
        "import numpy as np\nfrom gpucnn.benchmark import peak_memory\n"
        "def step(chosen):\n    if len(chosen) > 16: np.ones(50_000_000, np.uint8)\n"
        "print(peak_memory(step, 64, 100))"
    )
    assert 49_000_000 < took < 60_000_000
    with pytest.raises(GpucnnError, match="ZeroDivisionError"):
        benchmark.peak_memory_apart("1 / 0")


def test_the_command(tmp_path: Path) -> None:
    result = gpucnn(
        "bench", "--device", "cpu", "--batch-size", 4, "--rounds", 2, "--seconds", 0.01, "--json", "--memory"
    )
    assert (result.code, result.err) == (0, "")
    report = json.loads(result.out)
    assert [(row["mode"], row["batch_size"]) for row in report["speed"]] == [("train", 4), ("infer", 4)]
    assert all(row["min"] <= row["images_per_second"] <= row["max"] for row in report["speed"])
    assert report["machine"]["versions"]["numpy"] == np.__version__
    assert report["memory"][0]["peak_bytes"] >= 0
    result = gpucnn(
        "bench", "Conv2d:in_channels=2,out_channels=2,kernel_size=3", "--input-shape", "2,8,8", "--device", "cpu",
        "--batch-size", 4, "--mode", "infer", "--rounds", 1, "--seconds", 0.01,
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "images_per_second" in result.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lenett"], "Did you mean lenet?"),
        (["Conv2"], "Did you mean Conv2d?"),
        (["Conv2d:width=3"], "option"),
        (["Conv2d:in_channels=1"], "layer Conv2d"),
        (["lenet", "--input-shape", "1,2"], "C,H,W"),
    ],
)
def test_mistakes(words: list[str], said: str) -> None:
    assert_refused(gpucnn("bench", *words, "--device", "cpu"), 2, said)


def test_the_script_beside_pytorch(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    result = python(
        ROOT / "scripts" / "bench.py",
        "--batch-size",
        8,
        "--rounds",
        1,
        "--seconds",
        0.01,
        "--json",
        tmp_path / "r.json",
    )
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "r.json").read_text())["speed"]
    assert [row["mode"] for row in rows] == ["train", "infer"]
    for row in rows:
        best = max(row["torch contiguous"], row["torch channels-last"])
        assert row["ratio"] == pytest.approx(row["gpucnn"] / best, abs=0.01)


def table(file: Path, *words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "bench_cpu.py", "--network", "64 channels", "--rounds", "1", "--seconds",
         "0.001", "--json", file, *words], env=environment(GPUCNN_THREADS="1"), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(file.read_text())
    assert report["machine"]["processor"]
    return report


def test_a_part_of_the_table_of_the_cpu(tmp_path: Path) -> None:
    report = table(tmp_path / "r.json", "--part", "numpy")
    assert list(report) == ["machine", "rates", "numpy"]
    assert [row["mode"] for row in report["numpy"]] == ["train", "infer"]


@pytest.mark.slow
def test_more_parts_of_the_table_of_the_cpu(tmp_path: Path) -> None:
    report = table(tmp_path / "r.json", "--part", "threads", "--part", "busy", "--part", "kernels")
    assert list(report) == ["machine", "rates", "threads", "busy", "kernels"]
    for part in ("threads", "busy"):
        assert [row["mode"] for row in report[part]] == ["train", "infer"]
    kernels = {row["kernel"]: row for row in report["kernels"]}
    row, peak = kernels["64 to 64 3x3 on 32x32, batch 32: forward"], kernels["the machine: product of 1024x1024"]
    assert row["unit"] == peak["unit"] == "GFLOP/s"
    assert row["share 1"] == pytest.approx(row["1 threads"] / peak["1 threads"], abs=0.02)
