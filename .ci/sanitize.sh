#!/usr/bin/env bash
# The compiled kernels' tests with the kernels built under sanitizers: .ci/sanitize.sh address|thread [arguments of pytest].
# "address" looks for memory read or written outside of arrays and for undefined behaviour, "thread" for races.
set -euo pipefail
cd "$(dirname "$0")/.."
kind=${1:?address or thread}
shift
case $kind in
  address) flags="-fsanitize=address,undefined -fno-sanitize-recover=undefined" library=libasan.so ;;
  thread) flags="-fsanitize=thread" library=libtsan.so ;;
  *) echo "address or thread, not $kind" >&2; exit 2 ;;
esac

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp -r gpucnn setup.py pyproject.toml README.md LICENSE "$folder"
find "$folder" -name '_kernels*.so' -delete
python=$PWD/.venv/bin/python
(cd "$folder" && CFLAGS="-O1 -g -fno-omit-frame-pointer $flags" LDFLAGS="$flags" "$python" setup.py -q build_ext --inplace)
ls "$folder"/gpucnn/backend/native/_kernels*.so > /dev/null # the extension is optional for setuptools, not here

# Kernels get arrays without the tests' own guards around them: what lies beyond is the sanitizer's.
export PYTHONPATH="$folder" PYTHONSAFEPATH=1 LD_PRELOAD GPUCNN_TEST_GUARD=0 PYTHONMALLOC=malloc OPENBLAS_NUM_THREADS=1
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS="halt_on_error=1 exitcode=66"
LD_PRELOAD=$(gcc -print-file-name=$library)
"$python" -c "from gpucnn.backend.native import _kernels as k; assert k.__file__.startswith('$folder'), k.__file__"
setarch -R "$python" -m pytest -p no:cacheprovider -q tests/backend/native "$@"
