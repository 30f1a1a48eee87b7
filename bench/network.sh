#!/bin/bash
# Published ports, joining, names: docker, podman and berth in one world, and the kernel's path made by hand. Needs root, cargo.
#   PEERS=DIR     a root made by bench/peers.sh make DIR       PROGRAMS=DIR  built programs instead of building them
#   RUNS=N        rounds of one second each (default 7)        PORTS=N       ports of one container (default 10000)
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "skipped: needs root" >&2; exit 0; }
RUNS=${RUNS:-7} PORTS=${PORTS:-10000} programs=${PROGRAMS:-}
[ -n "$programs" ] || { cargo build -q --release --bins; programs=target/release; }
peers=${PEERS:-$PWD/target/bench/peers}
[ -e "$peers/usr/bin/podman" ] || bench/peers.sh make "$peers"
mkdir -p target/bench
state=$(mktemp -d "$PWD/target/bench/world-XXXXXX")
trap 'bench/peers.sh down "$state"; bench/peers.sh undisk "$state"' EXIT
bench/peers.sh disk "$state"
bench/peers.sh up "$peers" "$state"
cp "$programs"/{berth,berthd,berth-shim,berth-dns,bench-net} "$state/share/"

# An image with both ends, a busybox, and what they are linked with.
image=$state/share/image
mkdir -p "$image/bin"
cp "$programs/bench-net" "$peers/usr/bin/busybox" "$image/bin/"
ln -s busybox "$image/bin/true"; ln -s busybox "$image/bin/sleep"
ldd "$programs/bench-net" | grep -o '/[^ ]*' | while read -r library; do install -D "$library" "$image$library"; done
tar -C "$image" -cf "$state/share/net.tar" .

