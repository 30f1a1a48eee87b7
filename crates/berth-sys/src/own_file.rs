//! A running program's link to its own file (`/proc/<pid>/exe`), turned to the same file behind another mount.
//!
//! prctl(2) with `PR_SET_MM_MAP` gives a process another `exe`, on the condition that nothing of the old one is mapped
//! any more; "the same" is judged by file and mount together. So every mapping of the program is replaced by the same
//! part of the same file, opened through the new mount, while the program runs: instructions and constants are equal
//! and even the same pages; what was written since the start is kept aside and written again. That takes a few dozen
//! microseconds, where to be executed again takes most of a millisecond.

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use std::io::{Error, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

const PAGE: usize = 4096;
const WORDS: usize = PAGE / 8;

/// `struct prctl_mm_map` of <linux/prctl.h>.
#[repr(C)]
struct MmMap {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    auxv: u64,
    auxv_size: u32,
    exe_fd: u32,
}

/// One mapping of the program's file.
struct Mapping {
    start: usize,
    bytes: usize,
    offset: u64,
    protection: ProtFlags,
    /// Room for what the kernel says of each of its pages, and for each page; none for what the program cannot have
    /// changed. Filled only in [`replace`]: until then every allocation may change pages.
    entries: Vec<u64>,
    pages: Vec<[u64; WORDS]>,
}

/// Makes `file` this process's program: the very file that it runs, opened for reading through another mount. To be
/// called with a single thread. An error leaves the program as it was, or with mappings through both mounts, which
/// is as good to run; the link is the old one then.
///
/// # Errors
/// `Unsupported` for a program that is dynamically linked or at no fixed address (its pointers are written by code
/// that stands in what would be replaced), for a kernel without `CONFIG_CHECKPOINT_RESTORE`, for an architecture
/// with other pages; else what the kernel refuses: `EPERM` without `CAP_SYS_ADMIN` and `CAP_CHECKPOINT_RESTORE`.
pub fn become_behind(file: BorrowedFd<'_>) -> std::io::Result<()> {
    let unsupported = |what: &str| Error::new(ErrorKind::Unsupported, what.to_owned());
    let written = written_segments().ok_or_else(|| unsupported("the program is not linked at a fixed address"))?;
    if rustix::param::page_size() != PAGE {
        return Err(unsupported("pages are not of 4096 bytes"));
    }
    let mut size = 0_u32;
    // SAFETY: PR_SET_MM_MAP_SIZE writes one unsigned int to the given place.
    let asked = unsafe { libc::prctl(libc::PR_SET_MM, libc::PR_SET_MM_MAP_SIZE, &raw mut size, 0, 0) };
    if asked != 0 || size as usize != size_of::<MmMap>() {
        return Err(unsupported("the kernel cannot change a process's program"));
    }
    let mut map = mm_map(file)?;
    let mut mappings = mappings()?;
    for mapping in &mut mappings {
        let range = mapping.start..mapping.start + mapping.bytes;
        if written.iter().any(|segment| segment.start < range.end && range.start < segment.end) {
            mapping.entries = vec![0; mapping.bytes / PAGE];
            mapping.pages = Vec::with_capacity(mapping.bytes / PAGE);
        }
    }
    let page_map = std::fs::File::open("/proc/self/pagemap")?;
    for mapping in &mut mappings {
        // SAFETY: a mapping of this program, which is static and at a fixed address, has one thread, and whose file
        // `file` is by this function's contract.
        unsafe { replace(mapping, file, page_map.as_fd()) }?;
    }
    // Only now: what was allocated since may have moved the heap's end.
    // SAFETY: sbrk(0) only tells where it is.
    map.brk = unsafe { libc::sbrk(0) }.addr() as u64;
    // SAFETY: the kernel reads one struct prctl_mm_map of the size given.
    let changed = unsafe { libc::prctl(libc::PR_SET_MM, libc::PR_SET_MM_MAP, &raw const map, size_of::<MmMap>(), 0) };
    if changed == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

/// Maps the same part of `file` in the place of `mapping`, and writes again what is no longer the file's: the pages
/// that are there, or on swap, and are the process's own by `/proc/self/pagemap`
/// (Documentation/admin-guide/mm/pagemap.rst).
///
/// From the first look at the pages until they stand again nothing may be used that the program writes: no
/// allocator, no errno, none of the C library's functions that it chooses at start (memcpy, memcmp). Hence words one
/// by one, volatile so that the compiler makes no such call of them, and `rustix`, whose system calls are
/// instructions and no library's.
///
/// # Safety
/// `file` is the file that is mapped there; the program is static, at a fixed address, and has one thread.
#[inline(never)]
unsafe fn replace(
    mapping: &mut Mapping,
    file: BorrowedFd<'_>,
    page_map: BorrowedFd<'_>,
) -> Result<(), rustix::io::Errno> {
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const OF_FILE: u64 = 1 << 61;
    let at = mapping.start as *mut std::ffi::c_void;
    let (entries, pages, count) = (mapping.entries.as_mut_ptr(), mapping.pages.as_mut_ptr(), mapping.entries.len());
    if count > 0 {
        // SAFETY: that many entries of eight bytes; any bytes are an entry.
        let room = unsafe { std::slice::from_raw_parts_mut(entries.cast::<u8>(), count * 8) };
        if rustix::io::pread(page_map, room, (mapping.start / PAGE * 8) as u64)? != count * 8 {
            return Err(rustix::io::Errno::IO);
        }
    }
    let mut kept = 0;
    let mut index = 0;
    while index < count {
        // SAFETY: one of `count` entries, and one of as many pages of the mapping and of the room for them.
        unsafe {
            let entry = entries.add(index);
            let bits = entry.read_volatile();
            if bits & OF_FILE == 0 && bits & (PRESENT | SWAPPED) != 0 {
                // The entries that were read are the list of the kept.
                entries.add(kept).write_volatile(index as u64);
                copy(at.cast::<[u64; WORDS]>().add(index), pages.add(kept));
                kept += 1;
            }
        }
        index += 1;
    }
    let protection = if kept == 0 { mapping.protection } else { mapping.protection | ProtFlags::WRITE };
    let flags = MapFlags::PRIVATE | MapFlags::FIXED;
    // SAFETY: the old mapping of these bytes is of the same file; what differs is written below.
    unsafe { rustix::mm::mmap(at, mapping.bytes, protection, flags, file, mapping.offset) }?;
    let mut index = 0;
    while index < kept {
        // SAFETY: one of the kept pages, back to where it came from.
        unsafe { copy(pages.add(index), at.cast::<[u64; WORDS]>().add(entries.add(index).read_volatile() as usize)) };
        index += 1;
    }
    if protection != mapping.protection {
        let only = MprotectFlags::from_bits_retain(mapping.protection.bits());
        // SAFETY: the protection that the range had before.
        unsafe { rustix::mm::mprotect(at, mapping.bytes, only) }?;
    }
    Ok(())
}

/// Copies a page word by word; see [`replace`].
///
/// # Safety
/// Both are pages, readable and writable in turn.
#[inline(always)]
unsafe fn copy(from: *const [u64; WORDS], to: *mut [u64; WORDS]) {
    let mut word = 0;
    while word < WORDS {
        // SAFETY: a word of both pages.
        unsafe { to.cast::<u64>().add(word).write_volatile(from.cast::<u64>().add(word).read_volatile()) };
        word += 1;
    }
}

/// Where the program's segments are that it writes to, also those that it has sealed since; `None` unless it is
/// static and at a fixed address.
fn written_segments() -> Option<Vec<std::ops::Range<usize>>> {
    // SAFETY: getauxval takes a number and reads a table that the kernel left.
    let header = |kind| unsafe { libc::getauxval(kind) } as usize;
    let (table, count, size) = (header(libc::AT_PHDR), header(libc::AT_PHNUM), header(libc::AT_PHENT));
    if table == 0 || size != size_of::<libc::Elf64_Phdr>() {
        return None;
    }
    // SAFETY: the kernel has put the program's own headers there, that many of that size.
    let headers = unsafe { std::slice::from_raw_parts(table as *const libc::Elf64_Phdr, count) };
    if headers.iter().any(|header| [libc::PT_INTERP, libc::PT_DYNAMIC].contains(&header.p_type)) {
        return None;
    }
    let loaded = headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W != 0);
    Some(loaded.map(|header| header.p_vaddr as usize..(header.p_vaddr + header.p_memsz) as usize).collect())
}

/// The mappings of the program's file, by `/proc/self/maps`; see proc_pid_maps(5).
fn mappings() -> std::io::Result<Vec<Mapping>> {
    use std::os::unix::ffi::OsStrExt;
    let program = std::fs::read_link("/proc/self/exe")?;
    let table = crate::procfs::read("/proc/self/maps")?;
    let mut all = Vec::new();
    for line in table.split(|byte| *byte == b'\n') {
        let words: Vec<&[u8]> = line.splitn(6, |byte| *byte == b' ').collect();
        let [range, protection, offset, _device, _inode, path] = words[..] else { continue };
        if path.trim_ascii_start() != program.as_os_str().as_bytes() {
            continue;
        }
        let number = |word: &[u8]| u64::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok();
        let parsed = || {
            let split = range.iter().position(|byte| *byte == b'-')?;
            let (start, end) = (number(&range[..split])?, number(&range[split + 1..])?);
            let has = |sign: u8, flag: ProtFlags| if protection.contains(&sign) { flag } else { ProtFlags::empty() };
            Some(Mapping {
                start: start as usize,
                bytes: (end - start) as usize,
                offset: number(offset)?,
                protection: has(b'r', ProtFlags::READ) | has(b'w', ProtFlags::WRITE) | has(b'x', ProtFlags::EXEC),
                entries: Vec::new(),
                pages: Vec::new(),
            })
        };
        let mapping = parsed().ok_or_else(|| Error::new(ErrorKind::InvalidData, "/proc/self/maps"))?;
        if !mapping.protection.contains(ProtFlags::READ) {
            return Err(Error::new(ErrorKind::Unsupported, "a part of the program cannot be read"));
        }
        all.push(mapping);
    }
    if all.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "/proc/self/maps has no mapping of the program"));
    }
    Ok(all)
}

