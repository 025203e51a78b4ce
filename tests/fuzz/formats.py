"""The formats that are read, each with a strategy for its files and with what reads them."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from runs import idx

from fuzz.damage import NUMBERS, as_json, as_toml, damaged, damaged_tree

Files = dict[str, bytes]
"""A folder's files by name."""


@dataclass(frozen=True)
class Format:
    """files: makes the function that gives the strategy (made late: it needs good files). read: the loader, on a folder."""

    files: Callable[[], st.SearchStrategy[Files]]
    read: Callable[[Path], object]


FORMATS: dict[str, Format] = {}


def reads(
    name: str, files: Callable[[], st.SearchStrategy[Files]]
) -> Callable[[Callable[[Path], object]], Callable[[Path], object]]:
    """Add a format: the function below it reads the files of a folder."""

    def add(read: Callable[[Path], object]) -> Callable[[Path], object]:
        FORMATS[name] = Format(cache(files), read)
        return read

    return add


def one_of_these(good: Files, damage: Callable[[bytes], st.SearchStrategy[bytes]]) -> st.SearchStrategy[Files]:
    """Return the good files with one of them damaged."""
    return st.sampled_from(sorted(good)).flatmap(
        lambda name: damage(good[name]).map(lambda content: {**good, name: content})
    )


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content, 1, mtime=0)


# --- data sets -----------------------------------------------------------------------------------------------------------


def idx_files() -> Files:
    rng = np.random.default_rng(0)
    return {
        "train-images-idx3-ubyte": idx(rng.integers(0, 256, (6, 5, 5), np.uint8)),
        "train-labels-idx1-ubyte": idx(np.arange(6, dtype=np.uint8) % 3),
        "t10k-images-idx3-ubyte": idx(rng.integers(0, 256, (3, 5, 5), np.uint8)),
        "t10k-labels-idx1-ubyte": idx(np.arange(3, dtype=np.uint8)),
    }


def idx_damage(content: bytes) -> st.SearchStrategy[bytes]:
    kinds = [idx(np.ones((2, 3, 3), kind)) for kind in (np.int8, np.int16, np.int32, np.float32, np.float64)]
    return damaged([content, *kinds])


@reads("idx", lambda: one_of_these(idx_files(), idx_damage))
def read_idx_folder(folder: Path) -> object:
    from gpucnn.data import load

    return load(str(folder))


def gz_files() -> st.SearchStrategy[Files]:
    good = {f"{name}.gz": gzipped(content) for name, content in idx_files().items()}
    inside = lambda content: idx_damage(gzip.decompress(content)).map(gzipped)  # noqa: E731
    return one_of_these(good, lambda content: st.one_of(damaged([content]), inside(content)))


reads("idx.gz", gz_files)(read_idx_folder)


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def zipped(members: dict[str, bytes], packed: bool = True) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return file.getvalue()


ARRAYS: list[Any] = [
    np.zeros((4, 1, 5, 5), np.uint8), np.zeros((4, 5, 5)), np.full((4, 5, 5), np.nan), np.zeros((0, 5, 5)),
    np.zeros((4, 5, 5, 3), np.uint8), np.arange(4), np.array([0, 1, 2, 2**40]), np.array([-1, 0, 1, 2]), np.array(["a",
    "b", "c", "d"]), np.zeros((4, 1), np.int8), np.array(3), np.zeros((4, 5, 5), complex), np.array([{}, [], None, 1],
    object), np.zeros(4, [("a", "i4"), ("b", "f8")]), np.array("cropped"), np.array([b"x", b"y", b"z", b"\xff"]),
    np.zeros((4, 0, 0)), np.array(["2020-01-01"] * 4, "datetime64[D]"), np.zeros((4, 5, 5), np.float16), np.full((4, 5,
    5), 300, np.int16), np.eye(4), np.zeros((4, 25), np.uint8), np.zeros((4, 5, 5), bool),
]  # fmt: skip