bench/peers.sh docker "$state" >/dev/null
cat >"$state/share/inside.sh" <<'END'
set -euo pipefail
cd /share
./berthd -H unix:///share/berth.sock --data-root /var/lib/berth --exec-root /run/berth --bip 172.30.0.1/16 >berthd.log 2>&1 &
for _ in $(seq 300); do ./berth -H unix:///share/berth.sock version >/dev/null 2>&1 && break; sleep 0.1; done
berth() { ./berth -H unix:///share/berth.sock "$@"; }
docker() { command docker -H unix:///share/docker.sock "$@"; }
podman() { PODMAN_IGNORE_CGROUPSV1_WARNING=1 command podman "$@"; }
declare -A port=([bare]=5199 [docker]=5201 [podman]=5202 [berth]=5203)
engines=(docker podman berth)

# A client of another host, and a server behind a bridge and a translation made by hand.
ip netns add client; ip netns add bare
ip link add cw0 type veth peer name c0 netns client
ip addr add 198.51.100.1/24 dev cw0; ip link set cw0 up
ip -n client addr add 198.51.100.2/24 dev c0; ip -n client link set c0 up; ip -n client link set lo up
ip link add br-bare type bridge; ip addr add 10.99.0.1/24 dev br-bare; ip link set br-bare up
ip link add bw0 type veth peer name eth0 netns bare; ip link set bw0 master br-bare up
ip -n bare addr add 10.99.0.2/24 dev eth0; ip -n bare link set eth0 up; ip -n bare link set lo up
ip -n bare route add default via 10.99.0.1
sysctl -qw net.ipv4.conf.br-bare.route_localnet=1
nft -f - <<RULES
table ip bare {
    chain pre { type nat hook prerouting priority -100; tcp dport 5199 fib daddr type local dnat to 10.99.0.2:80; }
    chain out { type nat hook output priority -100; tcp dport 5199 fib daddr type local dnat to 10.99.0.2:80; }
    chain post { type nat hook postrouting priority 100; oifname "br-bare" ip saddr 127.0.0.0/8 masquerade; }
}
RULES
ip netns exec bare /share/bench-net serve 80 &
for engine in "${engines[@]}"; do
    "$engine" import net.tar net:1 >/dev/null 2>&1
    "$engine" run -d --name served -p "${port[$engine]}:80" net:1 /bin/bench-net serve 80 >/dev/null
done
# Docker's and podman's forward chains drop what they do not know.
nft list chain ip filter FORWARD >/dev/null 2>&1 && nft insert rule ip filter FORWARD oifname br-bare accept && nft insert rule ip filter FORWARD iifname br-bare accept
sleep 1

median() { sort -g | awk '{a[NR] = $1} END {if (NR) print a[int((NR + 1) / 2)]; else print "failed"}'; }
for _ in $(seq "$RUNS"); do
    for engine in bare "${engines[@]}"; do
        ./bench-net http "127.0.0.1:${port[$engine]}" 1 16 >>"loop.http.$engine" 2>>errors || true
        ./bench-net bulk "127.0.0.1:${port[$engine]}" 1 >>"loop.bulk.$engine" 2>>errors || true
        ip netns exec client ./bench-net http "198.51.100.1:${port[$engine]}" 1 16 >>"host.http.$engine" 2>>errors || true
        ip netns exec client ./bench-net bulk "198.51.100.1:${port[$engine]}" 1 >>"host.bulk.$engine" 2>>errors || true
    done
done
echo "## A published port, medians of $RUNS seconds, interleaved"; echo
echo "| path | 127.0.0.1: requests/s | Gbit/s | another host: requests/s | Gbit/s |"; echo "|---|---|---|---|---|"
for engine in bare "${engines[@]}"; do
    echo "| $engine | $(median <loop.http.$engine) | $(median <loop.bulk.$engine) | $(median <host.http.$engine) | $(median <host.bulk.$engine) |"
done
echo; echo "## run --rm true, ms: what joining costs"; echo
echo "| engine | none | default bridge | own network |"; echo "|---|---|---|---|"
milliseconds() { local from; from=$(date +%s%N); "$@" >/dev/null 2>&1 || return 0; echo $((($(date +%s%N) - from) / 10000)) | sed 's/..$/.&/'; }
for engine in "${engines[@]}"; do "$engine" network create own >/dev/null; done
for _ in $(seq "$((RUNS * 2))"); do
    for engine in "${engines[@]}"; do
        for network in none default own; do
            given=(); [ $network = default ] || given=(--network "$network")
            milliseconds "$engine" run --rm "${given[@]}" net:1 /bin/true >>"join.$network.$engine"
            sleep 0.05
        done
    done
done
for engine in "${engines[@]}"; do
    echo "| $engine | $(median <join.none.$engine) | $(median <join.default.$engine) | $(median <join.own.$engine) |"
done
echo; echo "## Names: answers per second to one client in a container, one question at a time"; echo
for engine in "${engines[@]}"; do
    "$engine" run -d --name named --network own net:1 /bin/sleep 1000 >/dev/null
    server=127.0.0.11
    [ "$engine" != podman ] || server=$(podman exec named /bin/busybox awk '/nameserver/ {print $2; exit}' /etc/resolv.conf)
    name=named; [ "$engine" != podman ] || name=named.dns.podman
    for _ in $(seq 5); do "$engine" exec named /bin/bench-net dns "$server" "$name" 1 2>>errors || true; done | median | sed "s/^/$engine: /"
done
echo; echo "## $PORTS ports of one container, in one go, and one more"; echo
for engine in berth; do
    echo "$engine: without a port $(for _ in 1 2 3 4 5; do milliseconds "$engine" run -d net:1 /bin/sleep 1000; done | median) ms," \
        "one port $(for n in 1 2 3 4 5; do milliseconds "$engine" run -d -p $((6000 + n)):80 net:1 /bin/sleep 1000; done | median) ms," \
        "$PORTS ports $(milliseconds "$engine" run -d --name many -p 10000-$((9999 + PORTS)):10000-$((9999 + PORTS)) net:1 /bin/sleep 1000) ms," \
        "one port more $(for n in 1 2 3 4 5; do milliseconds "$engine" run -d -p $((7000 + n)):80 net:1 /bin/sleep 1000; done | median) ms," \
        "removing the $PORTS $(milliseconds "$engine" rm -f many) ms"
done
sort -u errors >&2
kill %1 2>/dev/null || true
END
bench/peers.sh in "$state" env RUNS="$RUNS" PORTS="$PORTS" bash /share/inside.sh
