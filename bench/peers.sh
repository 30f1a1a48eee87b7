#!/bin/bash
# The engines we compare with, from Debian's packages, in a world of their own: namespaces (mount, network, pid,
# uts, ipc, cgroup), cgroups below one name, a network with nothing but loopback. The host's firewall, interfaces,
# mounts and processes stay as they are. Needs root and mmdebstrap.
#
#   peers.sh make ROOT [MMDEBSTRAP-OPTION...]     the packages, once, into the folder ROOT (SUITE=sid, EXTRA=a,b)
#   peers.sh up ROOT STATE                        a world on it; what it changes goes to the folder STATE
#   peers.sh in STATE COMMAND [ARGUMENT...]       run in it
#   peers.sh docker STATE [DOCKERD-OPTION...]     containerd and dockerd: socket STATE/share/docker.sock
#   peers.sh registry STATE PORT                  docker-registry on the world's loopback
#   peers.sh down STATE                           end it; STATE stays but for what a reboot would end
#   peers.sh disk FOLDER [SIZE]                   FOLDER is a new ext4 of its own, in a sparse file beside it (default 24G)
#   peers.sh mount FOLDER                         the same again after it was unmounted
#   peers.sh undisk FOLDER                        it is gone, with all that is in it
#
# STATE/share is /share inside, for sockets and files. Several worlds may stand on one ROOT.
set -euo pipefail