@st.composite
def npz_files(draw: st.DrawFn) -> Files:
    rng = np.random.default_rng(1)
    members = {
        "x_train.npy": npy(rng.integers(0, 256, (4, 5, 5), np.uint8)), "y_train.npy": npy(np.arange(4) % 3),
        "x_test.npy": npy(rng.integers(0, 256, (3, 5, 5), np.uint8)), "y_test.npy": npy(np.arange(3)),
        "class_names.npy": npy(np.array(["a", "b", "c"])), "framing.npy": npy(np.array("cropped")),
    }  # fmt: skip
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from([*members, "images.npy", "train_images.npy", "x", "../x.npy", "x_train"]))
        members[name] = draw(st.one_of(damaged([members.get(name, b"")]), st.sampled_from(ARRAYS).map(npy)))
    for _ in range(draw(st.integers(0, 1))):
        members.pop(draw(st.sampled_from(sorted(members))))
    content = zipped(members, draw(st.booleans()))
    return {"data.npz": draw(damaged([content], 2)) if draw(st.booleans()) else content}


@reads("npz", npz_files)
def read_npz(folder: Path) -> object:
    from gpucnn.data import load

    return load(str(folder / "data.npz"))


@st.composite
def npy_files(draw: st.DrawFn) -> Files:
    rng = np.random.default_rng(6)
    files = {
        "x_train.npy": npy(rng.integers(0, 256, (4, 5, 5), np.uint8)), "y_train.npy": npy(np.arange(4) % 3),
        "x_test.npy": npy(rng.integers(0, 256, (3, 5, 5), np.uint8)), "y_test.npy": npy(np.arange(3)),
    }  # fmt: skip
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from([*files, "class_names.npy", "layout.npy", "x_val.npy", "y_val.npy"]))
        files[name] = draw(st.one_of(damaged([files.get(name, b"")]), st.sampled_from(ARRAYS).map(npy)))
    return files


reads("npy", npy_files)(read_idx_folder)


def table(rows: int, names: bool = True) -> bytes:
    rng = np.random.default_rng(7)
    lines = [",".join(["label", *(f"pixel{i}" for i in range(25))])] if names else []
    lines += [",".join(map(str, [i % 3, *rng.integers(0, 256, 25)])) for i in range(rows)]
    return ("\n".join(lines) + "\n").encode()


CELLS = (
    b"nan",
    b"inf",
    b"-1",
    b"300",
    b"1e400",
    b"9" * 400,
    b"0.5",
    b"",
    b" ",
    b'"',
    b"label",
    b"\xff",
    b"\0",
    b"a" * 3000,
    b"\x1b[2J",
)


@st.composite
def csv_files(draw: st.DrawFn) -> Files:
    rows = table(8, draw(st.booleans())).split(b"\n")
    for _ in range(draw(st.integers(0, 3))):
        row = draw(st.integers(0, len(rows) - 1))
        cells = rows[row].split(b",")
        place = draw(st.integers(0, len(cells) - 1))
        edit = draw(st.sampled_from(["cell", "more", "less", "none"]))
        if edit == "cell":
            cells[place] = draw(st.sampled_from(CELLS))
        elif edit == "more":
            cells[place:place] = [b"1"] * draw(st.sampled_from([1, 25, 1000]))
        elif edit == "less":
            del cells[place:]
        rows[row] = b",".join(cells)
    content = b"\n".join(rows)
    return {"data.csv": draw(damaged([content], 2)) if draw(st.booleans()) else content}


@reads("csv", csv_files)
def read_csv(folder: Path) -> object:
    from gpucnn.data import load

    return load(str(folder / "data.csv"))


def cifar_files() -> Files:
    rng = np.random.default_rng(2)
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    return {name: bytes([i]) + rng.integers(0, 256, 3072, np.uint8).tobytes() for i, name in enumerate(names)}


