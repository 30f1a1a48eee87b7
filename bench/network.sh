#!/bin/bash
# Published ports, joining, names, teardown, and networks and containers in numbers: docker, podman and berth in one world,
# and the kernel's path made by hand. Needs root, cargo. About a quarter of an hour; tables in Markdown on standard output.
#   PEERS=DIR     a root made by bench/peers.sh make DIR       PROGRAMS=DIR  built programs instead of building them
#   RUNS=N        rounds of one second each (default 7)        PORTS=N       ports of one container (default 10000)
#   DOWN=N        networked containers torn down (default 200) MANY=N        containers and networks of berth (default 1000)
#   ONLY=A,B      of path, join, names, ports, flush, down, many
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "skipped: needs root" >&2; exit 0; }
RUNS=${RUNS:-7} PORTS=${PORTS:-10000} DOWN=${DOWN:-200} MANY=${MANY:-1000} ONLY=${ONLY:-path,join,names,ports,flush,down,many}
programs=${PROGRAMS:-}
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
wants() { [[ ,$ONLY, == *,$1,* ]]; }
median() { sort -g | awk '{a[NR] = $1} END {if (NR) print a[int((NR + 1) / 2)]; else print "failed"}'; }
milliseconds() { local from; from=$(date +%s%N); "$@" >/dev/null 2>>errors || { echo "$*: failed" >>errors; return 0; }; echo $((($(date +%s%N) - from) / 10000)) | sed 's/..$/.&/'; }
for engine in "${engines[@]}"; do
    "$engine" import net.tar net:1 >/dev/null 2>&1
    "$engine" network create own >/dev/null
    "$engine" run -d --name served -p "${port[$engine]}:80" net:1 /bin/bench-net serve 80 >/dev/null
done
# Docker's and podman's forward chains drop what they do not know.
nft list chain ip filter FORWARD >/dev/null 2>&1 && nft insert rule ip filter FORWARD oifname br-bare accept && nft insert rule ip filter FORWARD iifname br-bare accept
sleep 1

