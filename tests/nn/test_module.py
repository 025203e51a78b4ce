"""Module: names and order, modes, hooks, printing, copies, moving between devices."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import Tensor, nn, no_grad, optim
from gpucnn.backend import Backend
from gpucnn.errors import DTypeError, GpucnnError, GraphError, ParameterError, ShapeError


class Block(nn.Module):
    """A module of every kind of member, assigned in an order that is not the alphabet's."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(gpucnn.tensor([2.0]))
        self.second = nn.Linear(3, 3)
        self.first = nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 3, name="out"))
        self.register_buffer("seen", gpucnn.tensor([0.0]))
        self.offset = nn.Parameter(gpucnn.tensor([1.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)) * self.scale + self.offset + self.seen


NAMES = ["scale", "offset", "second.weight", "second.bias", "first.0.weight", "first.out.weight", "first.out.bias"]


def rows(n: int = 2) -> Tensor:
    return gpucnn.tensor(np.random.default_rng(0).standard_normal((n, 3)).astype(np.float32))


def test_names_come_in_registration_order(backend: Backend) -> None:
    net = Block()
    assert [name for name, _ in net.named_parameters()] == NAMES
    assert [name for name, _ in net.named_modules()] == ["", "second", "first", "first.0", "first.1", "first.out"]
    assert list(net.children()) == [net.second, net.first]
    assert sum(1 for _ in net.modules()) == 6


def test_the_state_dictionary_has_pytorchs_order(backend: Backend) -> None:
    torch = pytest.importorskip("torch")

    class Twin(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor([2.0]))
            self.second = torch.nn.Linear(3, 3)
            self.first = torch.nn.Linear(3, 3)
            self.register_buffer("seen", torch.tensor([0.0]))
            self.offset = torch.nn.Parameter(torch.tensor([1.0]))
            self.second = torch.nn.Linear(3, 4)  # assigned again: it keeps its place

    class Ours(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(gpucnn.tensor([2.0]))
            self.second = nn.Linear(3, 3)
            self.first = nn.Linear(3, 3)
            self.register_buffer("seen", gpucnn.tensor([0.0]))
            self.offset = nn.Parameter(gpucnn.tensor([1.0]))
            self.second = nn.Linear(3, 4)

    theirs = {name: tuple(value.shape) for name, value in Twin().state_dict().items()}
    assert [(name, value.shape) for name, value in Ours().state_dict().items()] == list(theirs.items())


def test_a_buffer_assigned_again_stays_a_buffer(backend: Backend) -> None:
    net = Block()
    net.seen = gpucnn.tensor([5.0])
    assert net.state_dict()["seen"].tolist() == [5]
    net.seen = 3  # what is no tensor is an attribute like any other
    assert "seen" not in net.state_dict()


def test_members_can_be_deleted_and_replaced(backend: Backend) -> None:
    net = Block()
    del net.first
    assert [name for name, _ in net.named_parameters()] == NAMES[:4]
    net.second = nn.Flatten()
    net.scale = None
    assert [name for name, _ in net.named_parameters()] == ["offset"]


def test_a_shared_layer_is_stepped_once_but_saved_under_both_names(backend: Backend) -> None:
    torch = pytest.importorskip("torch")
    layer, twin = nn.Linear(3, 3), torch.nn.Linear(3, 3)
    net, theirs = nn.Sequential(layer, nn.ReLU(), layer), torch.nn.Sequential(twin, torch.nn.ReLU(), twin)
    assert len(list(net.parameters())) == 2
    assert list(net.state_dict()) == list(theirs.state_dict())
    net.load_state_dict(theirs.state_dict())
    theirs.load_state_dict({name: torch.tensor(value) for name, value in net.state_dict().items()})


@pytest.mark.bits
def test_train_and_eval_reach_every_module(backend: Backend) -> None:
    net = nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.9)))
    x = gpucnn.tensor(np.ones((50, 4), np.float32))
    assert all(module.training for module in net.modules())
    assert not np.array_equal(net(x).numpy(), x.numpy())
    assert net.eval() is net
    assert not any(module.training for module in net.modules())
    assert np.array_equal(net(x).numpy(), x.numpy())
    assert all(module.training for module in net.train().modules())


