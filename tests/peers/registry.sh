#!/bin/bash
# What we push they run, what they push we run: docker, podman, skopeo and buildah beside our engine, one registry between
# them. Needs root, docker's client, and the peers' packages (bench/peers.sh make ROOT); says so aloud without them.
#   tests/peers/registry.sh ROOT [PROGRAMS]     PROGRAMS: folder of berthd, berth-shim and berth (target/debug)
set -euo pipefail
cd "$(dirname "$0")/../.."
tool=${PEERS_TOOL:-bench/peers.sh} root=${1:-} programs=$(realpath "${2:-target/debug}")
if [ "$(id -u)" != 0 ] || [ ! -d "${root:-/nonexistent}" ] || [ ! -x "$tool" ] || ! command -v docker >/dev/null; then
    echo "SKIPPED: needs root, docker's client and the peers' packages: $0 ROOT" >&2
    exit 0
fi
work=$(mktemp -d /var/tmp/berth-peers-registry-XXXXXX)
world=$work/world engine=
cleanup() {
    [ -z "$engine" ] || { kill "$engine" && wait "$engine" || true; }
    "$tool" down "$world" || true
    [ -n "${KEEP:-}" ] || rm -rf "$work"
}
trap cleanup EXIT
inside() { "$tool" in "$world" env PODMAN_IGNORE_CGROUPSV1_WARNING=1 "$@"; }
"$tool" up "$root" "$world"
"$tool" docker "$world"
"$tool" registry "$world" 5000
# Our engine sees the world's network, where the registry is.
nsenter --target "$(cat "$world/pid")" --net "$programs/berthd" -H "unix://$work/berth.sock" \
    --data-root "$work/data" --exec-root "$work/run" >"$work/berthd.log" 2>&1 &
engine=$!
ours() { DOCKER_HOST=unix://$work/berth.sock docker "$@"; }
theirs() { DOCKER_HOST=unix://$world/share/docker.sock docker "$@"; }
for _ in $(seq 100); do ours version >/dev/null 2>&1 && break; sleep 0.1; done

mkdir -p "$work/image/bin"
cp /bin/busybox "$work/image/bin/"
for applet in sh cat; do ln -s busybox "$work/image/bin/$applet"; done
registry=127.0.0.1:5000 failed=0
check() { # WHAT EXPECTED COMMAND...
    local what=$1 expected=$2 said; shift 2
    said=$("$@" 2>"$work/stderr" | tail -n 1) || true
    if [ "$said" = "$expected" ]; then echo "ok      $what"; return; fi
    echo "FAILED  $what: ${said:-nothing} instead of $expected; $(tail -n 2 "$work/stderr")"
    failed=1
}

# An image of two layers, ours.
echo ours >"$work/image/who"
tar -C "$work/image" -c . | ours import --change 'CMD ["cat","/who"]' - $registry/base:1 >/dev/null
ours run --network none --name changed $registry/base:1 sh -c 'busybox mkdir /more; echo more > /more/x; busybox rm /bin/cat' >/dev/null
ours commit changed $registry/two:1 >/dev/null
ours rm changed >/dev/null
ours push -q $registry/base:1 >/dev/null
ours push -q $registry/two:1 >/dev/null
check "docker runs what we pushed" ours inside docker -H unix:///share/docker.sock run --rm $registry/base:1
check "podman runs what we pushed" ours inside podman run --rm --tls-verify=false $registry/base:1
check "docker runs our two layers" more inside docker -H unix:///share/docker.sock run --rm $registry/two:1 sh -c 'busybox cat /more/x; busybox test ! -e /bin/cat'
check "podman runs our two layers" more inside podman run --rm --tls-verify=false $registry/two:1 sh -c 'busybox cat /more/x; busybox test ! -e /bin/cat'
check "skopeo reads our manifest" "$(ours inspect --type image -f '{{index .RepoDigests 0}}' $registry/two:1 | sed 's/.*@//')" \
    inside skopeo inspect --tls-verify=false --format '{{.Digest}}' docker://$registry/two:1

# Theirs.
echo theirs >"$work/image/who"
tar -C "$work/image" -c . | theirs import --change 'CMD ["cat","/who"]' - $registry/docker:1 >/dev/null
inside docker -H unix:///share/docker.sock push -q $registry/docker:1 >/dev/null
check "we run what docker pushed" theirs ours run --network none --rm $registry/docker:1
inside skopeo copy -q --src-tls-verify=false --dest-tls-verify=false --format oci --dest-compress-format zstd \
    --dest-force-compress-format docker://$registry/docker:1 docker://$registry/skopeo-zstd:1
check "we run what skopeo pushed (OCI, zstd)" theirs ours run --network none --rm $registry/skopeo-zstd:1
inside podman pull -q --tls-verify=false $registry/docker:1 >/dev/null
inside podman tag $registry/docker:1 $registry/podman:1
inside podman push -q --tls-verify=false --format oci $registry/podman:1
check "we run what podman pushed (OCI, gzip)" theirs ours run --network none --rm $registry/podman:1
inside podman push -q --tls-verify=false --compression-format zstd:chunked --force-compression $registry/docker:1 $registry/chunked:1 || true
check "we run what podman pushed (zstd:chunked)" theirs ours run --network none --rm $registry/chunked:1
ours tag $registry/skopeo-zstd:1 $registry/again:1
ours push -q $registry/again:1 >/dev/null
check "podman runs their zstd layers that we pushed on" theirs inside podman run --rm --tls-verify=false $registry/again:1
exit $failed
