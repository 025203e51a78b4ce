"""Kill runs, resume them, and compare what they end with: ``python -m crash.campaign KIND --count N``.

Each case starts a run of ``gpucnn train``, lets it be killed (or its disk fail) at one moment, and then does what a user
would: ``--resume``, or the same command again where there is no run yet; in half of the cases that is killed too. The end
must be that of the run that nobody disturbed: exit code, weights, optimiser, state and metrics to the last bit, the same
files and none besides.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import gpucnn
from crash.program import Ended, run

KINDS = ("exact", "random", "no-space")
ATTEMPTS = 8
TIMES = ("seconds", "images_per_second")
NOTED = {"report.html", "summary.txt", "first-filters.safetensors"}
"""Files that a run can do without; a note says that one could not be written."""

CONFIGURATIONS: dict[str, tuple[str, ...]] = {
    "plain": ("--epochs", "2"),
    "augmented": ("--epochs", "3", "--augment", "shift=2,rotate=10", "--validation", "0", "--schedule", "plateau"),
    "target missed": ("--epochs", "2", "--target-accuracy", "1", "--optimizer", "rmsprop"),
    "float16": ("--epochs", "2", "--precision", "float16"),
    "replacing": ("--epochs", "2", "--seed", "6", "--overwrite"),
    "averaged": (
        "--epochs", "3", "--ema", "0.9", "--mixup", "0.4", "--cutmix", "1", "--label-smoothing", "0.1",
        "--augment", "shift=2,colour=0.2,noise=0.1", "--optimizer", "adamw",
    ),
    "stopping": (
        "--epochs", "6", "--early-stopping", "1", "--accumulate", "2", "--clip-norm", "0.5", "--class-weights", "balanced",
        "--loss", "focal", "--precision", "float16", "--ema", "0.5",
    ),
    "shards": ("--epochs", "2", "--shards", "4", "--model", "conv_mlp", "--optimizer", "sgd"),
}  # fmt: skip


def prepare(folder: Path) -> dict[str, str]:
    """Compile ``fail_at.c`` into ``folder`` and return the environment of a process that loads it."""
    library = folder / "fail_at.so"
    source = Path(__file__).with_name("fail_at.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-o", library, source, "-ldl"], check=True)
    tests, installed = Path(__file__).parents[1], Path(gpucnn.__file__).parents[1]
    path = os.pathsep.join(map(str, (installed, tests, tests / "support")))
    return {
        **os.environ, "PYTHONPATH": path, "LD_PRELOAD": str(library), "GPUCNN_THREADS": "1", "GPUCNN_DEVICE": "cpu",
        "GPUCNN_CACHE": str(folder / "cache"),
    }  # fmt: skip


@dataclass
class Case:
    """A moment at which a run is disturbed: in words, by the shim's environment, or by signals."""

    configuration: str
    words: str
    environment: dict[str, str] = field(default_factory=dict)
    signals: tuple[tuple[float, int], ...] = ()


@dataclass
class Undisturbed:
    """What a run ends with that nobody disturbs, how long it takes, and the changes it makes to files."""

    outcome: dict[str, Any]
    code: int
    seconds: float
    changes: list[str]