def tarred(files: Files) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def cifar() -> st.SearchStrategy[Files]:
    good = cifar_files()
    tar = tarred(good)
    archives = st.one_of(damaged([gzipped(tar)]), damaged([tar]).map(gzipped))
    return st.one_of(
        one_of_these(good, lambda content: damaged([content])), archives.map(lambda c: {"cifar-10-binary.tar.gz": c})
    )


reads("cifar", cifar)(read_idx_folder)


# --- images ------------------------------------------------------------------------------------------------------------


def picture_contents() -> list[bytes]:
    from PIL import Image

    rng = np.random.default_rng(3)
    page = Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8))
    found = []
    for form, modes, options in (
        ("PNG", ("RGB", "L", "LA", "RGBA", "P", "1", "I;16"), {}), ("JPEG", ("RGB", "L", "CMYK"), {"progressive": True}),
        ("GIF", ("P", "L"), {}), ("BMP", ("RGB", "L", "1"), {}), ("WEBP", ("RGB", "RGBA"), {"lossless": True}),
        ("TIFF", ("RGB", "L", "F", "I;16", "LAB", "CMYK", "YCbCr"), {}), ("TIFF", ("RGB", "L"), {"compression": "tiff_lzw"}),
        ("TIFF", ("RGB",), {"compression": "jpeg"}), ("PPM", ("RGB", "L"), {}), ("ICO", ("RGBA",), {}),
    ):  # fmt: skip
        for mode in modes:
            file = io.BytesIO()
            picture = (
                Image.new(mode, page.size)
                if mode == "LAB"
                else page.convert("L").convert(mode)
                if mode[0] in "IF"
                else page.convert(mode)
            )
            picture.save(file, form, **options)
            found.append(file.getvalue())
    return found


def one_picture() -> st.SearchStrategy[Files]:
    ways = st.sampled_from([b"grey", b"colour"])
    return st.tuples(damaged(picture_contents()), ways).map(lambda drawn: {"a.png": drawn[0], "how": drawn[1]})


@reads("picture", one_picture)
def read_one_picture(folder: Path) -> object:
    from gpucnn.data.pictures import read_picture

    if (folder / "how").read_bytes() == b"grey":
        return read_picture(folder / "a.png", (1, 28, 28), "centred")
    return read_picture(folder / "a.png", (3, 16, 16), "cropped")


@st.composite
def picture_folder(draw: st.DrawFn) -> Files:
    contents = picture_contents()
    files = {f"{part}{name}/{i}.png": contents[i] for part in ("train/", "test/") for name in "ab" for i in range(2)}
    for _ in range(draw(st.integers(0, 2))):
        name = draw(
            st.sampled_from(
                [
                    *files,
                    "train/a/x.JPG",
                    "c/0.png",
                    "test/c/0.png",
                    "val/a/0.png",
                    "train/\x1b/0.png",
                    "train/a/b/0.png",
                ]
            )
        )
        files[name] = draw(damaged(contents))
    for _ in range(draw(st.integers(0, 2))):
        files.pop(draw(st.sampled_from(sorted(files))))
    return files


reads("picture folder", picture_folder)(read_idx_folder)


# --- networks ------------------------------------------------------------------------------------------------------------


@cache
def small_nets() -> list[tuple[Any, dict[str, Any]]]:
    """Return structures, as data, with their weights."""
    from gpucnn import models, nn

    nets = [
        nn.Sequential(
            nn.Conv2d(1, 2, 3, padding="same"),
            nn.BatchNorm2d(2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.LazyLinear(3),
        )
        if hasattr(nn, "LazyLinear")
        else nn.Sequential(
            nn.Conv2d(1, 2, 3, padding="same"),
            nn.BatchNorm2d(2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(2, 3),
        ),
        nn.Sequential(
            nn.Residual(nn.Sequential(nn.Conv2d(1, 1, 1))),
            nn.AvgPool2d(2),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(4, 2),
        ),
    ]
    return [
        (json.loads(json.dumps(models.describe(net))), {k: v.copy() for k, v in net.state_dict().items()})
        for net in nets
    ]


def packed(weights: dict[str, Any], texts: dict[str, str]) -> bytes:
    import safetensors.numpy

    content = safetensors.numpy.save(weights, texts)
    return with_header(content, dict(sorted(header_of(content).items())))  # the library's order is another each time


def with_header(content: bytes, header: Any) -> bytes:
    """Return a safetensors file with another header, of JSON."""
    length = struct.unpack("<Q", content[:8])[0]
    text = as_json(header)
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def header_of(content: bytes) -> Any:
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length])


