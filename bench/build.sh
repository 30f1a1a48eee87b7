#!/bin/bash
# Builds of one Dockerfile (12 steps, 3 stages, 5,000 files of context) beside docker's classic builder, buildx and
# buildah, interleaved; see README.md here. Needs root, docker's client, a static busybox.
#   PEERS=DIR    a root of the peers' packages (bench/peers.sh make); without one, berth alone
#   PROGRAMS=DIR berthd, berth, berth-shim that are built already (default: cargo builds target/release)
#   ROUNDS=N     (default 7)      ONLY="cold cached"   kinds, of: cold cached late source true
#
# cold: nothing cached. cached: all. late: the file of the last COPY changed. source: one of the 5,000 did.
# true: what each of 20 steps of `RUN true` costs. Prints milliseconds, medians; times are taken where the client runs.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "skipped: needs root" >&2; exit 0; }
ROUNDS=${ROUNDS:-7} PEERS=${PEERS:-} ONLY=${ONLY:-cold cached late source true}
busybox=${BUSYBOX:-/bin/busybox}
file -L "$busybox" 2>/dev/null | grep -q static || ! command -v file >/dev/null || { echo "needs a static busybox (BUSYBOX=FILE)" >&2; exit 1; }
if [ -z "${PROGRAMS:-}" ]; then
    cargo build -q --release -p berthd -p berth -p berth-shim
    PROGRAMS=target/release
fi
programs=$(realpath "$PROGRAMS")
work=$(mktemp -d /var/tmp/berth-bench-build-XXXXXX)
bench/peers.sh disk "$work"
# The peers' world has most of the machine beside other work (peers.sh): so have we.
group=/sys/fs/cgroup/berth-bench-$$
[ -e /sys/fs/cgroup/cgroup.controllers ] || group=/sys/fs/cgroup/cpu/berth-bench-$$
mkdir "$group"
if [ -e "$group/cpu.weight" ]; then echo 10000 >"$group/cpu.weight"; else echo 262144 >"$group/cpu.shares"; fi
join() { echo $BASHPID >"$group/cgroup.procs"; }
engine=
cleanup() {
    [ -z "$engine" ] || { kill "$engine" && wait "$engine" || true; } 2>/dev/null
    [ -z "$PEERS" ] || bench/peers.sh down "$work/world" || true
    for _ in $(seq 50); do rmdir "$group" 2>/dev/null || true; [ -e "$group" ] || break; sleep 0.1; done
    bench/peers.sh undisk "$work"
}
trap cleanup EXIT

share=$work/world/share
mkdir -p "$share/context/src" "$share/steps"
for folder in $(seq 50); do
    mkdir "$share/context/src/$folder"
    for file in $(seq 100); do printf 'file %s of %s\n%0900d\n' "$file" "$folder" 0 >"$share/context/src/$folder/$file.txt"; done
