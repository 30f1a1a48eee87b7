#!/usr/bin/env bash
# What takes too long for every change: `make nightly` builds, and runs this. Needs root, python3 with venv, PyPI and Debian's archive.
#
#   scripts/nightly.sh [STEP...]         fuzz fuzz-console power-cut kills bootable isolation measure; all without a name
#
#   MINUTES=10     of each fuzzing
#   SWAGGER=FILE   api/swagger.yaml of the Moby project; without it, that of Debian's golang-github-docker-docker-dev
#
# Tools, logs and what is found stay in target/nightly. Goes on after a step that failed, and fails in the end.
set -euo pipefail
cd "$(dirname "$0")/.."
state=$PWD/target/nightly minutes=${MINUTES:-10}
steps=("$@")
[ ${#steps[@]} -gt 0 ] || steps=(fuzz fuzz-console power-cut kills bootable isolation measure)
mkdir -p "$state"
[ "$(id -u)" = 0 ] || { echo "needs root" >&2; exit 1; }

schemathesis() {
    export SCHEMATHESIS=$state/venv/bin/schemathesis
    [ -x "$SCHEMATHESIS" ] || { python3 -m venv "$state/venv" && "$state/venv/bin/pip" install --quiet 'schemathesis>=4,<5'; }
}

# The API's description, of the version that Debian has.
swagger() {
    [ -z "${SWAGGER:-}" ] || return 0
    SWAGGER=$state/moby/usr/share/gocode/src/github.com/docker/docker/api/swagger.yaml
    [ ! -e "$SWAGGER" ] || return 0
    (cd "$state" && rm -f golang-github-docker-docker-dev_*.deb && apt-get download -q golang-github-docker-docker-dev \
        && dpkg-deb -x golang-github-docker-docker-dev_*.deb moby)
}

# An empty folder: each night begins with an engine that has nothing.
fresh() {
    rm -rf "${state:?}/$1"
    mkdir -p "$state/$1"
}

step() { # NAME
    case $1 in
    fuzz)
        schemathesis && swagger && fresh fuzz && STATE=$state/fuzz tests/fuzz-api/run.sh "$SWAGGER" "$minutes"
        ;;
    fuzz-console)
        schemathesis && fresh fuzz-console && STATE=$state/fuzz-console tests/fuzz-api/console.sh "$minutes"
        ;;
    power-cut)
        # The tests run the programs in target/debug.
        cargo build --workspace --bins && cargo test -p berth-e2e --test power_cut
        ;;
    kills)
        cargo build --workspace --bins
        for driver in overlay erofs; do
            BERTH_TEST_STORAGE_DRIVER=$driver BERTH_KILLS=200 cargo test -p berth-e2e --test crash_images -- --nocapture
        done
        ;;
    bootable)
        cargo build --workspace --bins && cargo test -p berth-e2e --test machines -- --ignored bootable
        ;;
    isolation)
        scripts/isolation.sh
        ;;
    measure)
        cargo test --release -p berth-runtime -p berth-cgroup --lib -- --ignored --nocapture --test-threads 1
        ;;
    *)
        echo "no step $1: fuzz fuzz-console power-cut kills bootable isolation measure" >&2
        return 2
        ;;
    esac
}

failed=()
for name in "${steps[@]}"; do
    echo "== $name"
    # In a process of its own: `set -e` holds in it, and its failure is one line here.
    if [ -n "${NIGHTLY_STEP:-}" ]; then
        step "$name"
    elif ! NIGHTLY_STEP=1 "$0" "$name" >"$state/$name.log" 2>&1; then
        failed+=("$name")
        tail -n 20 "$state/$name.log"
    else
        tail -n 3 "$state/$name.log"
    fi
done
[ ${#failed[@]} = 0 ] || { echo "failed: ${failed[*]} (logs in $state)" >&2; exit 1; }
