"""Inputs that once did harm: those of issues, made here; those that a campaign found, in archives under ``known/``."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.damage import as_json
from fuzz.formats import (
    Files,
    cifar_files,
    gzipped,
    idx_files,
    npy,
    packed,
    run_files,
    signed,
    small_nets,
    tarred,
    zipped,
)

STATE = "checkpoints/last/state.json"


def known() -> Iterator[tuple[str, str, Files]]:
    """Yield format, words and files of each."""
    for archive in sorted(Path(__file__).with_name("known").glob("*.zip")):
        with zipfile.ZipFile(archive) as members:
            files = {name: members.read(name) for name in members.namelist()}
        yield archive.stem.partition("--")[0].replace("_", " "), archive.stem, files
    yield from data_sets()
    yield from pictures()
    yield from networks()
    yield from runs()


def idx_head(*lengths: int, kind: int = 8) -> bytes:
    return bytes([0, 0, kind, len(lengths)]) + b"".join(struct.pack(">I", length) for length in lengths)


def data_sets() -> Iterator[tuple[str, str, Files]]:
    images = "train-images-idx3-ubyte"
    good = idx_files()
    yield "idx", "a zero length", {**good, images: idx_head(6, 0, 5)}
    yield "idx", "a length of nothing at all", {**good, images: idx_head(0, 2**32 - 1, 2**32 - 1)}
    yield "idx", "lengths whose product is beyond 64 bits", {**good, images: idx_head(2**32 - 1, 2**32 - 1, 2**32 - 1)}
    bomb = gzip.compress(idx_head(2**31, 2, 2) + bytes(10), 9, mtime=0)
    yield (
        "idx.gz",
        "a header that claims 8 GiB",
        {**{f"{n}.gz": gzipped(c) for n, c in good.items()}, f"{images}.gz": bomb},
    )
    endless = gzip.compress(idx_head(3, 2**14, 2**14) + bytes(3 * 2**28), 9, mtime=0)
    yield (
        "idx.gz",
        "780 KB that unpack to 768 MiB",
        {**{f"{n}.gz": gzipped(c) for n, c in good.items()}, f"{images}.gz": endless},
    )
    arrays = {"x_train.npy": npy(np.zeros((4, 5, 5), np.uint8)), "y_train.npy": npy(np.arange(4)),
              "x_test.npy": npy(np.zeros((4, 5, 5), np.uint8)), "y_test.npy": npy(np.arange(4))}  # fmt: skip
    yield (
        "npz",
        "a header of 44 KB",
        {"data.npz": zipped({**arrays, "x_train.npy": b"\x93NUMPY\x01\x00\xf0\xaa" + b"{" * 43760})},
    )
    yield "npz", "names without end", {"data.npz": zipped({"x" * 60_000: b"", "\x1b[2J": b""})}
    yield (
        "npz",
        "zeros without end",
        {"data.npz": zipped({**arrays, "x_train.npy": npy(np.zeros((600, 1024, 1024), np.uint8))})},
    )
    yield (
        "cifar",
        "a member that is no file",
        {
            "cifar-10-binary.tar.gz": gzipped(
                tarred({**cifar_files(), "x": b""}).replace(b"test_batch.bin", b"../../../x.bin")
            )
        },
    )


def pictures() -> Iterator[tuple[str, str, Files]]:
    from PIL import Image

    def saved(picture: Any, form: str, **options: Any) -> Files:
        file = io.BytesIO()
        picture.save(file, form, **options)
        return {"a.png": file.getvalue(), "how": b"grey"}

    yield "picture", "LAB", saved(Image.new("LAB", (9, 9)), "TIFF")
    yield (
        "picture",
        "a TIFF of 300 KB with 45 million pixels",
        saved(Image.new("RGB", (9000, 5000)), "TIFF", compression="tiff_deflate"),
    )
    yield (
        "picture",
        "a PNG with 49 million pixels of 16 bits",
        saved(Image.fromarray(np.zeros((7000, 7000), np.uint16)), "PNG"),
    )
    yield "picture", "a progressive JPEG of 300 scans", {"a.png": many_scans(4000, 300), "how": b"colour"}


def many_scans(side: int, scans: int) -> bytes:
    """Return a progressive JPEG whose last scan is repeated: each takes as long to decode as the image is large."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("L", (side, side), 200).save(file, "JPEG", progressive=True, quality=50)
    content = file.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * scans + content[-2:]


def layer(kind: str, **arguments: Any) -> dict[str, Any]:
    return {"layer": kind, "arguments": arguments}


def networks() -> Iterator[tuple[str, str, Files]]:
    _, weights = small_nets()[0]
    large = layer("Linear", in_features=2**14, out_features=2**14)
    yield "structure", "79 bytes for 1 GiB of weights", {"net.json": as_json(large)}
    yield (
        "model",
        "a large layer without its weights",
        {"net.safetensors": packed(weights, {"gpucnn.structure": json.dumps(large)})},
    )
    deep: Any = layer("ReLU")
    for _ in range(200):
        deep = {"layer": "Sequential", "children": [["0", deep]]}
    yield "structure", "200 levels", {"net.json": as_json(deep)}
    yield (
        "model",
        "a structure too deep for JSON",
        {"net.safetensors": packed(weights, {"gpucnn.structure": "[" * 200_000})},
    )
    yield (
        "model",
        "NaN for a rate",
        {"net.safetensors": packed(weights, {"gpucnn.structure": json.dumps(layer("Dropout", p=float("nan")))})},
    )


def runs() -> Iterator[tuple[str, str, Files]]:
    good = run_files()
    state = json.loads(good[STATE])

    def with_task(**changes: Any) -> Files:
        return {**good, STATE: signed({**state, "sha256": dict(state["sha256"]), "task": {**state["task"], **changes}})}

    wide = {
        "layer": "Sequential",
        "children": [["0", layer("AdaptiveAvgPool2d", output_size=30000)], ["1", layer("Flatten")]],
    }
    yield "state", "AdaptiveAvgPool2d(30000)", with_task(structure=wide)
    yield "state", "an image of 16384 x 16384", with_task(image_shape=[1, 16384, 16384])
    yield "state", "NaN among the means", with_task(mean=[float("nan")])
    yield (
        "resume",
        "NaN for a sum",
        {**good, STATE: good[STATE].replace(b'"best_accuracy": ', b'"best_accuracy": NaN, "x": ')},
    )
    yield "state", "lists in lists", {**good, STATE: b"[" * 200_000}
    yield "config", "lists in lists", {"config.toml": b"model = " + b"[" * 50_000}
    yield "config", "10^400", {"config.toml": b"lr = 1" + b"0" * 400 + b"\n"}
    yield "config", "10^400 for a count", {"config.toml": b"epochs = 1" + b"0" * 400 + b"\n"}
    yield "config", "5,000 digits", {"config.toml": b"seed = 1" + b"0" * 5000 + b"\n"}
    yield "config", "an unknown home", {"config.toml": b'data = "~nosuchuser/x"\n'}
    yield "config", "no UTF-8", {"config.toml": b'data = "\xff"\n'}
    metrics = "metrics.jsonl"
    yield "report", "lists in lists", {**good, metrics: b"[" * 200_000 + b"\n"}
    yield "report", "an accuracy for no epoch", {**good, metrics: b'{"step": 5, "epoch": 1, "train_loss": 1.0}\n'}
    yield "report", "10^400", {**good, metrics: b'{"step": 5, "epoch": 1, "train_loss": 1' + b"0" * 400 + b"}\n"}
