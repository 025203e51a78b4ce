"""``gpucnn doctor``."""

from __future__ import annotations

import click

from gpucnn.cli.terminal import say, say_json
from gpucnn.doctor import examine


@click.command(short_help="Report what this machine has and what is missing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--warmup", is_flag=True, help="Compile the GPU kernels now, so that later programs load them from disk.")
@click.option("--verify", is_flag=True, help="Compare every GPU kernel with its reference on many cases.")
def command(as_json: bool, warmup: bool, verify: bool) -> None:
    """Report what this machine has (Python, NumPy and its BLAS, threads, memory, CuPy, CUDA, GPU) and what is missing."""
    report = examine(warmup, verify)
    if as_json:
        say_json(report)
        return
    for package, version in report["versions"].items():
        say(f"{package:<14} {version}")
    say(f"{'platform':<14} {report['platform']}")
    say(f"{'cpu':<14} {report['cores']} cores, {report['threads']} threads in use; {', '.join(report['blas'])}")
    say(f"{'compiled':<14} {report['compiled']}")
    if report["memory_bytes"]:
        say(f"{'memory':<14} {report['memory_bytes'] / 2**30:.1f} GiB")
    cuda = report["cuda"]
    if cuda["works"]:
        memory = f"{cuda['memory_bytes'] / 2**30:.0f} GiB"
        say(f"{'gpu':<14} {cuda['gpu']}, {memory}, CUDA {cuda['cuda']}, driver {cuda['driver']}: works")
        if warmup:
            say(f"{'kernels':<14} compiled, or loaded from disk, in {cuda['warmup_seconds']} s")
        for family, fault in cuda.get("faults", {}).items():
            say(f"{'kernels':<14} {family}: {fault}")
        if verify and not cuda["faults"]:
            say(f"{'kernels':<14} all agree with the reference")
    else:
        say(f"{'gpu':<14} none in use: {cuda['why']}")
    for package, remedy in report["missing"].items():
        say(f"{package:<14} missing: {remedy}")
