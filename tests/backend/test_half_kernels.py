"""CUDA kernels that read and write float16: what they compute, that nothing is widened around them, who trusts them."""

from __future__ import annotations

import warnings
from typing import Any

import kernels_on_cpu
import numpy as np
import pytest

import gpucnn
from gpucnn import models, nn, optim
from gpucnn.backend import ops
from gpucnn.backend.cuda import CudaDevice, launch, proof
from gpucnn.backend.cuda.proof_cases import half_cases
from gpucnn.training import LossScale, train_step

HALF = np.dtype(np.float16)


@pytest.fixture
def device(standin: Any) -> CudaDevice:
    device = CudaDevice()
    device.half_proof = lambda: True  # of which other tests are
    return device


def test_a_value_is_widened_exactly_and_rounded_to_the_nearest(device: CudaDevice) -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    got = device.to_host(ops.relu(device, device.asarray(every)))
    expected = np.where(every < 0, np.float16(0), every)
    assert got.dtype == HALF
    assert device.ran["relu.fast"] == 1
    np.testing.assert_array_equal(got, expected)  # NaN where NaN is
    every_sum = [2049.0, 2051.0, 65519.0, 2.0**-25, 3 * 2.0**-26]  # between two values of float16, or at their ends
    sums = np.array(every_sum, np.float32)
    with np.errstate(over="ignore", under="ignore"):
        near = np.nextafter(sums.astype(np.float16), np.float16(0))
        a = np.stack([near, (sums - near.astype(np.float32)).astype(np.float16)], 1)
        product = device.to_host(ops.matmul(device, device.asarray(a), device.asarray(np.ones((2, 3), np.float16))))
        exact = a.astype(np.float64) @ np.ones((2, 3))
        np.testing.assert_array_equal(product, exact.astype(np.float16))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_every_kernel_is_that_of_the_reference_rounded_once(device: CudaDevice, seed: int) -> None:
    device.proving = True
    seen = set()
    for family, check in proof._checks(device, half_cases(seed), 2.0**-11 + 1e-5):
        seen.add(family)
        assert check() is None, family
    assert seen == set(launch.STORING)


@pytest.mark.slow
def test_no_kernel_has_a_race(standin: Any) -> None:
    with kernels_on_cpu.checking_races():
        device = CudaDevice()
        device.proving = True
        for family, check in proof._checks(device, half_cases(), proof.CLOSE_HALF):
            assert check() is None, family


@pytest.mark.parametrize(("model", "shape", "most"), [("lenet", (2, 1, 28, 28), 60), ("resnet", (2, 3, 8, 8), 360)])
def test_a_training_step_widens_next_to_nothing(standin: Any, model: str, shape: tuple[int, ...], most: int) -> None:
    with gpucnn.use(standin):
        net = models.build(model).half()
        optimizer, scale = optim.Adam(net.parameters()), LossScale(standin)
        x = gpucnn.tensor(np.random.default_rng(0).standard_normal(shape).astype(np.float16))
        y = gpucnn.tensor([1, 2])
        train_step(net, nn.CrossEntropyLoss(), optimizer, x, y, scale)
        with standin.xp.standin.launches.counted() as launches:
            train_step(net, nn.CrossEntropyLoss(), optimizer, x, y, scale)
    assert launches["astype"] <= 2, "the logits, and their gradient"
    assert sum(launches.values()) <= most, launches


FAULT = ("", "bits(__float2half(value).bits)", "bits(__float2half(value + 0.02f * value).bits)")


def test_wrong_float16_is_switched_off_with_one_warning_and_training_is_right(
    standin: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))
    whole = {family: launch.source(family) for family in launch.FAMILIES}
    assert FAULT[1] in whole["conv"]
    for module in (launch, proof):
        monkeypatch.setattr(module, "source", lambda family: whole[family].replace(*FAULT[1:]))
    device = CudaDevice()
    device.half_proof = lambda: proof.prove_half(device)
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float16)
    w = np.random.default_rng(1).standard_normal((4, 3, 3, 3)).astype(np.float16)
    window = gpucnn.backend.Window((3, 3))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            got = ops.conv2d(device, device.asarray(x), device.asarray(w), None, window, 1)
    assert len(caught) == 1
    assert "kernels of float16 switched off: " in str(caught[0].message)
    assert "conv2d gives a wrong answer" in str(caught[0].message)
    expected = ops.conv2d(gpucnn.get_backend("cpu"), x, w, None, window, 1)
    np.testing.assert_allclose(device.to_host(got).astype(float), expected.astype(float), rtol=2e-3, atol=2e-3)
    assert device.ran["conv2d.fast"] == 2, "the kernels of float32, on widened arrays"
    assert not list(tmp_path.iterdir()), "tried again by the next process"


def test_what_was_proved_is_remembered(standin: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))
    device = CudaDevice()
    with standin.xp.standin.launches.counted() as first:
        assert proof.prove_half(device)
    assert sum(first.values()) > 40
    another = CudaDevice()
    with standin.xp.standin.launches.counted() as again:
        assert proof.prove_half(another)
    assert not sum(again.values())
    monkeypatch.setenv("GPUCNN_KERNELS", "0")
    assert not proof.prove_half(device)


def test_arrays_of_two_dtypes_take_the_reference(device: CudaDevice) -> None:
    x, w = device.asarray(np.ones((1, 1, 4, 4), np.float16)), device.asarray(np.ones((1, 1, 2, 2), np.float32))
    assert not device.takes(x, w)
    assert device.takes(x, None, x)
    assert not device.takes(device.asarray(np.ones(2)))
