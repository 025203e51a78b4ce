#!/usr/bin/env bash
# All that needs a GPU, in under ten minutes: every kernel against its reference, then the speed beside PyTorch.
#
#   scripts/gpu_report.sh [FOLDER]        leaves FOLDER/gpu-report.json and FOLDER/gpu-report.log (default: benchmarks)
#
# PYTHON names the interpreter (default python3); it needs '.[cuda13,test]' and, to be compared with, PyTorch.
# Ends with 4 where there is no usable GPU, with 1 where a test or the benchmark failed; the report is written then too.
set -uo pipefail
python=${PYTHON:-python3}
folder=$(mkdir -p "${1:-benchmarks}" && cd "${1:-benchmarks}" && pwd) || exit 1
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
log="$folder/gpu-report.log"

say() { printf '\n== %s (%s)\n' "$1" "$(date +%T)" | tee -a "$log"; }

: > "$log"
say "doctor"
"$python" -m gpucnn doctor --json --warmup > "$work/doctor.json" 2>> "$log" || exit 1
"$python" - "$work/doctor.json" <<'END' 2>&1 | tee -a "$log" || exit 4
import json, sys
cuda = json.load(open(sys.argv[1]))["cuda"]
if not cuda["works"]:
    sys.exit(f"gpu_report: no usable GPU: {cuda['why']}")
print(f"{cuda['gpu']}, CUDA {cuda['cuda']}, driver {cuda['driver']}")
END

say "every kernel against its reference, on the device"
export CUPY_ACCELERATORS=  # CUB would be compiled for each reduction
workers=()
mapfile -t others < <(find tests -mindepth 1 -maxdepth 1 \( -type d -o -name 'test_*.py' \) \
    ! -name backend ! -name captured ! -name '__pycache__' | sort)
if "$python" -c 'import xdist' 2> /dev/null; then workers=(-n 4); fi
# The backend's own tests first. An interrupt, unlike a kill, lets pytest write what it has.
timeout -s INT -k 20 310 "$python" -m pytest -m cuda --require-cuda -q -p no:cacheprovider "${workers[@]}" \
    tests/backend tests/captured "${others[@]}" --junitxml "$work/tests.xml" >> "$log" 2>&1
tests=$?
tail -n 1 "$log"

say "speed"
timeout -s INT -k 10 180 "$python" scripts/bench.py --device cuda --json "$work/bench.json" >> "$log" 2>&1
bench=$?
tail -n 3 "$log"

"$python" - "$work" "$tests" "$bench" "$folder/gpu-report.json" <<'END' || exit 1
import datetime, importlib.metadata, json, pathlib, sys
import xml.etree.ElementTree as xml

work, tests, bench, target = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), pathlib.Path(sys.argv[4])
doctor = json.loads((work / "doctor.json").read_text())
counts = {"exit_code": tests}
if (work / "tests.xml").exists():
    suite = next(xml.parse(work / "tests.xml").getroot().iter("testsuite")).attrib
    counts |= {name: int(suite[name]) for name in ("tests", "failures", "errors", "skipped")}
    counts["seconds"] = round(float(suite["time"]), 1)
try:
    doctor["versions"]["torch"] = importlib.metadata.version("torch")
except importlib.metadata.PackageNotFoundError:
    pass
speed = json.loads((work / "bench.json").read_text()) if (work / "bench.json").exists() else None
report = {
    "date": datetime.date.today().isoformat(), "device": doctor["cuda"], "versions": doctor["versions"],
    "platform": doctor["platform"], "tests": counts, "bench_exit_code": bench, "bench": speed,
}
partial = target.with_suffix(".partial")
partial.write_text(json.dumps(report, indent=1) + "\n")
partial.replace(target)
END
say "report: $folder/gpu-report.json"
[ "$tests" -eq 0 ] && [ "$bench" -eq 0 ]