class Campaign:
    """Cases of one kind, in a folder of their own."""

    def __init__(self, work: Path, seed: int) -> None:
        self.work, self.random = work, random.Random(seed)
        self.found: list[dict[str, str]] = []
        self.counts: collections.Counter[str] = collections.Counter()
        self._undisturbed: dict[str, Undisturbed] = {}
        self._write_data()

    def _write_data(self) -> None:
        from gpucnn.data import draw_digits

        x, y = draw_digits(250, seed=0)
        self.data = self.work / "data.npz"
        np.savez(self.data, x_train=x[:200], y_train=y[:200], x_test=x[200:], y_test=y[200:])
        replaced = self.work / "replaced"
        options = ("--epochs", "1", "--seed", "9")
        ended = run(self._train(options, replaced), self.work / "said")
        if ended.code:
            raise RuntimeError(f"the run that is to be replaced failed: {ended.text}")
        self._replaced = outcome(replaced)

    def _train(self, options: tuple[str, ...], out: Path) -> list[str]:
        return ["train", "--data", str(self.data), "--seed", "5", "--batch-size", "20", "--out", str(out), *options]

    def _fresh(self, configuration: str) -> Path:
        out = self.work / "victim"
        shutil.rmtree(out, ignore_errors=True)
        if configuration == "replacing":
            shutil.copytree(self.work / "replaced", out, symlinks=True)
        return out

    def undisturbed(self, configuration: str) -> Undisturbed:
        if configuration not in self._undisturbed:
            out, log = self._fresh(configuration), self.work / "log"
            log.unlink(missing_ok=True)
            begun = time.monotonic()
            watching = {"CRASH_UNDER": "/victim", "CRASH_LOG": str(log)}
            ended = run(self._train(CONFIGURATIONS[configuration], out), self.work / "said", watching)
            seconds = time.monotonic() - begun
            if ended.code != (3 if configuration == "target missed" else 0):
                raise RuntimeError(f"{configuration}: ended with {ended.code}: {ended.text}")
            changes = [line.partition(" ")[2] for line in log.read_text().splitlines()]
            self._undisturbed[configuration] = Undisturbed(outcome(out), ended.code, seconds, changes)
        return self._undisturbed[configuration]

    # --- cases -------------------------------------------------------------------------------------------------------

    def cases(self, kind: str) -> Iterator[Case]:
        """Yield cases without end, or where there are no more for exact moments."""
        return {"exact": self._exact, "random": self._at_random, "no-space": self._no_space}[kind]()

    def _exact(self) -> Iterator[Case]:
        for configuration, number, change in self._all_changes():
            after = self.random.random() < 0.5
            words = f"{configuration}: killed {'after' if after else 'before or within'} change {number}, {change}"
            yield Case(configuration, words, at(number, CRASH_AFTER="1" if after else ""))

    def _no_space(self) -> Iterator[Case]:
        for configuration, number, change in self._all_changes():
            errno, once = self.random.choice(["28", "28", "5"]), self.random.random() < 0.3
            words = f"{configuration}: errno {errno} {'only at' if once else 'from'} change {number}, {change}"
            yield Case(configuration, words, at(number, CRASH_ERRNO=errno, CRASH_ONCE="1" if once else ""))

    def _all_changes(self) -> Iterator[tuple[str, int, str]]:
        every = [
            (configuration, number, change)
            for configuration in CONFIGURATIONS
            for number, change in enumerate(self.undisturbed(configuration).changes, 1)
        ]
        while True:
            self.random.shuffle(every)
            yield from every

    def _at_random(self) -> Iterator[Case]:
        kinds = {
            "SIGKILL": (signal.SIGKILL,), "SIGTERM": (signal.SIGTERM,), "SIGHUP": (signal.SIGHUP,),
            "Ctrl-C": (signal.SIGINT,), "Ctrl-C twice": (signal.SIGINT, signal.SIGINT),
        }  # fmt: skip
        while True:
            configuration = self.random.choice(list(CONFIGURATIONS))
            delay = self.random.uniform(0.02, 1.0) * self.undisturbed(configuration).seconds
            kind = self.random.choices(list(kinds), [5, 2, 1, 2, 2])[0]
            between = self.random.choice([0.0, 0.001, 0.01, 0.1])
            signals = tuple((between if i else delay, number) for i, number in enumerate(kinds[kind]))
            yield Case(configuration, f"{configuration}: {kind} after {delay:.3f} s", signals=signals)

    # --- one case ----------------------------------------------------------------------------------------------------

    def play(self, case: Case) -> None:
        """Disturb a run, finish it as a user would, and note what is not as it should be."""
        expected = self.undisturbed(case.configuration)
        out, said = self._fresh(case.configuration), self.work / "said"
        ended = run(self._train(CONFIGURATIONS[case.configuration], out), said, case.environment, case.signals)
        self.counts[f"first ended with {ended.code}"] += 1
        if not self._ended_well(case, ended, expected):
            return
        optional = NOTED if "Note: no " in ended.text else set()
        last = self._finish(case, out)  # also where the run was done: a disk that failed could not be tidied up then
        if last is None or last.code != expected.code:
            said = "is never done" if last is None else f"ends with {last.code} instead of {expected.code}"
            self._problem(case, said, last.text if last else "")
            return
        self._compare(case, out, expected, optional)

    def _ended_well(self, case: Case, ended: Ended, expected: Undisturbed) -> bool:
        """Whether a disturbed command ended with a code that fits, and without a traceback."""
        allowed = {expected.code, -signal.SIGKILL}
        if "CRASH_ERRNO" in case.environment:
            allowed = {expected.code, 1}
        elif case.signals:
            number = case.signals[0][1]
            allowed = {expected.code, 128 + number, -number}
        if ended.code not in allowed:
            self._problem(case, f"exit code {ended.code}", ended.text)
        elif "Traceback" in ended.text and ended.code > 0:
            self._problem(case, "traceback", ended.text)
        elif ended.code == 1 and "Error: " not in ended.text:
            self._problem(case, "no message", ended.text)
        else:
            return True
        return False

    def _finish(self, case: Case, out: Path) -> Ended | None:
        """Continue the run until it is done; None after too many attempts."""
        said = self.work / "said"
        again = self.random.random() < 0.5
        for attempt in range(ATTEMPTS):
            environment = {}
            if again and not attempt:
                environment = at(self.random.randint(1, 60), CRASH_AFTER=self.random.choice(["", "1"]))
            ended = run(["train", "--resume", str(out)], said, environment)
            if ended.code == -signal.SIGKILL and environment:
                self.counts["killed again"] += 1
                continue
            if ended.code == 2 and "expected a run with a config.toml" in ended.text:
                self.counts["begun anew"] += 1
                ended = run(self._train(CONFIGURATIONS[case.configuration], out), said)
            elif ended.code == 0 and case.configuration == "replacing" and outcome(out) == self._replaced:
                self.counts["the run that was to be replaced is whole"] += 1
                ended = run(self._train(CONFIGURATIONS[case.configuration], out), said)
            return ended
        return None

    def _compare(self, case: Case, out: Path, expected: Undisturbed, optional: set[str]) -> None:
        got = outcome(out)
        differ = [
            key for key in sorted(expected.outcome.keys() | got.keys()) if got.get(key) != expected.outcome.get(key)
        ]
        if "files" in differ and not (set(got["files"]) ^ set(expected.outcome["files"])) - optional:
            differ.remove("files")
        if differ:
            words = {key: (str(expected.outcome.get(key))[:400], str(got.get(key))[:400]) for key in differ}
            self._problem(case, f"differ: {', '.join(differ)}", json.dumps(words))
        else:
            self.counts["the same to the last bit"] += 1

    def _problem(self, case: Case, what: str, text: str) -> None:
        self.found.append({"case": case.words, "problem": what, "text": text.strip()[-800:]})