@st.composite
def model_files(draw: st.DrawFn) -> Files:
    structure, weights = draw(st.sampled_from(small_nets()))
    good = packed(weights, {"gpucnn.structure": json.dumps(structure)})
    kind = draw(st.sampled_from(["bytes", "header", "structure", "structure"]))
    if kind == "bytes":
        return {"net.safetensors": draw(damaged([good]))}
    if kind == "header":
        return {"net.safetensors": with_header(good, draw(damaged_tree([header_of(good)])))}
    text = json.dumps(draw(damaged_tree([structure])))
    return {"net.safetensors": packed(weights, {"gpucnn.structure": text})}


@reads("model", model_files)
def read_model(folder: Path) -> object:
    from gpucnn import models

    return models.load(folder / "net.safetensors", device="cpu")


@reads("structure", lambda: damaged_tree([s for s, _ in small_nets()]).map(lambda tree: {"net.json": as_json(tree)}))
def read_structure(folder: Path) -> object:
    from gpucnn import models

    return models.rebuild(json.loads((folder / "net.json").read_bytes()))


@cache
def classifier_file() -> bytes:
    from gpucnn import Classifier

    rng = np.random.default_rng(4)
    net = Classifier("simple_convnet:filter_num=2,filter_size=3,hidden=4", epochs=1, device="cpu", validation=0)
    net.fit(rng.integers(0, 256, (12, 8, 8), np.uint8), np.arange(12) % 3)
    with tempfile.TemporaryDirectory() as folder:
        net.save(Path(folder, "net"))
        return Path(folder, "net").read_bytes()


@st.composite
def classifier_files(draw: st.DrawFn) -> Files:
    good = classifier_file()
    header = header_of(good)
    texts = header["__metadata__"]
    for name in sorted(texts):
        if draw(st.booleans()):
            texts[name] = json.dumps(draw(damaged_tree([json.loads(texts[name])])))
    return {"net": with_header(good, header) if draw(st.integers(0, 3)) else draw(damaged([good]))}


@reads("classifier", classifier_files)
def read_classifier(folder: Path) -> object:
    from gpucnn import Classifier

    return Classifier.load(folder / "net", device="cpu").predict(np.zeros((1, 8, 8), np.uint8))


# --- ONNX --------------------------------------------------------------------------------------------------------------


@cache
def onnx_models() -> list[bytes]:
    """Return files of small networks: one of gpucnn, one that makes its weights and shapes by nodes, as others do."""
    import onnx
    from onnx import helper, numpy_helper

    from gpucnn import models
    from gpucnn.onnx import export

    with tempfile.TemporaryDirectory() as folder:
        export(models.build("lenet:hidden=8", image_size=(12, 12)), Path(folder, "net.onnx"), (1, 12, 12), opset=17)
        first = Path(folder, "net.onnx").read_bytes()
    shape = numpy_helper.from_array(np.array([2, 3, 1, 1]))
    nodes = [
        helper.make_node("Constant", [], ["s"], value=shape),
        helper.make_node("ConstantOfShape", ["s"], ["w"], value=numpy_helper.from_array(np.array([0.5], np.float32))),
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Shape", ["a"], ["b"]),
        helper.make_node("Slice", ["b", "zero", "one"], ["c"]),
        helper.make_node("Concat", ["c", "rest"], ["d"], axis=0),
        helper.make_node("Reshape", ["a", "d"], ["e"]),
        helper.make_node("Resize", ["a", "", "scales"], ["f"], mode="nearest"),
        helper.make_node("Pad", ["f", "pads"], ["g"]),
        helper.make_node("Softmax", ["e"], ["y"], axis=1),
    ]
    constants = {
        "zero": np.array([0]), "one": np.array([1]), "rest": np.array([-1]), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "scales": np.array([1, 1, 2, 2], np.float32),
    }  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info(name, 1, None) for name in ("y", "g")],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    second = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    assert onnx.IR_VERSION >= 8
    return [first, second.SerializeToString()]


