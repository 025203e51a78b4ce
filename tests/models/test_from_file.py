"""Networks that a user wrote in a file."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import gpucnn
from gpucnn import models, nn
from gpucnn.errors import UsageError

NETS = """
from __future__ import annotations
from dataclasses import dataclass
from gpucnn import nn
from gpucnn.errors import ParameterError

@dataclass
class Sizes:
    width: int = 4

class Net(nn.Sequential):
    def __init__(self, classes=10, *, width=4, scale=1.0):
        super().__init__(nn.Flatten(), nn.Linear(None, Sizes(width).width), nn.ReLU(), nn.Linear(width, classes))
        self.scale = scale

def net(**options):
    return Net(**options)

def needs(size):
    return Net(width=size)

def broken():
    raise RuntimeError("the wheels came off")

def refuses():
    raise ParameterError("net: width: expected less, got more.")

def nothing():
    pass

class Other:
    pass

number = 3
"""


@pytest.fixture
def nets(tmp_path: Path) -> str:
    path = tmp_path / "my nets.py"
    path.write_text(NETS)
    return str(path)


def test_a_class_with_options_and_defaults(nets: str) -> None:
    net = models.build(f"{nets}:Net:width=8,scale=0.5", classes=3, image_size=28)
    assert isinstance(net, nn.Sequential)
    assert net(gpucnn.tensor(np.zeros((2, 1, 4, 4), np.float32))).shape == (2, 3)
    assert net.state_dict()["3.weight"].shape == (3, 8)
    assert net.scale == 0.5
    assert isinstance(models.build(f"{nets}:Net"), nn.Sequential)


def test_a_function_that_takes_everything_gets_what_was_written(nets: str) -> None:
    net = models.build(f"{nets}:net:width=8,classes=5", image_size=28)
    with gpucnn.no_grad():
        assert net(gpucnn.tensor(np.zeros((1, 16), np.float32))).shape == (1, 5)


def test_a_file_is_read_again_each_time_and_nothing_is_left_beside_it(nets: str) -> None:
    models.build(f"{nets}:Net")
    Path(nets).write_text(NETS.replace("width=4", "width=6"))
    net = models.build(f"{nets}:Net")
    with gpucnn.no_grad():
        net(gpucnn.tensor(np.zeros((1, 16), np.float32)))
    assert net.state_dict()["1.weight"].shape == (6, 16)
    assert [path.name for path in Path(nets).parent.iterdir()] == ["my nets.py"]


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("", "a Module class, or a function.*nothing of that name.*The file has .*Net"),
        (":", "nothing of that name"),
        (":Nit", "Nit: expected a Module class.*nothing of that name"),
        (":Other", "type <class .*Other"),
        (":Sizes", "Module class"),
        (":number", "int 3"),
        (":Net:depth=3", "'depth=3'"),
        (":Net:widht=3", "Did you mean width"),
        (":Net:width", "OPTION=VALUE with classes, width, scale"),
        (":Net:width=0", "out_features"),
        (":Net:width=1,width", "OPTION=VALUE"),
        (":needs", "missing 1 required"),
        (":broken", "RuntimeError: the wheels came off"),
        (":refuses", "net: width: expected less"),
        (":nothing", "expected a Module, got NoneType"),
    ],
)
def test_what_is_wrong_is_said(nets: str, rest: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        models.build(nets + rest)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nets\.py: no such file"):
        models.build(f"{tmp_path / 'nets.py'}:Net")


@pytest.mark.parametrize(
    ("text", "words"), [("import nowhere", "nowhere"), ("def (", "SyntaxError"), ("1 / 0", "zero")]
)
def test_a_file_that_fails_leaves_nothing_behind(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "nets.py"
    path.write_text(text)
    before = set(sys.modules)
    with pytest.raises(UsageError, match=words):
        models.build(f"{path}:Net")
    assert set(sys.modules) == before


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "nets.py"
    path.write_text("")
    with pytest.raises(UsageError, match=r"Write .*NAME"):
        models.build(f"{path}:Net")
