"""Kernels prove themselves before a device is used; a family that fails is switched off, and training goes on."""

from __future__ import annotations

import re
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import replace_backend

import gpucnn
from gpucnn import nn, optim
from gpucnn.backend import Backend, get_backend
from gpucnn.backend.cuda import launch, proof
from gpucnn.backend.dispatch import OPERATIONS
from gpucnn.doctor import examine
from gpucnn.training import train_step

FAULTS = {
    "a wrong answer": ("y[i] = value < 0 ? 0 : value;", "y[i] = value < 0 ? 0 : value + 0.01f;", "activation"),
    "a wrong gradient": ("dx[i] = y[i] > 0 ? (float)dy[i] : 0;", "dx[i] = y[i] > 0 ? (float)dy[i] : 1;", "activation"),
    "a wrong place": ("best = pixel, winner = k;", "best = pixel, winner = 0;", "pool"),
    "a wrong update": ("p[i] -= rate * gradient;", "p[i] += rate * gradient;", "optim"),
    "a wrong product": ("sum[i][j] += a[i] * b[j];", "sum[i][j] += a[i] * b[0];", "linear"),
    "no launch": ("__launch_bounds__(256) channel_moments(", "__launch_bounds__(64) channel_moments(", "norm"),
    "no compilation": ("gradient = nesterov ?", "gradient = nesterof ?", "optim"),
}


def run(device: Any) -> list[Any]:
    with gpucnn.use(device):
        gpucnn.manual_seed(3)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 9, 3)
        )
        optimizer = optim.SGD(net.parameters(), lr=0.1)
        x = gpucnn.tensor(np.random.default_rng(0).standard_normal((6, 1, 8, 8)).astype(np.float32))
        y = gpucnn.tensor([0, 1, 2, 0, 1, 2])
        losses = [train_step(net, nn.CrossEntropyLoss(), optimizer, x, y)[0].item() for _ in range(3)]
        return [losses, *(parameter.numpy() for parameter in net.parameters())]


@pytest.fixture
def new(standin: Backend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Makes a new device, with nothing proved before; with a piece of the kernels' source replaced, if given."""
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))
    with ExitStack() as stack:

        def make(old: str = "", new: str = "") -> Any:
            replace_backend(stack, "cuda:0", None)
            assert old in "".join(SOURCES.values())
            for module in (launch, proof):
                monkeypatch.setattr(
                    module, "source", lambda name: SOURCES[name].replace(old, new) if old else SOURCES[name]
                )
            return get_backend("cuda")

        yield make
    for operation in OPERATIONS.values():
        for kind in set(operation.implementations) - {"cpu", "cuda"}:
            del operation.implementations[kind]


SOURCES = {name: launch.source(name) for name in launch.FAMILIES}


QUICK = ("a wrong answer", "no launch", "no compilation")


@pytest.mark.parametrize("fault", [pytest.param(f, marks=[] if f in QUICK else pytest.mark.slow) for f in FAULTS])
def test_a_faulty_kernel_is_switched_off_with_one_warning_and_training_is_right(new: Any, fault: str) -> None:
    old, wrong, family = FAULTS[fault]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = run(new(old, wrong))
    assert len(caught) == 1
    text = str(caught[0].message)
    assert family in text
    assert "gpucnn doctor --verify" in text
    assert "\n" not in text
    for ours, theirs in zip(found, run("cpu"), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_only_the_family_that_fails_is_switched_off(new: Any) -> None:
    old, wrong, _ = FAULTS["a wrong place"]
    with pytest.warns(UserWarning, match=r"switched off: pool \(max_pool2d gives a wrong answer\)\. Other"):
        device = new(old, wrong)
    run(device)
    assert device.ran["max_pool2d.fast"] == device.ran["max_pool2d_gradient.fast"] == 0
    assert device.ran["max_pool2d.reference"]
    assert device.ran["conv2d.fast"]
    assert device.ran["sgd_update.fast"]


def test_a_family_that_fails_later_leaves_the_others_off(new: Any) -> None:
    old, wrong, _ = FAULTS["a wrong place"]
    with pytest.warns(UserWarning, match="switched off: pool"):
        device = new(old, wrong)
    with pytest.warns(UserWarning, match=r"switched off: wide_conv \(no\)"):
        proof.distrust(device, {"wide_conv": "no"})
    run(device)
    assert device.ran["max_pool2d.fast"] == device.ran["max_pool2d_gradient.fast"] == 0
    families = {proof.family_of(f) for one in OPERATIONS.values() for _, f in one.implementations.get(device.kind, ())}
    assert "conv" in families
    assert not families & {"pool", "wide_conv"}


def test_the_proof_launches_every_kernel(new: Any, standin: Any) -> None:
    with standin.xp.standin.launches.counted() as launches:
        device = new()
    names = launch_names("".join(SOURCES.values()))
    assert len(names) > 40
    later = {"wide_forward", "wide_input_gradient", "wide_weight_gradient", "pack_weights"}
    assert names - set(launches) == later
    assert not device.ran


def launch_names(text: str) -> set[str]:
    text = re.sub(r"//.*", "", text)
    expanded = re.findall(r"(?:PRODUCT|CONV_\w+|M\w+_POOL\w*)\((\w+), ", text)
    return {*expanded, *re.findall(r"__global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\(", text)} - {"NAME"}


def test_what_passed_is_remembered_until_the_source_changes(new: Any, standin: Any, tmp_path: Path) -> None:
    new()
    (note,) = tmp_path.iterdir()
    assert note.name.startswith("gpucnn-")
    with standin.xp.standin.launches.counted() as launches:
        new()
    assert "relu" not in launches
    with standin.xp.standin.launches.counted() as launches:
        new("// Losses.", "// These losses.")
    assert "relu" in launches
    assert len(list(tmp_path.iterdir())) == 2


def test_what_failed_is_tried_again_by_the_next_process(new: Any, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.warns(UserWarning, match="activation"):
            new(*FAULTS["a wrong answer"][:2])
    assert not list(tmp_path.iterdir())


def test_no_memory_says_nothing_about_kernels(new: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> Any:
        raise MemoryError("8 bytes")

    with monkeypatch.context() as patch:
        patch.setattr("gpucnn.backend.cuda.device.CudaDevice.empty", full)
        new()
    assert not list(tmp_path.iterdir())


def test_kernels_can_be_switched_off(new: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUCNN_KERNELS", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        device = new()
        found = run(device)
    assert not [name for name, count in device.ran.items() if name.endswith(".fast") and count]
    for ours, theirs in zip(found, run("cpu"), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_philox_is_that_of_random123() -> None:
    ones = proof.philox(np.array([0xFFFFFFFF]), 0, 0)
    assert ones.shape == (1, 4)
    assert [hex(word) for word in proof.philox(np.array([0]), 0, 0)[0]] == [
        "0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8",
    ]  # fmt: skip


@pytest.mark.slow
def test_the_doctor_verifies_at_length(new: Any) -> None:
    new()
    assert examine(verify=True)["cuda"]["faults"] == {}
