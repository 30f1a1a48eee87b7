#!/usr/bin/env bash
# The API fuzzed from its OpenAPI description with schemathesis, against an engine of its own. For the night: ten minutes.
#
#   tests/fuzz-api/run.sh SWAGGER [MINUTES] [SEED]
#
#   SWAGGER        an api/swagger.yaml of the Moby project, best the newest; its version is the one that is asked for
#   PROGRAMS=DIR   the built programs          (default: target/release)
#   SCHEMATHESIS=  the program                 (default: schemathesis; pip install schemathesis)
#   STATE=DIR      engine, report and logs     (default: a new folder under /var/tmp, kept when something is found)
#
# Fails on an answer that is a 5xx and should be none, on an engine that is gone, hangs, or has grown. Needs root.
set -euo pipefail
swagger=$(realpath "${1:?SWAGGER}") minutes=${2:-10} seed=${3:-$RANDOM}
version=$(sed -n 's|^basePath: *"\?\(/v[0-9.]*\)"\?.*|\1|p' "$swagger")
[ -n "$version" ] || { echo "$swagger has no basePath" >&2; exit 2; }
cd "$(dirname "$0")/../.."
. tests/fuzz-api/engine.sh
# What names a host or a path goes nowhere outside: no network but loopback, and the engine's root is a folder of its own.
start "${PORT:-23750}" "fz$$" "${BIP:-10.213.199.1/24}"

# Something to name: an image, a container that runs, one that does not.
make() {
    for name in box other; do post "/containers/create?name=$name" '{"Image":"tiny","Cmd":["/bin/sleep","1000000"]}'; done
    post /containers/box/start ''
}
make
descriptors() { ls "/proc/$engine/fd" | wc -l; }
resident() { awk '/VmRSS/ {print $2}' "/proc/$engine/status"; }
before="$(descriptors) $(resident)"

# Left out: streams that never end, and what dockerd outside a swarm and without plugins answers with a 5xx too. A 501 says
# what cannot be had, a 503 that something else (a registry) is not there: neither is an engine's mistake. A 500 is.
# In rounds: what a round has removed is there again in the next.
end=$((SECONDS + minutes * 60)) round=0 found=0
while [ $((end - SECONDS)) -gt 20 ]; do
    left=$((end - SECONDS)) round=$((round + 1))
    log=$state/round-$round.log
    # It ends by itself; one that does not says that an answer never came.
    timeout $((left + 120)) "$schemathesis" run "$swagger" --url "http://127.0.0.1:$port$version" --seed $((seed + round)) \
        --checks not_a_server_error --max-time "$left" --phases fuzzing,stateful --max-examples 200 --continue-on-failure \
        --request-timeout 30 --suppress-health-check all --workers 2 --no-color \
        --exclude-path-regex '^/(events|session|plugins|swarm|nodes|services|tasks)|/(attach|attach/ws|stats|wait|push)$' \
        >"$log" 2>&1 || true
    lives
    if grep -q '\[500\]' "$log"; then found=1; fi
    # What is there still is refused.
    make || true
    tail -5 "$log"
done
echo "descriptors and resident KB: $before, then $(descriptors) $(resident)"
verdict "$found" "server errors"
