#!/bin/bash
# pull and push beside dockerd, podman and skopeo, one local registry for all; see README.md here. Needs root, docker's client and
#   PEERS=DIR      a root of the peers' packages (bench/peers.sh make)     PEERS_TOOL=FILE  instead of bench/peers.sh
#   ROOTFS=FILE    tar file of the image's one big layer                    RUNS=N           rounds (default 5)
#   PROGRAMS=DIR   built programs (default target/release, built here unless NOBUILD is set)
set -euo pipefail
cd "$(dirname "$0")/.."
RUNS=${RUNS:-5} PEERS=${PEERS:-} PROGRAMS=$(realpath -m "${PROGRAMS:-target/release}") tool=${PEERS_TOOL:-bench/peers.sh}
if [ "$(id -u)" != 0 ] || [ ! -d "${PEERS:-/nonexistent}" ] || [ ! -x "$tool" ] || [ ! -s "${ROOTFS:-}" ]; then
    echo "SKIPPED: needs root, PEERS, $tool and ROOTFS" >&2
    exit 0
fi
[ -n "${NOBUILD:-}" ] || cargo build -q --release -p berthd -p berth-shim
work=$(mktemp -d /var/tmp/berth-bench-XXXXXX)
world=$work/world group=/sys/fs/cgroup/cpuacct/berth-bench-$$ engine=
[ ! -e /sys/fs/cgroup/cgroup.controllers ] || group=/sys/fs/cgroup/berth-bench-$$
mkdir -p "$group"
cleanup() {
    [ -z "$engine" ] || { kill "$engine" && wait "$engine" || true; }
    "$tool" down "$world" || true
    rmdir "$group" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
"$tool" up "$PEERS" "$world"
"$tool" docker "$world"
"$tool" registry "$world" 5000
inside() { "$tool" in "$world" env PODMAN_IGNORE_CGROUPSV1_WARNING=1 "$@"; }
(
    echo $BASHPID >"$group/cgroup.procs"
    exec nsenter --target "$(cat "$world/pid")" --net "$PROGRAMS/berthd" -H "unix://$work/berth.sock" \
        --data-root "$work/data" --exec-root "$work/run"
) >"$work/berthd.log" 2>&1 &
engine=$!
ours() { DOCKER_HOST=unix://$work/berth.sock docker "$@"; }
for _ in $(seq 100); do ours version >/dev/null 2>&1 && break; sleep 0.1; done

registry=127.0.0.1:5000
ours import "$ROOTFS" $registry/push:berth >/dev/null
inside docker -H unix:///share/docker.sock import - $registry/push:docker <"$ROOTFS" >/dev/null
inside podman import -q - $registry/push:podman <"$ROOTFS" >/dev/null
# What was packed or sent before must not be found again: neither on the disk nor in the registry.
forget() {
    rm -rf "$world/share/registry-5000/docker/registry/v2/repositories/push" "$world"/share/registry-5000/docker/registry/v2/blobs
    rm -f "$work"/data/content/blobs/sha256/*
    sync
}
cpu() {
    if [ -e "$1/cpuacct.usage" ]; then echo $(($(cat "$1/cpuacct.usage") / 1000)); else sed -n 's/^usage_usec //p' "$1/cpu.stat"; fi
}
# Wall time of everybody, CPU of our engine.
measure() { # NAME COMMAND...
    local name=$1 from to before after; shift
    before=$(cpu "$group") from=$(date +%s%N)
    "$@" >/dev/null || { echo "$name failed" >&2; return; }
    to=$(date +%s%N) after=$(cpu "$group")
    printf '%-22s %7d ms  berthd cpu %7d ms\n' "$name" $(((to - from) / 1000000)) $(((after - before) / 1000))
}
podman_push() { inside podman push -q --tls-verify=false $registry/push:podman; }
for _ in $(seq "$RUNS"); do
    forget; measure "push docker" inside docker -H unix:///share/docker.sock push -q $registry/push:docker
    forget; measure "push podman" podman_push
    forget; measure "push berth" ours push -q $registry/push:berth
    # The registry now has the layer as we packed it.
    inside docker -H unix:///share/docker.sock rmi -f $registry/push:berth >/dev/null 2>&1 || true
    inside podman rmi -f $registry/push:berth >/dev/null 2>&1 || true
    sync; measure "pull docker" inside docker -H unix:///share/docker.sock pull -q $registry/push:berth
    sync; measure "pull podman" inside podman pull -q --tls-verify=false $registry/push:berth
    ours rmi -f $registry/push:berth >/dev/null
    rm -f "$work"/data/content/blobs/sha256/*
    sync; measure "pull berth" ours pull -q $registry/push:berth
    measure "pull berth again" ours pull -q $registry/push:berth
    measure "docker version" ours version
    inside rm -rf /tmp/oci
    measure "skopeo copy to OCI" inside skopeo copy -q --src-tls-verify=false docker://$registry/push:berth oci:/tmp/oci:x
done
