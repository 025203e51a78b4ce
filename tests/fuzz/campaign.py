"""Read many damaged files: ``python -m fuzz.campaign --count N``; exit code 1 where one did harm.

Each input is read in a process whose memory may grow by 1 GiB and within 5 seconds of CPU; it must give a result or one of
gpucnn's own errors, in at most two lines. The seed decides which inputs there are. ``--keep FOLDER`` keeps those that did
harm, as archives that ``tests/fuzz/known`` takes.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gpucnn

CPU_SECONDS = 5
MEMORY = 2**30
LONGEST_MESSAGE = 1000
BATCH = 400
"""Inputs that one process reads."""
WALL_SECONDS = 600
"""Seconds after which a process is taken for one that hangs."""


class TooSlowError(BaseException):
    """An input took more CPU than is allowed. Not an Exception: no loader mistakes it for a damaged file."""


def harm_of(read: Any, folder: Path, accepted: list[int] | None = None) -> str | None:
    """Return what reading the files of a folder did wrong, in a line; None where it is right.

    accepted: its first number is raised where the files were read.
    """
    from gpucnn.errors import GpucnnError

    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        read(folder)
        if accepted is not None:
            accepted[0] += 1
    except GpucnnError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, (MemoryError, TooSlowError)):
                return f"{type(cause).__name__} behind {type(error).__name__} at {_place(cause)}"
            cause = cause.__cause__ or cause.__context__
        if len(str(error)) > LONGEST_MESSAGE or str(error).count("\n") > 1:
            return f"a message of {len(str(error)):,} characters at {_place(error)}"
    except (Exception, TooSlowError) as error:
        return f"{type(error).__name__} at {_place(error)}: {str(error)[:200]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return None


def _place(error: BaseException) -> str:
    """Return the innermost line of gpucnn's that an error went through."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f"{os.sep}gpucnn{os.sep}" in f.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "?"


def bound_this_process() -> None:
    """Let this process have 1 GiB more than it has now, and be told when an input has taken its seconds."""
    import resource

    def too_slow(number: int, frame: Any) -> None:
        raise TooSlowError(f"more than {CPU_SECONDS} s")

    signal.signal(signal.SIGPROF, too_slow)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def read_batch(name: str, seed: int, count: int, work: Path) -> None:
    """Read ``count`` inputs of a format; ``at`` says which is being read, ``harm`` what was found."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded

    from fuzz.formats import FORMATS

    warnings.simplefilter("ignore")
    kind = FORMATS[name]
    folder, played, slowest, accepted = work / "input", 0, 0.0, [0]
    found: list[dict[str, Any]] = []
    with (work / "harm").open("w") as harms:

        @seeded(seed)
        @settings(
            max_examples=count, database=None, deadline=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(kind.files())
        def read_one(files: dict[str, bytes]) -> None:
            nonlocal played, slowest
            if not played:
                bound_this_process()
            write_files(folder, files)
            (work / "at").write_text(str(played))
            begun = time.process_time()
            harm = harm_of(kind.read, folder, accepted)
            slowest = max(slowest, time.process_time() - begun)
            if harm is not None:
                found.append({"harm": harm, "index": played})
                shutil.copytree(folder, work / f"kept-{played}")
                harms.write(json.dumps(found[-1]) + "\n")
                harms.flush()
            played += 1

        read_one()
    (work / "done").write_text(json.dumps({"played": played, "slowest": slowest, "accepted": accepted[0]}))


def read_known(work: Path) -> None:
    """Read the inputs that once did harm; ``harm`` gets a line for each that does so still."""
    from fuzz.formats import FORMATS
    from fuzz.known import known

    warnings.simplefilter("ignore")
    inputs = list(known())
    bound_this_process()
    with (work / "harm").open("w") as harms:
        for index, (name, words, files) in enumerate(inputs):
            (work / "at").write_text(f"{name}: {words}")
            write_files(work / "input", files)
            if (harm := harm_of(FORMATS[name].read, work / "input")) is not None:
                harms.write(json.dumps({"harm": f"{name}: {words}: {harm}", "index": index}) + "\n")
                harms.flush()
    (work / "done").write_text(str(len(inputs)))


def play_known() -> tuple[int, list[str]]:
    """Have a process read the inputs that once did harm; return how many there are, and the harm that was done."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        end, said = _process(["--known-in", folder], work)
        found = [harm["harm"] for harm in _harms(work)]
        if not (work / "done").exists():
            at = (work / "at").read_text() if (work / "at").exists() else "no input"
            return 0, [*found, f"{at}: the process {end}: {said[-2000:]}"]
        return int((work / "done").read_text()), found


