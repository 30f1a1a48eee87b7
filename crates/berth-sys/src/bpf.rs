//! BPF programs on cgroups and the maps they read: bpf(2), only the commands that these need.

use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// <linux/bpf.h>
const MAP_CREATE: i32 = 0;
const MAP_LOOKUP_ELEM: i32 = 1;
const MAP_UPDATE_ELEM: i32 = 2;
const MAP_DELETE_ELEM: i32 = 3;
const MAP_GET_NEXT_KEY: i32 = 4;
const PROG_LOAD: i32 = 5;
const PROG_ATTACH: i32 = 8;
const PROG_DETACH: i32 = 9;
const PROG_GET_FD_BY_ID: i32 = 13;
const MAP_GET_FD_BY_ID: i32 = 14;
const OBJ_GET_INFO_BY_FD: i32 = 15;
const PROG_QUERY: i32 = 16;
const MAP_TYPE_HASH: u32 = 1;
/// Memory for an element when it comes, not for all of them.
const MAP_NO_PREALLOC: u32 = 1;
const F_ALLOW_MULTI: u32 = 1 << 1;
const F_REPLACE: u32 = 1 << 2;
/// Programs and maps have names of at most 15 letters, digits, `_` and `.` (`BPF_OBJ_NAME_LEN`).
const NAME_BYTES: usize = 16;

/// What a program is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Each use of a device (`struct bpf_cgroup_dev_ctx`); 0 refuses.
    Device,
    /// Each connect(2) of an IPv6 socket (`struct bpf_sock_addr`), whose destination may be changed; 0 refuses.
    ConnectIpv6,
}

impl Question {
    fn program_type(self) -> u32 {
        match self {
            Question::Device => 15,
            Question::ConnectIpv6 => 18,
        }
    }

    fn attach_type(self) -> u32 {
        match self {
            Question::Device => 6,
            Question::ConnectIpv6 => 11,
        }
    }
}

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

    /// dst = src, all 64 bits
    pub const fn copy(dst: u8, src: u8) -> u64 {
        encode(0xbf, dst, src, 0, 0)
    }

    /// dst += value, all 64 bits
    pub const fn add(dst: u8, value: i32) -> u64 {
        encode(0x07, dst, 0, 0, value)
    }

    /// 32 bits at dst + offset = src
    pub const fn store_word(dst: u8, src: u8, offset: i16) -> u64 {
        encode(0x63, dst, src, offset, 0)
    }

    /// 64 bits at dst + offset = src
    pub const fn store_double(dst: u8, src: u8, offset: i16) -> u64 {
        encode(0x7b, dst, src, offset, 0)
    }

    /// Compares 64 bits with nothing, as what a map answers.
    pub const fn jump_if_null(dst: u8, offset: i16) -> u64 {
        encode(0x15, dst, 0, offset, 0)
    }

    /// dst = the map behind a descriptor of this process, in two instructions
    pub const fn map(dst: u8, descriptor: i32) -> [u64; 2] {
        [encode(0x18, dst, 1, 0, descriptor), encode(0, 0, 0, 0, 0)]
    }

    /// Registers 1 to 5 are what the kernel's function takes, 0 what it answers; 1 to 5 are lost.
    pub const fn call(function: Function) -> u64 {
        encode(0x85, 0, 0, 0, function as i32)
    }

    /// `enum bpf_func_id`, <linux/bpf.h>.
    #[derive(Clone, Copy)]
    #[repr(i32)]
    pub enum Function {
        MapLookup = 1,
        NetnsCookie = 122,
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
    prog_name: [u8; NAME_BYTES],
    prog_ifindex: u32,
    expected_attach_type: u32,
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

/// For `BPF_PROG_GET_FD_BY_ID` and `BPF_MAP_GET_FD_BY_ID`.
#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// For `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
#[derive(Default)]
struct InfoOf {
    descriptor: u32,
    length: u32,
    info: u64,
}

/// The first fields of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    lengths: [u32; 2],
    instructions: [u64; 2],
    load_time: u64,
    created_by_uid: u32,
    map_count: u32,
    map_ids: u64,
    name: [u8; NAME_BYTES],
}

