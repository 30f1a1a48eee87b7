#!/bin/bash
# What the kernel alone takes for an idle container: floor.c's, which parses, records and watches nothing, piece by piece.
# Needs root, gcc, busybox, iproute2. Prints KB per container by the kinds of /proc/meminfo that bench-engine sums up, too.
#   N=200  containers of each row
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "skipped: needs root" >&2; exit 0; }
N=${N:-200}
# Seconds that a container may take to become its program.
START_MAX=30
mkdir -p target
work=$(mktemp -d "$PWD/target/floor-XXXXXX")
trap 'rm -rf "$work"' EXIT
gcc -O2 -static -o "$work/floor" bench/floor.c
mkdir -p "$work/rootfs/"{bin,proc,sys,dev,etc,tmp}
cp "${BUSYBOX:-/bin/busybox}" "$work/rootfs/bin/busybox"
ln -s busybox "$work/rootfs/bin/sleep"
export N START_MAX WORK="$work"
unshare --mount --net --propagation private bash -eu -o pipefail -c '
    ip link set lo up
    ip link add floor0 type bridge
    ip addr add 10.98.0.1/16 dev floor0; ip -6 addr add fd98::1/64 dev floor0 nodad; ip link set floor0 up
    cd "$WORK"
    # The two kinds that other programs of the host change all the time are read from our own processes.
    own() { local sum=0 number pid; for pid in "${pids[@]}" "${children[@]}"; do number=$(sed -nE "s/^$1:[[:space:]]+([0-9]+) kB/\1/p" "/proc/$pid/$2"); sum=$((sum + number)); done; echo "$1 $sum"; }
    kinds() { own Anonymous smaps_rollup; own VmPTE status; sed -nE "s/^(Shmem|SReclaimable|SUnreclaim|KernelStack|Percpu): +([0-9]+) kB/\1 \2/p" /proc/meminfo; }
    echo "| containers of floor.c, each with | anonymous | page tables | shmem | slab, reclaimable | slab | kernel stacks | per-cpu | KB in all |"
    echo "|---|---|---|---|---|---|---|---|---|"
    children=() pids=() with=()
    # Only those started here, also after a failure.
    trap '\''for pid in "${children[@]}"; do kill -9 "$pid" || true; done'\'' EXIT
    row() {
        local what=$1 veth=$2 number pid; shift 2
        pids=()
        sync; sleep 1; kinds >before
        for number in $(seq "$N"); do
            mkdir -p "o$number/"{upper,work,merged}
            local given=(); for word in "$@"; do given+=("${word//NUMBER/$number}"); done
            ./floor "${given[@]}" "$WORK/rootfs" /bin/sleep 100000 & pids+=($!)
        done
        # All have become their program.
        for pid in "${pids[@]}"; do
            local deadline=$((SECONDS + START_MAX))
            until child=$(cat "/proc/$pid/task/$pid/children") && [ -n "$child" ] && [ "$(cat /proc/${child% }/comm)" = sleep ]; do
                [ "$SECONDS" -lt "$deadline" ] || { echo "a container did not start" >&2; exit 1; }
                sleep 0.01
            done
            children+=("${child% }")
        done
        if [ "$veth" = 1 ]; then
            number=0
            for child in "${children[@]}"; do
                number=$((number + 1))
                ip link add "fv$number" master floor0 numtxqueues 1 numrxqueues 1 type veth peer name eth0 numtxqueues 1 numrxqueues 1 netns "$child"
                ip link set "fv$number" addrgenmode none up
                nsenter -t "$child" -n ip -batch - <<BATCH
link set lo up
addr add 10.98.$((number / 200 + 1)).$((number % 200 + 1))/16 dev eth0
addr add fd98::a:$number/64 dev eth0 nodad
link set eth0 up
route add default via 10.98.0.1
route add default via fd98::1
BATCH
            done
        fi
        sleep 3; kinds >after
        paste -d" " before after | awk -v what="$what" -v n="$N" "{ kb = (\$4 - \$2) / n; sum += kb; row = row sprintf(\" %.0f |\", kb) } END { printf \"| %s |%s **%.0f** |\n\", what, row, sum }"
        # The first process of a pid namespace hears nothing else.
        kill -9 "${children[@]}"
        wait "${pids[@]}" || true
        children=() pids=()
        local deadline=$((SECONDS + START_MAX))
        until ! ls /sys/class/net | grep -q ^fv || [ "$SECONDS" -ge "$deadline" ]; do sleep 0.1; done
        rm -rf o[0-9]*; sleep 2
    }
    row "namespaces but the network, two processes" 0 -n
    row "an overlay" 0 -n -o "$WORK/oNUMBER"
    row "the mounts, nodes and masks of Docker" 0 -n -m -o "$WORK/oNUMBER"
    if [ ! -e /sys/fs/cgroup/cgroup.controllers ]; then
        for hierarchy in cpu cpuacct cpuset memory devices freezer blkio pids; do
            mkdir -p "/sys/fs/cgroup/$hierarchy/floor"
            [ "$hierarchy" != cpuset ] || for file in cpus mems; do cat "/sys/fs/cgroup/cpuset/cpuset.$file" >"/sys/fs/cgroup/cpuset/floor/cpuset.$file"; done
        done
        row "cgroups" 0 -n -m -c -t -o "$WORK/oNUMBER"
        with=(-c -t)
    fi
    row "a network namespace" 0 -m "${with[@]}" -o "$WORK/oNUMBER"
    row "an interface with addresses on a bridge" 1 -m "${with[@]}" -o "$WORK/oNUMBER"
    [ -z "${with[*]}" ] || for hierarchy in cpu cpuacct cpuset memory devices freezer blkio pids; do rmdir "/sys/fs/cgroup/$hierarchy/floor"; done
'