die() { echo "peers.sh: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || die "needs root"
verb=${1:-}; shift || true

alive() { [ -s "$1/pid" ] && kill -0 "$(cat "$1/pid")" 2>/dev/null; }

hierarchies() { # of v1; none on a host with v2 only
    [ ! -e /sys/fs/cgroup/cgroup.controllers ] || return 0
    for directory in /sys/fs/cgroup/*/; do
        name=$(basename "$directory")
        [ -L "${directory%/}" ] || [ "$name" = unified ] || echo "$name"
    done
}

# This shell, and so its children, into a cgroup that becomes the root of the world's cgroup namespace.
join() {
    local group=$1 name
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        mkdir -p "/sys/fs/cgroup/$group"
        # Other work on the machine, a compiler perhaps, is not what is measured.
        echo 10000 >"/sys/fs/cgroup/$group/cpu.weight" 2>/dev/null || true
        echo $BASHPID >"/sys/fs/cgroup/$group/cgroup.procs"
        return
    fi
    for name in $(hierarchies); do
        local directory=/sys/fs/cgroup/$name/$group
        mkdir -p "$directory"
        [ ! -e "$directory/cpu.shares" ] || echo 262144 >"$directory/cpu.shares"
        if [ "$name" = cpuset ]; then
            cat /sys/fs/cgroup/cpuset/cpuset.cpus >"$directory/cpuset.cpus"
            cat /sys/fs/cgroup/cpuset/cpuset.mems >"$directory/cpuset.mems"
            echo 1 >"$directory/cgroup.clone_children"
        fi
        echo $BASHPID >"$directory/cgroup.procs"
    done
}

# Runs in the world. Its first process reaps and holds; nsenter takes all of its namespaces and its root.
inside() {
    local state=$1; shift
    alive "$state" || die "no world runs on $state"
    join "$(cat "$state/cgroup")"
    exec nsenter --target "$(cat "$state/pid")" --mount --net --pid --uts --ipc --cgroup --root --wdns=/ \
        env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM="${TERM:-dumb}" "$@"
}

case $verb in
make)
    root=${1:?ROOT}; shift
    packages=docker.io,docker-cli,docker-buildx,docker-compose,containerd,runc,podman,buildah,crun,skopeo,docker-registry
    packages+=,netavark,aardvark-dns,iptables,nftables,iproute2,uidmap,passt,fuse-overlayfs
    packages+=,busybox-static,curl,jq,ca-certificates,procps,util-linux,kmod,xz-utils,zstd
    [ -z "${EXTRA:-}" ] || packages+=,$EXTRA
    exec mmdebstrap --variant=minbase --include="$packages" "$@" "${SUITE:-sid}" "$root"
    ;;
up)
    root=$(realpath "${1:?ROOT}") state=$(realpath -m "${2:?STATE}")
    ! alive "$state" || die "a world runs on $state already"
    mkdir -p "$state"/{share,lib,upper,work,root}
    rm -f "$state/pid"
    group=berth-peers-$(printf %s "$state" | cksum | cut -d' ' -f1)
    echo "$group" >"$state/cgroup"
    export root state names
    names=$(hierarchies | tr '\n' ' ')
    (
        join "$group"
        exec setsid unshare --mount --net --pid --uts --ipc --cgroup --fork --propagation private \
            bash -eu -c '
                hostname peers
                ip link set lo up
                new=$state/root
                # Writes stay out of the packages. What engines store goes to a plain folder: no overlay upon an overlay.
                mount -t overlay overlay -o "lowerdir=$root,upperdir=$state/upper,workdir=$state/work" "$new"
                mkdir -p "$new"/{share,proc,sys,dev,run,tmp} "$new/var/lib"/{docker,containerd,containers,berth}
                for name in docker containerd containers berth; do
                    mkdir -p "$state/lib/$name"
                    mount --bind "$state/lib/$name" "$new/var/lib/$name"
                done
                mount --bind "$state/share" "$new/share"
                mount -t proc proc "$new/proc"
                mount -t sysfs sysfs "$new/sys"
                if [ -z "$names" ]; then
                    mount -t cgroup2 cgroup2 "$new/sys/fs/cgroup"
                else
                    # Only the v1 hierarchies: crun refuses a hybrid tree.
                    mount -t tmpfs -o mode=755 tmpfs "$new/sys/fs/cgroup"
                    for name in $names; do
                        mkdir "$new/sys/fs/cgroup/$name"
                        option=$name
                        [ "$name" != systemd ] || option=none,name=systemd
                        mount -t cgroup -o "$option" "$name" "$new/sys/fs/cgroup/$name"
                    done
                fi
                mount -t tmpfs -o mode=755 tmpfs "$new/run"
                mkdir -p "$new/run/lock"
                mount -t tmpfs -o mode=1777 tmpfs "$new/tmp"
                mount -t tmpfs -o mode=755 tmpfs "$new/dev"
                cd "$new/dev"
                mkdir pts shm net
                mknod -m 666 null c 1 3; mknod -m 666 zero c 1 5; mknod -m 666 full c 1 7; mknod -m 666 random c 1 8
                mknod -m 666 urandom c 1 9; mknod -m 666 tty c 5 0; mknod -m 600 kmsg c 1 11; mknod -m 666 fuse c 10 229
                mknod -m 666 net/tun c 10 200
                mount -t devpts -o newinstance,ptmxmode=0666 devpts pts
                mount -t tmpfs -o mode=1777 tmpfs shm
                ln -s pts/ptmx ptmx; ln -s /proc/self/fd fd
                ln -s fd/0 stdin; ln -s fd/1 stdout; ln -s fd/2 stderr
                echo 1 >/proc/sys/net/ipv4/ip_forward
                cd "$new"
                mkdir -p run/old
                pivot_root . run/old
                umount -l /run/old
                rmdir /run/old
                touch /run/ready
                exec docker-init -s -- sleep infinity
            ' </dev/null >"$state/share/world.log" 2>&1
    ) &
    # The first process in the new pid namespace is the only child of unshare.
    outer=$!
    for _ in $(seq 200); do
        pid=$(cat "/proc/$outer/task/$outer/children" 2>/dev/null || true)
        pid=${pid%% *}
        [ -n "$pid" ] && [ -e "/proc/$pid/root/run/ready" ] && break
        kill -0 "$outer" 2>/dev/null || { cat "$state/share/world.log" >&2; die "the world did not come up"; }
        sleep 0.05
    done
    [ -n "$pid" ] && [ -e "/proc/$pid/root/run/ready" ] || die "the world did not come up: see $state/share/world.log"
    echo "$pid" >"$state/pid"
    ;;
in)
    inside "$@"
    ;;
docker)
    state=${1:?STATE}; shift
    rm -f "$state/share/docker.sock"
    (inside "$state" setsid containerd </dev/null >"$state/share/containerd.log" 2>&1) &
    for _ in $(seq 200); do
        (inside "$state" test -S /run/containerd/containerd.sock) && break
        sleep 0.1
    done
    (inside "$state" setsid dockerd --containerd /run/containerd/containerd.sock -H unix:///share/docker.sock \
        "$@" </dev/null >"$state/share/dockerd.log" 2>&1) &
    for _ in $(seq 300); do
        curl -sf --unix-socket "$state/share/docker.sock" http://d/_ping >/dev/null 2>&1 && exit 0
        sleep 0.1
    done
    tail -5 "$state/share/dockerd.log" >&2
    die "dockerd does not answer: see $state/share/dockerd.log"
    ;;
registry)
    state=${1:?STATE} port=${2:?PORT}
    mkdir -p "$state/share/registry-$port"
    cat >"$state/share/registry-$port.yml" <<END
version: 0.1
log: { accesslog: { disabled: true }, level: error }
storage: { filesystem: { rootdirectory: /share/registry-$port }, delete: { enabled: true } }
http: { addr: "127.0.0.1:$port" }
END
    (inside "$state" setsid docker-registry serve "/share/registry-$port.yml" </dev/null \
        >"$state/share/registry-$port.log" 2>&1) &
    for _ in $(seq 100); do
        (inside "$state" curl -sf "http://127.0.0.1:$port/v2/") >/dev/null 2>&1 && exit 0
        sleep 0.1
    done
    die "docker-registry does not answer: see $state/share/registry-$port.log"
    ;;
disk)
    # As hosts have it: with a journal, and nothing else in it. What an engine removes and makes again costs many times
    # as much on an ext4 without one (it looks for inodes that were not used for minutes).
    folder=${1:?FOLDER} size=${2:-24G}
    mkdir -p "$folder"
    truncate -s "$size" "$folder.img"
    mkfs.ext4 -q -F -E lazy_itable_init=1 "$folder.img"
    "$0" mount "$folder"
    ;;
mount)
    folder=${1:?FOLDER}
    # Written through to the disk below, as a disk would be: otherwise each block lies in memory twice, and whoever waits for
    # his files waits for everybody's.
    device=$(losetup --find --show --direct-io=on "$folder.img" 2>/dev/null || losetup --find --show "$folder.img")
    mount "$device" "$folder"
    # Goes when nothing is mounted from it any more.
    losetup --detach "$device"
    ;;
undisk)
    folder=${1:?FOLDER}
    for _ in $(seq 50); do umount "$folder" 2>/dev/null && break; sleep 0.1; done
    ! mountpoint -q "$folder" || die "$folder is in use"
    rm -f "$folder.img"
    rmdir "$folder"
    ;;
down)
    state=${1:?STATE}
    # With its first process a pid namespace ends, and with the last process the mounts and the network.
    ! alive "$state" || kill -KILL "$(cat "$state/pid")"
    for _ in $(seq 100); do alive "$state" || break; sleep 0.05; done
    rm -f "$state/pid" "$state/share/"*.sock
    group=$(cat "$state/cgroup")
    for top in /sys/fs/cgroup $(hierarchies | sed 's|^|/sys/fs/cgroup/|'); do
        [ -d "$top/$group" ] || continue
        for _ in $(seq 40); do
            find "$top/$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
            [ -d "$top/$group" ] || break
            sleep 0.05
        done
    done
    ;;
*)
    sed -n '5,15s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