/// The first fields of `struct bpf_map_info`.
#[repr(C)]
#[derive(Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
}

/// The first fields for `BPF_MAP_CREATE`.
#[repr(C)]
#[derive(Default)]
struct NewMap {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; NAME_BYTES],
}

/// For the commands on elements; `value` is the next key for `BPF_MAP_GET_NEXT_KEY`.
#[repr(C)]
#[derive(Default)]
struct MapElement {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn name_field(name: &str) -> [u8; NAME_BYTES] {
    let mut field = [0; NAME_BYTES];
    let length = name.len().min(NAME_BYTES - 1);
    field[..length].copy_from_slice(&name.as_bytes()[..length]);
    field
}

/// Loads a program; the kernel refuses one that could do harm.
pub fn load(question: Question, name: &str, instructions: &[u64]) -> Result<OwnedFd, Errno> {
    let mut attributes = Load {
        prog_type: question.program_type(),
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: c"Apache".as_ptr() as u64,
        prog_name: name_field(name),
        expected_attach_type: question.attach_type(),
        ..Load::default()
    };
    // SAFETY: the kernel reads the instructions, the licence and the attributes, all of which outlive the
    // call, and keeps copies.
    unsafe { bpf_fd(PROG_LOAD, &mut attributes) }
}

/// Adds `program` to the cgroup's, or puts it in the place of `replaced` in one step. It stays when this process ends.
pub fn attach(
    cgroup: BorrowedFd<'_>,
    question: Question,
    program: BorrowedFd<'_>,
    replaced: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let mut attributes = Attach {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: question.attach_type(),
        attach_flags: F_ALLOW_MULTI | replaced.map_or(0, |_| F_REPLACE),
        replace_bpf_fd: replaced.map_or(0, |old| old.as_raw_fd() as u32),
    };
    // SAFETY: the attributes hold no pointers; the borrows keep all descriptors open.
    unsafe { bpf(PROG_ATTACH, &mut attributes) }.map(drop)
}

pub fn detach(cgroup: BorrowedFd<'_>, question: Question, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut attributes = Attach {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: question.attach_type(),
        ..Attach::default()
    };
    // SAFETY: the attributes hold no pointers; the borrows keep both descriptors open.
    unsafe { bpf(PROG_DETACH, &mut attributes) }.map(drop)
}

