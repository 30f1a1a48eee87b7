#!/bin/bash
# Images in and out: load, save, pull, push, and a pull of what is here already; beside dockerd, podman and skopeo, with
# one registry for all. One big layer and ten layers, plain, gzip and zstd. See README.md here. Needs root, docker's
# client, python3, and
#   PEERS=DIR    a root of the peers' packages (bench/peers.sh make); without one it says so and ends
#   ROOTFS=FILE  tar file of a root file system (default: a development system by mmdebstrap, kept in KEEP)
#   PROGRAMS=DIR our programs (default target/release, built here)     STORAGE=NAME  berth's storage driver
#   ONLY=a,b     of load,save,pull,push,current (all)                  RUNS=N        rounds (3)
#   KINDS=a,b    of big,ten,big-gzip,big-zstd for load, of big,ten for pull and push (all)
#   AGAINST=a,b  of docker,podman,skopeo (all): the slow ones left out while one looks for a cause
#   KEEP=DIR     where archives stay for the next time
set -euo pipefail
cd "$(dirname "$0")/.."
peers=bench/peers.sh PEERS=${PEERS:-} RUNS=${RUNS:-3} KEEP=${KEEP:-/var/tmp/berth-bench-images} ONLY=${ONLY:-load,save,pull,push,current}
KINDS=${KINDS:-big,ten,big-gzip,big-zstd} AGAINST=${AGAINST:-docker,podman,skopeo}
missing=
[ "$(id -u)" = 0 ] || missing="root"
[ -d "${PEERS:-/nonexistent}" ] || missing="PEERS, a root of the peers' packages"
for program in docker python3 curl nsenter; do command -v $program >/dev/null || missing=$program; done
[ -z "$missing" ] || { echo "SKIPPED: needs $missing" >&2; exit 0; }
[ -n "${PROGRAMS:-}" ] || cargo build -q --release -p berthd -p berth-shim -p berth-bench
PROGRAMS=$(realpath "${PROGRAMS:-target/release}")
mkdir -p "$KEEP"
work=$(mktemp -d /var/tmp/berth-bench-XXXXXX)
world=$work/world engine= group=/sys/fs/cgroup/cpuacct/berth-bench-$$ share=
[ ! -e /sys/fs/cgroup/cgroup.controllers ] || group=/sys/fs/cgroup/berth-bench-$$
cleanup() {
    [ -z "$engine" ] || { kill "$engine" && wait "$engine" || true; }
    "$peers" down "$world" 2>/dev/null || true
    for _ in $(seq 50); do rmdir "$group" ${share:+"$share"} 2>/dev/null || true; [ -e "$group" ] || [ -e "${share:-/nonexistent}" ] || break; sleep 0.1; done
    "$peers" undisk "$work"
}
trap cleanup EXIT
"$peers" disk "$work"
mkdir -p "$group"
# As the peers' world has it: most of the machine beside other work.
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then echo 10000 >"$group/cpu.weight" 2>/dev/null || true
else share=/sys/fs/cgroup/cpu/berth-bench-$$; mkdir "$share"; echo 262144 >"$share/cpu.shares"; fi

# Archives: the root file system as one layer and as ten of about the same size, names of one file together.
rootfs=${ROOTFS:-$KEEP/rootfs.tar}
[ -s "$rootfs" ] || mmdebstrap --quiet --variant=minbase --include=build-essential,python3,git,perl bookworm "$rootfs"
python3 - "$rootfs" "$KEEP" <<'END'
import copy, hashlib, io, json, os, subprocess, sys, tarfile
rootfs, keep = sys.argv[1:]
def archive(name, layers, packed=lambda path: path):
    target = os.path.join(keep, name + ".tar")
    if os.path.exists(target) and os.path.getmtime(target) > os.path.getmtime(rootfs): return
    ids = ["sha256:" + hashlib.file_digest(open(layer, "rb"), "sha256").hexdigest() for layer in layers]
    config = json.dumps({"architecture": os.uname().machine.replace("x86_64", "amd64").replace("aarch64", "arm64"), "os": "linux",
        "config": {"Cmd": ["sh"]}, "rootfs": {"type": "layers", "diff_ids": ids}}).encode()
    with tarfile.open(target + ".new", "w") as out:
        def add(path, data):
            info = tarfile.TarInfo(path); info.size = len(data); out.addfile(info, io.BytesIO(data))
        add("config.json", config)
        names = ["%d/layer.tar" % n for n in range(len(layers))]
        for path, layer in zip(names, layers): out.add(packed(layer), path)
        add("manifest.json", json.dumps([{"Config": "config.json", "RepoTags": [name + ":1"], "Layers": names}]).encode())
    os.rename(target + ".new", target)
