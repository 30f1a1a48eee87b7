//! A description becomes QEMU's arguments. Pure: the same machine, the same arguments.
//!
//! Every image is named with its format and its whole chain, so that nothing in a file's header decides what
//! is opened. Without `-nodefaults` and `-no-user-config` there would be devices and files that nobody asked
//! for. `q35` with spare root ports, because disks and cards can be added to it while it runs.

use crate::spec::{
    AGENT_SOCKET, Accelerator, Disk, DiskFile, DiskKind, DiskLimits, EVENTS_SOCKET, Firmware, Format, Machine, Mapped,
    Nic, QMP_SOCKET, RUN, SHARES_SOCKET, SHARES_TAG, Start, VNC_SOCKET,
};
use serde_json::{Value, json};
use std::path::Path;

/// Of a disk that the machine begins with.
const QUEUES_MAX: u16 = 4;
/// PCI slots that are free for devices added later.
pub const SPARE_PORTS: u8 = 8;
/// Numbers of the network cards' slots, behind the spare ones.
const CARD_SLOTS: usize = 32;
/// A container's guest looks at each while somebody waits for its start: for networks that it joins while it runs.
pub const SPARE_PORTS_OF_CONTAINERS: u8 = 2;
/// What an emulated processor's translated code may take; QEMU's own default is a gigabyte.
const TRANSLATION_CACHE_MIB: u64 = 128;

/// The device that memory is added and taken by.
pub const MORE_MEMORY: &str = "more-memory";

/// The program, looked for in the jail's own /usr.
pub const PROGRAM: &str = "/usr/bin/qemu-system-x86_64";

/// Descriptors that QEMU inherits where a machine begins with a saved state.
#[derive(Debug, Clone, Copy, Default)]
pub struct Descriptors {
    pub state: Option<i32>,
    pub memory: Option<i32>,
}