def _process(arguments: list[str], work: Path) -> tuple[str, str]:
    """Run this module in a process of its own; return in words how it ended, and what it said."""
    tests, installed = Path(__file__).parents[1], Path(gpucnn.__file__).parents[1]
    path = os.pathsep.join(map(str, (installed, tests, tests / "support")))
    env = {
        **os.environ, "PYTHONPATH": path, "GPUCNN_THREADS": "1", "GPUCNN_DEVICE": "cpu",
        "OPENBLAS_NUM_THREADS": "1", "HOME": str(work), "GPUCNN_CACHE": str(work / "cache"),
    }  # fmt: skip
    command = [sys.executable, "-m", "fuzz.campaign", *arguments]
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=WALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"hung for {WALL_SECONDS} s", ""
    return f"ended with {done.returncode}", done.stderr


def _harms(work: Path) -> list[dict[str, Any]]:
    path = work / "harm"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def play_batch(name: str, seed: int, count: int, keep: Path | None) -> dict[str, Any]:
    """Have a process read a batch; return how many inputs it read, the slowest, and the harm that was done."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        end, said = _process(["--batch", name, str(seed), str(count), folder], work)
        found = _harms(work)
        if (work / "done").exists():
            result = json.loads((work / "done").read_text())
        elif (work / "at").exists():
            index = int((work / "at").read_text())
            found.append({"harm": f"the process {end}: {said[-300:]}", "index": index})
            (work / "input").rename(work / f"kept-{index}")
            result = {"played": index + 1, "slowest": 0.0, "accepted": 0}
        else:
            raise RuntimeError(f"{name}: no input was read: {said[-3000:]}")
        for harm in found:
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                archive_input(
                    work / f"kept-{harm['index']}", keep / f"{name.replace(' ', '_')}--{seed}-{harm['index']}.zip"
                )
        return {**result, "format": name, "seed": seed, "harms": found}


def archive_input(folder: Path, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.writestr(zipfile.ZipInfo(file.relative_to(folder).as_posix()), file.read_bytes())


def play(count: int, seed: int, names: list[str], jobs: int, seconds: float, keep: Path | None) -> dict[str, Any]:
    """Have ``count`` inputs read, evenly over the formats, and return a report."""
    begun = time.monotonic()
    share, batches = -(-count // len(names)), []
    for start in range(0, share, BATCH):
        batches += [(name, seed * 1_000_000 + start, min(BATCH, share - start)) for name in names]

    def one(batch: tuple[str, int, int]) -> dict[str, Any] | None:
        return play_batch(*batch, keep) if time.monotonic() - begun < seconds else None

    with ThreadPoolExecutor(jobs) as pool:
        results = [result for result in pool.map(one, batches) if result is not None]
    formats = {name: {"inputs": 0, "accepted": 0, "slowest_seconds": 0.0} for name in names}
    harms: collections.Counter[str] = collections.Counter()
    first: dict[str, str] = {}
    for result in results:
        about = formats[result["format"]]
        about["inputs"] += result["played"]
        about["accepted"] += result["accepted"]
        about["slowest_seconds"] = round(max(about["slowest_seconds"], result["slowest"]), 2)
        for harm in result["harms"]:
            words = f"{result['format']}: {harm['harm']}"
            harms[words] += 1
            first.setdefault(words, f"seed {result['seed']}, input {harm['index']}")
    return {
        "seed": seed,
        "inputs": sum(about["inputs"] for about in formats.values()),
        "seconds": round(time.monotonic() - begun),
        "formats": formats,
        "harms": [{"harm": words, "times": times, "first": first[words]} for words, times in harms.most_common()],
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz.campaign", description=__doc__)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--format", action="append", dest="formats", help="only this format; may be given several times"
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no batch after so long")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that did harm")
    parser.add_argument("--batch", nargs=4, metavar=("FORMAT", "SEED", "COUNT", "WORK"), help=argparse.SUPPRESS)
    parser.add_argument("--known-in", type=Path, metavar="WORK", help=argparse.SUPPRESS)
    parser.add_argument("--known", action="store_true", help="only the inputs that once did harm")
    options = parser.parse_args()
    if options.known_in:
        read_known(options.known_in)
        return 0
    if options.known:
        count, found = play_known()
        print(*found, f"{count} inputs", sep="\n")
        return 1 if found else 0
    if options.batch:
        name, seed, count, work = options.batch
        read_batch(name, int(seed), int(count), Path(work))
        return 0
    from fuzz.formats import FORMATS

    report = play(
        options.count, options.seed, options.formats or list(FORMATS), options.jobs, options.seconds, options.keep
    )
    print(json.dumps(report, indent=1))
    return 1 if report["harms"] else 0


if __name__ == "__main__":
    sys.exit(main())
