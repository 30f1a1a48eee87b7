//! The image `busybox`: one static program under all of its names, in a few milliseconds and without a mirror.

use berth_types::spec::Config;
use berth_types::{Error, ErrorKind, Result};
use std::io::Write;
use std::path::Path;

const PLACES: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];
/// Debian's is two megabytes.
const PROGRAM_BYTES_MAX: u64 = 64 << 20;

pub(super) fn path_env() -> Vec<String> {
    vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()]
}

pub(super) fn config() -> Config {
    Config { cmd: Some(vec!["sh".to_owned()]), env: path_env(), ..Config::default() }
}

/// The root filesystem as an archive.
pub(super) fn archive() -> Result<Vec<u8>> {
    let missing = |why: &str| {
        Error::new(ErrorKind::Unavailable, format!("cannot make a busybox image: {why}"))
            .with_hint("apt install busybox-static")
    };
    let place =
        PLACES.iter().map(Path::new).find(|place| place.exists()).ok_or_else(|| missing("there is no busybox"))?;
    let read = || -> std::io::Result<Vec<u8>> {
        match std::fs::metadata(place)?.len() {
            0..PROGRAM_BYTES_MAX => std::fs::read(place),
            _ => Err(std::io::ErrorKind::FileTooLarge.into()),
        }
    };
    let program = read().map_err(|cause| Error::because(ErrorKind::Unavailable, "cannot read busybox", &cause))?;
    if needs_a_loader(&program) {
        return Err(missing("the installed one is not static"));
    }
    let names = std::process::Command::new(place)
        .arg("--list")
        .output()
        .map_err(|cause| Error::because(ErrorKind::Unavailable, "cannot run busybox", &cause))?;
    let names = String::from_utf8_lossy(&names.stdout);
    let mut tar = Tar(Vec::with_capacity(program.len() + (512 << 10)));
    for (folder, mode) in [
        ("bin/", 0o755),
        ("dev/", 0o755),
        ("etc/", 0o755),
        ("home/", 0o755),
        ("proc/", 0o755),
        ("root/", 0o700),
        ("sys/", 0o755),
        ("tmp/", 0o1777),
        ("usr/", 0o755),
        ("usr/bin/", 0o755),
        ("usr/sbin/", 0o755),
        ("var/", 0o755),
        ("var/www/", 0o755),
    ] {
        tar.entry(folder, mode, b'5', "", &[]);
    }
    tar.entry("bin/busybox", 0o755, b'0', "", &program);
    for name in names.lines().filter(|name| !name.is_empty() && *name != "busybox" && !name.contains('/')) {
        tar.entry(&format!("bin/{name}"), 0o755, b'1', "bin/busybox", &[]);
    }
    tar.entry("etc/group", 0o644, b'0', "", b"root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nnobody:x:65534:\n");
    let passwd = b"root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
                   www-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n";
    tar.entry("etc/passwd", 0o644, b'0', "", passwd);
    tar.entry("usr/bin/env", 0o755, b'2', "../../bin/env", &[]);
    tar.0.extend([0; 1024]);
    Ok(tar.0)
}

/// An ELF program with a PT_INTERP header (elf(5)).
fn needs_a_loader(program: &[u8]) -> bool {
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let field = program.get(at..at.checked_add(bytes)?)?;
        Some(field.iter().rev().fold(0, |all, byte| all << 8 | usize::from(*byte)))
    };
    let headers = || Some((number(32, 8)?, number(54, 2)?, number(56, 2)?));
    let Some((first, size, count)) = headers() else { return false };
    (0..count).any(|n| first.checked_add(n * size).and_then(|at| number(at, 4)) == Some(3))
}

/// Writes ustar (POSIX pax(1), "ustar Interchange Format"): names here are short and owners are root.
struct Tar(Vec<u8>);

impl Tar {
    fn entry(&mut self, name: &str, mode: u32, kind: u8, link: &str, content: &[u8]) {
        let mut head = [0u8; 512];
        let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, name.as_bytes());
        put(100, format!("{mode:07o}\0").as_bytes());
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{:011o}\0", content.len()).as_bytes());
        // The day Debian 12 came out.
        put(136, format!("{:011o}\0", 1_686_355_200u64).as_bytes());
        put(148, b"        ");
        put(156, &[kind]);
        put(157, link.as_bytes());
        put(257, b"ustar\x0000");
        let sum: u32 = head.iter().map(|&byte| u32::from(byte)).sum();
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&head);
        self.0.write_all(content).expect("writing to memory");
        let padding = content.len().next_multiple_of(512) - content.len();
        self.0.extend(std::iter::repeat_n(0, padding));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_the_same_every_time() {
        if !Path::new(PLACES[0]).exists() {
            eprintln!("skipped: needs busybox-static");
            return;
        }
        let archive = archive().unwrap();
        assert_eq!(archive, super::archive().unwrap());
        assert_eq!(archive.len() % 512, 0);
    }
}
