"""What the container images promise, read from the files that build them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
if not (ROOT / "docker").is_dir():
    pytest.skip("no docker folder: these tests run in a clone", allow_module_level=True)

FILES = {name: (ROOT / "docker" / name).read_text() for name in ("Dockerfile", "Dockerfile.cuda")}


def instructions(text: str) -> list[tuple[str, str]]:
    """Return (instruction, argument) of each step, comments left out and continued lines joined."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    steps = [line.strip() for line in re.sub(r"\\\n\s*", "", lines).splitlines() if line.strip()]
    return [(step.split(maxsplit=1)[0], step.split(maxsplit=1)[1]) for step in steps]


def stages(text: str) -> list[list[tuple[str, str]]]:
    """Return the steps of each stage, from its FROM on."""
    found: list[list[tuple[str, str]]] = []
    for step in instructions(text):
        if step[0] == "FROM":
            found.append([])
        if found:
            found[-1].append(step)
    return found


def environment(stage: list[tuple[str, str]]) -> dict[str, str]:
    pairs = " ".join(argument for name, argument in stage if name == "ENV").split()
    return dict(pair.split("=", 1) for pair in pairs)


@pytest.fixture(params=FILES)
def text(request: pytest.FixtureRequest) -> str:
    return FILES[request.param]


def test_the_base_is_the_builders_choice(text: str) -> None:
    steps = instructions(text)
    assert text.startswith("ARG BASE_IMAGE=")
    assert steps[0][1].partition("=")[2]
    assert [argument.split()[0] for name, argument in steps if name == "FROM"] == ["${BASE_IMAGE}"] * 2


def test_dependencies_are_a_layer_before_the_source(text: str) -> None:
    build = [f"{name} {argument}" for name, argument in stages(text)[0]]
    order = [next(i for i, step in enumerate(build) if words in step) for words in (
        "RUN python3 -m venv ", "COPY pyproject.toml ./", "-r needs.txt", "COPY gpucnn", "--no-deps .")]  # fmt: skip
    assert order == sorted(order)
    assert all("--no-cache-dir" in step for step in build if "pip install" in step)


def test_only_the_virtual_environment_is_taken_over(text: str) -> None:
    last = stages(text)[-1]
    assert [argument for name, argument in last if name == "COPY"] == ["--from=build /opt/gpucnn /opt/gpucnn"]
    assert environment(last)["PATH"].startswith("/opt/gpucnn/bin:")
    assert not any(name == "ADD" for name, _ in instructions(text))


def test_it_runs_gpucnn_and_not_as_root(text: str) -> None:
    last = stages(text)[-1]
    users = [argument for name, argument in last if name == "USER"]
    assert users == ["gpucnn"]
    assert [json.loads(argument) for name, argument in last if name == "ENTRYPOINT"] == [["gpucnn"]]
    made = next(i for i, (name, argument) in enumerate(last) if name == "RUN" and "useradd" in argument)
    assert made < last.index(("USER", "gpucnn"))


def test_runs_and_data_are_volumes_that_the_user_may_write(text: str) -> None:
    last = stages(text)[-1]
    volumes = json.loads(next(argument for name, argument in last if name == "VOLUME"))
    owned = next(argument for name, argument in last if name == "RUN" and "install -d -o gpucnn" in argument)
    assert volumes == ["/work/runs", "/data"]
    assert all(folder in owned.split() for folder in (*volumes, "/work"))
    assert dict(last)["WORKDIR"] == "/work", "runs/ is made in the working folder"
    assert environment(last)["GPUCNN_DATA"] == "/data"
    assert environment(last)["GPUCNN_CACHE"].startswith("/data/")


def test_the_cuda_image_differs_in_cuda_alone() -> None:
    last = stages(FILES["Dockerfile.cuda"])[-1]
    values = environment(last)
    assert values.pop("NVIDIA_VISIBLE_DEVICES") == "all"
    assert set(values.pop("NVIDIA_DRIVER_CAPABILITIES").split(",")) == {"compute", "utility"}
    assert values == environment(stages(FILES["Dockerfile"])[-1])
    assert [step for step in last if step[0] != "ENV"] == [
        step for step in stages(FILES["Dockerfile"])[-1] if step[0] != "ENV"
    ]
    assert "*e['cuda' + '${CUDA}']" in FILES["Dockerfile.cuda"]
    assert ("ARG", "CUDA=13") in stages(FILES["Dockerfile.cuda"])[0]


def test_the_extras_named_exist(text: str) -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"e\['(\w+)'\]", text)
    assert {"images", "download"} <= set(named) <= set(extras)
    assert {"cuda12", "cuda13"} <= set(extras)


def test_what_is_copied_is_let_through_and_little_else() -> None:
    rules = (ROOT / ".dockerignore").read_text().split()
    assert rules[0] == "*"
    copied = {word for text in FILES.values() for name, argument in stages(text)[0] if name == "COPY"
              for word in argument.split()[:-1]}  # fmt: skip
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)


def test_compose_reserves_a_gpu_for_the_gpu_service_only() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    compose = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
    cpu, gpu = compose["services"]["cpu"], compose["services"]["gpu"]
    devices = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    assert "deploy" not in cpu
    for service in (cpu, gpu):
        home = (ROOT / "docker" / service["build"]["context"]).resolve()
        assert home == ROOT
        assert (home / service["build"]["dockerfile"]).is_file()
        assert {volume.partition(":")[2] for volume in service["volumes"]} == {"/work/runs", "/data"}
        assert {volume.partition(":")[0] for volume in service["volumes"]} == set(compose["volumes"])