def pack(command, end):
    def run(layer):
        target = os.path.join(keep, os.path.basename(layer) + end)
        if not os.path.exists(target): subprocess.run("%s <%s >%s" % (command, layer, target), shell=True, check=True)
        return target
    return run
parts = [os.path.join(keep, "part-%d.tar" % n) for n in range(10)]
if not os.path.exists(parts[-1]) or os.path.getmtime(parts[-1]) < os.path.getmtime(rootfs):
    outs = [tarfile.open(part, "w", format=tarfile.PAX_FORMAT) for part in parts]
    each, written, part_of = os.path.getsize(rootfs) / 10, 0, {}
    with tarfile.open(rootfs) as source:
        for member in source:
            part = part_of.get(member.linkname) if member.islnk() else min(9, int(written / each))
            part_of[member.name] = part
            outs[part].addfile(copy.copy(member), source.extractfile(member) if member.isreg() else None)
            written += 512 + member.size
    for out in outs: out.close()
archive("big", [rootfs]); archive("ten", parts)
archive("big-gzip", [rootfs], pack("gzip -nc", ".gz")); archive("big-zstd", [rootfs], pack("zstd -q -3 -c", ".zst"))
END

"$peers" up "$PEERS" "$world"
"$peers" docker "$world"
"$peers" registry "$world" 5000
"$peers" registry "$world" 5001
peer_group=$(dirname "$group")/$(cat "$world/cgroup")
inside() { "$peers" in "$world" env PODMAN_IGNORE_CGROUPSV1_WARNING=1 "$@"; }
theirs() { inside docker -H unix:///share/docker.sock "$@"; }
join() { echo $BASHPID >"$group/cgroup.procs"; [ -z "$share" ] || echo $BASHPID >"$share/cgroup.procs"; }
(join; exec nsenter --target "$(cat "$world/pid")" --net "$PROGRAMS/berthd" -H "unix://$work/berth.sock" \
    --data-root "$work/data" --exec-root "$work/run" ${STORAGE:+--storage-driver "$STORAGE"}) >"$work/berthd.log" 2>&1 &
engine=$!
ours() { (join; DOCKER_HOST=unix://$work/berth.sock exec docker "$@"); }
for _ in $(seq 100); do ours version >/dev/null 2>&1 && break; sleep 0.1; done
echo "$(ours info -f '{{.Driver}}') on $(ours info -f '{{.KernelVersion}}'), $(nproc) processors, root file system of $(($(stat -c %s "$rootfs") / 1000000)) MB"
cp "$KEEP"/{big,ten,big-gzip,big-zstd}.tar "$world/share/"
registry=127.0.0.1:5000 empty=127.0.0.1:5001

named() { [[ ,$1, == *,$2,* ]]; }
cpu() { if [ -e "$1/cpuacct.usage" ]; then echo $(($(cat "$1/cpuacct.usage") / 1000)); else sed -n 's/^usage_usec //p' "$1/cpu.stat"; fi; }
# One run: notes "<what> <who> <wall ms> <cpu ms>".
measure() { # WHAT WHO GROUP COMMAND...
    local what=$1 who=$2 of=$3 from to before after; shift 3
    [ "$who" = berth ] || named "$AGAINST" "$who" || return 0
    sync
    before=$(cpu "$of") from=$(date +%s%N)
    "$@" >/dev/null 2>"$work/stderr" || { echo "$what by $who failed: $(tail -n 2 "$work/stderr")" >&2; return 0; }
    to=$(date +%s%N) after=$(cpu "$of")
    echo "$what $who $(((to - from) / 1000000)) $(((after - before) / 1000))" >>"$work/times"
}
# Nobody has an image, and nothing of one is still being removed.
clean() {
    ours images -aq | sort -u | xargs -r env DOCKER_HOST="unix://$work/berth.sock" docker rmi -f >/dev/null
    rm -f "$work"/data/content/blobs/sha256/*
    for _ in $(seq 100); do [ -z "$(ls "$work/data/layers")" ] && break; sleep 0.1; done
    theirs images -aq | sort -u | xargs -r "$peers" in "$world" docker -H unix:///share/docker.sock rmi -f >/dev/null
    inside podman rmi -fa >/dev/null 2>&1 || true
    inside rm -rf /tmp/oci
}
wanted() { named "$ONLY" "$1"; }
kinds() { local kind; for kind in "$@"; do ! named "$KINDS" "$kind" || echo "$kind"; done; }
to_folder() { inside skopeo copy -q --src-tls-verify=false "$1" oci:/tmp/oci:x; }
load() {
    local kind
    for kind in $(kinds big ten big-gzip big-zstd); do
        clean
        measure "load-$kind" berth "$group" ours load -q -i "$world/share/$kind.tar"
        measure "load-$kind" docker "$peer_group" theirs load -q -i "/share/$kind.tar"
        measure "load-$kind" podman "$peer_group" inside podman load -q -i "/share/$kind.tar"
        measure "load-$kind" skopeo "$peer_group" to_folder "docker-archive:/share/$kind.tar"
    done
}
save() {
    clean
    ours load -q -i "$world/share/big.tar" >/dev/null; theirs load -q -i /share/big.tar >/dev/null; inside podman load -q -i /share/big.tar >/dev/null
    measure save berth "$group" ours save -o "$world/share/out.tar" big:1
    measure save docker "$peer_group" theirs save -o /share/out.tar big:1; inside rm -f /share/out.tar
    measure save podman "$peer_group" inside podman save -q -o /share/out.tar big:1; inside rm -f /share/out.tar
}
fill() { # the registry, once, by skopeo
    local kind packing format
    for kind in big ten; do for packing in gzip zstd; do
        format=v2s2; [ $packing = gzip ] || format=oci
        inside skopeo copy -q --dest-tls-verify=false --format $format --dest-compress-format $packing --dest-force-compress-format \
            "docker-archive:/share/$kind.tar" "docker://$registry/$kind:$packing"
    done; done
}
pull() {
    local kind packing name
    for kind in $(kinds big ten); do for packing in gzip zstd; do
        name=$registry/$kind:$packing
        clean
        measure "pull-$kind-$packing" berth "$group" ours pull -q "$name"
        measure "pull-$kind-$packing" docker "$peer_group" theirs pull -q "$name"
        measure "pull-$kind-$packing" podman "$peer_group" inside podman pull -q --tls-verify=false "$name"
        measure "pull-$kind-$packing" skopeo "$peer_group" to_folder "docker://$name"
    done; done
}
# What was packed or sent before must not be found again: neither on the disk nor in the registry.
forget() { rm -rf "$world/share/registry-5001/docker" "$work"/data/content/blobs/sha256/*; }
push() {
    local kind
    for kind in $(kinds big ten); do
        clean
        ours load -q -i "$world/share/$kind.tar" >/dev/null; theirs load -q -i "/share/$kind.tar" >/dev/null; inside podman load -q -i "/share/$kind.tar" >/dev/null
        ours tag $kind:1 $empty/$kind:1; theirs tag $kind:1 $empty/$kind:1; inside podman tag $kind:1 $empty/$kind:1
        forget; measure "push-$kind" berth "$group" ours push -q $empty/$kind:1
        forget; measure "push-$kind" docker "$peer_group" theirs push -q $empty/$kind:1
        forget; measure "push-$kind" podman "$peer_group" inside podman push -q --tls-verify=false $empty/$kind:1
        forget; measure "push-$kind" skopeo "$peer_group" inside skopeo copy -q --dest-tls-verify=false "docker-archive:/share/$kind.tar" docker://$empty/$kind:1
    done
}
# A pull of what is here beside the registry's own answer to the one question that it takes.
current() {
    local name=$registry/big:gzip in
    clean
    ours pull -q "$name" >/dev/null
    in=(nsenter --target "$(cat "$world/pid")" --net curl -s -o /dev/null -w '%{time_total}\n')
    for _ in $(seq 15); do
        printf 'current pull %.2f\n' "$("${in[@]}" --unix-socket "$work/berth.sock" -X POST "http://d/images/create?fromImage=$registry/big&tag=gzip" | awk '{print $1 * 1000}')"
        printf 'current registry %.2f\n' "$("${in[@]}" -I -H 'Accept: application/vnd.docker.distribution.manifest.v2+json' "http://$registry/v2/big/manifests/gzip" | awk '{print $1 * 1000}')"
    done >>"$work/current"
}
! wanted pull && ! wanted current || fill
for _ in $(seq "$RUNS"); do for what in load save pull push current; do ! wanted $what || $what; done; done

# The floor of load and pull: what has to be done with these bytes, each step alone on one processor.
floors() { for packed in "$rootfs" "$KEEP/$(basename "$rootfs").gz" "$KEEP/$(basename "$rootfs").zst"; do "$PROGRAMS/bench-floor" "$packed" "$work"; done; }
[ ! -x "$PROGRAMS/bench-floor" ] || { echo; echo "floor:"; floors; }
python3 - "$work" <<'END'
import collections, os, statistics, sys
work = sys.argv[1]
times = collections.defaultdict(list)
if os.path.exists(work + "/times"):
    for line in open(work + "/times"):
        what, who, wall, cpu = line.split(); times[what, who].append((int(wall), int(cpu)))
target = {"load": 0.25, "pull": 0.35, "push": 0.6}
print("\n| what | " + " | ".join(who + " ms (cpu)" for who in ("berth", "docker", "podman", "skopeo")) + " | berth / best | target |\n|" + "---|" * 7)
for what in dict.fromkeys(what for what, _ in times):
    cells, walls = [], {}
    for who in ("berth", "docker", "podman", "skopeo"):
        runs = times.get((what, who))
        if not runs: cells.append(""); continue
        walls[who] = statistics.median(wall for wall, _ in runs)
        cells.append("%d (%d), %d-%d" % (walls[who], statistics.median(cpu for _, cpu in runs), min(runs)[0], max(runs)[0]))
    # skopeo's copy into a folder unpacks nothing: only in a push it does the same as the others.
    rivals = [wall for who, wall in walls.items() if who != "berth" and (who != "skopeo" or what.startswith("push"))]
    ratio, most = walls.get("berth", 0) / min(rivals) if rivals else 0, target.get(what.split("-")[0])
    print("| %s | %s | %.2f | %s |" % (what, " | ".join(cells), ratio, "" if not most else "%.2f: %s" % (most, "met" if ratio <= most else "MISSED")))
if os.path.exists(work + "/current"):
    both = collections.defaultdict(list)
    for line in open(work + "/current"): both[line.split()[1]].append(float(line.split()[2]))
    pull, registry = (statistics.median(both[who]) for who in ("pull", "registry"))
    print("\npull of what is here: %.1f ms, the registry's own answer %.1f ms, beyond it %.1f ms (target 30: %s)" % (pull, registry, pull - registry, "met" if pull - registry < 30 else "MISSED"))
END