done
echo last >"$share/context/late.txt"
cat >"$share/context/Dockerfile" <<'DOCKERFILE'
FROM bench-tiny:1 AS deps
RUN mkdir /deps && echo dependencies > /deps/list
RUN echo more >> /deps/list
FROM bench-tiny:1 AS build
WORKDIR /build
COPY src src
RUN cat src/1/*.txt > all
FROM bench-tiny:1
COPY --from=deps /deps/list /app/list
COPY --from=build /build/all /app/all
COPY late.txt /app/
RUN true
DOCKERFILE
echo "FROM bench-tiny:1" >"$share/steps/none"
{ echo "FROM bench-tiny:1"; for _ in $(seq 20); do echo "RUN true"; done; } >"$share/steps/twenty"

mkdir -p "$work/tiny/bin" "$work/tiny/tmp"
cp -L "$busybox" "$work/tiny/bin/busybox"
for name in sh cat echo mkdir true; do ln -s busybox "$work/tiny/bin/$name"; done
tar -C "$work/tiny" -cf "$share/tiny.tar" .

(
    join
    exec "$programs/berthd" -H "unix://$work/berth.sock" --data-root "$work/data" --exec-root "$work/run"
) >"$work/berthd.log" 2>&1 &
engine=$!
export BERTH_HOST=unix://$work/berth.sock
for _ in $(seq 100); do "$programs/berth" version >/dev/null 2>&1 && break; sleep 0.1; done
"$programs/berth" import "$share/tiny.tar" bench-tiny:1 >/dev/null

builders=(berth)
if [ -n "$PEERS" ]; then
    bench/peers.sh up "$PEERS" "$work/world"
    bench/peers.sh docker "$work/world"
    bench/peers.sh in "$work/world" docker -H unix:///share/docker.sock import /share/tiny.tar bench-tiny:1 >/dev/null
    bench/peers.sh in "$work/world" sh -c 'c=$(buildah from scratch) && buildah add -q $c /share/tiny.tar / && buildah config --cmd sh $c && buildah commit -q $c localhost/bench-tiny:1' >/dev/null
    builders+=(classic buildx buildah)
fi

limit() { local hard; hard=$(ulimit -H"$1"); echo "${hard/unlimited/-1}:${hard/unlimited/-1}"; }
# Milliseconds of a build in the folder; the rest are words for the builder.
once() { # builder folder words...
    local builder=$1 folder=$2 command
    shift 2
    case $builder in
    berth) command="$programs/berth build -q -t bench $* ." ;;
    classic) command="DOCKER_BUILDKIT=0 docker -H unix:///share/docker.sock build -q -t bench $* ." ;;
    buildx) command="DOCKER_BUILDKIT=1 docker -H unix:///share/docker.sock build -q -t bench $* ." ;;
    # By itself it raises limits, which not every machine allows.
    buildah) command="buildah bud -q --layers --ulimit nofile=$(limit n) --ulimit nproc=$(limit u) -t bench $* ." ;;
    esac
    command="before=\$(date +%s%N); $command >/tmp/bench-build.log 2>&1 || { tail -20 /tmp/bench-build.log >&2; exit 1; }; echo \$(((\$(date +%s%N) - before) / 1000))"
    case $builder in
    berth) (join; cd "$share/$folder" && timeout 120 bash -c "$command") ;;
    *) timeout 120 bench/peers.sh in "$work/world" bash -c "cd /share/$folder && $command" ;;
    esac || { echo "build.sh: $builder failed" >&2; exit 1; }
}
median() { sort -n | awk '{a[NR]=$1} END {printf "%.1f", a[int((NR+1)/2)] / 1000}'; }
mkdir "$work/times"
for builder in "${builders[@]}"; do once "$builder" context >/dev/null; once "$builder" context >/dev/null; done
for kind in $ONLY; do
    for round in $(seq "$ROUNDS"); do
        case $kind in
        late) echo "late $round $RANDOM" >"$share/context/late.txt" ;;
        source) echo "source $round $RANDOM" >"$share/context/src/50/100.txt" ;;
        esac
        # Whoever is first meets the disk as the one before left it: they take turns.
        for at in "${!builders[@]}"; do
            builder=${builders[$(((at + round) % ${#builders[@]}))]}
            case $kind in
            cold) once "$builder" context --no-cache >>"$work/times/$builder.$kind" ;;
            true)
                none=$(once "$builder" steps --no-cache -f none)
                twenty=$(once "$builder" steps --no-cache -f twenty)
                echo $(((twenty - none) / 20)) >>"$work/times/$builder.$kind"
                ;;
            *) once "$builder" context >>"$work/times/$builder.$kind" ;;
            esac
        done
    done
done
printf '%-10s' builder; printf '%10s' $ONLY; printf '   ms, medians of %s rounds\n' "$ROUNDS"
for builder in "${builders[@]}"; do
    printf '%-10s' "$builder"
    for kind in $ONLY; do printf '%10s' "$(median <"$work/times/$builder.$kind")"; done
    echo
done
if [ -n "$PEERS" ]; then
    printf '%-10s' "of best"
    for kind in $ONLY; do
        best=$(for builder in classic buildx buildah; do median <"$work/times/$builder.$kind"; echo; done | sort -n | head -1)
        printf '%10s' "$(echo "$(median <"$work/times/berth.$kind") $best" | awk '{printf "%.2f", $1 / $2}')"
    done
    echo
fi