def test_hooks_see_and_replace_inputs_and_outputs(backend: Backend) -> None:
    layer, seen = nn.ReLU(), []
    before = layer.register_forward_pre_hook(lambda module, inputs: (inputs[0] - 1,))
    after = layer.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].tolist()) or output * 10)
    assert layer(gpucnn.tensor([0.0, 3.0])).tolist() == [0, 20]
    assert seen == [[-1, 2]]
    before.remove()
    assert layer(gpucnn.tensor([0.0, 3.0])).tolist() == [0, 30]
    after.remove()
    after.remove()
    assert not layer.has_hooks()
    with layer.register_forward_hook(lambda module, inputs, output: output + 1):
        assert layer(gpucnn.tensor([1.0])).tolist() == [2]
    assert layer(gpucnn.tensor([1.0])).tolist() == [1]


@pytest.mark.parametrize("watched", [0, 1, 2])
def test_every_layer_that_is_watched_runs_by_itself(backend: Backend, watched: int) -> None:
    gpucnn.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    x = gpucnn.tensor(np.random.default_rng(1).standard_normal((2, 1, 7, 7)).astype(np.float32))
    unwatched = net(x).numpy()
    shapes: list[Any] = []
    with net[watched].register_forward_hook(lambda module, inputs, output: shapes.append(output.shape)):
        assert np.allclose(net(x).numpy(), unwatched, atol=1e-6)
    assert shapes == [[(2, 3, 5, 5), (2, 3, 5, 5), (2, 3, 2, 2)][watched]]


def test_printing(backend: Backend) -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 6, 5, stride=2, padding="same", bias=False), nn.MaxPool2d(2), nn.Dropout(0.25), nn.Flatten(),
        nn.Sequential(nn.Linear(24, 3, name="out")),
    )  # fmt: skip
    assert repr(net).splitlines() == [
        "Sequential(",
        "  (0): Conv2d(1, 6, kernel_size=(5, 5), stride=(2, 2), padding='same', bias=False)",
        "  (1): MaxPool2d(kernel_size=(2, 2), stride=(2, 2), padding=0)",
        "  (2): Dropout(p=0.25)",
        "  (3): Flatten()",
        "  (4): Sequential(",
        "    (out): Linear(24, 3)",
        "  )",
        ")",
    ]


def test_a_copy_shares_nothing(backend: Backend) -> None:
    net = Block()
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    net(rows()).sum().backward()
    twin = copy.deepcopy(net)
    assert all(np.array_equal(twin.state_dict()[name], value) for name, value in net.state_dict().items())
    before = twin.state_dict()
    optimizer.step()
    assert all(np.array_equal(before[name], value) for name, value in twin.state_dict().items())
    assert not np.array_equal(net.state_dict()["second.weight"], before["second.weight"])
    assert twin.second.weight.device == net.second.weight.device
    optim.SGD(twin.parameters(), lr=0.1)  # the copy belongs to no optimiser
    net(rows()).sum().backward()
    optimizer.step()


def test_moving_to_the_same_place_moves_nothing(backend: Backend) -> None:
    net = Block()
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    net(rows()).sum().backward()
    net.to(backend.name).to(backend).to("float32")
    before = net.state_dict()
    optimizer.step()
    assert not np.array_equal(net.state_dict()["offset"], before["offset"])


def test_moving_after_the_optimiser_makes_its_step_an_error(backend: Backend) -> None:
    net = Block()
    optimizer = optim.Adam(net.named_parameters())
    net.to("float64")
    net(rows().to("float64")).sum().backward()
    before = net.state_dict()
    with pytest.raises(GraphError, match=r"Adam.step: parameter scale was moved.*after model.to"):
        optimizer.step()
    assert all(np.array_equal(before[name], value) for name, value in net.state_dict().items())
    assert optimizer.state_dict()["steps"] == 0


def test_moving_to_a_dtype(backend: Backend) -> None:
    net = Block().to("float64")
    assert {value.dtype for value in net.state_dict().values()} == {np.dtype("float64")}
    assert net(rows().to("float64")).dtype == "float64"


