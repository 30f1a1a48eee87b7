//! What is said of machines: the answers' and the requests' bodies.

use crate::schema::{answers, requests};
use std::collections::BTreeMap;

answers! {
    /// A virtual machine.
    Machine {
        id: String,
        name: String,
        /// created, running, paused, restarting, exited, ...
        state: String,
        /// Up 5 minutes, Exited (0) 3 hours ago, ...
        status: String,
        exit_code: i64,
        /// Why the last start failed; empty otherwise.
        error: String,
        created_unix_millis: i64,
        /// 0 where it never ran.
        started_unix_millis: i64,
        restart_count: u64,
        cpus: u16,
        memory_bytes: u64,
        /// It can be given so much while it runs, counted from its next start.
        memory_max_bytes: u64,
        /// Of each network card.
        bandwidth: MachineBandwidth,
        /// bios or uefi.
        firmware: String,
        /// It boots a kernel of its own folder, not what is on its disks.
        direct_kernel: bool,
        /// kvm, or tcg: every instruction is emulated.
        accelerator: String,
        /// none or vnc.
        display: String,
        /// Only there to be cloned.
        template: bool,
        /// Its next start goes on from a saved moment; a template's forks do.
        resumes: bool,
        /// How many snapshots it has.
        snapshots: u64,
        disks: Vec<MachineDisk>,
        /// By network: the machine's addresses there.
        networks: BTreeMap<String, MachineAddress>,
        /// Published ports: `8080->80/tcp`.
        ports: Vec<String>,
        labels: BTreeMap<String, String>,
        /// How its guest is, by its own word: with ?guest=true, where it runs and says it.
        guest: Option<MachineGuest>,
    }
    MachineGuest {
        /// agent, or balloon, which knows of the memory only.
        source: String,
        memory_total_bytes: u64,
        /// Without what its kernel would give back.
        memory_used_bytes: u64,
        swap_total_bytes: u64,
        swap_used_bytes: u64,
        /// Since its boot.
        uptime_millis: u64,
        /// Those on disks of their own.
        filesystems: Vec<MachineFilesystem>,
    }
    MachineFilesystem {
        /// Where it is mounted in the guest.
        path: String,
        total_bytes: u64,
        used_bytes: u64,
    }
    /// A machine's meters as the host counts them, since its start, and how its guest is.
    MachineStats {
        name: String,
        read_unix_nanos: i64,
        cpu_nanos: u64,
        /// What the host gives to it, QEMU's own needs among it.
        memory_bytes: u64,
        memory_limit_bytes: u64,
        read_bytes: u64,
        written_bytes: u64,
        received_bytes: u64,
        sent_bytes: u64,
        guest: Option<MachineGuest>,
    }
    MachineDisk {
        name: String,
        /// disk, readonly or cdrom.
        kind: String,
        size_bytes: u64,
        /// Digest of the disk image that it started from.
        base: Option<String>,
        limits: MachineDiskLimits,
    }
    /// What passes a network card at most, as the machine sees it; 0: no limit.
    MachineBandwidth { in_bits_per_second: u64, out_bits_per_second: u64 }
    /// What a disk reads and writes at most, a second; 0: no limit.
    MachineDiskLimits { read_bytes: u64, write_bytes: u64, read_operations: u64, write_operations: u64 }
    MachineAddress {
        ipv4: Option<String>,
        ipv6: Option<String>,
        mac: String,
    }
    /// What a machine's disks held at a moment.
    MachineSnapshot {
        name: String,
        parent: Option<String>,
        created_unix_millis: i64,
        /// What the disks hold now came after this one.
        current: bool,
        /// State and memory are part of it: a revert goes on from there.
        memory: bool,
    }
    /// What became of a change, in words.
    MachineChanged {
        /// What it has at once.
        now: Vec<String>,
        /// What it has from its next start on, and why.
        warnings: Vec<String>,
    }
    /// Machines that now run.
    Forked { ids: Vec<String> }
    /// A machine that now exists.
    MachineMade { id: String, warnings: Vec<String> }
}

