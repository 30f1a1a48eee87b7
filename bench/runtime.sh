#!/bin/bash
# OCI runtimes side by side; see README.md here. Needs root, gcc and cargo.
#   PROGRAMS=DIR  take built programs from there instead of building them
#   PEERS=DIR  run inside this root (a Debian tree with newer crun and runc)   RUNS=N  rounds (default 25)
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "skipped: needs root" >&2; exit 0; }
programs=${PROGRAMS:-}
[ -n "$programs" ] || { cargo build -q --release -p berth-shim -p berth-bench; programs=target/release; }
work=$(mktemp -d /tmp/berth-bench-XXXXXX)
trap 'rm -rf "$work"' EXIT
gcc -O2 -static -o "$work/floor" bench/floor.c
cp "$programs"/{berth-runtime,bench-runtime} "$work/"
mkdir -p "$work/rootfs/"{bin,proc,sys,dev,etc,tmp}
cp "${BUSYBOX:-/bin/busybox}" "$work/rootfs/bin/busybox"
ln -s busybox "$work/rootfs/bin/true"
# What dockerd 28.5.2 hands to its runtime for run -m 256m --cpu-shares 512 --cpus 1 --pids-limit 100 busybox true.
cp bench/dockerd.json "$work/config.json"
export PEERS="${PEERS:-}" RUNS="${RUNS:-25}" WORK="$work"
unshare --mount --net --propagation private bash -eu -c '
    ip link set lo up
    hierarchies=$(ls /sys/fs/cgroup)
    root=${PEERS:-$WORK/root}
    mkdir -p "$root"
    mount --bind "${PEERS:-/}" "$root"
    mount -t proc proc "$root/proc"
    mount -t sysfs sysfs "$root/sys"
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        mount --rbind /sys/fs/cgroup "$root/sys/fs/cgroup"
    else
        # Only the v1 hierarchies: crun refuses a hybrid tree.
        mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
        for name in $hierarchies; do
            [ "$name" != unified ] && [ ! -L "/sys/fs/cgroup/$name" ] || continue
            mkdir "$root/sys/fs/cgroup/$name"
            mount --bind "/sys/fs/cgroup/$name" "$root/sys/fs/cgroup/$name"
        done
    fi
    mount --rbind /dev "$root/dev"
    mount -t tmpfs tmpfs "$root/run"
    mkdir "$root/run/bench"
    mount --bind "$WORK" "$root/run/bench"
    mkdir -p "$root/run/old"
    cd "$root"
    pivot_root . run/old
    umount -l /run/old
    cd /run/bench
    candidates=(berth=/run/bench/berth-runtime)
    for name in crun runc youki; do
        path=$(command -v "$name" || true)
        [ -z "$path" ] || { candidates+=("$name=$path"); "$path" --version | head -1; }
    done
    exec ./bench-runtime --config config.json --rootfs /run/bench/rootfs --work /run/bench/work --runs "$RUNS" \
        "${candidates[@]}" "floor=/run/bench/floor -c -t -m" "floor-procs=/run/bench/floor -c -m"
'
