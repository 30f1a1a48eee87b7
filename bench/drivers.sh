#!/bin/bash
# The two storage drivers side by side: load, disk, first program, memory of many containers. Needs root, cargo,
# docker's client.
#   ROOTFS=FILE  tar file of the image's one layer (default: what images.sh makes)
#   BERTHD=FILE  an engine that is built already      RUNS=N  rounds of loads (default 5)
#   CONTAINERS=N  for the memory (default 100)
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "skipped: needs root" >&2; exit 0; }
RUNS=${RUNS:-5} CONTAINERS=${CONTAINERS:-100} BERTHD=${BERTHD:-}
rootfs=${ROOTFS:-/var/tmp/berth-bench-images/rootfs.tar}
[ -s "$rootfs" ] || { echo "no $rootfs: run bench/images.sh first, or give ROOTFS=FILE" >&2; exit 1; }
[ -n "$BERTHD" ] || cargo build -q --release -p berthd -p berth-shim
work=$(mktemp -d /var/tmp/berth-bench-XXXXXX)
declare -A engines=()
drivers="overlay erofs"
at() { local driver=$1; shift; DOCKER_HOST=unix://$work/$driver.sock docker "$@"; }
cleanup() {
    for driver in $drivers; do
        [ -z "${engines[$driver]:-}" ] || { at "$driver" ps -aq | xargs -r -P 4 -n 20 env DOCKER_HOST="unix://$work/$driver.sock" docker rm -f >/dev/null || true
            kill "${engines[$driver]}" && wait "${engines[$driver]}" || true; }
    done
    for driver in $drivers; do bench/peers.sh undisk "$work/$driver" || true; done
    find /sys/fs/cgroup -depth -type d -path "*/berth-bench-*-$$*" -exec rmdir {} + 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
group() { # CONTROLLER DRIVER
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then echo "/sys/fs/cgroup/berth-bench-$2-$$"; else echo "/sys/fs/cgroup/$1/berth-bench-$2-$$"; fi
}
start() {
    local driver=$1 cpu; cpu=$(group cpuacct "$driver-engine"); mkdir -p "$cpu"
    (echo $BASHPID >"$cpu/cgroup.procs"
    exec "${BERTHD:-target/release/berthd}" -H "unix://$work/$driver.sock" --data-root "$work/$driver" --exec-root "$work/run-$driver" \
        --storage-driver "$driver" --cgroup-parent "/berth-bench-$driver-$$") >"$work/$driver.log" 2>&1 &
    engines[$driver]=$!
    for _ in $(seq 200); do at "$driver" version >/dev/null 2>&1 && return; sleep 0.1; done
    cat "$work/$driver.log" >&2; exit 1
}
cpu_us() { local of; of=$(group cpuacct "$1-engine"); if [ -e "$of/cpuacct.usage" ]; then echo $(($(cat "$of/cpuacct.usage") / 1000)); else sed -n 's/^usage_usec //p' "$of/cpu.stat"; fi; }
memory() { local of; of=$(group memory "$1"); cat "$of/memory.usage_in_bytes" 2>/dev/null || cat "$of/memory.current"; }
timed() { # NAME DRIVER COMMAND...
    local name=$1 driver=$2 from cpu; shift 2
    from=$(date +%s%N) cpu=$(cpu_us "$driver")
    at "$driver" "$@" >/dev/null
    echo "$name $driver $((($(date +%s%N) - from) / 1000000)) $((($(cpu_us "$driver") - cpu) / 1000))" >>"$work/times"
}
# Each on a disk of its own, so that it can be taken out of memory whole.
for driver in $drivers; do bench/peers.sh disk "$work/$driver" 8G; start "$driver"; done
at overlay import "$rootfs" big:1 >/dev/null
at overlay save -o "$work/plain.tar" big:1
at overlay rmi big:1 >/dev/null
sync
for _ in $(seq "$RUNS"); do
    for driver in $drivers; do
        timed load "$driver" load -q -i "$work/plain.tar"
        at "$driver" rmi big:1 >/dev/null
        sync
    done
done
for driver in $drivers; do at "$driver" load -q -i "$work/plain.tar" >/dev/null; done
# Nothing of the data root is in memory, neither content nor names: its disk is unmounted, and what lies below is let go.
cold() {
    kill "${engines[$1]}" && wait "${engines[$1]}" || true
    for _ in $(seq 100); do umount "$work/$1" 2>/dev/null && break; sleep 0.1; done
    ! mountpoint -q "$work/$1" || { echo "$work/$1 is in use" >&2; exit 1; }
    sync "$work/$1.img"
    python3 -c 'import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY); os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)' "$work/$1.img"
    bench/peers.sh mount "$work/$1"
    start "$1"
    # Programs and libraries of the client and the shim are in memory for both.
    at "$1" version >/dev/null
}
for driver in $drivers; do timed after-load "$driver" run --rm big:1 python3 -c "import json, decimal, email.parser"; done
for _ in $(seq "$RUNS"); do
    for driver in $drivers; do
        cold "$driver"
        timed first-program "$driver" run --rm big:1 python3 -c "import json, decimal, email.parser"
    done
done
for _ in $(seq 10); do
    for driver in $drivers; do timed next-program "$driver" run --rm big:1 python3 -c "import json, decimal, email.parser"; done
done
for driver in $drivers; do
    cold "$driver"
    before=$(memory "$driver")
    seq "$CONTAINERS" | DOCKER_HOST=unix://$work/$driver.sock xargs -P 4 -I{} docker run -d big:1 \
        python3 -c 'import json, time; print("up", flush=True); time.sleep(100000)' >"$work/$driver.ids"
    for id in $(tail -n 4 "$work/$driver.ids"); do until at "$driver" logs "$id" | grep -q up; do sleep 0.2; done; done
    echo "$driver: $CONTAINERS containers take $((($(memory "$driver") - before) / 1048576)) MiB; layer on the disk $(($(du -sB1 "$work/$driver/layers" | cut -f1) / 1048576)) MiB"
    xargs -P 4 -n 20 env DOCKER_HOST="unix://$work/$driver.sock" docker rm -f <"$work/$driver.ids" >/dev/null
done
sort "$work/times" | awk '
    { key = $1 " " $2; if (key != last && last != "") show(); if (key != last) { n = 0; last = key } n++; wall[n] = $3; cpu[n] = $4 }
    function median(list, total,    i, j, t, copy) {
        for (i = 1; i <= total; i++) copy[i] = list[i]
        for (i = 1; i <= total; i++) for (j = i + 1; j <= total; j++) if (copy[j] < copy[i]) { t = copy[i]; copy[i] = copy[j]; copy[j] = t }
        return copy[int((total + 1) / 2)]
    }
    function show() { printf "%-24s median %6d ms wall, %6d ms of the engine, of %d\n", last, median(wall, n), median(cpu, n), n }
    END { show() }'
