"""Download the data sets known by name, once, into a cache folder (needs pooch, the ``download`` extra)."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gpucnn.data.cache import cache_home
from gpucnn.data.sources import SOURCES, File, Source
from gpucnn.errors import DataError, how_to_add

TIMEOUT = 30.0
"""Timeout in seconds without a byte, after which the next mirror is tried."""

ROUNDS = 2
"""Attempts per mirror."""

PIECE = 2**16

TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}
"""Folders where torchvision stores the same files."""


def fetch(name: str) -> Path:
    """Return the folder that holds the files of the data set ``name``, one of ``SOURCES``; missing files are downloaded.

    The folder is in ``GPUCNN_CACHE``, by default the platform's cache folder. Each file is compared with its SHA-256 at
    every call and is stored whole or not at all. DataError, with the steps to do by hand, if a download fails or pooch is
    missing.
    """
    source = SOURCES[name]
    try:
        import pooch
    except ImportError:
        raise DataError(
            f"{name}: downloading needs pooch. Install it: {how_to_add('download')}\n{_by_hand(name, source)}"
        ) from None
    pooch.get_logger().setLevel("WARNING")
    folder = cache_folder(name)
    for file in source.files:
        _fetch_file(name, source, file, folder)
    return folder


def offline_folder(name: str) -> Path | None:
    """Return the folder of a data set under ``GPUCNN_DATA``; None if there is none."""
    home = os.environ.get("GPUCNN_DATA")
    names = (name, TORCHVISION[name]) if name in TORCHVISION else (name,)  # the second is what torchvision calls it
    folders = [expanded(home) / each for each in names] if home else []
    return next((folder for folder in folders if folder.is_dir()), None)


def expanded(path: str) -> Path:
    """Return a path with ~ expanded; DataError for an unknown user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise DataError(f"{path}: there is no such user, or no home folder.") from None


def cache_folder(name: str) -> Path:
    """Return the folder that the data set ``name`` is downloaded to; DataError if the system names no cache folder."""
    home = cache_home()
    if home is None:
        raise DataError(f"{name}: there is no home folder to keep it in. Set GPUCNN_CACHE to a folder.")
    return home / name


def whereabouts(name: str) -> str:
    """Return a sentence on where a named data set is stored, or how large its download is."""
    source = SOURCES[name]
    if (folder := offline_folder(name)) is not None:
        return str(folder)
    home = cache_home()
    if home is not None and all((home / name / file.name).is_file() for file in source.files):
        return str(home / name)
    if importlib.util.find_spec("pooch") is None:
        return f"not here; downloading needs {how_to_add('download')}"
    return f"not here; {sum(file.size for file in source.files) / 1e6:.0f} MB to download"


def _fetch_file(name: str, source: Source, file: File, folder: Path) -> None:
    import pooch
    from requests import RequestException

    def get(url: str, output_file: str, caller: Any) -> None:
        pooch.HTTPDownloader(
            progressbar=_bar(file, Path(output_file)),
            chunk_size=PIECE,
            timeout=TIMEOUT,
            headers={"Accept-Encoding": "identity"},  # a .gz file comes as it is
        )(url, output_file, caller)
        Path(output_file).chmod(0o644)  # pooch's temporary files are for their owner alone; a cache may be shared

    faults = {}
    for mirror in source.mirrors * ROUNDS:
        host = urlsplit(mirror).netloc
        try:
            pooch.retrieve(mirror + file.name, f"sha256:{file.sha256}", file.name, folder, downloader=get)
            return
        except RequestException as error:
            faults[host] = _why(error)
        except ValueError:
            faults[host] = "sent something else than the published file"
        except OSError as error:
            raise DataError(
                f"{folder}: cannot be written ({error.strerror or error}). Set GPUCNN_CACHE to a folder with free space."
            ) from None
    reasons = "; ".join(f"{host} {fault}" for host, fault in faults.items())
    raise DataError(f"{name}: {file.name} could not be downloaded ({reasons}).\n{_by_hand(name, source)}")


def _bar(file: File, arriving: Path) -> Any:
    """Return a progress bar shown on terminals only, which aborts a download longer than the file."""
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[misc]  # it has no types
        def __bool__(self) -> bool:
            return True  # pooch asks before each update, and tqdm says no where the server gave no length

        def update(self, n: float = 1) -> None:
            size = arriving.stat().st_size
            if size > file.size:
                raise ValueError("longer than the published file")
            super().update(size - self.n)

    return Bar(total=file.size, desc=file.name, unit="B", unit_scale=True, leave=False, disable=None)


def _why(error: Exception) -> str:
    from requests import ConnectionError, HTTPError, Timeout
    from requests.exceptions import ChunkedEncodingError

    if isinstance(error, HTTPError) and error.response is not None:
        return f"answered {error.response.status_code} {error.response.reason or ''}".rstrip()
    if isinstance(error, Timeout) or "timed out" in str(error):
        return f"sent nothing for {TIMEOUT:g} seconds"
    if isinstance(error, ChunkedEncodingError):
        return "broke off"
    return "cannot be reached" if isinstance(error, ConnectionError) else f"failed ({type(error).__name__})"


def _by_hand(name: str, source: Source) -> str:
    files = ", ".join(file.name for file in source.files)
    return f"By hand: put {files} from {source.mirrors[0]} into a folder {name}, and set GPUCNN_DATA to the folder above it."
