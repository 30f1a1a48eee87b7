#!/usr/bin/env bash
# The container tests with a machine around each container (docs/machines.md): `make test-isolation`, and a step of the nightly run.
# Needs root, QEMU, e2fsprogs, virtiofsd, and Debian's archive for the kernel, once.
#
#   scripts/isolation.sh             the files that pass
#   scripts/isolation.sh all         and those that are not done with
#   scripts/isolation.sh FILE...     these, of tests/e2e/tests
#
#   THREADS=2        tests at once; each has some machines
#   MINUTES=60       for one file
#   PROFILE=release  the programs that are run: of `cargo build --release`, or `dev`, whose agent is slow where it is emulated
#
# What a machine does not have or does otherwise the tests leave out themselves, and say so: the end of the output lists it.
set -euo pipefail
cd "$(dirname "$0")/.."

# Gone through, and good: all tests of each, but what they leave out.
files=(run_basics run_attach exec_processes logs_follow storage_volumes update_ports guests)
# Run with machines, too; what fails in them has not been told apart from what is slow here: docs/machines.md.
open=(run_health restart_policies storage_files net_names net_networks net_links observe why crash_engine secrets create_fields
    odd_fields)
[ "${1:-}" != all ] || { files+=("${open[@]}"); shift; }
[ $# = 0 ] || files=("$@")
profile=${PROFILE:-release} logs=$PWD/target/isolation
[ "$(id -u)" = 0 ] || { echo "needs root" >&2; exit 1; }
mkdir -p "$logs"
options=()
[ "$profile" = dev ] || options=(--profile "$profile")
cargo build "${options[@]}" --workspace --bins

failed=()
for file in "${files[@]}"; do
    echo "== $file"
    log=$logs/$file.log
    if BERTH_TEST_ISOLATION=vm timeout "${MINUTES:-60}m" cargo test "${options[@]}" -p berth-e2e --test "$file" -- \
        --test-threads "${THREADS:-2}" --show-output >"$log" 2>&1; then
        grep '^test result' "$log"
    else
        failed+=("$file")
        grep -E '\.\.\. FAILED|panicked at|^error' -A 3 "$log" || tail -n 20 "$log"
    fi
done
echo "== left out, with a machine around each container"
for file in "${files[@]}"; do
    sed -n "s/^not in a machine: /$file: /p" "$logs/$file.log"
done | sort -u
[ ${#failed[@]} = 0 ] || { echo "failed: ${failed[*]} (logs in $logs)" >&2; exit 1; }
