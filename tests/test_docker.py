"""What the container images promise, read from the files that build them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
if not (ROOT / "docker").is_dir():
    pytest.skip("no docker folder: these tests run in a clone", allow_module_level=True)

TEXT = (ROOT / "docker" / "Dockerfile").read_text()


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


WHEEL, BUILD, LAST = stages(TEXT)
FROM_WHEEL = ("COPY", "--from=wheel /wheels /wheels")


def environment(stage: list[tuple[str, str]]) -> dict[str, str]:
    pairs = " ".join(argument for name, argument in stage if name == "ENV").split()
    return dict(pair.split("=", 1) for pair in pairs)


def test_the_base_is_the_builders_choice() -> None:
    steps = instructions(TEXT)
    assert steps[0][0] == "ARG"
    assert steps[0][1].startswith("BASE_IMAGE=")
    assert steps[0][1].partition("=")[2]
    assert [argument.split()[0] for name, argument in steps if name == "FROM"] == ["${BASE_IMAGE}"] * 3


def test_the_compiler_stays_in_a_stage_of_its_own() -> None:
    assert FROM_WHEEL in BUILD
    wheel = [f"{name} {argument}" for name, argument in WHEEL]
    compiler = next(i for i, step in enumerate(wheel) if "install" in step and "gcc" in step)
    assert compiler < next(i for i, step in enumerate(wheel) if step.startswith("COPY gpucnn")), (
        "a layer that stays as it is"
    )
    assert wheel[compiler].endswith("|| true"), "without a compiler the image has no compiled kernels"
    assert "Python.h" in wheel[compiler + 1], "Debian's Python comes without its headers"
    assert wheel[compiler + 1].endswith("|| true")
    assert not any("gcc" in argument for _, argument in BUILD + LAST)


def test_dependencies_are_a_layer_before_the_source() -> None:
    build = [f"{name} {argument}" for name, argument in BUILD]
    order = [
        next(i for i, step in enumerate(build) if words in step)
        for words in (
            "RUN python3 -m venv ",
            "COPY pyproject.toml ./",
            "-r needs.txt",
            *FROM_WHEEL[1:],
            "--no-deps /wheels/",
        )
    ]
    assert order == sorted(order)
    assert all("--no-cache-dir" in step for step in build if "pip install" in step)


def test_only_the_virtual_environment_is_taken_over() -> None:
    assert [argument for name, argument in LAST if name == "COPY"] == ["--from=build /opt/gpucnn /opt/gpucnn"]
    assert environment(LAST)["PATH"].startswith("/opt/gpucnn/bin:")
    assert not any(name == "ADD" for name, _ in instructions(TEXT))


def test_it_runs_gpucnn_and_not_as_root() -> None:
    users = [argument for name, argument in LAST if name == "USER"]
    assert users == ["gpucnn"]
    assert [json.loads(argument) for name, argument in LAST if name == "ENTRYPOINT"] == [["gpucnn"]]
    made = next(i for i, (name, argument) in enumerate(LAST) if name == "RUN" and "useradd" in argument)
    assert made < LAST.index(("USER", "gpucnn"))


def test_runs_and_data_are_volumes_that_the_user_may_write() -> None:
    volumes = json.loads(next(argument for name, argument in LAST if name == "VOLUME"))
    owned = next(argument for name, argument in LAST if name == "RUN" and "install -d -m 1777 -o gpucnn" in argument)
    assert volumes == ["/work/runs", "/data"]
    assert all(folder in owned.split() for folder in (*volumes, "/work"))
    assert dict(LAST)["WORKDIR"] == "/work", "runs/ is made in the working folder"
    assert environment(LAST)["GPUCNN_DATA"] == "/data"
    assert environment(LAST)["GPUCNN_CACHE"].startswith("/data/")


def test_whoever_the_user_is_may_write() -> None:
    """`--user` names anybody: folders are for all, and there is a home to look for settings in."""
    assert any(name == "RUN" and "install -d -m 1777" in argument for name, argument in LAST)
    assert environment(LAST)["HOME"] == "/tmp"


def test_kernels_that_were_compiled_are_kept_in_the_volume() -> None:
    assert environment(LAST)["CUPY_CACHE_DIR"].startswith("/data/")


def test_an_argument_adds_cuda() -> None:
    assert ("ARG", "CUDA=") in BUILD, "without it the image is for the CPU"
    assert "'${CUDA}' and e['cuda' + '${CUDA}']" in TEXT
    values = environment(LAST)
    assert values["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert set(values["NVIDIA_DRIVER_CAPABILITIES"].split(",")) == {"compute", "utility"}


@pytest.mark.parametrize(("cuda", "more"), [("", ""), ("12", ""), ("13", "plots tensorboard")])
def test_what_is_installed(cuda: str, more: str, tmp_path: Path) -> None:
    """The Dockerfile's own line of Python, run: each requirement that it writes is one of pyproject.toml's."""
    import tomllib

    step = next(argument for name, argument in BUILD if name == "RUN" and "needs.txt" in argument)
    code = step.split('"')[1].replace("${CUDA}", cuda).replace("${EXTRAS}", more)
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    said = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["download"], *(extras[f"cuda{cuda}"] if cuda else [])]
    wanted += [need for extra in more.split() for need in extras[extra]]
    assert said.stdout.splitlines() == wanted


def test_the_extras_named_exist() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"e\['(\w+)'\]", TEXT)
    assert {"download"} <= set(named) <= set(extras)
    assert {"cuda12", "cuda13"} <= set(extras)


def test_what_is_copied_is_let_through_and_little_else() -> None:
    rules = (ROOT / ".dockerignore").read_text().split()
    assert rules[0] == "*"
    steps = [step for step in WHEEL + BUILD if step != FROM_WHEEL]
    copied = {word for name, argument in steps if name == "COPY" for word in argument.split()[:-1]}
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
        assert service["init"] is True
    assert gpu["build"]["args"] == {"CUDA": "13"}
    assert "args" not in cpu["build"]


def test_compose_and_docker_run_share_their_volumes() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    compose = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
    named = {volume["name"] for volume in compose["volumes"].values()}
    written = set(re.findall(r"-v (gpucnn-\w+):", (ROOT / "docs" / "start.md").read_text()))
    assert named == written == {"gpucnn-runs", "gpucnn-data"}