def at(number: int, **settings: str) -> dict[str, str]:
    """Return the shim's environment for the change of this number."""
    return {
        "CRASH_UNDER": "/victim",
        "CRASH_AT": str(number),
        **{key: value for key, value in settings.items() if value},
    }


def outcome(out: Path) -> dict[str, Any]:
    """Return what a run has come to, without what depends on the clock or on how often it was started."""
    found: dict[str, Any] = {"files": files(out)}
    metrics = out / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    found["metrics"] = [_without(json.loads(line), TIMES) for line in lines]
    report = out / "report.html"
    state = re.search(r'<p class="quiet">(.*?)</p>', report.read_text()) if report.exists() else None
    found["report"] = state and state[1]
    for link in ("last", "best"):
        checkpoint = out / "checkpoints" / link
        if checkpoint.exists():
            for kind in ("model", "optimizer"):
                content = (checkpoint / f"{kind}.safetensors").read_bytes()
                found[f"{link} {kind}"] = hashlib.sha256(content).hexdigest()
            found[f"{link} state"] = _without(
                json.loads((checkpoint / "state.json").read_text()), ("seconds", "sha256")
            )
    return found


def files(out: Path) -> list[str]:
    """Return the names of a run's files; how often a run was started and a step was saved does not matter."""
    names = (path.relative_to(out).as_posix() for path in out.rglob("*"))
    return sorted(
        {re.sub(r"(step-\d+)-\d+", r"\1", name) for name in names if not re.fullmatch(r"environment-\d+\.json", name)}
    )


def _without(values: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


def main() -> int:
    parser = argparse.ArgumentParser(prog="crash.campaign", description=__doc__)
    parser.add_argument(
        "kinds", metavar="KIND=COUNT", nargs="+", help=f"{', '.join(KINDS)}, and how many cases of each"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no case after so long")
    options = parser.parse_args()
    if "fail_at.so" not in os.environ.get("LD_PRELOAD", ""):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "crash.campaign", *sys.argv[1:]]
            return subprocess.run(command, env=prepare(Path(folder)), check=False).returncode
    import gpucnn.cli.train
    import gpucnn.cli.visualize  # noqa: F401  # what the forks need

    begun = time.monotonic()
    reports = {}
    with tempfile.TemporaryDirectory() as folder:
        for argument in options.kinds:
            kind, _, count = argument.partition("=")
            work = Path(folder, kind)
            work.mkdir()
            reports[kind] = report_of(
                Campaign(work, options.seed), kind, int(count), time.monotonic() + options.seconds / len(options.kinds)
            )
    print(json.dumps({"seed": options.seed, "seconds": round(time.monotonic() - begun), "kinds": reports}, indent=1))
    return 1 if any(report["problems"] for report in reports.values()) else 0


def report_of(campaign: Campaign, kind: str, count: int, until: float) -> dict[str, Any]:
    """Play so many cases of a kind and return what came of them."""
    played = 0
    cases: Callable[[], Case] = campaign.cases(kind).__next__
    while played < count and time.monotonic() < until:
        campaign.play(cases())
        played += 1
    return {"cases": played, "counts": dict(sorted(campaign.counts.items())), "problems": campaign.found}


if __name__ == "__main__":
    sys.exit(main())
