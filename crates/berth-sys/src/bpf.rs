//! BPF programs that decide about devices: bpf(2), only the commands for cgroups' device programs.

use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// <linux/bpf.h>
const PROG_LOAD: i32 = 5;
const PROG_ATTACH: i32 = 8;
const PROG_DETACH: i32 = 9;
const PROG_GET_FD_BY_ID: i32 = 13;
const PROG_QUERY: i32 = 16;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
const F_ALLOW_MULTI: u32 = 1 << 1;
const F_REPLACE: u32 = 1 << 2;

/// Instructions, encoded as in the kernel's Documentation/bpf/standardization/instruction-set.rst.
pub mod insn {
    const fn encode(code: u8, dst: u8, src: u8, offset: i16, value: i32) -> u64 {
        let (offset, value) = (offset.to_ne_bytes(), value.to_ne_bytes());
        let registers = if cfg!(target_endian = "little") { src << 4 | dst } else { dst << 4 | src };
        u64::from_ne_bytes([code, registers, offset[0], offset[1], value[0], value[1], value[2], value[3]])
    }

    /// dst = 32 bits at src + offset
    pub const fn load_word(dst: u8, src: u8, offset: i16) -> u64 {
        encode(0x61, dst, src, offset, 0)
    }

    pub const fn move_register(dst: u8, src: u8) -> u64 {
        encode(0xbc, dst, src, 0, 0)
    }

    pub const fn move_value(dst: u8, value: i32) -> u64 {
        encode(0xb4, dst, 0, 0, value)
    }

    pub const fn shift_right(dst: u8, bits: i32) -> u64 {
        encode(0x74, dst, 0, 0, bits)
    }

    pub const fn and(dst: u8, mask: i32) -> u64 {
        encode(0x54, dst, 0, 0, mask)
    }

    /// Compares 32 bits; `offset` counts from the next instruction.
    pub const fn jump_if_equal(dst: u8, value: i32, offset: i16) -> u64 {
        encode(0x16, dst, 0, offset, value)
    }

    pub const fn jump_unless_equal(dst: u8, value: i32, offset: i16) -> u64 {
        encode(0x56, dst, 0, offset, value)
    }

    /// Ends with register 0 as the answer.
    pub const fn exit() -> u64 {
        encode(0x95, 0, 0, 0, 0)
    }
}

/// The first fields of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

/// For `BPF_PROG_ATTACH` and `BPF_PROG_DETACH`.
#[repr(C)]
#[derive(Default)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

/// For `BPF_PROG_QUERY`.
#[repr(C)]
#[derive(Default)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

/// For `BPF_PROG_GET_FD_BY_ID`.
#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// Loads a program that is asked about each use of a device (`struct bpf_cgroup_dev_ctx`); 0 refuses.
pub fn load_device_program(instructions: &[u64]) -> Result<OwnedFd, Errno> {
    let mut attributes = Load {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: c"Apache".as_ptr() as u64,
        ..Load::default()
    };
    attributes.prog_name[..13].copy_from_slice(b"berth_devices");
    // SAFETY: the kernel reads the instructions, the licence and the attributes, all of which outlive the
    // call, and keeps copies.
    unsafe { bpf_fd(PROG_LOAD, &mut attributes) }
}

/// Adds `program` to the cgroup's, or puts it in the place of `replaced` in one step.
pub fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replaced: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let mut attributes = Attach {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: CGROUP_DEVICE,
        attach_flags: F_ALLOW_MULTI | replaced.map_or(0, |_| F_REPLACE),
        replace_bpf_fd: replaced.map_or(0, |old| old.as_raw_fd() as u32),
    };
    // SAFETY: the attributes hold no pointers; the borrows keep all descriptors open.
    unsafe { bpf(PROG_ATTACH, &mut attributes) }.map(drop)
}

pub fn detach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut attributes = Attach {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: CGROUP_DEVICE,
        ..Attach::default()
    };
    // SAFETY: the attributes hold no pointers; the borrows keep both descriptors open.
    unsafe { bpf(PROG_DETACH, &mut attributes) }.map(drop)
}

/// The device programs attached to this cgroup itself; at most 64, the kernel's own bound.
pub fn device_programs(cgroup: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, Errno> {
    let mut ids = [0_u32; 64];
    let mut attributes = Query {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type: CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: ids.len() as u32,
        ..Query::default()
    };
    // SAFETY: the kernel writes at most `prog_cnt` numbers to `ids`, which outlives the call.
    unsafe { bpf(PROG_QUERY, &mut attributes) }?;
    let mut programs = Vec::new();
    for &id in ids.iter().take(attributes.prog_cnt as usize) {
        let mut attributes = ById { id, ..ById::default() };
        // SAFETY: the attributes hold no pointers.
        match unsafe { bpf_fd(PROG_GET_FD_BY_ID, &mut attributes) } {
            Ok(program) => programs.push(program),
            // Gone since the list was made.
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(programs)
}

/// # Safety
/// Pointers inside `attributes` must be valid for what the command does with them.
unsafe fn bpf<T>(command: i32, attributes: &mut T) -> Result<i32, Errno> {
    let size = size_of::<T>() as u32;
    // SAFETY: the kernel reads, and for some commands writes, `size` bytes of the attributes, which are
    // borrowed for the call; what they point to is the caller's promise.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size) };
    if ret >= 0 {
        return Ok(ret as i32);
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL))
}

/// # Safety
/// As [`bpf`]; the command must be one that answers a new descriptor.
unsafe fn bpf_fd<T>(command: i32, attributes: &mut T) -> Result<OwnedFd, Errno> {
    // SAFETY: the caller's promise.
    let fd = unsafe { bpf(command, attributes) }?;
    // SAFETY: the kernel just made this descriptor (close-on-exec) for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
