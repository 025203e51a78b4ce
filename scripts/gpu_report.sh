#!/usr/bin/env bash
# All that needs a GPU, in under nine minutes: every kernel against its reference, then the speed beside PyTorch.
#
#   scripts/gpu_report.sh [--wheels FOLDER] [OUT]     leaves OUT/gpu-report.json and OUT/gpu-report.log (default: benchmarks)
#
# PYTHON names the interpreter (default python3); it needs '.[cuda13,test]' and, to be compared with, PyTorch. What is missing
# is named first; with --wheels it is installed from that folder of wheels, without a network. The report is written whatever
# fails, with what is known by then. Exit code: 4 without a usable GPU, 1 where something is missing, or a test or the
# benchmark failed, else 0.
set -uo pipefail
python=${PYTHON:-python3}
wheels=
if [ "${1:-}" = --wheels ]; then wheels=${2:?--wheels takes a folder}; shift 2; fi
folder=$(mkdir -p "${1:-benchmarks}" && cd "${1:-benchmarks}" && pwd) || exit 1
cd "$(dirname "$0")/.."
work=$(mktemp -d)
log="$folder/gpu-report.log"
: > "$log"
stage=beginning

say() { printf '\n== %s (%s)\n' "$1" "$(date +%T)" | tee -a "$log"; stage=$1; }

# Whatever ends this script: one whole JSON file of what each part left in $work.
report() {
    echo "$stage" > "$work/stage"
    "$python" - "$work" "$folder/gpu-report.json" <<'END' || exit 1
import datetime, importlib.metadata, json, pathlib, platform, sys
import xml.etree.ElementTree as xml

work, target = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])

def read(name):
    try:
        return json.loads((work / name).read_text())
    except (OSError, ValueError):
        return None

def code(name):
    path = work / f"{name}.code"
    return int(path.read_text()) if path.exists() else None

doctor, counts = read("doctor.json") or {}, {"exit_code": code("tests")}
try:
    suite = next(xml.parse(work / "tests.xml").getroot().iter("testsuite")).attrib
    counts |= {name: int(suite[name]) for name in ("tests", "failures", "errors", "skipped")}
    counts["seconds"] = round(float(suite["time"]), 1)
except (OSError, xml.ParseError, StopIteration):
    pass
versions = dict(doctor.get("versions", {}))
try:
    versions["torch"] = importlib.metadata.version("torch")
except importlib.metadata.PackageNotFoundError:
    pass
report = {
    "date": datetime.date.today().isoformat(), "platform": doctor.get("platform", platform.platform()), "versions": versions,
    "device": doctor.get("cuda"), "missing": read("missing.json") or [], "ended_at": (work / "stage").read_text().strip(),
    "tests": counts, "sanitizer": {path.stem: int(path.read_text()) for path in sorted(work.glob("*.sanitizer"))},
    "bench": [{**read(path.name), "exit_code": code(path.stem)} for path in sorted(work.glob("bench-*.json"))],
}
partial = target.with_suffix(".partial")
partial.write_text(json.dumps(report, indent=1) + "\n")
partial.replace(target)
END
    rm -rf "$work"
    echo "report: $folder/gpu-report.json"
}
trap report EXIT
trap 'exit 130' INT TERM

say "what is there"
missing() {
    "$python" - "$work/missing.json" <<'END'
import importlib.util, json, sys

needed = {
    "numpy": "numpy", "click": "click", "safetensors": "safetensors", "threadpoolctl": "threadpoolctl", "tqdm": "tqdm",
    "tomli_w": "tomli-w", "PIL": "pillow", "filelock": "filelock", "cupy": "cupy-cuda13x", "pytest": "pytest",
    "hypothesis": "hypothesis",
}
missing = [package for name, package in needed.items() if importlib.util.find_spec(name) is None]
json.dump(missing, open(sys.argv[1], "w"))
print(*missing)
END
}
lacking=$(missing)
if [ -n "$lacking" ] && [ -n "$wheels" ]; then
    # shellcheck disable=SC2086  # a list of names
    "$python" -m pip install --quiet --no-index --find-links "$wheels" $lacking pytest-xdist >> "$log" 2>&1
    lacking=$(missing)
fi
if [ -n "$lacking" ]; then
    echo "gpu_report: missing: $lacking. Install them: pip install $lacking, or --wheels FOLDER." | tee -a "$log"
    exit 1
fi
"$python" -c 'import torch' 2> /dev/null || echo "PyTorch is not there: gpucnn is timed alone." | tee -a "$log"

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
# CUDA, TF32 and captured steps first. An interrupt, unlike a kill, lets pytest write what it has.
first=(tests/backend/test_cuda.py tests/backend/test_tf32.py tests/captured tests/backend)
timeout -s INT -k 20 270 "$python" -m pytest -m cuda --require-cuda -q -p no:cacheprovider "${workers[@]}" \
    "${first[@]}" "${others[@]}" --junitxml "$work/tests.xml" >> "$log" 2>&1
tests=$?
echo "$tests" > "$work/tests.code"
tail -n 1 "$log"

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2> /dev/null)
wrong=0
if [ -n "$sanitizer" ]; then
    say "compute-sanitizer"
    for tool in memcheck racecheck; do
        timeout -k 5 40 "$sanitizer" --tool "$tool" --error-exitcode 9 \
            "$python" -m gpucnn doctor --verify >> "$log" 2>&1
        ended=$?
        echo "$ended" > "$work/$tool.sanitizer"
        [ "$ended" -eq 0 ] || [ "$ended" -eq 124 ] || wrong=1  # 124: cut off, without an error so far
    done
fi

say "speed"
export GPUCNN_CUDNN=0  # the rows are those of gpucnn's own kernels
bench() {  # name, seconds, options
    local name=$1 most=$2; shift 2
    timeout -s INT -k 5 "$most" "$python" scripts/bench.py --device cuda --rounds 3 --json "$work/bench-$name.json" "$@" \
        >> "$log" 2>&1
    local ended=$?
    echo "$ended" > "$work/bench-$name.code"
    [ -f "$work/bench-$name.json" ] || echo '{}' > "$work/bench-$name.json"
    [ "$ended" -eq 0 ] || wrong=1
}
for precision in float32 tf32 float16; do
    bench "lenet-$precision" 40 lenet --precision "$precision" --seconds 0.2 --batch-size 64 --batch-size 256
    bench "resnet-$precision" 30 resnet --input-shape 3,32,32 --precision "$precision" --seconds 0.3 --batch-size 256
    bench "vgg-$precision" 30 vgg --input-shape 3,32,32 --precision "$precision" --seconds 0.3 --batch-size 256
done
tail -n 3 "$log"
stage=done
[ "$tests" -eq 0 ] && [ "$wrong" -eq 0 ]
