#!/bin/bash
# A container beside a machine on this host: start, memory, how many fit, speed inside, disk. Needs root, qemu-system-x86, qemu-utils, e2fsprogs, cpio,
# busybox-static, docker's client. Prints a table and the single values behind it.
#   PROGRAMS=DIR  take built programs from there instead of building them
#   KERNEL=FILE   Debian's cloud kernel as a package (default: fetched by apt)
#   RUNS=5        starts and rounds of work of each row     MANY=4  idle instances that memory and disk are read from
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "skipped: needs root" >&2; exit 0; }
for program in /usr/bin/qemu-system-x86_64 cpio docker busybox; do
    command -v "$program" >/dev/null || { echo "skipped: needs $program" >&2; exit 0; }
done
RUNS=${RUNS:-5} MANY=${MANY:-4} programs=${PROGRAMS:-}
[ -n "$programs" ] || { cargo build -q --release --bins; programs=$PWD/target/release; }
work=$(mktemp -d /var/tmp/berth-bench-XXXXXX)
export DOCKER_HOST=unix://$work/berth.sock
berth() { "$programs/berth" -H "$DOCKER_HOST" "$@"; }
engine=
cleanup() {
    if [ -n "$engine" ]; then
        docker ps -aq | xargs -r docker rm -f >/dev/null || true
        berth vm ls -q | xargs -r "$programs/berth" -H "$DOCKER_HOST" vm rm -f >/dev/null || true
        kill "$engine" && wait "$engine" || true
    fi
    find /sys/fs/cgroup -depth -type d -path "*/berth-bench-$$*" -exec rmdir {} + 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
# In a session of its own: what interrupts us leaves it to the cleaning up.
setsid "$programs/berthd" -H "$DOCKER_HOST" --data-root "$work/data" --exec-root "$work/run" --cgroup-parent "/berth-bench-$$" >"$work/log" 2>&1 &
engine=$!
for _ in $(seq 200); do docker version >/dev/null 2>&1 && break; sleep 0.1; done
docker version >/dev/null || { cat "$work/log" >&2; exit 1; }

# The image: busybox alone.
mkdir -p "$work/tree/bin"
cp "$(command -v busybox)" "$work/tree/bin/busybox"
for name in sh sleep true sha256sum dd cat; do ln -s busybox "$work/tree/bin/$name"; done
tar -C "$work/tree" -c . | docker import - tiny >/dev/null
berth vm kernel install ${KERNEL:+"$KERNEL"} >/dev/null

# A whole Linux for machines: the same kernel, busybox, the agent.
kernel=$(echo "$work"/data/guests/kernels/*)
mkdir -p "$work/initrd/"{bin,proc,sys,dev,etc,run,tmp}
cp -r "$kernel/modules" "$work/initrd/modules"
cp "$(command -v busybox)" "$work/initrd/bin/busybox"
cp "$programs/berth-agent" "$work/initrd/bin/"
echo root:x:0:0:root:/:/bin/sh >"$work/initrd/etc/passwd"
cat >"$work/initrd/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev
for module in $(cat /modules/order); do insmod /modules/$module 2>/dev/null; done
while :; do /bin/berth-agent --service; done
INIT
chmod 755 "$work/initrd/init"
(cd "$work/initrd" && find . | cpio -o -H newc --quiet) >"$work/linux.initrd"
size="-m 256m --network none"
answers() { until berth vm exec "$1" /bin/true >/dev/null 2>&1; do sleep 0.02; done; }
cold() { berth vm create $size --disk size=64M --kernel "$kernel/vmlinux" --initrd "$work/linux.initrd" --append "console=ttyS0 quiet mitigations=off no_timer_check" --start "$1" >/dev/null; answers "$1"; }

# KIND NAME: starts one, and returns when something can be run in it.
start() {
    case $1 in
    container) docker run -d --network none --name "$2" tiny sleep 100000 >/dev/null ;;
    isolated) docker run -d --network none -m 128m --isolation vm --name "$2" tiny sleep 100000 >/dev/null ;;
    cold) cold "$2" ;;
    fork) berth vm fork warm "$2" >/dev/null; answers "$2" ;;
    esac
}
end() { case $1 in container | isolated) docker rm -f "$2" >/dev/null ;; *) berth vm rm -f "$2" >/dev/null ;; esac; }
inside() { local kind=$1 name=$2; shift 2; case $kind in host) "$work/tree/bin/busybox" "$@" ;; container | isolated) docker exec "$name" /bin/busybox "$@" ;; *) berth vm exec "$name" /bin/busybox "$@" ;; esac; }
id() { case $1 in container | isolated) docker inspect -f '{{.Id}}' "$2" ;; *) berth vm inspect -f '{{.id}}' "$2" ;; esac; }
median() { sort -n | awk '{v[NR]=$1} END {print NR % 2 ? v[(NR+1)/2] : (v[NR/2]+v[NR/2+1])/2}'; }
now() { date +%s%N; }

# Processes of an instance: its shim and everything below it.
family() { local child; echo "$1"; for child in $(cat /proc/"$1"/task/*/children 2>/dev/null); do family "$child"; done; }
shim() { local pid; pid=$(docker inspect -f '{{.State.Pid}}' "$1" 2>/dev/null || berth vm inspect -f '{{.pid}}' "$1"); sed -n 's/^PPid:[[:space:]]*//p' "/proc/$pid/status"; }
pss_kb() { local sum=0 pid more; for pid in $(family "$(shim "$1")"); do more=$(sed -n 's/^Pss: *\([0-9]*\) kB/\1/p' "/proc/$pid/smaps_rollup" 2>/dev/null || true); sum=$((sum + ${more:-0})); done; echo "$sum"; }
available_kb() { sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo; }
# What is on the disk of one instance's own: its folders, by allocated blocks.
disk_kb() { find "$work/data" -depth -type d -name "$1" -exec du -sk {} + | awk '{sum += $1} END {print sum + 0}'; }

