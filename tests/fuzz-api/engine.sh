# Sourced by the others here, in the project's folder: an engine of its own that ends with the script, and an image in it.
# Sets state, socket, port, engine, schemathesis.

programs=$(realpath "${PROGRAMS:-target/release}")
schemathesis=${SCHEMATHESIS:-schemathesis}
[ "$(id -u)" = 0 ] || { echo "skipped: needs root" >&2; exit 0; }
command -v "$schemathesis" >/dev/null || { echo "skipped: needs schemathesis (pip install schemathesis)" >&2; exit 0; }
state=${STATE:-$(mktemp -d /var/tmp/berth-fuzz-XXXXXX)}
mkdir -p "$state"
socket=$state/berth.sock

post() { # address, body
    curl -sf --unix-socket "$socket" -X POST -H 'Content-Type: application/json' -d "$2" "http://e$1" >/dev/null
}

leave() {
    local code=$?
    ids=$(curl -sf --unix-socket "$socket" 'http://e/containers/json?all=1' | grep -o '"Id":"[0-9a-f]*"' | cut -d'"' -f4 || true)
    for id in $ids; do
        curl -s --unix-socket "$socket" -X DELETE "http://e/containers/$id?force=1&v=1" >/dev/null || true
    done
    curl -s --unix-socket "$socket" -X POST 'http://e/networks/prune' >/dev/null || true
    kill "$engine" 2>/dev/null || true
    wait "$engine" 2>/dev/null || true
    [ "$code" != 0 ] || [ -n "${STATE:-}" ] || rm -rf "$state"
    exit "$code"
}

start() { # port, mark, subnet, more of the engine's arguments
    port=$1
    local mark=$2 subnet=$3
    shift 3
    "$programs/berthd" -H "unix://$socket" -H "tcp://127.0.0.1:$port" --data-root "$state/data" --exec-root "$state/run" \
        --bridge-name "$mark" --cgroup-parent "/$mark" --bip "$subnet" "$@" >"$state/berthd.log" 2>&1 &
    engine=$!
    trap leave EXIT
    for _ in $(seq 100); do curl -sf --unix-socket "$socket" http://e/_ping >/dev/null && break; sleep 0.1; done
    mkdir -p "$state/tiny/bin"
    cp "$(command -v busybox)" "$state/tiny/bin/"
    for name in sh sleep cat ls true; do ln -sf busybox "$state/tiny/bin/$name"; done
    tar -C "$state/tiny" -c . | curl -sf --unix-socket "$socket" -X POST -H 'Content-Type: application/x-tar' \
        --data-binary @- 'http://e/images/create?fromSrc=-&repo=tiny&tag=latest' >/dev/null
}

# After each round: the engine is there and answers.
lives() {
    kill -0 "$engine" || { echo "the engine is gone: $state/berthd.log" >&2; exit 1; }
    curl -sf -m 30 --unix-socket "$socket" http://e/_ping >/dev/null || { echo "the engine hangs" >&2; exit 1; }
}

verdict() { # found, what
    if grep -q panicked "$state/berthd.log"; then echo "a panic: $state/berthd.log" >&2; exit 1; fi
    [ "$1" = 0 ] || { echo "$2: $state/round-*.log" >&2; exit 1; }
}
