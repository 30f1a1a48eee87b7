#!/bin/bash
# What Docker's client prints for every command that needs no swarm, against one engine: run it against two and compare.
#   tests/peers/docker-cli.sh SOCKET       compare.py beside it runs it against two and says what differs
# What differs by nature (ids, times, addresses, sizes) is made equal. The engine is EMPTIED: containers, images, volumes, networks.
# Needs docker's client, and a static busybox for the image.
set -u
export DOCKER_HOST=unix://${1:?SOCKET} LC_ALL=C
# No credentials, contexts or plugins of whoever runs this.
HOME=$(mktemp -d)
export HOME
cd "$HOME" || exit 1
trap 'rm -rf "$HOME"' EXIT

even() {
    sed -E -e 's/sha256:[0-9a-f]{64}/<sha>/g; s/\b[0-9a-f]{64}\b/<id>/g; s/\b[0-9a-f]{12}\b/<short>/g' \
        -e 's/[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(Z|[+-][0-9:]+)/<time>/g' \
        -e 's/[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:.]+ [+-][0-9]{4} [A-Z]+/<time>/g' \
        -e 's/(About a|[0-9]+|Less than a) (second|minute)s?( ago)?/<ago>/g' \
        -e 's/\b(172|10)\.[0-9]+\.[0-9]+\.[0-9]+/<ip>/g; s/([0-9a-f]{2}:){5}[0-9a-f]{2}/<mac>/g' \
        -e 's/\b[0-9.]+ ?(B|kB|MB|GB|KiB|MiB|GiB)\b/<size>/g; s/\b[0-9]+\.[0-9]+%/<pct>/g' \
        -e 's/^(root +)[0-9]+ +[0-9]+ +[0-9]+ +[0-9:]+/\1<pid>/; s/^ *[0-9]+ +sleep *$/<pid> sleep/; s/"Pid":[1-9][0-9]*/"Pid":<pid>/' \
        -e 's/"IPPrefixLen":[1-9][0-9]*/"IPPrefixLen":<len>/g; s|<ip>/[0-9]+|<ip>/<len>|g' \
        -e "s|$DOCKER_HOST|<socket>|g; s|/[^ \"]*/volumes/|<volumes>/|g" \
        -e "s|$HOME|<home>|g; s/ +/ /g; s/ +\$//"
}

r() { # one command: what it prints, what it complains of, its code where that is not 0
    echo "\$ docker ${*/$start/<start>}"
    docker "$@" >out 2>err </dev/null
    local code=$?
    even <out
    even <err | sed 's/^/! /'
    [ $code = 0 ] || echo "= $code"
}

f() { # every field of a table by itself
    local fields=$1 field
    shift
    for field in $fields; do r "$@" --format "{{.$field}}"; done
}

empty() {
    docker ps -aq | xargs -r docker rm -f
    # A prune keeps those with options.
    docker volume ls -q | xargs -r docker volume rm -f
    docker network prune -f
    docker images -q | sort -u | xargs -r docker rmi -f
    docker builder prune -af
} >/dev/null 2>&1

empty
start=$(date +%s.%N)
mkdir -p root/bin root/etc root/tmp
cp "$(command -v busybox)" root/bin/busybox
for name in $(busybox --list); do [ "$name" = busybox ] || ln -s busybox "root/bin/$name"; done
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n' >root/etc/passwd
printf 'root:x:0:\nnogroup:x:65534:\n' >root/etc/group
echo 'NAME=tiny' >root/etc/os-release
echo 'root:::0:::::' >root/etc/shadow
tar -C root --mtime=@0 --owner=0 --group=0 -cf tiny.tar .
tiny() { docker import -c 'CMD ["/bin/sh"]' -m first tiny.tar tiny:1 >/dev/null; }
tiny

