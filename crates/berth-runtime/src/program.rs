//! The program to execute: found as execvp(3) does, and why it cannot be run in words.

use crate::error::{LaunchError, LaunchKind, reason};
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::CString;
use std::path::Path;

/// Where programs are looked for that name no folder, when the environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const SCRIPT_HEAD: usize = 256;

fn cannot(kind: LaunchKind, text: String) -> LaunchError {
    LaunchError { kind, text }
}

/// The file that `name` means here, or Docker's words why there is none. Called as the container's user, inside its root.
pub(crate) fn find(name: &str, environment: &[String]) -> Result<CString, LaunchError> {
    let path = |text: &str| {
        CString::new(text)
            .map_err(|_| LaunchError::configuration(format!("exec: {name:?}: a name cannot hold a zero byte")))
    };
    if name.is_empty() {
        return Err(LaunchError::configuration("exec: the program's name is empty"));
    }
    if name.contains('/') {
        return match check(name) {
            Ok(()) => path(name),
            Err(Errno::NOENT | Errno::NOTDIR) => {
                Err(cannot(LaunchKind::NotFound, format!("exec: {name:?}: stat {name}: no such file or directory")))
            }
            Err(errno) => Err(cannot(LaunchKind::CannotRun, format!("exec: {name:?}: {}", reason(errno)))),
        };
    }
    let search = environment.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let mut denied = None;
    for folder in search.split(':') {
        let candidate = if folder.is_empty() { format!("./{name}") } else { format!("{folder}/{name}") };
        match check(&candidate) {
            Ok(()) => return path(&candidate),
            Err(errno @ (Errno::ACCESS | Errno::ISDIR)) => denied = Some(errno),
            Err(_) => {}
        }
    }
    Err(match denied {
        Some(Errno::ACCESS) => cannot(LaunchKind::CannotRun, format!("exec: {name:?}: permission denied")),
        _ => cannot(LaunchKind::NotFound, format!("exec: {name:?}: executable file not found in $PATH")),
    })
}

fn check(path: &str) -> Result<(), Errno> {
    let stat = rustix::fs::stat(path)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS),
        FileType::Directory => Err(Errno::ISDIR),
        _ => Err(Errno::ACCESS),
    }
}

/// Why execve(2) of a file that is there failed. Looks at its first bytes.
pub(crate) fn explain(program: &str, errno: Errno) -> LaunchError {
    let head = head(program).unwrap_or_default();
    let words = reason(errno);
    match errno {
        Errno::NOENT => {
            let missing = match interpreter(&head) {
                Some(script) if head.starts_with(b"#!") => format!("its interpreter {script} is not in the image"),
                _ if head.starts_with(b"\x7fELF") => "its loader is not in the image".to_owned(),
                _ => "what it needs to start is not in the image".to_owned(),
            };
            cannot(LaunchKind::NotFound, format!("exec {program}: {words}: {missing}"))
        }
        Errno::NOEXEC => {
            let why = match machine(&head) {
                Some(machine) => format!("it is made for {machine}, this host is {}", std::env::consts::ARCH),
                None if head.is_empty() => "it is empty".to_owned(),
                None => "it is no program for this system; a script needs a first line such as #!/bin/sh".to_owned(),
            };
            cannot(LaunchKind::CannotRun, format!("exec {program}: exec format error: {why}"))
        }
        _ => cannot(LaunchKind::CannotRun, format!("exec {program}: {words}")),
    }
}

fn head(program: &str) -> Option<Vec<u8>> {
    let file = rustix::fs::open(Path::new(program), OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
        .ok()?;
    let mut bytes = vec![0; SCRIPT_HEAD];
    let length = rustix::io::read(&file, &mut bytes).ok()?;
    bytes.truncate(length);
    Some(bytes)
}

fn interpreter(head: &[u8]) -> Option<String> {
    let line = head.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    let text = String::from_utf8_lossy(line);
    let name = text.trim_end_matches('\r').split_whitespace().next()?;
    // A file written on another system: the kernel looks for "sh\r".
    Some(if text.ends_with('\r') { format!("{name} (the line ends with a carriage return)") } else { name.to_owned() })
}

/// The architecture of an ELF file that is not this host's (elf(5), `e_machine`).
fn machine(head: &[u8]) -> Option<&'static str> {
    if !head.starts_with(b"\x7fELF") {
        return None;
    }
    let big = head.get(5) == Some(&2);
    let bytes = [*head.get(18)?, *head.get(19)?];
    Some(match if big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) } {
        3 => "32-bit x86",
        8 => "mips",
        20 => "32-bit powerpc",
        21 => "ppc64",
        22 => "s390x",
        40 => "32-bit arm",
        62 => "x86_64",
        183 => "aarch64 (arm64)",
        243 => "riscv64",
        258 => "loong64",
        _ => "another architecture",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_as_a_shell_finds_it() {
        let environment = |path: &str| vec![format!("PATH={path}")];
        assert_eq!(find("sh", &environment("/nowhere:/bin")).unwrap().to_str(), Ok("/bin/sh"));
        let missing = find("no-such-program", &environment("/bin")).unwrap_err();
        assert_eq!(
            (missing.kind, missing.text.as_str()),
            (LaunchKind::NotFound, "exec: \"no-such-program\": executable file not found in $PATH")
        );
        assert_eq!(find("/etc", &[]).unwrap_err().kind, LaunchKind::CannotRun);
        assert_eq!(find("/etc/passwd", &[]).unwrap_err().text, "exec: \"/etc/passwd\": permission denied");
        assert_eq!(
            find("/no/such", &[]).unwrap_err().text,
            "exec: \"/no/such\": stat /no/such: no such file or directory"
        );
    }

    #[test]
    fn a_script_without_its_first_line_is_told_from_a_foreign_program() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let mut arm = b"\x7fELF\x02\x01\x01".to_vec();
        arm.resize(18, 0);
        arm.extend([183, 0]);
        assert!(explain(&file("arm", &arm), Errno::NOEXEC).text.contains("made for aarch64"));
        assert!(explain(&file("text", b"echo hi\n"), Errno::NOEXEC).text.contains("#!/bin/sh"));
        let script = explain(&file("script", b"#!/bin/bash\r\n"), Errno::NOENT).text;
        assert!(script.contains("/bin/bash (the line ends with a carriage return)"), "{script}");
    }
}