# Work that says its own time in nanoseconds; the clock is the host's, so a guest's slow clock hides nothing.
loop='i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done'
forks='i=0; while [ $i -lt 100 ]; do /bin/busybox true; i=$((i+1)); done'
hash='dd if=/dev/zero bs=1M count=16 2>/dev/null | sha256sum'
timed() { local from; from=$(now); inside "$@" >/dev/null; echo $((($(now) - from) / 1000)); }
work_us() { # KIND NAME SCRIPT: without the way in and out
    local none all
    none=$(for _ in $(seq "$RUNS"); do timed "$1" "$2" sh -c :; done | median)
    all=$(for _ in $(seq "$RUNS"); do timed "$1" "$2" sh -c "$3"; done | median)
    awk -v all="$all" -v none="$none" 'BEGIN {print all - none}'
}
declare -A host=()
for script in loop forks hash; do host[$script]=$(work_us host - "${!script}"); done

ratio() { awk -v a="$1" -v b="$2" 'BEGIN {printf "%.2f", a / b}'; }
mb() { awk -v kb="$1" 'BEGIN {printf "%.1f", kb / 1024}'; }
declare -A name=([container]="container" [isolated]="container, \`--isolation vm\`, 128 MiB" [cold]="machine, 256 MiB, cold" [fork]="machine, 256 MiB, fork of a running template")
echo "| | start until something runs in it, ms | memory in all, MB | of it in its processes (PSS), MB | as many fit into what is free | loop, fork+exec, SHA-256: time / host's | disk, MB |"
echo "|---|---|---|---|---|---|---|"
for kind in container isolated cold fork; do
    [ "$kind" != fork ] || { cold warm; berth vm template --running warm >/dev/null; }
    starts=$(for number in $(seq "$RUNS"); do from=$(now); start "$kind" "one$number"; echo $((($(now) - from) / 1000000)); end "$kind" "one$number"; done)
    start "$kind" first
    sync; sleep 2
    free=$(available_kb)
    for number in $(seq "$MANY"); do start "$kind" "many$number"; done
    sync; sleep 2
    all=$(((free - $(available_kb)) / MANY))
    pss=$(for number in $(seq "$MANY"); do pss_kb "many$number"; done | median)
    disk=$(for number in $(seq "$MANY"); do disk_kb "$(id "$kind" "many$number")"; done | median)
    speeds=
    for script in loop forks hash; do speeds="$speeds${speeds:+, }$(ratio "$(work_us "$kind" first "${!script}")" "${host[$script]}")"; done
    for one in first $(seq -f "many%g" "$MANY"); do end "$kind" "$one"; done
    larger=$((all > pss ? all : pss))
    echo "| ${name[$kind]} | $(echo "$starts" | median) ($(echo $starts)) | $(mb "$all") | $(mb "$pss") | $((free / (larger > 0 ? larger : 1))) | $speeds | $(mb "$disk") |"
done
echo
echo "host: loop of 50,000 steps ${host[loop]} us, 100 fork+exec ${host[forks]} us, SHA-256 of 16 MB ${host[hash]} us; $(berth info --format '{{json .Runtimes}}' | head -c 300)"