/// Everything behind the program's name.
pub fn arguments(machine: &Machine, given: Descriptors) -> Vec<String> {
    let mut a = Arguments::default();
    a.words(&["-name", &format!("guest={},debug-threads=on", commas(&machine.name)), "-uuid", &machine.uuid]);
    a.words(&["-nodefaults", "-no-user-config", "-display", "none"]);
    a.words(&["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]);
    a.words(&["-machine", &machine_type(machine)]);
    let model = match machine.accelerator {
        Accelerator::Kvm => {
            a.words(&["-accel", "kvm"]);
            "host"
        }
        Accelerator::Tcg => {
            a.words(&["-accel", &format!("tcg,tb-size={TRANSLATION_CACHE_MIB}")]);
            // Its features every version emulates well: with all of them some kernels panic under QEMU 7.2.
            "Nehalem"
        }
    };
    a.words(&["-cpu", model]);
    processors(machine, model, &mut a);
    let (memory_mib, room_mib) = (machine.memory_bytes >> 20, machine.memory_room_bytes >> 20);
    let room = if room_mib == 0 { String::new() } else { format!(",maxmem={}M", memory_mib + room_mib) };
    a.words(&["-m", &format!("size={memory_mib}M{room}")]);
    a.words(&["-object", &memory(machine, given).to_string()]);
    if given.state.is_some() {
        // What to read is said by the monitor, behind the capabilities.
        a.words(&["-incoming", "defer"]);
    } else if is_limited(machine) {
        // Nothing runs before its disks have their limits.
        a.words(&["-S"]);
    }
    a.words(&["-rtc", "base=utc", "-boot", "strict=on"]);
    for (id, socket) in [("qmp", QMP_SOCKET), ("events", EVENTS_SOCKET)] {
        a.words(&["-chardev", &format!("socket,id={id},path={RUN}/{socket},server=on,wait=off")]);
        a.words(&["-mon", &format!("chardev={id},mode=control")]);
    }
    // The serial line is the program's own standard streams: the shim logs them and lets clients attach.
    a.words(&["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]);
    firmware(machine, &mut a);
    let spare = if machine.workload.is_some() { SPARE_PORTS_OF_CONTAINERS } else { SPARE_PORTS };
    for port in 0..spare {
        a.words(&["-device", &format!("pcie-root-port,id=port{port},chassis={},slot={port}", port + 1)]);
    }
    a.words(&["-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"]);
    a.words(&["-device", "virtio-balloon-pci,id=balloon,deflate-on-oom=on"]);
    if room_mib != 0 {
        // Not a file in memory as the rest: what a machine begins with is given as one, and this part of it QEMU 7.2 would empty.
        let more = json!({"qom-type": "memory-backend-ram", "id": "more", "size": room_mib << 20, "reserve": false});
        let device = json!({"driver": "virtio-mem-pci", "id": MORE_MEMORY, "memdev": "more", "requested-size": 0});
        a.words(&["-object", &more.to_string(), "-device", &device.to_string()]);
    }
    a.words(&["-device", "vmgenid,guid=auto"]);
    let queues = queues(machine);
    a.words(&[
        "-device",
        &format!("virtio-scsi-pci,id=scsi{}", queues.map_or(String::new(), |_| ",num_queues=1".to_owned())),
    ]);
    for (index, one) in machine.disks.iter().enumerate() {
        // A kernel that is booted directly has the first place, and needs no other.
        disk(one, machine.kernel.is_none().then_some(index), queues, &mut a);
    }
    for (index, nic) in machine.nics.iter().enumerate() {
        a.words(&["-netdev", &format!("tap,id=net{index},ifname={},script=no,downscript=no", nic.tap)]);
        let slot = CARD_SLOTS + index;
        a.words(&["-device", &format!("pcie-root-port,id=card{index},chassis={slot},slot={slot}")]);
        a.words(&["-device", &card(index, nic).to_string()]);
    }
    if machine.agent {
        a.words(&["-device", "virtio-serial-pci,id=serial"]);
        a.words(&["-chardev", &format!("socket,id=agent,path={RUN}/{AGENT_SOCKET},server=on,wait=off")]);
        a.words(&["-device", &format!("virtserialport,chardev=agent,name={}", berth_agent_proto::PORT)]);
    }
    if let Some(workload) = &machine.workload {
        // A kernel that gives up ends the machine, and so the container.
        a.words(&["-no-reboot"]);
        if workload.shares.is_some() {
            a.words(&["-chardev", &format!("socket,id=shares,path={RUN}/{SHARES_SOCKET}")]);
            a.words(&["-device", &format!("vhost-user-fs-pci,chardev=shares,tag={SHARES_TAG}")]);
        }
    }
    if machine.display {
        a.words(&["-device", "VGA", "-device", "qemu-xhci,id=usb", "-device", "usb-tablet", "-device", "usb-kbd"]);
        a.words(&["-vnc", &format!("unix:{RUN}/{VNC_SOCKET}")]);
    }
    a.0
}

/// The first is QEMU's own; each other one is a device, as those that are plugged in later.
fn processors(machine: &Machine, model: &str, a: &mut Arguments) {
    let (cpus, most) = (machine.cpus, machine.cpus_max.max(machine.cpus));
    if machine.cpus_max == 0 || most == 1 {
        return a.words(&["-smp", &cpus.to_string()]);
    }
    a.words(&["-smp", &format!("1,sockets=1,cores={most},threads=1,maxcpus={most}")]);
    for core in 1..cpus {
        let id = processor(core);
        a.words(&["-device", &format!("{model}-x86_64-cpu,id={id},socket-id=0,core-id={core},thread-id=0")]);
    }
}

/// The device's name of the processor that is this core; the first core's has none.
pub fn processor(core: u16) -> String {
    format!("cpu{core}")
}

/// A file in memory, which can be copied while the machine stands still, or the one that it was given.
fn memory(machine: &Machine, given: Descriptors) -> Value {
    let size = machine.memory_bytes >> 20 << 20;
    let mapped = match machine.start {
        Start::Cold => None,
        Start::Restored { memory, .. } => memory,
    };
    match (given.memory, mapped) {
        (Some(number), Some(mapped)) => json!({
            "qom-type": "memory-backend-file", "id": "ram", "size": size,
            "mem-path": format!("/proc/self/fd/{number}"), "share": mapped == Mapped::Shared,
        }),
        _ => json!({"qom-type": "memory-backend-memfd", "id": "ram", "size": size, "share": true}),
    }
}

/// A network card, in a slot of its own that it can be pulled out of.
pub fn card(index: usize, nic: &Nic) -> Value {
    card_on(index, nic, &card_bus(index))
}

/// The slot of the card that a machine began with.
pub fn card_bus(index: usize) -> String {
    format!("card{index}")
}

/// The spare slot of that number.
pub fn spare_bus(number: u8) -> String {
    format!("port{number}")
}

/// A card in another slot.
pub fn card_on(index: usize, nic: &Nic, bus: &str) -> Value {
    // No boot from the network: its ROM would be one more foreign program.
    json!({
        "driver": "virtio-net-pci", "id": format!("nic{index}"), "netdev": format!("net{index}"), "mac": nic.mac,
        "romfile": "", "bus": bus,
    })
}

#[derive(Default)]
struct Arguments(Vec<String>);

impl Arguments {
    fn words(&mut self, words: &[&str]) {
        self.0.extend(words.iter().map(|word| (*word).to_owned()));
    }
}

/// A comma ends an option's value; two are one.
fn commas(text: &str) -> String {
    text.replace(',', ",,")
}

fn machine_type(machine: &Machine) -> String {
    // Without system management mode: emulated, SeaBIOS hangs in it as soon as there is a graphics card and USB.
    let mut text = "q35,usb=off,vmport=off,smm=off,memory-backend=ram,graphics=".to_owned();
    text.push_str(if machine.display { "on" } else { "off" });
    if matches!(machine.firmware, Firmware::Uefi { .. }) {
        text.push_str(",pflash0=code,pflash1=variables");
    }
    text
}

fn firmware(machine: &Machine, a: &mut Arguments) {
    if let Firmware::Uefi { code, variables } = &machine.firmware {
        let parts = [("code", code, Format::Raw, true), ("variables", variables, Format::Qcow2, false)];
        for (name, path, format, read_only) in parts {
            let node = json!({
                "driver": format.as_str(), "node-name": name, "read-only": read_only,
                "file": {"driver": "file", "filename": path, "read-only": read_only},
            });
            a.words(&["-blockdev", &node.to_string()]);
        }
    }
    if let Some(kernel) = &machine.kernel {
        a.words(&["-kernel", &shown(&kernel.image), "-append", &kernel.arguments]);
        if let Some(initrd) = &kernel.initrd {
            a.words(&["-initrd", &shown(initrd)]);
        }
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// A disk's block node, with everything that it stands on spelled out.
pub fn node(disk: &Disk) -> Value {
    let read_only = disk.kind != DiskKind::Disk;
    let mut below = Value::Null;
    for (depth, file) in disk.chain.iter().enumerate().rev() {
        below = layer(file, below, read_only || depth > 0);
    }
    below["node-name"] = json!(disk.node);
    below
}

fn layer(file: &DiskFile, below: Value, read_only: bool) -> Value {
    let mut node = json!({
        "driver": file.format.as_str(),
        "read-only": read_only,
        "discard": "unmap",
        "file": {"driver": "file", "filename": file.path, "read-only": read_only, "discard": "unmap", "locking": "auto"},
    });
    if file.format == Format::Qcow2 {
        // `null` too: the header's own backing file is never looked at.
        node["backing"] = below;
    }
    node
}

/// The name of a disk's device.
pub fn disk_device(disk: &str) -> String {
    format!("{disk}-device")
}

/// Limits a disk's device while QEMU runs.
pub const THROTTLE: &str = "block_set_io_throttle";

/// What [`THROTTLE`] takes. The disk is not the PCI device but the one behind it.
pub fn throttle(disk: &str, limits: DiskLimits) -> Value {
    json!({
        "id": format!("/machine/peripheral/{}/virtio-backend", disk_device(disk)),
        "bps": 0, "bps_rd": limits.read_bytes, "bps_wr": limits.write_bytes,
        "iops": 0, "iops_rd": limits.read_operations, "iops_wr": limits.write_operations,
    })
}

/// Whether some disk has a limit.
pub(crate) fn is_limited(machine: &Machine) -> bool {
    machine.disks.iter().any(|disk| disk.limits != DiskLimits::default())
}

/// Of those disks that have limits, as they start without.
pub fn throttles<'a>(disks: impl IntoIterator<Item = &'a Disk>) -> impl Iterator<Item = Value> {
    let limited = disks.into_iter().filter(|disk| disk.limits != DiskLimits::default());
    limited.map(|disk| throttle(&disk.id, disk.limits))
}

/// The device of a disk; `bus` is where it is plugged in, none for the built-in slots.
pub fn device(disk: &Disk, boot_index: Option<usize>, bus: Option<&str>) -> Value {
    let id = disk_device(&disk.id);
    let mut device = match disk.kind {
        DiskKind::Disk | DiskKind::ReadOnly => {
            json!({"driver": "virtio-blk-pci", "id": id, "drive": disk.node, "serial": disk.id})
        }
        DiskKind::Cdrom => json!({"driver": "scsi-cd", "id": id, "drive": disk.node, "bus": "scsi.0"}),
    };
    if let Some(index) = boot_index {
        device["bootindex"] = json!(index);
    }
    if let Some(bus) = bus {
        device["bus"] = json!(bus);
        // However many processors there are when it is plugged in.
        device["num-queues"] = json!(1);
    }
    device
}

/// A disk's queues. QEMU's own choice is as many as there are processors: after some came, a saved state would not fit.
fn queues(machine: &Machine) -> Option<u16> {
    (machine.cpus_max > 0).then(|| machine.cpus_max.min(QUEUES_MAX))
}

fn disk(disk: &Disk, boot_index: Option<usize>, queues: Option<u16>, a: &mut Arguments) {
    a.words(&["-blockdev", &node(disk).to_string()]);
    let bus = disk.port.map(spare_bus);
    let mut device = device(disk, boot_index, bus.as_deref());
    if let Some(queues) = queues.filter(|_| disk.kind != DiskKind::Cdrom && disk.port.is_none()) {
        device["num-queues"] = json!(queues);
    }
    a.words(&["-device", &device.to_string()]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Kernel, Nic};

    fn machine() -> Machine {
        let chain = vec![
            DiskFile { path: "/machine/disk0.qcow2".into(), format: Format::Qcow2 },
            DiskFile { path: "/bases/abc.raw".into(), format: Format::Raw },
        ];
        Machine {
            name: "web,id=evil".to_owned(),
            uuid: "00000000-0000-4000-8000-000000000000".to_owned(),
            accelerator: Accelerator::Tcg,
            cpus: 2,
            memory_bytes: 256 << 20,
            cpus_max: 0,
            memory_room_bytes: 0,
            firmware: Firmware::Bios,
            kernel: Some(Kernel { image: "/kernels/k".into(), initrd: None, arguments: "console=ttyS0".to_owned() }),
            disks: vec![Disk {
                id: "disk0".to_owned(),
                node: "disk0".to_owned(),
                chain,
                kind: DiskKind::Disk,
                port: None,
                limits: DiskLimits::default(),
            }],
            nics: vec![Nic { tap: "tap0".to_owned(), mac: "02:42:00:00:00:01".to_owned(), lease: None }],
            display: false,
            start: Start::Cold,
            agent: false,
            workload: None,
        }
    }

    fn cold(machine: &Machine) -> Vec<String> {
        arguments(machine, Descriptors::default())
    }

    #[test]
    fn every_file_is_named_with_its_format_and_chain() {
        let node = node(&machine().disks[0]);
        assert_eq!(node["driver"], "qcow2");
        assert_eq!(node["read-only"], false);
        assert_eq!(node["backing"]["driver"], "raw");
        assert_eq!(node["backing"]["read-only"], true);
        assert_eq!(node["backing"]["file"]["filename"], "/bases/abc.raw");
        let mut alone = machine().disks[0].clone();
        alone.chain.truncate(1);
        assert!(super::node(&alone)["backing"].is_null(), "the header's backing file must not be opened");
    }

    #[test]
    fn a_name_is_no_option() {
        let all = cold(&machine());
        assert!(all.contains(&"guest=web,,id=evil,debug-threads=on".to_owned()), "{all:?}");
        assert!(all.windows(2).any(|two| two == ["-append", "console=ttyS0"]));
    }

    #[test]
    fn room_for_more_is_made_where_it_was_asked_for() {
        let plain = cold(&machine()).join(" ");
        assert!(
            plain.contains("-smp 2 ") && plain.contains("-m size=256M ") && !plain.contains("virtio-mem"),
            "{plain}"
        );
        let with = cold(&Machine { cpus_max: 8, memory_room_bytes: 1 << 30, ..machine() }).join(" ");
        assert!(with.contains("-smp 1,sockets=1,cores=8,threads=1,maxcpus=8 "), "{with}");
        assert!(with.contains("Nehalem-x86_64-cpu,id=cpu1,") && !with.contains("id=cpu2,"), "{with}");
        assert!(with.contains("-m size=256M,maxmem=1280M "), "{with}");
        assert!(with.contains("\"memdev\":\"more\"") && with.contains("\"size\":1073741824"), "{with}");
    }

    #[test]
    fn an_agent_has_a_port() {
        let all = cold(&Machine { agent: true, ..machine() });
        assert!(all.iter().any(|word| word.ends_with("name=org.berth.agent.0")), "{all:?}");
        assert!(!cold(&machine()).iter().any(|word| word.contains("virtserialport")));
    }

    #[test]
    fn nothing_is_there_that_was_not_asked_for() {
        let all = cold(&machine());
        assert!(all.contains(&"-nodefaults".to_owned()) && all.contains(&"-no-user-config".to_owned()));
        assert!(!all.contains(&"-vnc".to_owned()));
        let with = cold(&Machine { display: true, ..machine() });
        assert!(with.contains(&format!("unix:{RUN}/{VNC_SOCKET}")));
    }

    #[test]
    fn memory_that_others_map_is_never_written_to() {
        let of = |mapped, fork| {
            let start = Start::Restored { memory: mapped, fork };
            let given = Descriptors { state: Some(7), memory: mapped.map(|_| 8) };
            arguments(&Machine { start, ..machine() }, given).join(" ")
        };
        let private = of(Some(Mapped::Private), true);
        assert!(private.contains("\"share\":false") && private.contains("/proc/self/fd/8"), "{private}");
        assert!(private.contains("-incoming defer"));
        assert!(of(Some(Mapped::Shared), false).contains("\"share\":true"));
        assert!(of(None, false).contains("memory-backend-memfd"));
        assert!(!cold(&machine()).contains(&"-incoming".to_owned()));
    }

    #[test]
    fn a_limited_disk_reads_nothing_before_it_has_its_limits() {
        let mut limited = machine();
        assert!(!cold(&limited).contains(&"-S".to_owned()) && throttles(&limited.disks).next().is_none());
        limited.disks[0].limits = DiskLimits { read_bytes: 4096, ..DiskLimits::default() };
        assert!(cold(&limited).contains(&"-S".to_owned()));
        let all: Vec<Value> = throttles(&limited.disks).collect();
        assert_eq!(
            (all.len(), &all[0]["id"], &all[0]["bps_rd"]),
            (1, &json!("/machine/peripheral/disk0-device/virtio-backend"), &json!(4096))
        );
        let given = arguments(&limited, Descriptors { state: Some(3), memory: None });
        assert!(!given.contains(&"-S".to_owned()), "it waits for its state as it is");
    }
}
