#!/bin/bash
# load and save beside dockerd, podman and skopeo; see README.md here. Needs root, cargo, docker's client.
#   PEERS=DIR    a root of the peers' packages (bench/peers.sh make); without one, berth alone
#   ROOTFS=FILE  tar file of the image's one big layer (default: a development system by mmdebstrap, ~550 MB)
#   PEERS_SH=FILE  the program that makes their world (default bench/peers.sh)
#   BERTHD=FILE  an engine that is built already      PLAIN=1  the uncompressed archive alone
#   STORAGE=NAME berth's storage driver
#   RUNS=N       rounds (default 5)      KEEP=DIR  where archives are kept for the next time
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "skipped: needs root" >&2; exit 0; }
RUNS=${RUNS:-5} PEERS=${PEERS:-}
KEEP=${KEEP:-/var/tmp/berth-bench-images}
peers=${PEERS_SH:-bench/peers.sh}
BERTHD=${BERTHD:-}
[ -n "$BERTHD" ] || cargo build -q --release -p berthd -p berth-shim
mkdir -p "$KEEP"
work=$(mktemp -d /var/tmp/berth-bench-XXXXXX)
bench/peers.sh disk "$work"
group=/sys/fs/cgroup/cpuacct/berth-bench-$$
[ ! -e /sys/fs/cgroup/cgroup.controllers ] || group=/sys/fs/cgroup/berth-bench-$$
peer_group=
mkdir -p "$group"
# The peers' world has most of the machine beside other work (peers.sh): so has our engine.
share=
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    echo 10000 >"$group/cpu.weight" 2>/dev/null || true
else
    share=/sys/fs/cgroup/cpu/berth-bench-$$
    mkdir "$share"
    echo 262144 >"$share/cpu.shares"
fi
engine=
cleanup() {
    [ -z "$engine" ] || { kill "$engine" && wait "$engine" || true; }
    [ -z "$PEERS" ] || "$peers" down "$work/world" || true
    for _ in $(seq 50); do rmdir "$group" ${share:+"$share"} 2>/dev/null || true; [ -e "$group" ] || [ -e "${share:-/nonexistent}" ] || break; sleep 0.1; done
    bench/peers.sh undisk "$work"
}
trap cleanup EXIT

rootfs=${ROOTFS:-$KEEP/rootfs.tar}
[ -s "$rootfs" ] || mmdebstrap --quiet --variant=minbase \
    --include=build-essential,python3,git,perl,vim-nox,python3-numpy bookworm "$rootfs"

# What all of a group's processes used, in microseconds.
cpu() {
    if [ -e "$1/cpuacct.usage" ]; then echo $(($(cat "$1/cpuacct.usage") / 1000))
    else sed -n 's/^usage_usec //p' "$1/cpu.stat"; fi
}
join() {
    echo $BASHPID >"$group/cgroup.procs"
    [ -z "$share" ] || echo $BASHPID >"$share/cgroup.procs"
}

