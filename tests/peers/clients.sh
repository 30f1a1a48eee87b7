#!/bin/bash
# Docker's client libraries and tools against one engine, by the scripts of tests/e2e/clients: run it against dockerd and against this
# engine. Says which came to their end, and fails unless all did.
#   tests/peers/clients.sh SOCKET [CLIENTS]      CLIENTS: what tests/e2e/clients/setup.sh installed (default target/clients)
# The engine is EMPTIED of containers and networks, and gets the image `tiny`. A dockerd in a world of its own (bench/peers.sh) publishes its ports
# there: run this in that world's network namespace. Needs docker's client, node, and a static busybox for the image.
set -u
here=$(cd "$(dirname "$0")/../e2e/clients" && pwd)
export DOCKER_HOST=unix://$(realpath "${1:?SOCKET}")
clients=$(realpath "${2:-$here/../../../target/clients}")
scratch=$(mktemp -d) failed=0
trap 'rm -rf "$scratch"' EXIT

empty() {
    docker ps -aq | xargs -r docker rm -fv
    docker network prune -f
} >/dev/null 2>&1

mkdir -p "$scratch/root/bin" "$scratch/root/etc" "$scratch/root/tmp"
cp "$(command -v busybox)" "$scratch/root/bin/busybox"
for name in $(busybox --list); do [ "$name" = busybox ] || ln -s busybox "$scratch/root/bin/$name"; done
echo root:x:0:0:root:/root:/bin/sh >"$scratch/root/etc/passwd"
echo root:x:0: >"$scratch/root/etc/group"
tar -C "$scratch/root" -c . | docker import -c 'CMD ["sh"]' - tiny >/dev/null || exit 1

play() { # NAME PROGRAM [ARGUMENT...]
    local name=$1
    shift
    empty
    mkdir -p "$scratch/$name"
    if (cd "$here" && NODE_PATH=$clients/node_modules SCRATCH=$scratch/$name SUBNET=10.214.$(($$ % 256)) ANSIBLE_HOME=$scratch/$name/ansible \
        TESTCONTAINERS_RYUK_DISABLED=true "$@") >"$scratch/$name.log" 2>&1 </dev/null && tail -n 3 "$scratch/$name.log" | grep -qE '^done$|failed=0'; then
        echo "$name: to its end"
    else
        echo "$name: FAILED"
        tail -n 15 "$scratch/$name.log"
        failed=1
    fi
}

play dockerode node dockerode.cjs
play testcontainers-python "$clients/venv/bin/python" testcontainers_python.py
play ansible "$clients/venv/bin/ansible-playbook" -i localhost, ansible.yaml
play bollard "$clients/rust/debug/bollard"
play testcontainers-rust "$clients/rust/debug/testcontainers"
play devcontainers bash devcontainers.sh "$clients/node_modules/.bin/devcontainer"
empty
exit $failed
