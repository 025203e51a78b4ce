"""``gpucnn doctor``."""

from __future__ import annotations

import json

import click

from gpucnn.doctor import examine


@click.command(short_help="Say what this machine has, and what is missing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--warmup", is_flag=True, help="Compile the GPU's kernels now; later programs find them on disk.")
def command(as_json: bool, warmup: bool) -> None:
    """Say what this machine has: Python, NumPy and its BLAS, threads, memory, CuPy, CUDA, the GPU; and what is missing."""
    report = examine(warmup)
    if as_json:
        click.echo(json.dumps(report))
        return
    for package, version in report["versions"].items():
        click.echo(f"{package:<14} {version}")
    click.echo(f"{'platform':<14} {report['platform']}")
    click.echo(f"{'cpu':<14} {report['cores']} cores, {report['threads']} threads in use; {', '.join(report['blas'])}")
    if report["memory_bytes"]:
        click.echo(f"{'memory':<14} {report['memory_bytes'] / 2**30:.1f} GiB")
    cuda = report["cuda"]
    if cuda["works"]:
        memory = f"{cuda['memory_bytes'] / 2**30:.0f} GiB"
        click.echo(f"{'gpu':<14} {cuda['gpu']}, {memory}, CUDA {cuda['cuda']}, driver {cuda['driver']}: works")
        if warmup:
            click.echo(f"{'kernels':<14} compiled, or found on disk, in {cuda['warmup_seconds']} s")
    else:
        click.echo(f"{'gpu':<14} none in use: {cuda['why']}")
    for package, remedy in report["missing"].items():
        click.echo(f"{package:<14} missing: {remedy}")