# containers
r create --name c1 --label a=b -p 127.0.0.1:18080:80 -v vol1:/data --restart on-failure:3 tiny:1 sleep 1000
r ps -a
r start c1
r ps
r ps --no-trunc -a
r ps -q
r ps -s
f "ID Image Command CreatedAt RunningFor Ports State Status Size Names Labels Mounts LocalVolumes Networks Platform" ps
r ps --format 'table {{.Names}}\t{{.Status}}\t{{.Ports}}'
r ps --format json
r ps --format '{{.Label "a"}}'
r ps -n 1 -a --format '{{.Names}}'
r ps -l --format '{{.Names}}'
r ps --filter label=a=b --filter status=running --format '{{.Names}}'
r ps --filter nope=1
r ps --format '{{.Nope}}'
r run --rm tiny:1 echo hello
r run --rm tiny:1 sh -c 'echo err >&2; exit 3'
r run --rm tiny:1 nothere
r run --rm nothere:1 true
r run --rm --cidfile cid tiny:1 true
r run -d --name c2 --hostname h2 tiny:1 sh -c 'echo one; sleep 0.3; echo two >&2; sleep 1000'
sleep 1
r logs c2
r logs --details c2
r logs -n 1 c2
r logs --since 10m c2
r logs --until 2020-01-01T00:00:00Z c2
r logs nothere
r exec c2 hostname
r exec c2 nothere
r exec -e A=1 -w /tmp c2 sh -c 'echo $A; pwd'
r exec -u nobody c2 id
r exec -d c2 true
r exec nothere true
r exec c2 sh -c 'exit 7'
r top c2
r top c2 -o pid,comm
r stats --no-stream --format '{{.Name}} {{.Container}}'
r stats --no-stream c2
r stats --no-stream --no-trunc c2
f "Container Name ID CPUPerc MemUsage NetIO BlockIO MemPerc PIDs" stats --no-stream c2
r stats --no-stream nothere
r port c1
r port c1 80
r port c1 81
r port c1 80/udp
r diff c2
r exec c2 sh -c 'echo x > /new; rm /etc/shadow; echo y >> /etc/passwd'
r diff c2
r cp c2:/etc/os-release -
r cp c2:/new new
r cp new c2:/tmp/new
r cp c2:/nothere .
r cp nothere:/x .
r cp nofile c2:/x
r inspect --format '{{.Name}} {{.State.Status}} {{json .Config.Cmd}}' c1
r inspect --format '{{json .Config}}' c1
r inspect --format '{{json .HostConfig}}' c1
r inspect --format '{{json .Mounts}}' c1
r inspect --format '{{json .State}}' c1
r inspect --format '{{json .NetworkSettings}}' c1
r inspect --size --format '{{.SizeRw}}' c2
r inspect nothere
r inspect --type image c1
r inspect --format '{{.Nope}}' c1
r container inspect nothere
r container ls
r rename c2 c2b
r rename c2b c1
r rename nothere x
r pause c2b
r ps --format '{{.Names}} {{.Status}}'
r exec c2b true
r pause c2b
r unpause c2b
r unpause c2b
r update --memory 64m --memory-swap 128m c2b
r update --restart always c2b
r update --memory 1 c2b
r update nothere --memory 64m
r kill -s HUP c2b
r kill -s NOPE c2b
r kill nothere
r stop -t 0 c1
r stop nothere
r kill c1
r start c1
r restart -t 0 c1
r restart nothere
r wait nothere
r attach nothere
r rm c1
r rm nothere
r rm -f c2b
r rm -fv c1
r run -d --name w1 tiny:1 sh -c 'exit 5'
r wait w1
r container prune -f
r commit nothere x
r run --name cm tiny:1 touch /made
r commit -a me -m words -c 'CMD ["true"]' -c 'LABEL k=v' cm made:1
r commit cm MADE
r export nothere
r export -o exp.tar cm
r rm cm
r create --name 'bad name' tiny:1
r create --memory 1 tiny:1
r create --network nothere --name nn tiny:1 true
r start nn
r rm nn
r create -v /a:relative tiny:1
r create --cap-add NOPE --name cc tiny:1
r start cc
r rm cc
r create --restart nope tiny:1
r create -p 99999:1 tiny:1
r create --device /dev/nope --name dd tiny:1
r start dd
r rm dd
r create --ulimit nope=1 tiny:1
r create --shm-size -1 tiny:1
r create --link nothere:x tiny:1
r create --volumes-from nothere tiny:1
r create --health-cmd true --health-interval 1ns tiny:1
r create --log-driver nope tiny:1
r create --runtime nope tiny:1
r create --ipc nope tiny:1
r create --security-opt nope tiny:1
r create --storage-opt size=1 tiny:1
r create --gpus all --name gg tiny:1
r start gg
r rm gg
r create --sysctl nope=1 --name ss tiny:1
r start ss
r rm -f ss
# images
r images
r images -a
r images -q
r images --digests
r images --no-trunc
r images --tree
f "ID Repository Tag Digest CreatedSince CreatedAt Size Containers VirtualSize SharedSize UniqueSize" images tiny
r images --format json tiny
r images --format '{{.Repository}}:{{.Tag}}' --filter reference='ti*'
r images --filter dangling=true
r images --filter nope=1
r images --filter before=made:1 --format '{{.Repository}}'
r image ls made
r image inspect tiny:1 --format '{{json .Config}}'
r image inspect tiny:1 --format '{{json .RootFS}} {{.Comment}} {{.Os}} {{.Architecture}} {{json .RepoTags}} {{json .RepoDigests}}'
r image inspect nothere
r inspect --type volume tiny:1
r history made:1
r history --no-trunc made:1
r history -q made:1
f "ID CreatedSince CreatedAt CreatedBy Size Comment" history made:1
r history --format json made:1
r history -H=false --format '{{.CreatedBy}} {{.Comment}}' made:1
r history nothere
r tag tiny:1 other:2
r tag tiny:1 BAD
r tag nothere x
r save -o s.tar tiny:1 other:2
r save nothere
r save -o /nofolder/x tiny:1
r rmi other:2
r rmi nothere
r rmi tiny:1
r load -i s.tar
r load -q -i s.tar
r load -i nofile
r import nofile
r import -c 'NOPE x' s.tar
r import -m msg s.tar imp:1
r run -d --name keep tiny:1 sleep 1000
r rmi tiny:1
r rmi -f made:1
r rmi imp:1
r rm -f keep
r image prune -f
r pull nothere.invalid/x:1
r push nothere:1
r pull BAD
r search --limit 200 x
r manifest inspect BAD
tiny
# volumes
r volume create v1
r volume create v1
r volume create --label a=b --opt type=tmpfs --opt device=tmpfs v2
r volume create --driver nope v3
r volume create 'bad name'
r volume create x
r volume ls
r volume ls -q
r volume ls --filter dangling=true -q
r volume ls --filter label=a=b
r volume ls --filter nope=1
f "Name Driver Scope Mountpoint Labels Links Size" volume ls
r volume ls --format json
r volume inspect v2 --format '{{json .}}'
r volume inspect nothere
r run --name user -v v1:/v tiny:1 true
r volume rm v1
r volume rm -f nothere
r volume rm nothere
r rm user
r volume rm v1 v2
r volume prune -f
r volume prune -af
r volume update v2
tiny
# networks
r network create n1
r network create n1
r network create --subnet 10.77.0.0/24 --gateway 10.77.0.1 --label a=b -o com.docker.network.bridge.enable_icc=false n2
r network create --driver nope n3
r network create --subnet nope n3
r network create --subnet 10.77.0.0/25 n3
r network create --internal --ipv6 --subnet fd00:77::/64 n4
r network ls
r network ls -q
r network ls --no-trunc
r network ls --filter driver=host
r network ls --filter nope=1
r network ls --filter type=custom --format '{{.Name}}'
f "ID Name Driver Scope IPv4 IPv6 Internal Labels CreatedAt" network ls --filter name=n2
r network ls --filter name=n2 --format json
r network inspect n2
r network inspect n4 --format '{{json .IPAM}} {{.Internal}} {{.EnableIPv6}}'
r run -d --name onhost --network host tiny:1 sleep 1000
r network inspect host --format '{{range .Containers}}{{.Name}}{{end}}'
r network disconnect host onhost
r rm -f onhost
r network inspect host --format '{{json .Options}} {{json .IPAM}} {{json .Labels}}'
r network inspect bridge --format '{{json .Options}} {{.Driver}} {{.Scope}}'
r network inspect nothere
r network inspect -v n1 --format '{{json .Containers}}'
r run -d --name nc --network n1 --network-alias al tiny:1 sleep 1000
r network connect n2 nc --ip 10.77.0.9 --alias x
r network connect n2 nc
r inspect nc --format '{{json .NetworkSettings.Networks}}'
r network rm n1
r network disconnect n2 nc
r network disconnect n2 nc
r network disconnect nothere nc
r network connect host nc
r network rm bridge
r network rm nothere
r rm -f nc
r network rm n1 n2
r network prune -f
tiny
# system
r version --format '{{.Server.Os}} {{.Server.Arch}} {{.Client.Os}}'
r info --format '{{.OSType}} {{.Architecture}} {{.NCPU}} {{.Swarm.LocalNodeState}} {{.CgroupDriver}} {{.LoggingDriver}} {{json .Plugins.Volume}}'
r system info --format '{{.Containers}} {{.ContainersRunning}}'
r info --format '{{.Nope}}'
r tag tiny:1 older:1
r create --name stale older:1 true
r rmi -f older:1
r ps -a --format '{{.Names}} {{.Image}}'
r rm stale
r system df
r system df -v
f "Type TotalCount Active Size Reclaimable" system df
r system df --format json
r system prune -f
r system prune -af --volumes
r events --since 1 --until 2
r events --since "$start" --until 0s --filter type=volume --format '{{.Type}} {{.Action}} {{.Actor.ID}}'
r events --filter nope=1 --until 1
r events --since x
r context ls
r context show
r context inspect --format '{{.Name}}'
r context create c --docker host=unix:///x
r context use c
r context rm c
r context rm -f c
r logout nothere.invalid
r login -u a -p b nothere.invalid
r plugin ls
r plugin inspect x
r plugin rm x
r plugin enable x
r plugin create x .
r checkpoint ls x
r swarm leave
r node ls
r service ls
r stack ls
r builder prune -f
r image build -q .
r trust inspect x

empty