def test_moving_between_devices(standin: Backend) -> None:
    net = Block()
    expected = net(rows()).numpy()
    state = net.state_dict()
    assert net.to("cuda") is net
    assert {parameter.device for parameter in net.parameters()} == {"cuda:0"}
    assert net.seen.device == "cuda:0"
    assert np.allclose(net(rows().cuda()).numpy(), expected)
    assert all(np.array_equal(net.state_dict()[name], value) for name, value in state.items())
    with pytest.raises(GpucnnError, match=r"cpu.*cuda:0|cuda:0.*cpu"):
        net(rows())


@pytest.mark.parametrize("target", ["banana", None, "int64", bool, 3.5, "cuda:x"])
def test_moving_to_nowhere_changes_nothing(backend: Backend, target: Any) -> None:
    net = Block()
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    net(rows()).sum().backward()
    with pytest.raises(GpucnnError):
        net.to(target)
    assert {value.dtype for value in net.state_dict().values()} == {np.dtype("float32")}
    optimizer.step()


def test_freezing(backend: Backend) -> None:
    net = Block()
    net.first.requires_grad_(False)
    net(rows()).sum().backward()
    assert {name for name, p in net.named_parameters() if p.grad is not None} == set(NAMES[:4])
    net.zero_grad()
    assert all(parameter.grad is None for parameter in net.parameters())
    net.requires_grad_()
    net(rows()).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.bits
def test_sequential_is_a_list_of_layers_with_names(backend: Backend) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2, name="out"))
    assert len(net) == 3
    assert net[-1] is net["out"] is net.out
    assert [type(layer) for layer in net] == [nn.Linear, nn.ReLU, nn.Linear]
    assert isinstance(net[:2], nn.Sequential)
    assert np.array_equal(net[2:](net[:2](rows())).numpy(), net(rows()).numpy())
    assert list(nn.Sequential({"a": nn.Linear(1, 1, bias=False)}).state_dict()) == ["a.weight"]
    net.append(nn.Sigmoid())
    assert (net(rows()).numpy() > 0).all()
    assert nn.Sequential()(rows()).shape == (2, 3)


MISTAKES: dict[str, tuple[Any, type[GpucnnError], str]] = {
    "a layer in two lists": (lambda: nn.Sequential([[nn.ReLU()]]), ParameterError, "layer 0: expected a Module, got list"),
    "a class instead of a layer": (lambda: nn.Sequential(nn.ReLU), ParameterError, "expected a Module, got type"),
    "one name twice": (lambda: nn.Sequential(nn.ReLU(name="a"), nn.ReLU(name="a")), ParameterError, "unused name.*'a'"),
    "a name with a dot": (lambda: nn.Sequential(nn.ReLU(name="a.b")), ParameterError, "without dots"),
    "a name of the module's own": (lambda: nn.Sequential(nn.ReLU(name="forward")), ParameterError, "unused name"),
    "a number as name": (lambda: nn.Sequential(nn.ReLU(name=5)), ParameterError, "name"),
    "a list as parameter": (lambda: nn.Parameter([1.0]), DTypeError, "Parameter: data: expected a Tensor, got list"),
    "an array as parameter": (lambda: nn.Parameter(np.ones(2)), DTypeError, "Parameter: data: .*ndarray"),
    "integers as parameter": (lambda: nn.Parameter(gpucnn.tensor([1])), DTypeError, "a floating dtype, got int64"),
    "an array as buffer": (lambda: Block().register_buffer("b", np.ones(2)), DTypeError, "register_buffer.*ndarray"),
    "no module to add": (lambda: Block().add_module("b", 5), ParameterError, "add_module.*expected a Module, got int"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(backend: Backend, name: str) -> None:
    attempt, error, words = MISTAKES[name]
    with pytest.raises(error, match=words):
        attempt()


def test_a_module_without_super_init_is_named() -> None:
    class Hasty(nn.Module):
        def __init__(self) -> None:
            self.weight = nn.Parameter(gpucnn.tensor([1.0]))

    with pytest.raises(GpucnnError, match=r"Hasty: call super\(\).__init__\(\) before assigning 'weight'"):
        Hasty()


def test_errors_name_the_layer(backend: Backend) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3, name="stem"), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(9, 2))
    with pytest.raises(ShapeError, match=r"conv2d: .*in layer stem: Conv2d\(1, 2, kernel_size=\(3, 3\)\)"):
        net(gpucnn.tensor(np.ones((1, 3, 8, 8), np.float32)))
    with pytest.raises(ShapeError, match=r"linear: input: .*in layer Linear\(9, 2\)") as caught:
        net(gpucnn.tensor(np.ones((1, 1, 8, 8), np.float32)))
    assert str(caught.value).count("in layer") == 1
    with pytest.raises(ShapeError, match=r"max_pool2d: .*in layer MaxPool2d"), no_grad():
        net(gpucnn.tensor(np.ones((1, 1, 3, 3), np.float32)))
    with pytest.raises(DTypeError, match=r"in layer stem: Conv2d"):
        net(np.ones((1, 1, 8, 8), np.float32))


