#!/usr/bin/env bash
# Our own API (/api/v1) fuzzed from its own OpenAPI description with schemathesis, against an engine of its own. For the night.
#
#   tests/fuzz-api/console.sh [MINUTES] [SEED]          (default: 20 minutes)
#
#   PROGRAMS=DIR   the built programs          (default: target/release)
#   SCHEMATHESIS=  the program                 (default: schemathesis; pip install schemathesis)
#   STATE=DIR      engine, report and logs     (default: a new folder under /var/tmp, kept when something is found)
#
# Fails on a 500, on an answer that is not what the description says, on an engine that is gone, hangs, or panics. Needs root.
set -euo pipefail
minutes=${1:-20} seed=${2:-$RANDOM}
cd "$(dirname "$0")/../.."
. tests/fuzz-api/engine.sh
start "${PORT:-23760}" "fc$$" "${BIP:-10.213.198.1/24}" --console 127.0.0.1:0

# The requests are root's. Left out: what reaches other hosts, registries and mirrors, reads images of this host, or never ends.
left='/(hosts|oidc|machines|kernels|setup|session)|/(bootstrap|pull|dial|terminal|follow|live|events|display|serial|token)$'
end=$((SECONDS + minutes * 60)) round=0 found=0
while [ $((end - SECONDS)) -gt 20 ]; do
    rest=$((end - SECONDS)) round=$((round + 1))
    # One that is there still is refused.
    post /api/v1/instances '{"name": "0", "image": "tiny", "command": ["/bin/sleep", "1000000"], "start": true}' || true
    log=$state/round-$round.log
    timeout $((rest + 120)) "$schemathesis" run "http://127.0.0.1:$port/api/v1/openapi.json" --url "http://127.0.0.1:$port" \
        --seed $((seed + round)) --checks not_a_server_error,response_schema_conformance,content_type_conformance \
        --max-time "$rest" --phases coverage,fuzzing,stateful --max-examples 200 --continue-on-failure --request-timeout 30 \
        --suppress-health-check all --workers 2 --no-color --exclude-path-regex "$left" >"$log" 2>&1 || true
    lives
    if grep -Eq '\[500\]|violates schema|Undocumented Content' "$log"; then found=1; fi
    tail -5 "$log"
done
verdict "$found" found