/// The address space's marks as they are, by `/proc/self/stat` (proc_pid_stat(5)), with `file` as the program; all but
/// the heap's end.
fn mm_map(file: BorrowedFd<'_>) -> std::io::Result<MmMap> {
    let stat = crate::procfs::read("/proc/self/stat")?;
    let stat = String::from_utf8_lossy(&stat);
    // The second field, the name, may hold anything; it ends with the last bracket.
    let after = stat.rfind(')').map_or("", |bracket| &stat[bracket + 1..]);
    let numbers: Vec<u64> = after.split_ascii_whitespace().skip(1).map(|word| word.parse().unwrap_or(0)).collect();
    // Fields are counted from one there; the first number is the fourth.
    let field = |number: usize| {
        numbers.get(number - 4).copied().ok_or_else(|| Error::new(ErrorKind::InvalidData, "/proc/self/stat"))
    };
    Ok(MmMap {
        start_code: field(26)?,
        end_code: field(27)?,
        start_stack: field(28)?,
        start_data: field(45)?,
        end_data: field(46)?,
        start_brk: field(47)?,
        brk: 0,
        arg_start: field(48)?,
        arg_end: field(49)?,
        env_start: field(50)?,
        env_end: field(51)?,
        auxv: 0,
        auxv_size: 0,
        exe_fd: file.as_fd().as_raw_fd() as u32,
    })
}
