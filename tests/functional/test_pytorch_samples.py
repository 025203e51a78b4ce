"""PyTorch's own sample inputs: gpucnn agrees, or docs/pytorch.md says what does not and why."""

from __future__ import annotations

import re

import pytest
from runs import ROOT

pytest.importorskip("torch")
pytest.importorskip("expecttest", reason="PyTorch's samples need expecttest")

import pytorch_samples as samples

PAGE = (ROOT / "docs" / "pytorch.md").read_text(encoding="utf-8")
WHY = PAGE.partition("| name | samples | why |")[2]
NAMED = set(re.findall(r"`([\w.]+)`", " ".join(line.split("|")[1] for line in WHY.splitlines() if line.count("|") > 3)))
QUICK = {"add", "sum", "clamp", "where", "softmax", "nn.functional.conv2d", "Conv2d", "CrossEntropyLoss", "SGD"}
CASES = [
    pytest.param(part, name, marks=[] if name in QUICK and part != "inputs that PyTorch refuses" else pytest.mark.slow)
    for part, (_, names) in samples.PARTS.items()
    for name in names()
]


@pytest.mark.parametrize(("part", "name"), CASES)
def test_samples_agree_or_the_page_names_them(part: str, name: str) -> None:
    counts = samples.PARTS[part][0](name)
    rest = {outcome: notes for outcome, notes in counts.notes.items() if outcome != "agrees"}
    if name not in NAMED:
        assert not rest
    if name != "LPPool2d":
        assert "differs" not in rest
    assert sum(counts.outcomes.values()) > 0 or part == "inputs that PyTorch refuses"


@pytest.mark.slow
@pytest.mark.parametrize("part", samples.PARTS)
def test_the_pages_counts_are_those_of_a_run(part: str) -> None:
    assert samples.row(part) in PAGE.splitlines()


def test_a_planted_mistake_is_found() -> None:
    """What the comparison itself must see: a wrong value, a wrong gradient, another dtype."""
    import torch

    x = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    for wrong in (lambda t: t * 1.001, lambda t: t.abs().float(), lambda t: (t.detach() - t) * 0 + t.abs().detach()):
        assert samples.compare(wrong, lambda t: t.abs(), (x,), {})[0] == "differs"
    assert samples.compare(lambda t: t.abs(), lambda t: t.abs(), (x,), {}) == ("agrees", "")
    assert samples.compare(lambda t: t.sum(axis=9), lambda t: t.abs(), (x,), {})[0] == "refused"
    assert samples.compare(lambda: None, lambda t: t.abs(), (x,), {})[0] == "signature"


def test_what_pytorch_has_under_a_name_of_ours_is_run() -> None:
    from torch.nn import functional

    from gpucnn import functional as F

    here = {name.removeprefix("nn.functional.").partition(".")[0] for name in samples.operations()}
    without = {"max_pool2d_with_indices", "lp_pool2d"} | samples.RANDOM  # PyTorch has no samples of its own
    shared = {name for name in F.__all__ if hasattr(functional, name)}
    assert shared - here <= without