ODD = [-(2**63), -1, *(n for n in NUMBERS if n < 2**63), 2**40]


@st.composite
def onnx_files(draw: st.DrawFn) -> Files:
    """A file whose bytes are damaged, or whose lengths, attributes, types and names a stranger chose."""
    import onnx

    content = draw(st.sampled_from(onnx_models()))
    if draw(st.booleans()):
        return {"net.onnx": draw(damaged([content]))}
    model = onnx.ModelProto.FromString(content)
    graph = model.graph
    names = sorted({name for node in graph.node for name in (*node.input, *node.output)} | {"", "x" * 50_000})
    for _ in range(draw(st.integers(1, 3))):
        edit = draw(
            st.sampled_from(["dims", "ints", "type", "name", "op", "value", "input", "output", "external", "opset"])
        )
        node, tensor = draw(st.sampled_from(list(graph.node))), draw(st.sampled_from(list(graph.initializer)))
        number = draw(st.sampled_from(ODD))
        if edit == "dims" and tensor.dims:
            tensor.dims[draw(st.integers(0, len(tensor.dims) - 1))] = number
        elif edit == "ints":
            for attribute in node.attribute:
                attribute.i = number
                attribute.ints[:] = [number] * len(attribute.ints)
        elif edit == "type":
            tensor.data_type = number % 2**31
        elif edit == "name" and node.input:
            node.input[draw(st.integers(0, len(node.input) - 1))] = draw(st.sampled_from(names))
        elif edit == "output" and node.output:
            node.output[0] = draw(st.sampled_from(names))
        elif edit == "op":
            node.op_type = draw(
                st.sampled_from(["Expand", "Tile", "Range", "Loop", "Identity", "Add", "Concat", "Split", "\x1b"])
            )
        elif edit == "value":
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    values = np.full(4, number)
                    attribute.t.CopyFrom(onnx.numpy_helper.from_array(values))
        elif edit == "input":
            del graph.input[:]
        elif edit == "external":
            tensor.data_location = 1
            place = draw(st.sampled_from(["../net.onnx", "/etc/passwd", "net.onnx", "\0", "."]))
            for key, value in (("location", place), ("offset", str(number)), ("length", str(2**40))):
                tensor.external_data.add(key=key, value=value)
        elif edit == "opset":
            model.opset_import[0].version = number
    return {"net.onnx": model.SerializeToString()}


@reads("onnx", onnx_files)
def read_onnx(folder: Path) -> object:
    import gpucnn

    return repr(gpucnn.onnx.load(folder / "net.onnx", "cpu"))


# --- runs ----------------------------------------------------------------------------------------------------------------


@cache
def run_files() -> Files:
    """Return the files of a small run, links as copies."""
    from runs import trainer

    from gpucnn.data import ArrayDataset, Splits

    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (40, 1, 12, 12), np.uint8)
    part = ArrayDataset(images, np.arange(40) % 4)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "run")
        trainer(
            folder,
            splits=Splits("small", part, part),
            model="simple_convnet:filter_num=2,filter_size=3,hidden=4",
            epochs=1,
            batch_size=20,
            validation=10,
        ).train()
        (folder / ".lock").unlink(missing_ok=True)
        paths = [Path(here, name) for here, _, names in os.walk(folder, followlinks=True) for name in names]
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    return {name: content for name, content in files.items() if "/step-" not in name and not name.endswith(".tmp")}


