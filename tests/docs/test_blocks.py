"""Every command and every piece of code in the README and in docs/ runs and prints what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from blocks import PAGES, RUN, SHOWN, Block, blocks_of, prepare, run
from runs import ROOT

BLOCKS = {page: blocks_of(page) for page in PAGES}
RUNNING = [page for page in PAGES if any(b.language in RUN and b.not_run is None for b in BLOCKS[page])]

# Every block that is not run: page, first line, why. A new one has to be entered here.
NOT_RUN = [
    (
        "README.md",
        "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/gpucnn train",
        "installs from a clone",
    ),
    (
        "README.md",
        "python3 -m venv .venv && .venv/bin/pip install '.[test]' && .venv/bin/pytest -n auto",
        "installs from a clone",
    ),
    ("README.md", "pip install '.[cuda13]'     # NVIDIA driver 580 or newer", "needs a GPU"),
    ("README.md", "docker build -f docker/Dockerfile -t gpucnn .", "needs Docker and a clone"),
    ("README.md", "pip install '.[docs]'", "installs from a clone"),
    ("docs/data.md", "gpucnn data download mnist cifar10", "needs a network"),
    ("docs/distributed.md", "gpucnn train --processes 4                      # on this machine", "starts processes"),
    ("docs/gallery.md", "python scripts/gallery.py --data .", "needs a clone"),
    (
        "docs/gallery.md",
        "gpucnn train --data clothes.npz --epochs 10 --augment shift=2,flip --out \\",
        "needs a data set of the gallery",
    ),
    (
        "docs/gallery.md",
        "gpucnn train --data flowers --model resnet:width=8,blocks=1 --epochs 8 \\",
        "needs a data set of the gallery",
    ),
    (
        "docs/gallery.md",
        "gpucnn train --data surfaces.npz --model resnet:width=8,blocks=1 --epochs 10 \\",
        "needs a data set of the gallery",
    ),
    (
        "docs/gallery.md",
        "gpucnn train --data hands.npz --epochs 12 --augment flip,shift=2,rotate=10 \\",
        "needs a data set of the gallery",
    ),
    ("docs/gpu.md", "gpucnn doctor --warmup      # does it work, and if not, why; compiles the kernels", "needs a GPU"),
    ("docs/gpu.md", 'with gpucnn.get_backend("cuda").tf32():', "needs a GPU"),
    (
        "docs/gpu.md",
        "step = gpucnn.capture(partial(train_step, net, loss_fn, optimizer), state=[net, loss_fn, optimizer])",
        "needs a GPU",
    ),
    (
        "docs/gpu.md",
        "pip install 'gpucnn[cudnn]'      # CUDA 13; adds more than 0.5 GB to the extra cuda13",
        "needs a GPU",
    ),
    (
        "docs/gpu.md",
        "scripts/gpu_report.sh       # under nine minutes of tests and timing: benchmarks/gpu-report.json and .log",
        "needs a GPU",
    ),
    (
        "docs/inspecting.md",
        "python scripts/bench.py vgg --input-shape 3,32,32 --batch-size 64 --memory",
        "needs PyTorch and a clone",
    ),
    ("docs/onnx.md", "pip install '.[onnx]' onnxruntime", "installs from a clone"),
    ("docs/saving.md", "import torchvision", "needs torchvision"),
    ("docs/start.md", "python3 -m venv .venv", "installs from a clone"),
    ("docs/start.md", "pip install '.[cuda13]'     # NVIDIA driver 580 or newer", "needs a GPU"),
    ("docs/start.md", 'gpucnn.use("cuda")', "needs a GPU"),
    ("docs/start.md", "docker build -f docker/Dockerfile -t gpucnn .", "needs Docker and a clone"),
    (
        "docs/start.md",
        "docker run --rm -it --init -v gpucnn-runs:/work/runs -v gpucnn-data:/data gpucnn train",
        "needs Docker and a clone",
    ),
    (
        "docs/start.md",
        'docker run --rm -it --init -v gpucnn-runs:/work/runs -v "$PWD/flowers:/flowers:ro" gpucnn train --data /flowers',
        "needs Docker and a clone",
    ),
    (
        "docs/start.md",
        "docker build -f docker/Dockerfile --build-arg CUDA=13 -t gpucnn:cuda .",
        "needs Docker, a clone and a GPU",
    ),
    ("docs/start.md", "docker compose -f docker/compose.yaml run --rm cpu train", "needs Docker and a clone"),
    ("docs/tutorial.md", 'gpucnn.use("cuda")', "needs a GPU"),
]


def every_block() -> list[Block]:
    return [block for blocks in BLOCKS.values() for block in blocks]


@pytest.mark.parametrize("page", RUNNING, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_blocks_of_a_page_run_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GPUCNN_DEVICE", raising=False)
    namespace = {"__name__": "__main__"}
    with np.printoptions():  # a page may change them
        for block in BLOCKS[page]:
            if block.language in RUN and block.not_run is None:
                run(block, namespace, tmp_path, env)


def test_the_blocks_that_are_not_run() -> None:
    skipped = [(b.page, b.code.splitlines()[0], b.not_run) for b in every_block() if b.not_run is not None]
    assert skipped == NOT_RUN


def test_there_are_blocks_of_known_languages() -> None:
    assert len([block for block in every_block() if block.language in RUN]) > 40
    unknown = [b.where for b in every_block() if b.language not in RUN + SHOWN and not b.language.startswith("{")]
    assert unknown == []


def test_comments_that_keep_a_block_from_running_stand_right_above_it() -> None:
    written = sum(page.read_text().count("<!-- not run:") for page in PAGES)
    assert written == len(NOT_RUN)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_files_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    missing = [link for link in links if link and "://" not in link and not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("```python\nprint(1)\n```\n\n```text\n2\n```\n", "prints\n1"),
        ("```python\nprint(missing)\n```\n", "missing"),
        ("```sh\ngpucnn trian\n```\n", "exit code 2"),
        ("```sh\ngpucnn trian | cat\n```\n", "exit code 2"),
        ("```sh\necho 1\n```\n```text\n2\n```\n", "prints\n1"),
    ],
)
def test_a_wrong_block_is_noticed(text: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blocks.ROOT", tmp_path)
    (tmp_path / "page.md").write_text(text)
    [block] = blocks_of(tmp_path / "page.md")
    with pytest.raises((AssertionError, NameError), match=wrong):
        run(block, {}, tmp_path, prepare(tmp_path))
