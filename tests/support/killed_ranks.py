"""Kill processes that train together at random moments, and resume: ``python -m killed_ranks --count 50``.

Each case trains in 2 or 4 processes, kills one of them, and goes on with 1, 2 or 4. All have to end within ten seconds, with
exit code 1 and a message that names the rank; the end has to be that of the run that nobody disturbed, to the last bit.
Prints a JSON object; the exit code is 1 where anything was wrong.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from together import COMMON, bits, figures, gone, ranks_of, started, train, wait_for_epoch

KINDS = {
    "lenet": ["--epochs", "8", "--shards", "4"],
    "batch norm": ["--epochs", "3", "--shards", "4", "--model", "resnet:width=4,blocks=1"],
    "dropout and augmentation": ["--epochs", "8", "--shards", "4", "--model", "conv_mlp", "--augment", "shift=2"],
}
MOST_SECONDS = 10.0


def case(kind: str, whole: Path, run: Path, rng: random.Random, counts: collections.Counter[str]) -> list[str]:
    """Return what is wrong with one case."""
    count, later = rng.choice((2, 4)), rng.choice((1, 2, 4))
    rank = rng.randrange(count)
    counts[f"{kind}: {count} processes, resumed by {later}"] += 1
    wrong = []
    with started(*COMMON, *KINDS[kind], "--out", str(run), "--processes", str(count)) as process:
        wait_for_epoch(run, process)
        time.sleep(rng.random() * 0.3)
        ranks = ranks_of(run, count)
        if not ranks or process.poll() is not None:
            counts["ended before it was killed"] += 1
        else:
            try:
                os.kill(ranks[rank], signal.SIGKILL)
            except ProcessLookupError:
                counts["ended before it was killed"] += 1
        killed = time.monotonic()
        _, err = process.communicate(timeout=60)
        seconds = time.monotonic() - killed
    if process.returncode != 0:
        if seconds > MOST_SECONDS:
            wrong.append(f"ended after {seconds:.1f} s")
        if process.returncode != 1 or f"rank {rank} of {count}" not in err or "SIGKILL" not in err:
            wrong.append(f"exit code {process.returncode}: {err.strip()[-200:]}")
        if not all(map(gone, ranks)):
            wrong.append("a process is left")
        counts["killed"] += 1
        more = () if later == 1 else ("--processes", str(later))
        done = train("--resume", str(run), *more)
        if done.returncode:
            wrong.append(f"resume: exit code {done.returncode}: {done.stderr.strip()[-200:]}")
    if not wrong and (bits(run) != bits(whole) or figures(run) != figures(whole)):
        wrong.append("other bits")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng, counts, start = random.Random(given.seed), collections.Counter[str](), time.monotonic()
    problems: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        wholes = {}
        for kind, options in KINDS.items():
            wholes[kind] = Path(folder, f"whole {kind}")
            assert train(*COMMON, *options, "--out", str(wholes[kind])).returncode == 0
        for number in range(given.count):
            kind = rng.choice(list(KINDS))
            problems += [
                [number, kind, one] for one in case(kind, wholes[kind], Path(folder, str(number)), rng, counts)
            ]
    seconds = round(time.monotonic() - start)
    print(
        json.dumps(
            {"seed": given.seed, "seconds": seconds, "cases": given.count, "counts": counts, "problems": problems}
        )
    )
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
