"""``gpucnn export``, and ``predict`` and ``summary`` of ONNX files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import assert_refused, gpucnn, write_npz

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
helper, numpy_helper = onnx.helper, onnx.numpy_helper


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained run."""
    folder = tmp_path_factory.mktemp("trained")
    data = write_npz(folder / "small.npz")
    done = gpucnn(
        "train", "--data", data, "--model", "simple_convnet:filter_num=4,hidden=16", "--epochs", "2", "--validation", "0",
        "--out", folder / "run", "--device", "cpu",
    )  # fmt: skip
    assert done.code == 0, done.err
    return folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The trained run, and an empty working folder."""
    monkeypatch.chdir(tmp_path)
    return trained


def picture(name: str, size: int = 28, channels: int = 1) -> str:
    from PIL import Image

    pixels = np.random.default_rng(3).integers(0, 256, (size, size, channels), np.uint8)
    Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).save(name)
    return name


def test_what_is_exported_is_predicted_as_the_run_does(run: Path) -> None:
    done = gpucnn("export", run, "model.onnx")
    assert done.code == 0, done.err
    first, second = done.out.splitlines()
    assert first.startswith("model.onnx: ")
    assert "onnxruntime: its probabilities differ from gpucnn's by at most" in second
    image = picture("a.png")
    ours, theirs = (gpucnn("predict", source, image, "--json", "--top", "3") for source in (run, "model.onnx"))
    assert theirs.code == 0, theirs.err
    wanted, found = (json.loads(one.out)["answers"] for one in (ours, theirs))
    assert [a["class"] for a in found] == [a["class"] for a in wanted]
    assert [a["probability"] for a in found] == pytest.approx([a["probability"] for a in wanted], abs=1e-5)
    about = {entry.key: entry.value for entry in onnx.load("model.onnx").metadata_props}
    environment = json.loads((run / "environment.json").read_text())
    assert about["gpucnn.run"] == "run"
    assert about["gpucnn.data_sha256"] == environment["data"]["sha256"]
    assert about["gpucnn.date"] == environment["date"]
    assert len(json.loads(about["gpucnn.classes"])) == 10


def test_raw_files_say_how_they_read_images(run: Path) -> None:
    assert gpucnn("export", run, "raw.onnx", "--raw", "--opset", "13", "--batch", "4").code == 0
    model = onnx.load("raw.onnx")
    assert model.opset_import[0].version == 13
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4
    image = picture("a.png")
    ours, theirs = (gpucnn("predict", source, image, "--json") for source in (run, "raw.onnx"))
    (wanted,), (found,) = (json.loads(one.out)["answers"] for one in (ours, theirs))
    assert found["class"] == wanted["class"]
    assert found["probability"] == pytest.approx(wanted["probability"], abs=1e-5)


def test_export_in_json_and_its_refusals(run: Path) -> None:
    done = gpucnn("export", run, "model.onnx", "--json")
    told = json.loads(done.out)
    assert told["file"] == "model.onnx"
    assert told["bytes"] == Path("model.onnx").stat().st_size
    assert told["difference"] < 1e-5
    before = Path("model.onnx").read_bytes()
    assert_refused(gpucnn("export", run, "model.onnx"), 2, "Pass --overwrite")
    assert Path("model.onnx").read_bytes() == before
    assert gpucnn("export", run, "model.onnx", "--overwrite", "--opset", "18").code == 0
    assert_refused(gpucnn("export", run, "other.onnx", "--opset", "12"), 2, "--opset: expected an int from 13")
    assert_refused(gpucnn("export", run, "other.onnx", "--batch", "many"), 2, "expected dynamic, or a number of images")
    assert_refused(gpucnn("export", run, "nowhere/other.onnx"), 1, "cannot be written")
    assert_refused(gpucnn("export", "nowhere", "other.onnx"), 2, "nowhere")
    assert not Path("other.onnx").exists()


def foreign(path: str, shape: list[Any]) -> None:
    """Write a classifier of another program: it takes floats, gives scores of 3 classes and says nothing about itself."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["a"]),
        helper.make_node("Flatten", ["a"], ["b"]),
        helper.make_node("Gemm", ["b", "w", "c"], ["y"], name="fc", transB=1),
    ]
    constants = {"w": rng.standard_normal((3, 3)).astype(np.float32) * 9, "c": np.zeros(3, np.float32)}
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, shape)], [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_a_file_of_another_program_is_read_as_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    foreign("f.onnx", ["N", 3, 16, 16])
    image = picture("a.png", 16, 3)
    from PIL import Image

    pixels = np.asarray(Image.open(image)).transpose(2, 0, 1)[None] / 255
    session = onnxruntime.InferenceSession("f.onnx", providers=["CPUExecutionProvider"])

    def wanted(mean: Any, std: Any) -> Any:
        x = (pixels - np.reshape(mean, (-1, 1, 1))) / np.reshape(std, (-1, 1, 1))
        (y,) = session.run(None, {"x": x.astype(np.float32)})
        return (np.exp(y) / np.exp(y).sum())[0].tolist()

    def found(*options: str) -> Any:
        done = gpucnn("predict", "f.onnx", image, "--json", "--top", "3", *options)
        assert done.code == 0, done.err
        answers = {a["class"]: a["probability"] for a in json.loads(done.out)["answers"]}
        return [answers[str(i)] for i in range(3)], done.err

    values, words = found()
    assert values == pytest.approx(wanted(0, 1), abs=1e-5)
    assert words.startswith("Note: the file does not say how it reads images")
    values, words = found("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")
    assert values == pytest.approx(wanted([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), abs=1e-5)
    assert not words
    assert found("--mean", "0.5")[0] == pytest.approx(wanted(0.5, 1), abs=1e-5)
    for options, refusal in (
        (("--mean", "x"), "--mean: expected numbers"),
        (("--std", "0"), "--std: expected positive numbers"),
        (("--mean", "1,2"), "--mean: expected 1 or 3 numbers, got 2"),
        (("--checkpoint", "best"), "--checkpoint: for run folders"),
    ):
        assert_refused(gpucnn("predict", "f.onnx", image, *options), 2, refusal)
    foreign("any.onnx", ["N", 3, None, None])
    assert_refused(gpucnn("predict", "any.onnx", image), 2, "Give --image-size")
    assert gpucnn("predict", "any.onnx", image, "--image-size", "16").code == 0
    foreign("flat.onnx", ["N", 3])
    assert_refused(gpucnn("predict", "flat.onnx", image), 1, "one of images (N, C, H, W)")
    Path("broken.onnx").write_bytes(b"nothing of the kind")
    assert_refused(gpucnn("predict", "broken.onnx", image), 1, "not an ONNX model")


def test_damaged_metadata_is_told(run: Path) -> None:
    assert gpucnn("export", run, "model.onnx").code == 0
    model = onnx.load("model.onnx")
    for entry in model.metadata_props:
        if entry.key == "gpucnn.input":
            entry.value = '{"shape": [1, 28, 28], "mean": [1, 2], "std": [1]}'
    onnx.save(model, "model.onnx")
    assert_refused(gpucnn("predict", "model.onnx", picture("a.png")), 1, "the metadata is damaged")


def test_options_of_onnx_files_are_refused_for_runs(run: Path) -> None:
    assert_refused(gpucnn("predict", run, picture("a.png"), "--mean", "0.5"), 2, "--mean: for ONNX files")


def test_the_summary_of_a_file_counts_by_node(run: Path) -> None:
    assert gpucnn("export", run, "model.onnx", "--raw").code == 0
    done = gpucnn("summary", "model.onnx", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    ours = json.loads(gpucnn("summary", "simple_convnet:filter_num=4,hidden=16", "--json").out)
    assert found["parameters"] == ours["parameters"]
    assert found["multiply_adds"] == ours["multiply_adds"]
    convolution = next(row for row in found["layers"] if row["kind"] == "Conv")
    wanted = next(row for row in ours["layers"] if row["kind"] == "Conv2d")
    for key in ("output_shape", "parameters", "multiply_adds", "im2col_bytes"):
        assert convolution[key] == wanted[key]
    assert "Gemm" in gpucnn("summary", "model.onnx").out
    foreign("any.onnx", ["N", 3, None, None])
    assert_refused(gpucnn("summary", "any.onnx"), 1, "Give --input-shape")
    assert gpucnn("summary", "any.onnx", "--input-shape", "3,8,8").code == 0