def signed(state: Any) -> bytes:
    """Return a state as a checkpoint holds it, with a checksum that is right: damage that no checksum finds."""
    from gpucnn import checkpoint

    try:
        return checkpoint._signed(state)
    except (LookupError, TypeError, AttributeError):
        return as_json(state)


def state_files() -> st.SearchStrategy[Files]:
    name = "checkpoints/last/state.json"
    state = json.loads(run_files()[name])
    trees = st.one_of(
        damaged_tree([state]),
        damaged_tree([state["task"]]).map(lambda task: {**state, "task": task}),
        damaged_tree([state["task"]["structure"]]).map(lambda s: {**state, "task": {**state["task"], "structure": s}}),
    )
    contents = st.one_of(trees.map(signed), damaged([run_files()[name]]))
    return contents.map(lambda content: {**run_files(), name: content})


@reads("state", state_files)
def read_state(folder: Path) -> object:
    from gpucnn.training import RunFolder, SavedModel

    saved = SavedModel.load(RunFolder.open(folder), "cpu", "last")
    return saved.class_names, saved.image_shape


@reads("resume", state_files)
def resume(folder: Path) -> object:
    from runs import resumed

    from gpucnn.data import ArrayDataset, Splits

    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (40, 1, 12, 12), np.uint8)
    part = ArrayDataset(images, np.arange(40) % 4)
    continued = resumed(
        folder,
        splits=Splits("small", part, part),
        model="simple_convnet:filter_num=2,filter_size=3,hidden=4",
        epochs=2,
        batch_size=20,
        validation=10,
    )
    continued.folder.release()
    return continued.step


def checkpoint_files() -> st.SearchStrategy[Files]:
    good = run_files()
    names = [name for name in good if name.startswith("checkpoints/last/")]
    return st.sampled_from(sorted(names)).flatmap(
        lambda name: damaged([good[name]]).map(lambda content: {**good, name: content})
    )


reads("checkpoint", checkpoint_files)(read_state)


def config_files() -> st.SearchStrategy[Files]:
    import tomllib

    good = run_files()["config.toml"]
    trees = damaged_tree(
        [
            {
                **tomllib.loads(good.decode()),
                "augment": "shift=2,rotate=10",
                "target_accuracy": 0.5,
                "val_split": 0.1,
                "validation": 5,
            }
        ],
        2,
    )
    flat = trees.filter(lambda tree: isinstance(tree, dict))
    return st.one_of(flat.map(as_toml), damaged([good])).map(lambda content: {"config.toml": content})


@reads("config", config_files)
def read_config(folder: Path) -> object:
    from gpucnn.training import Settings, check_named, read_toml

    settings = Settings(**read_toml(folder / "config.toml")).resolved()
    check_named(settings)
    return settings


def report_files() -> st.SearchStrategy[Files]:
    good = run_files()
    lines = [json.loads(line) for line in good["metrics.jsonl"].splitlines()]
    metrics = damaged_tree([lines]).map(
        lambda tree: b"\n".join(map(as_json, tree if isinstance(tree, list) else [tree]))
    )
    about = damaged_tree([json.loads(good["environment.json"])]).map(as_json)
    return st.one_of(
        st.one_of(metrics, damaged([good["metrics.jsonl"]])).map(lambda content: {**good, "metrics.jsonl": content}),
        st.one_of(about, damaged([good["environment.json"]])).map(
            lambda content: {**good, "environment.json": content}
        ),
        damaged([good["first-filters.safetensors"]]).map(lambda content: {**good, "first-filters.safetensors": content})
        if "first-filters.safetensors" in good
        else st.nothing(),
    )


@reads("report", report_files)
def draw_report(folder: Path) -> object:
    from gpucnn import inspect, nn
    from gpucnn.cli.run_report import gather
    from gpucnn.training import RunFolder

    run = RunFolder.open(folder)
    return len(inspect.report(gather(run, "title", "state", {}, nn.Sequential(nn.Conv2d(1, 2, 3)), None, None, None)))
