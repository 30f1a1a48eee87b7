#!/usr/bin/env bash
# The tests on a host with cgroup v2 only, which this machine may not be: a virtual machine with Debian's kernel.
#
#   run.sh [TEST-BINARY-NAME[:FILTER]]...
#
# Without arguments: limits and freezer of berth_cgroup, containers whose limits are set, changed, measured and
# exceeded, paused ones, and every field of create. Under emulation (no usable KVM) a guest is ten to twenty times
# slower than its host: only what differs between v1 and v2 is worth running here.
#
#   BERTH_V2_ROOT     where base, disk and console.log are kept (target/v2)
#   BERTH_V2_PROFILE  release or dev: which programs and tests are built and run (release)
#   BERTH_V2_TIMEOUT  seconds for the guest, from its start to its end (1500)
#   BERTH_V2_SUITE    Debian's, and with it the kernel (bookworm: 6.1; trixie: 6.12, the oldest that mounts layers
#                     that are images, for which images_archives:layers_of_both and storage_files:copied are good tests)
set -euo pipefail
cd "$(dirname "$0")/../.."
work=${BERTH_V2_ROOT:-$PWD/target/v2}
mkdir -p "$work"
tests=("$@")
[ ${#tests[@]} -gt 0 ] || tests=(berth_cgroup observe:limits observe:statistics run_basics:pause why:ends storage_files:cop create_fields:host_config)
profile=${BERTH_V2_PROFILE:-release}

for program in mmdebstrap qemu-system-x86_64 mke2fs cpio busybox docker; do
    command -v "$program" >/dev/null || { echo "skipped: needs $program (qemu-system-x86, mmdebstrap, e2fsprogs, cpio, busybox-static, docker-cli)"; exit 0; }
done
[ "$(id -u)" = 0 ] || { echo "skipped: needs root"; exit 0; }

# The guest's base, once: Debian with a kernel and the clients.
if [ ! -e "$work/base/etc/os-release" ]; then
    rm -rf "$work/base"
    mmdebstrap --quiet --variant=minbase --aptopt='APT::Install-Recommends "false"' \
        --include=linux-image-cloud-amd64,busybox-static,iproute2,procps,kmod "${BERTH_V2_SUITE:-bookworm}" "$work/base"
    rm -rf "$work/base/var/cache/apt" "$work/base/usr/sbin/dockerd" "$work/base/usr/share/doc"
fi
kernel=$(ls "$work"/base/boot/vmlinuz-* | tail -1)
modules=$(ls -d "$work"/base/lib/modules/* | tail -1)

# What finds the disk: busybox and the modules of a virtio disk with ext4.
early=$work/early
rm -rf "$early"; mkdir -p "$early"/{bin,proc,sys,dev,mnt,modules}
cp /bin/busybox "$early/bin/"
depends() { # module: those it needs first, in load order
    local line
    line=$(grep "/$1\.ko" "$modules/modules.dep" | head -1)
    for path in $(echo "${line#*:}" | tr ' ' '\n' | tac) "${line%%:*}"; do echo "$path"; done
}
for module in virtio_pci virtio_blk crc32c_generic ext4; do
    for path in $(depends "$module"); do
        name=$(basename "${path%.xz}")
        [ -e "$early/modules/$name" ] && continue
        # Newer suites pack them, which busybox does not take.
        case $path in
        *.xz) xz -dc "$modules/$path" >"$early/modules/$name" ;;
        *) cp "$modules/$path" "$early/modules/" ;;
        esac
        echo "$name" >>"$early/modules/order"
    done
done
cat >"$early/init" <<'END'
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /modules/order); do /bin/busybox insmod /modules/$module; done
/bin/busybox mount -t ext4 /dev/vda /mnt && exec /bin/busybox switch_root /mnt /berth/init
echo "no disk"; /bin/busybox poweroff -f
END
chmod +x "$early/init"
(cd "$early" && find . | cpio --quiet -o -H newc) >"$work/early.cpio"

# Our programs and tests, optimised unless told otherwise: the emulator is slow enough. Unit tests need no programs.
case $profile in
release) flags=(--release) built=target/release ;;
dev) flags=() built=target/debug ;;
*) echo "BERTH_V2_PROFILE is release or dev, not $profile"; exit 2 ;;
esac
packages=()
programs=
for test in "${tests[@]}"; do
    case ${test%%:*} in
    berth_*) packages+=(-p "$(echo "${test%%:*}" | tr _ -)") ;;
    *) packages+=(-p berth-e2e) programs=1 ;;
    esac
done
[ -z "$programs" ] || cargo build "${flags[@]}" --bins
mapfile -t binaries < <(cargo test "${flags[@]}" --no-run --message-format=json "${packages[@]}" 2>/dev/null |
    grep -o '"executable":"[^"]*"' | cut -d'"' -f4)
stage=$work/stage
rm -rf "$stage"; mkdir -p "$stage/target/deps"
for program in berth berthd berth-shim berth-dns berth-runtime; do
    [ ! -e "$built/$program" ] || strip -g -o "$stage/target/$program" "$built/$program"
done
: >"$stage/list"
for test in "${tests[@]}"; do
    for binary in "${binaries[@]}"; do
        name=$(basename "$binary"); name=${name%-*}
        [ "$name" = "${test%%:*}" ] || continue
        strip -g -o "$stage/target/deps/$name" "$binary"
        filter=; [[ $test == *:* ]] && filter=${test#*:}
        echo "$name $filter" >>"$stage/list"
    done
done
cp tests/v2/init "$stage/init"
chmod +x "$stage/init"

disk=$work/disk.ext4
rm -f "$disk"
cp "$(command -v docker)" "$work/base/usr/bin/docker"
rm -rf "$work/base/berth"; cp -r "$stage" "$work/base/berth"
mke2fs -q -t ext4 -d "$work/base" "$disk" 3G

accel=tcg
# The clock of an emulated CPU counts the host's ticks; a wrong guess makes the guest's time run wrong.
khz=$(awk '/cpu MHz/ { printf "%d", $4 * 1000; exit }' /proc/cpuinfo)
timeout "${BERTH_V2_TIMEOUT:-1500}" qemu-system-x86_64 -M q35 -accel "$accel" -cpu max,-cx16 -smp 2 -m 2048 \
    -nodefaults -no-user-config -display none -serial stdio -no-reboot \
    -drive "file=$disk,format=raw,if=virtio,cache=unsafe" -device virtio-rng-pci \
    -kernel "$kernel" -initrd "$work/early.cpio" \
    -append "console=ttyS0 quiet panic=-1 tsc_early_khz=$khz mitigations=off no_timer_check" | tee "$work/console.log"
grep -q '^v2: all passed' "$work/console.log"
