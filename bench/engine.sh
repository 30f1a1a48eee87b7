#!/bin/bash
# Engines side by side: docker, podman and berth in one world; see README.md here. Needs root, cargo, mmdebstrap.
#   PEERS=DIR   a root made by bench/peers.sh make DIR (default: target/bench/peers, made when it is missing)
#   PROGRAMS=DIR  take built programs from there instead of building them
#   Arguments go to bench-engine: --runs N --idle N --only api,run,exec,client,http,compose,clients,parallel,idle,engine,lives,meters --engines docker,berth
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "skipped: needs root" >&2; exit 0; }
programs=${PROGRAMS:-}
[ -n "$programs" ] || { cargo build -q --release --bins; programs=target/release; }
peers=${PEERS:-$PWD/target/bench/peers}
[ -e "$peers/usr/bin/podman" ] || bench/peers.sh make "$peers"
mkdir -p target/bench
state=$(mktemp -d "$PWD/target/bench/world-XXXXXX")
trap 'bench/peers.sh down "$state"; bench/peers.sh undisk "$state"' EXIT
bench/peers.sh disk "$state"
bench/peers.sh up "$peers" "$state"
cp "$programs"/{berth,berthd,berth-shim,berth-dns,bench-engine} "$state/share/"
bench/peers.sh in "$state" /share/bench-engine --programs /share --work /run/bench "$@"
