"""Downloads from a server on this machine that behaves badly in every way that a server can."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import assert_refused, gpucnn, idx

from gpucnn.data import SOURCES, download, fetch, load
from gpucnn.data.sources import File, Source
from gpucnn.errors import DataError

pytest.importorskip("pooch", reason="pooch (the download extra) is not installed")

SHAPES = {"train": 12, "t10k": 6}
NAMES = [f"{part}-{kind}-ubyte.gz" for part in SHAPES for kind in ("images-idx3", "labels-idx1")]


def content(name: str) -> bytes:
    """Return the bytes of one of the four files, large enough to be cut in the middle."""
    count, rng = SHAPES[name.partition("-")[0]], np.random.default_rng(len(name))
    array = rng.integers(0, 256, (count, 40, 40), np.uint8) if "images" in name else np.arange(count) % 10
    return gzip.compress(idx(array.astype(np.uint8)), mtime=0)


FILES = {name: content(name) for name in NAMES}


class Server(ThreadingHTTPServer):
    """Serves ``FILES`` below each path; ``ways`` says how: one way for each request, the last one for all that follow."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ways: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.sent = 0
        self.gone = threading.Event()

    def handle_error(self, request: Any, address: Any) -> None:  # a client that gives up is what is tested
        pass

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        mirror, name = self.path.strip("/").split("/")
        self.server.asked.append(self.path)
        ways = self.server.ways.get(mirror, ["good"])
        way = ways.pop(0) if len(ways) > 1 else ways[0]
        body = FILES[name]
        if way.isdigit():
            self.send_error(int(way))
            return
        if way == "redirect":
            self.send_response(302)
            self.send_header("Location", f"{self.server.url}/good/{name}")
            self.end_headers()
            return
        if way == "in circles":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.end_headers()
            return
        self.send_response(200)
        if way not in ("endless", "no length"):
            self.send_header("Content-Length", str(len(body)))
        if way == "encoded":
            assert self.headers["Accept-Encoding"] == "identity"
        self.end_headers()
        if way == "corrupt":
            self.wfile.write(body[:9] + bytes([body[9] ^ 1]) + body[10:])
        elif way == "page":
            self.wfile.write(b"<html>Log in to this network</html>".ljust(len(body)))
        elif way == "truncate":
            self.wfile.write(body[: len(body) // 2])
        elif way == "stall":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.server.gone.wait(20)
        elif way == "endless":
            deadline = time.monotonic() + 2
            while time.monotonic() < deadline:  # until the client leaves
                self.server.sent += self.wfile.write(bytes(2**16))
        else:
            self.wfile.write(body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server with two mirrors, "one" and "two", of a data set that takes kmnist's place; an empty cache."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        files = tuple(File(name, len(body), hashlib.sha256(body).hexdigest()) for name, body in FILES.items())
        mirrors = (f"{server.url}/one/", f"{server.url}/two/")
        monkeypatch.setitem(SOURCES, "kmnist", Source("small", SOURCES["kmnist"].class_names, mirrors, files))
        monkeypatch.setenv("GPUCNN_CACHE", str(tmp_path / "cache"))
        monkeypatch.delenv("GPUCNN_DATA", raising=False)
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(download, "TIMEOUT", 0.3 if "stall" in request.node.name else 10)
        yield server
        server.gone.set()
        server.shutdown()
        thread.join()


def test_each_file_is_fetched_once_and_kept(server: Server, tmp_path: Path) -> None:
    splits = load("kmnist")
    assert (splits.name, len(splits.train), len(splits.test)) == ("kmnist", 12, 6)
    assert splits.train.class_names[:3] == ["o", "ki", "su"]
    assert server.asked == [f"/one/{name}" for name in NAMES]
    assert {path.name: path.read_bytes() for path in (tmp_path / "cache" / "kmnist").iterdir()} == FILES
    load("kmnist")
    assert len(server.asked) == 4, "the second run makes no request"


@pytest.mark.parametrize("way", ["redirect", "no length", "encoded"])
def test_other_ways_that_are_right(server: Server, way: str) -> None:
    server.ways["one"] = [way]
    assert len(load("kmnist").train) == 12
    assert not any(path.startswith("/two") for path in server.asked)


BAD = {
    "404": "answered 404",
    "500": "answered 500",
    "503": "answered 503",
    "truncate": "broke off",
    "stall": "sent nothing for 0.3 seconds",
    "corrupt": "sent something else",
    "page": "sent something else",
    "endless": "sent something else",
    "in circles": "failed (TooManyRedirects)",
}


@pytest.mark.parametrize("way", BAD)
def test_a_bad_mirror_leads_to_the_next(server: Server, tmp_path: Path, way: str) -> None:
    server.ways["one"] = [way]
    folder = fetch("kmnist")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    assert [path for path in server.asked if path.startswith("/two")] == [f"/two/{name}" for name in NAMES]
    assert server.sent < 4 * 2**24, "an endless answer is not read to its end"


@pytest.mark.parametrize("way", BAD)
def test_a_mirror_that_was_bad_once_is_tried_again(server: Server, way: str) -> None:
    server.ways = {"one": [way, "good"], "two": ["404"]}
    folder = fetch("kmnist")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES


@pytest.mark.parametrize("way", BAD)
def test_where_all_mirrors_are_bad_nothing_is_left_and_the_steps_are_said(
    server: Server, tmp_path: Path, way: str
) -> None:
    server.ways = {"one": [way], "two": [way]}
    with pytest.raises(DataError) as caught:
        load("kmnist")
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"kmnist: {NAMES[0]} could not be downloaded (127.0.0.1:")
    assert BAD[way] in first
    assert second.startswith(f"By hand: put {', '.join(NAMES)} from {server.url}/one/ into a folder kmnist")
    assert "GPUCNN_DATA" in second
    assert list((tmp_path / "cache" / "kmnist").iterdir()) == []
    server.ways = {}
    assert len(load("kmnist").train) == 12


def test_files_that_arrived_before_a_fault_are_not_fetched_again(server: Server) -> None:
    server.ways = {"one": ["good", "good", "404"], "two": ["404"]}
    with pytest.raises(DataError):
        fetch("kmnist")
    server.ways, server.asked = {}, []
    fetch("kmnist")
    assert server.asked == [f"/one/{name}" for name in NAMES[2:]]


def test_a_file_damaged_in_the_cache_is_fetched_again(server: Server) -> None:
    path = fetch("kmnist") / NAMES[1]
    path.write_bytes(path.read_bytes()[:-1])
    server.asked.clear()
    fetch("kmnist")
    assert server.asked == [f"/one/{NAMES[1]}"]
    assert path.read_bytes() == FILES[NAMES[1]]


def test_no_network(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = Server()
    nobody.server_close()
    monkeypatch.setitem(SOURCES, "kmnist", Source("", ("a",), (f"{nobody.url}/one/",), SOURCES["kmnist"].files))
    with pytest.raises(DataError, match=r"127\.0\.0\.1:\d+ cannot be reached\)\.\nBy hand: put train-images"):
        load("kmnist")


def test_the_offline_folder_comes_first(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kmnist").mkdir()
    for name, body in FILES.items():
        (tmp_path / "kmnist" / name.removesuffix(".gz")).write_bytes(gzip.decompress(body))
    monkeypatch.setenv("GPUCNN_DATA", str(tmp_path))
    splits = load("kmnist")
    assert (splits.name, splits.train.class_names[0]) == ("kmnist", "o")
    assert server.asked == []
    (tmp_path / "kmnist").rename(tmp_path / "other")
    load("kmnist")
    assert len(server.asked) == 4, "what is not there is downloaded"


def test_a_cache_that_cannot_be_written(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GPUCNN_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot be written .* Set GPUCNN_CACHE"):
        fetch("kmnist")


def test_without_pooch(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(DataError, match=r"pip install 'gpucnn\[download\]'\nBy hand: put train-images"):
        load("kmnist")


def test_from_the_command_line(server: Server, tmp_path: Path) -> None:
    result = gpucnn("data", "download", "kmnist")
    assert (result.code, result.out) == (0, f"kmnist: {tmp_path / 'cache' / 'kmnist'}\n")
    assert f"kmnist         small: {tmp_path / 'cache' / 'kmnist'}" in gpucnn("data", "list").out
    server.ways = {"one": ["404"], "two": ["500"]}
    for path in fetch("kmnist").iterdir():
        path.unlink()
    assert_refused(gpucnn("train", "--data", "kmnist", "--device", "cpu"), 1, "could not be downloaded", "By hand: put")


def test_others_may_read_what_is_in_a_shared_cache(server: Server) -> None:
    before = os.umask(0o022)
    try:
        assert {oct(path.stat().st_mode & 0o777) for path in fetch("kmnist").iterdir()} == {"0o644"}
    finally:
        os.umask(before)


def test_progress_is_shown_on_terminals_only(server: Server) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for screen, shown in ((Terminal(), True), (io.StringIO(), False)):
        for path in fetch("kmnist").iterdir():
            path.unlink()
        with contextlib.redirect_stderr(screen):
            fetch("kmnist")
        assert (NAMES[0] in screen.getvalue()) == shown
        assert "Downloading" not in screen.getvalue(), "pooch's own log"


def test_two_at_once_do_not_disturb_each_other(server: Server) -> None:
    faults: list[BaseException] = []

    def run() -> None:
        try:
            fetch("kmnist")
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert faults == []
    assert {path.name: path.read_bytes() for path in fetch("kmnist").iterdir()} == FILES


@pytest.mark.parametrize("name", list(SOURCES))
def test_what_is_known_of_each_source(name: str) -> None:
    source = SOURCES[name]
    assert len(source.class_names) == len(set(source.class_names)) == 10
    for file in source.files:
        assert re.fullmatch("[0-9a-f]{64}", file.sha256)
        assert 4000 < file.size < 2**28
    assert all(mirror.startswith(("https://", "http://")) and mirror.endswith("/") for mirror in source.mirrors)
    assert len(source.mirrors) >= 2


def test_no_two_files_share_a_sum() -> None:
    sums = [file.sha256 for source in SOURCES.values() for file in source.files]
    assert len(sums) == len(set(sums)) == 13
