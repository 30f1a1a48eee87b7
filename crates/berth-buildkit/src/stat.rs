//! A file as fsutil describes it: Go's mode bits, and names that stay inside.

use std::path::{Component, Path, PathBuf};

const DIR: u32 = 1 << 31;
const SYMLINK: u32 = 1 << 27;
const DEVICE: u32 = 1 << 26;
const NAMED_PIPE: u32 = 1 << 25;
const SOCKET: u32 = 1 << 24;
const SETUID: u32 = 1 << 23;
const SETGID: u32 = 1 << 22;
const CHAR_DEVICE: u32 = 1 << 21;
const STICKY: u32 = 1 << 20;
const IRREGULAR: u32 = 1 << 19;

/// Longer names are refused; the kernel would refuse them too.
const NAME_BYTES_MAX: usize = 4096;

/// What a mode says the file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Folder,
    Link,
    /// A pipe, socket or device.
    Special,
}

pub fn kind(mode: u32) -> Kind {
    match mode {
        mode if mode & DIR != 0 => Kind::Folder,
        mode if mode & SYMLINK != 0 => Kind::Link,
        mode if mode & (DEVICE | NAMED_PIPE | SOCKET | CHAR_DEVICE | IRREGULAR) != 0 => Kind::Special,
        _ => Kind::File,
    }
}

/// Rights as the kernel has them.
pub fn rights(mode: u32) -> u32 {
    let bit = |go: u32, unix: u32| if mode & go != 0 { unix } else { 0 };
    (mode & 0o777) | bit(SETUID, 0o4000) | bit(SETGID, 0o2000) | bit(STICKY, 0o1000)
}

/// Go's mode of a file with these rights.
pub fn mode(kind: Kind, rights: u32) -> u32 {
    let bit = |unix: u32, go: u32| if rights & unix != 0 { go } else { 0 };
    let kind = match kind {
        Kind::File => 0,
        Kind::Folder => DIR,
        Kind::Link => SYMLINK,
        Kind::Special => IRREGULAR,
    };
    kind | (rights & 0o777) | bit(0o4000, SETUID) | bit(0o2000, SETGID) | bit(0o1000, STICKY)
}

/// Go's mode of a pipe or device with this type of the kernel's; `None` for what cannot travel.
pub fn special(file_type: u32, rights: u32) -> Option<u32> {
    let kind = match file_type & 0o170_000 {
        0o010_000 => NAMED_PIPE,
        0o020_000 => DEVICE | CHAR_DEVICE,
        0o060_000 => DEVICE,
        _ => return None,
    };
    Some(kind | mode(Kind::File, rights))
}

/// A name as a path that stays inside: relative, without `.` and `..`. `None` for every other one.
pub fn inside(name: &str) -> Option<PathBuf> {
    let path = Path::new(name);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    let whole = !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.contains('\0');
    // As its sender has to write it: `a//b` and `a/./b` are no other file's name.
    (plain && whole && path.components().collect::<PathBuf>().as_os_str() == name).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_go_there_and_back() {
        for (kind_of, bits) in [(Kind::File, 0o644), (Kind::Folder, 0o1777), (Kind::File, 0o6755), (Kind::Link, 0o777)]
        {
            let go = mode(kind_of, bits);
            assert_eq!((kind(go), rights(go)), (kind_of, bits));
        }
        assert_eq!(mode(Kind::Folder, 0o755), 0x8000_01ed);
        assert_eq!(kind(DEVICE | CHAR_DEVICE), Kind::Special);
    }

    #[test]
    fn names_that_leave_are_none() {
        let long = "a/".repeat(3000);
        for bad in ["", "/etc/passwd", "..", "../a", "a/../b", "a/./b", "./a", "a//b", "a/", "a\0b", long.as_str()] {
            assert_eq!(inside(bad), None, "{bad}");
        }
        assert_eq!(inside("a/b c/..d"), Some(PathBuf::from("a/b c/..d")));
    }
}