/// The programs attached to this cgroup itself; at most 64, the kernel's own bound.
pub fn attached(cgroup: BorrowedFd<'_>, question: Question) -> Result<Vec<OwnedFd>, Errno> {
    let mut ids = [0_u32; 64];
    let mut attributes = Query {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type: question.attach_type(),
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

/// The name that a program was loaded with, and the number of the first map that it looks into.
pub fn describe(program: BorrowedFd<'_>) -> Result<(String, Option<u32>), Errno> {
    let mut map = 0_u32;
    let mut info = ProgramInfo { map_count: 1, map_ids: (&raw mut map) as u64, ..ProgramInfo::default() };
    let mut attributes = InfoOf {
        descriptor: program.as_raw_fd() as u32,
        length: size_of::<ProgramInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: the kernel writes at most `length` bytes to `info` and at most `map_count` numbers to `map`, which both
    // outlive the call; the other pointers and counts are zero, so that nothing else is written.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    let end = info.name.iter().position(|byte| *byte == 0).unwrap_or(NAME_BYTES);
    Ok((String::from_utf8_lossy(&info.name[..end]).into_owned(), (info.map_count > 0).then_some(map)))
}

/// A table in the kernel that programs look into, with keys and values of these sizes.
#[derive(Debug)]
pub struct Map<const KEY: usize, const VALUE: usize> {
    descriptor: OwnedFd,
}

impl<const KEY: usize, const VALUE: usize> Map<KEY, VALUE> {
    /// For at most `most` elements.
    pub fn new(name: &str, most: u32) -> Result<Map<KEY, VALUE>, Errno> {
        let mut attributes = NewMap {
            map_type: MAP_TYPE_HASH,
            key_size: KEY as u32,
            value_size: VALUE as u32,
            max_entries: most,
            map_flags: MAP_NO_PREALLOC,
            map_name: name_field(name),
            ..NewMap::default()
        };
        // SAFETY: the attributes hold no pointers.
        Ok(Map { descriptor: unsafe { bpf_fd(MAP_CREATE, &mut attributes) }? })
    }

    /// One that is there; `EINVAL` if its keys or values have other sizes.
    pub fn by_number(id: u32) -> Result<Map<KEY, VALUE>, Errno> {
        let mut attributes = ById { id, ..ById::default() };
        // SAFETY: the attributes hold no pointers.
        let descriptor = unsafe { bpf_fd(MAP_GET_FD_BY_ID, &mut attributes) }?;
        let mut info = MapInfo::default();
        let mut attributes = InfoOf {
            descriptor: descriptor.as_raw_fd() as u32,
            length: size_of::<MapInfo>() as u32,
            info: (&raw mut info) as u64,
        };
        // SAFETY: the kernel writes at most `length` bytes to `info`, which outlives the call.
        unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attributes) }?;
        if (info.key_size as usize, info.value_size as usize) != (KEY, VALUE) {
            return Err(Errno::INVAL);
        }
        Ok(Map { descriptor })
    }

    /// For [`insn::map`].
    pub fn number(&self) -> i32 {
        self.descriptor.as_raw_fd()
    }

    /// Adds an element or puts another value in its place.
    pub fn set(&self, key: &[u8; KEY], value: &[u8; VALUE]) -> Result<(), Errno> {
        let mut attributes = self.element(key);
        attributes.value = value.as_ptr() as u64;
        // SAFETY: the kernel reads as many bytes of key and value as the map was made for, and both are that long.
        unsafe { bpf(MAP_UPDATE_ELEM, &mut attributes) }.map(drop)
    }

    /// One that is not there is done.
    pub fn remove(&self, key: &[u8; KEY]) -> Result<(), Errno> {
        // SAFETY: the kernel reads as many bytes of the key as the map was made for, and it is that long.
        match unsafe { bpf(MAP_DELETE_ELEM, &mut self.element(key)) } {
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    pub fn get(&self, key: &[u8; KEY]) -> Result<Option<[u8; VALUE]>, Errno> {
        let mut value = [0; VALUE];
        let mut attributes = self.element(key);
        attributes.value = value.as_mut_ptr() as u64;
        // SAFETY: the kernel reads as many bytes of the key and writes as many of the value as the map was made for, and
        // both are that long.
        match unsafe { bpf(MAP_LOOKUP_ELEM, &mut attributes) } {
            Ok(_) => Ok(Some(value)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// The key after `key`, or the first one. After one that is gone comes the first again.
    pub fn next(&self, key: Option<&[u8; KEY]>) -> Result<Option<[u8; KEY]>, Errno> {
        let mut next = [0; KEY];
        let mut attributes = MapElement {
            map_fd: self.descriptor.as_raw_fd() as u32,
            key: key.map_or(0, |key| key.as_ptr() as u64),
            value: next.as_mut_ptr() as u64,
            ..MapElement::default()
        };
        // SAFETY: the kernel reads as many bytes of a key that is there and writes as many of `next` as the map's keys
        // have, and both are that long.
        match unsafe { bpf(MAP_GET_NEXT_KEY, &mut attributes) } {
            Ok(_) => Ok(Some(next)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn element(&self, key: &[u8; KEY]) -> MapElement {
        MapElement { map_fd: self.descriptor.as_raw_fd() as u32, key: key.as_ptr() as u64, ..MapElement::default() }
    }
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