def test_loading_says_what_was_missing_and_unexpected() -> None:
    net = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    state = net.state_dict()
    assert net.load_state_dict(state) == ([], [])
    wrong = {f"module.{name}": values for name, values in state.items()}
    keys = net.load_state_dict(wrong, strict=False)
    assert keys.missing_keys == [name for name in state if not name.endswith("num_batches_tracked")]
    assert keys.unexpected_keys == list(wrong)


def test_batch_norm_loads_weights_without_its_counter() -> None:
    net = nn.Sequential(nn.BatchNorm2d(2))
    net(gpucnn.tensor(np.ones((2, 2, 2, 2), np.float32)))
    state = {name: values for name, values in net.state_dict().items() if "num_batches" not in name}
    assert net.load_state_dict(state) == ([], [])
    assert net[0].num_batches_tracked.item() == 1


def test_bfloat16_weights_are_widened() -> None:
    torch = pytest.importorskip("torch")
    values = torch.tensor([[0.5, -1.5]], dtype=torch.bfloat16)
    net = nn.Linear(2, 1, bias=False)
    net.load_state_dict({"weight": values})
    assert net.weight is not None
    assert net.weight.tolist() == [[0.5, -1.5]]


def test_forward_takes_keywords() -> None:
    class Scaled(nn.Module):
        def forward(self, x: gpucnn.Tensor, *, factor: float) -> gpucnn.Tensor:
            return x * factor

    seen = []
    net = Scaled()
    net.register_forward_hook(lambda module, inputs, output: seen.append(inputs))
    assert net(gpucnn.tensor([1.0]), factor=3).tolist() == [3]
    assert net(x=gpucnn.tensor([1.0]), factor=2).tolist() == [2]
    assert [len(inputs) for inputs in seen] == [1, 0]


def test_zero_grad_may_keep_zeros() -> None:
    net = nn.Linear(2, 1)
    for bound in (False, True):
        optimizer = gpucnn.optim.SGD(net.parameters(), lr=0.1) if bound else None
        net(gpucnn.tensor([[1.0, 2.0]])).sum().backward()
        net.zero_grad(set_to_none=False)
        assert net.weight is not None
        assert net.weight.grad is not None
        assert net.weight.grad.tolist() == [[0, 0]]
        (net if optimizer is None else optimizer).zero_grad(set_to_none=True)
        assert net.weight.grad is None


def test_layers_of_a_sequence_are_given_as_a_list_and_replaced_by_place() -> None:
    net = nn.Sequential([nn.Linear(2, 3, name="first"), nn.ReLU()])
    net[-1] = nn.Tanh()
    net["first"] = nn.Linear(2, 4)
    assert list(net.state_dict()) == ["first.weight", "first.bias"]
    assert [type(layer).__name__ for layer in net] == ["Linear", "Tanh"]
    assert net(gpucnn.tensor([[1.0, 2.0]])).shape == (1, 4)
    for place, error in ((2, IndexError), (-3, IndexError), ("x", KeyError), (1.5, IndexError)):
        with pytest.raises(error, match="2 layers"):
            net[place]
    with pytest.raises(ParameterError, match="a Module"):
        net[0] = 3
