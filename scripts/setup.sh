#!/usr/bin/env bash
# Installs what the build, the demo and the tests need from Debian; does nothing where all is there.
set -euo pipefail

declare -A package_of=(
    [cc]=gcc
    [make]=make
    [mmdebstrap]=mmdebstrap
    [busybox]=busybox-static
    [ip]=iproute2
    [ps]=procps
    [curl]=curl
    [docker]=docker.io
    [runc]=runc
    [psql]=postgresql-client
    [docker-registry]=docker-registry
    [qemu-system-x86_64]=qemu-system-x86
    [qemu-img]=qemu-utils
)
# For single tests, which say that they skip where these cannot be had.
declare -A welcome=(
    [ssh]=openssh-client
    [sshd]=openssh-server
)
PATH=$PATH:/usr/sbin:/sbin
look() {
    missing=()
    for program in "${!package_of[@]}"; do
        command -v "$program" >/dev/null || missing+=("${package_of[$program]}")
    done
    # busybox alone does not tell whether it is the static one that scratch images are made of.
    if command -v busybox >/dev/null && ldd "$(command -v busybox)" >/dev/null 2>&1; then
        missing+=(busybox-static)
    fi
    # The console's tests need a browser, where there is node for its pages.
    if command -v npm >/dev/null && ! command -v chromium >/dev/null; then
        missing+=(chromium)
    fi
}
look
wanted=()
for program in "${!welcome[@]}"; do
    command -v "$program" >/dev/null || wanted+=("${welcome[$program]}")
done
if [ ${#wanted[@]} -gt 0 ] && [ "$(id -u)" = 0 ]; then
    quick=(-qq -o Acquire::Retries=0 -o Acquire::http::Timeout=20)
    { apt-get update "${quick[@]}" && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${quick[@]}" "${wanted[@]}"; } \
        >/dev/null 2>&1 || echo "setup: without ${wanted[*]}: tests that need it are skipped"
fi
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" != 0 ]; then
    echo "setup: missing ${missing[*]}; run as root, or: sudo apt-get install ${missing[*]}" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# Once more where a package took away one that was there: a newer qemu-utils goes for the release's qemu-system-x86.
for _ in 1 2 3; do
    [ ${#missing[@]} -gt 0 ] || exit 0
    echo "setup: installing ${missing[*]}"
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    hash -r
    look
done
[ ${#missing[@]} -eq 0 ] || { echo "setup: still missing: ${missing[*]}" >&2; exit 1; }