(
    join
    exec "${BERTHD:-target/release/berthd}" -H "unix://$work/berth.sock" --data-root "$work/data" --exec-root "$work/run" ${STORAGE:+--storage-driver "$STORAGE"}
) >"$work/berthd.log" 2>&1 &
engine=$!
ours() { (join; DOCKER_HOST=unix://$work/berth.sock exec docker "$@"); }
for _ in $(seq 100); do ours version >/dev/null 2>&1 && break; sleep 0.1; done

if [ -n "$PEERS" ]; then
    "$peers" up "$PEERS" "$work/world"
    "$peers" docker "$work/world"
    # Whatever runs in a world is in the world's cgroup.
    peer_group=$(dirname "$group")/$(cat "$work/world/cgroup")
fi
inside() { "$peers" in "$work/world" env PODMAN_IGNORE_CGROUPSV1_WARNING=1 "$@"; }

ours import "$rootfs" big:1 >/dev/null
if [ -n "$PEERS" ]; then archives=$work/world/share; else archives=$work; fi
ours save -o "$archives/plain.tar" big:1
# The same image with its layer compressed, as registries have it.
repack() { # NAME COMMAND...
    local name=$1 layer packed; shift
    mkdir "$work/$name"
    tar -C "$work/$name" -xf "$archives/plain.tar"
    layer=$(sed 's/.*"Layers":\["\([^"]*\)".*/\1/' "$work/$name/manifest.json")
    "$@" <"$work/$name/$layer" >"$work/$name/layer.packed"
    rm "$work/$name/$layer" "$work/$name/index.json" "$work/$name/oci-layout"
    packed=layer.packed
    printf '[{"Config":"%s","RepoTags":["big:1"],"Layers":["%s"]}]' \
        "$(sed 's/.*"Config":"\([^"]*\)".*/\1/' "$work/$name/manifest.json")" "$packed" >"$work/$name/manifest.json"
    rm -f "$work/$name/repositories"
    tar -C "$work/$name" -cf "$archives/$name.tar" .
    rm -rf "${work:?}/$name"
}
if [ -z "${PLAIN:-}" ]; then
    if command -v pigz >/dev/null; then repack gzip pigz -nc; else repack gzip gzip -nc; fi
    repack zstd zstd -q -3 -c
fi

# One run: prints "<name> <wall ms> <cpu ms>".
measure() { # NAME GROUP COMMAND...
    local name=$1 of=$2 from to before after; shift 2
    before=$(cpu "$of") from=$(date +%s%N)
    "$@" >/dev/null || { echo "$name failed" >&2; return; }
    to=$(date +%s%N) after=$(cpu "$of")
    echo "$name $(((to - from) / 1000000)) $(((after - before) / 1000))" >>"$work/times"
}
skopeo_load() { inside rm -rf /tmp/oci; inside skopeo copy -q "docker-archive:/share/$1" oci:/tmp/oci:big; }
for _ in $(seq "$RUNS"); do
    for kind in plain gzip zstd; do
        [ -e "$archives/$kind.tar" ] || continue
        ours rmi -f big:1 >/dev/null
        sync
        measure "load-$kind berth" "$group" ours load -q -i "$archives/$kind.tar"
        [ -n "$PEERS" ] || continue
        inside docker -H unix:///share/docker.sock rmi -f big:1 >/dev/null 2>&1 || true
        inside podman rmi -fa >/dev/null 2>&1 || true
        sync
        measure "load-$kind docker" "$peer_group" inside docker -H unix:///share/docker.sock load -q -i "/share/$kind.tar"
        sync
        measure "load-$kind podman" "$peer_group" inside podman load -q -i "/share/$kind.tar"
        sync
        measure "load-$kind skopeo-oci" "$peer_group" skopeo_load "$kind.tar"
    done
    measure "save berth" "$group" ours save -o "$archives/out.tar" big:1
    [ -n "$PEERS" ] || continue
    measure "save docker" "$peer_group" inside docker -H unix:///share/docker.sock save -o /share/out.tar big:1
    inside rm -f /share/out.tar
    measure "save podman" "$peer_group" inside podman save -q -o /share/out.tar big:1
    inside rm -f /share/out.tar
done

awk '
    { key = $1 " " $2; n[key]++; wall[key, n[key]] = $3; cpu[key, n[key]] = $4; if (!(key in order)) { order[key] = ++count; name[count] = key } }
    function median(values, key, total,    i, j, list, t) {
        for (i = 1; i <= total; i++) list[i] = values[key, i]
        for (i = 1; i <= total; i++) for (j = i + 1; j <= total; j++) if (list[j] < list[i]) { t = list[i]; list[i] = list[j]; list[j] = t }
        return list[int((total + 1) / 2)]
    }
    END {
        for (i = 1; i <= count; i++) { split(name[i], part, " "); w[i] = median(wall, name[i], n[name[i]]); c[i] = median(cpu, name[i], n[name[i]])
            if (part[2] == "berth") { bw[part[1]] = w[i]; bc[part[1]] = c[i] }
            else if (part[2] != "skopeo-oci" && (!(part[1] in best) || w[i] < best[part[1]])) best[part[1]] = w[i] }
        print "| what | wall ms | cpu ms | berth / it, wall | cpu |"; print "|---|---|---|---|---|"
        for (i = 1; i <= count; i++) { split(name[i], part, " "); printf "| %s | %d | %d | %.2f | %.2f |\n", name[i], w[i], c[i], bw[part[1]] / w[i], bc[part[1]] / (c[i] ? c[i] : 1) }
        for (what in best) printf "%s: berth takes %.2f of the best peer\n", what, bw[what] / best[what]
    }' "$work/times"
