#!/bin/bash
# What the console costs the engine: N instances that change all the time, one page that listens. Needs root, node, busybox-static.
#   PROGRAMS=DIR   take built programs from there instead of building them
#   INSTANCES=200 SECONDS_LONG=60 bench/console.sh      the target: under 3 % of a core
#   INSTANCES=1000 SECONDS_LONG=30 bench/console.sh     lists and the event stream with a thousand
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "skipped: needs root" >&2; exit 0; }
command -v node >/dev/null || { echo "skipped: needs node" >&2; exit 0; }
programs=${PROGRAMS:-}
[ -n "$programs" ] || { cargo build -q --release --bins; programs=$PWD/target/release; }
BERTH_PROGRAMS=$programs exec node bench/console.mjs "${INSTANCES:-200}" "${SECONDS_LONG:-60}"