path() {
for _ in $(seq "$RUNS"); do
    for engine in bare "${engines[@]}"; do
        ./bench-net http "127.0.0.1:${port[$engine]}" 1 16 >>"loop.http.$engine" 2>>errors || true
        ./bench-net bulk "127.0.0.1:${port[$engine]}" 1 >>"loop.bulk.$engine" 2>>errors || true
        ip netns exec client ./bench-net http "198.51.100.1:${port[$engine]}" 1 16 >>"host.http.$engine" 2>>errors || true
        ip netns exec client ./bench-net bulk "198.51.100.1:${port[$engine]}" 1 >>"host.bulk.$engine" 2>>errors || true
    done
done
echo; echo "## A published port, medians of $RUNS seconds, interleaved"; echo
echo "| path | 127.0.0.1: requests/s | Gbit/s | another host: requests/s | Gbit/s |"; echo "|---|---|---|---|---|"
for engine in bare "${engines[@]}"; do
    echo "| $engine | $(median <loop.http.$engine) | $(median <loop.bulk.$engine) | $(median <host.http.$engine) | $(median <host.bulk.$engine) |"
done
}
join() {
echo; echo "## run --rm true, ms: what joining costs"; echo
echo "| engine | none | default bridge | own network |"; echo "|---|---|---|---|"
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
}
names() {
echo; echo "## Names: answers per second to one client in a container, one question at a time"; echo
for engine in "${engines[@]}"; do
    "$engine" run -d --name named --network own net:1 /bin/sleep 1000 >/dev/null
    server=127.0.0.11
    [ "$engine" != podman ] || server=$(podman exec named /bin/busybox awk '/nameserver/ {print $2; exit}' /etc/resolv.conf)
    name=named; [ "$engine" != podman ] || name=named.dns.podman
    for _ in $(seq 5); do "$engine" exec named /bin/bench-net dns "$server" "$name" 1 2>>errors || true; done | median | sed "s/^/- $engine: /"
done
echo; echo "Three containers behind one name, asked 30 times by a program of the GNU C library: how often each came first"; echo
berth network create -o berth.network.names=one single >/dev/null
for network in "docker own" "berth own" "berth single"; do
    read -r engine net <<<"$network"
    for n in 1 2 3; do "$engine" run -d --name "same-$net-$n" --network "$net" --network-alias same net:1 /bin/sleep 1000 >/dev/null; done
    echo "- $engine, network $net: $("$engine" run --rm --network "$net" net:1 /bin/bench-net names same 30 2>>errors | tr '\n' ' ')"
    for n in 1 2 3; do "$engine" rm -f "same-$net-$n" >/dev/null; done
done
}
range() { echo "$1-$(($1 + PORTS - 1))"; }
ports() {
echo; echo "## $PORTS ports of one container, in one go, and one more: ms"; echo
echo "| without a port | one port | $PORTS, the same inside | removing them | $PORTS, others inside | removing them | one port more, beside them |"
echo "|---|---|---|---|---|---|---|"
row() {
    for n in 1 2 3 4 5; do milliseconds berth run -d net:1 /bin/sleep 1000; done | median
    for n in 1 2 3 4 5; do milliseconds berth run -d -p $((6000 + n)):80 net:1 /bin/sleep 1000; done | median
    for n in 1 2 3; do milliseconds berth run -d --name "same$n" -p "$(range 10000):$(range 10000)" net:1 /bin/sleep 1000; milliseconds berth rm -f "same$n" >>removed; done | median
    median <removed
    rm removed
    for n in 1 2 3; do milliseconds berth run -d --name "other$n" -p "$(range 20000):$(range 10000)" net:1 /bin/sleep 1000; [ "$n" = 3 ] || milliseconds berth rm -f "other$n" >>removed; done | median
    median <removed
    for n in 1 2 3 4 5; do milliseconds berth run -d -p $((7000 + n)):80 net:1 /bin/sleep 1000; done | median
}
row | tr '\n' '|' | sed 's/^/|/; s/|/ | /g'; echo
}
flush() {
echo; echo "## The firewall table is deleted, a thousand ports and more in it: ms until it is back, five times"; echo
berth run -d --name flushed -p 31000-31999:10000-10999 net:1 /bin/sleep 1000 >/dev/null
table=$(nft list tables inet | awk '/berth_/ && !seen++ {print $3}')
for _ in 1 2 3 4 5; do
    nft delete table inet "$table"
    # It comes back whole, in one transaction; listing what is in it would take longer than that.
    milliseconds bash -c "until nft list tables inet | grep -q '$table\$'; do :; done"
    sleep 0.2
done | sort -g | tr '\n' ' '; echo
berth rm -f flushed >/dev/null
}
down() {
echo; echo "## $DOWN containers on a network of their own, torn down in one go"; echo
echo "| engine | start all, s | rm -f, s | until their interfaces are gone, s |"; echo "|---|---|---|---|"
for engine in docker berth; do
    "$engine" network create --subnet "$([ $engine = docker ] && echo 10.81.0.0/20 || echo 10.82.0.0/20)" wide >/dev/null
    before=$(ls /sys/class/net | wc -l)
    from=$(date +%s%N)
    for n in $(seq "$DOWN"); do "$engine" run -d --name "down$n" --network wide net:1 /bin/sleep 1000 >/dev/null; done
    started=$(date +%s%N)
    "$engine" rm -f $(seq -f 'down%g' "$DOWN") >/dev/null
    answered=$(date +%s%N)
    until [ "$(ls /sys/class/net | wc -l)" -le "$before" ]; do sleep 0.02; done
    gone=$(date +%s%N)
    echo "| $engine | $(awk "BEGIN {print ($started - $from) / 1e9}") | $(awk "BEGIN {print ($answered - $started) / 1e9}") | $(awk "BEGIN {print ($gone - $started) / 1e9}") |"
    "$engine" network rm wide >/dev/null
done
}
many() {
echo; echo "## $MANY containers on one network, $MANY networks: ms, medians of ten"; echo
berth network create --subnet 10.83.0.0/18 crowd >/dev/null
for n in $(seq "$MANY"); do milliseconds berth run -d --name "many$n" --network crowd net:1 /bin/sleep 10000; done >starts
echo "- starts: the second ten $(sed -n 11,20p starts | median), the last ten $(tail -10 starts | median); a hundred each: $(sed -n 1,100p starts | median), $(tail -100 starts | median)"
echo "- all removed: $(milliseconds berth rm -f $(seq -f 'many%g' "$MANY")) ms"
berth network rm crowd >/dev/null
for n in $(seq "$MANY"); do milliseconds berth network create "net$n"; done >creates
echo "- networks: the first ten $(head -10 creates | median), the last ten $(tail -10 creates | median)"
echo "- a start on the last of them: $(for n in 1 2 3 4 5; do milliseconds berth run --rm --network "net$MANY" net:1 /bin/true; done | median)"
echo "- all removed: $(milliseconds berth network rm $(seq -f 'net%g' "$MANY")) ms"
}
for part in path join names ports flush down many; do
    if wants "$part"; then "$part"; fi
done
[ ! -s errors ] || { echo; echo "What failed:"; sort errors | uniq -c | sort -rn | head -20; } >&2
kill %1 2>/dev/null || true
END
bench/peers.sh in "$state" env RUNS="$RUNS" PORTS="$PORTS" DOWN="$DOWN" MANY="$MANY" ONLY="$ONLY" bash /share/inside.sh