requests! {
    /// A machine that is to be made.
    NewMachine {
        /// Empty: in none, or in the only one that its maker has.
        project: String,
        name: String,
        /// 0: one.
        cpus: u16,
        /// 0: 512 MiB.
        memory_bytes: u64,
        /// It can be given so much while it runs; 0: as much as the host has, where it has a GiB to begin with.
        memory_max_bytes: u64,
        /// Of each network card; none: no limits.
        bandwidth: Option<NewBandwidth>,
        /// OVMF instead of a BIOS.
        uefi: bool,
        /// An image with a kernel and a first process, whose files become the first disk; none: no such.
        from_image: Option<String>,
        /// Of that disk; 0: 10 GiB, of which it takes what is written.
        from_image_bytes: u64,
        kernel: Option<NewKernel>,
        disks: Vec<NewMachineDisk>,
        /// Images of CDs: paths on the engine's host, or `upload:<id>`.
        cdroms: Vec<String>,
        /// none or vnc.
        display: String,
        /// For an image with cloud-init: what it is told at its first start.
        cloud_init: Option<NewSeed>,
        /// Empty: the default bridge; none.
        network: String,
        /// host port, container port, protocol: `8080:80/tcp`, `127.0.0.1:8080:80`.
        publish: Vec<String>,
        /// no, always, unless-stopped, on-failure[:n].
        restart: String,
        labels: BTreeMap<String, String>,
        /// Start it at once.
        start: bool,
    }
    /// cloud-init's NoCloud source; host name and network are always in it.
    NewSeed {
        /// `#cloud-config`, a script, ...; empty: none.
        user_data: String,
        /// Lines of authorized_keys for the image's user.
        ssh_keys: Vec<String>,
    }
    /// A kernel that is booted directly: paths on the engine's host.
    NewKernel { image: String, initrd: Option<String>, arguments: String }
    NewMachineDisk {
        /// A path on the engine's host, or `upload:<id>` of what was sent; none: an empty disk.
        source: Option<String>,
        /// raw, qcow2, vmdk, vdi, vhdx or ova; none: by its first bytes.
        format: Option<String>,
        /// 0: the source's own.
        size_bytes: u64,
        /// None: no limits.
        limits: Option<NewDiskLimits>,
    }
    /// In bits a second as the machine sees them; at least 8,000, 0: no limit.
    NewBandwidth { in_bits_per_second: u64, out_bits_per_second: u64 }
    /// A second; 0: no limit.
    NewDiskLimits { read_bytes: u64, write_bytes: u64, read_operations: u64, write_operations: u64 }
    /// What is to change; absent: nothing.
    ChangeMachine {
        cpus: Option<u16>,
        memory_bytes: Option<u64>,
        /// From the next start on; 0: by itself.
        memory_max_bytes: Option<u64>,
        /// Disk and its new size in bytes, not smaller than now.
        disks: BTreeMap<String, u64>,
        /// Of each network card, at once.
        bandwidth: Option<NewBandwidth>,
        /// Disk and all its limits, at once.
        disk_limits: BTreeMap<String, NewDiskLimits>,
        /// Further ones: of a running machine at once, where it has a slot.
        add_disks: Vec<NewMachineDisk>,
        /// With what is on them.
        remove_disks: Vec<String>,
    }
    NewMachineName { name: String }
    /// Without a name it gets one of its own.
    NewClone {
        name: String,
        start: bool,
        /// Its disks are copied whole: it stands on nothing that others have.
        full: bool,
        /// It begins with what this snapshot holds; empty: with what the disks hold now.
        snapshot: String,
    }
    NewMachineSnapshot {
        name: String,
        /// Of a running machine, where it stands too.
        memory: bool,
    }
    /// An empty name: one is made up.
    NewForks { names: Vec<String> }
}
