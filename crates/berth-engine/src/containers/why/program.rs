//! A program file, looked at as execve(2) would.

use crate::files::{self, Root};
use rustix::fs::FileType;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Headers and interpreter are within this much of any real program.
const HEAD_BYTES: u64 = 64 << 10;

/// What keeps a program from running, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Program {
    NotFound {
        searched: Option<String>,
    },
    Folder(PathBuf),
    NotExecutable(PathBuf),
    /// `#!/bin/bash` without a /bin/bash.
    NoInterpreter {
        path: PathBuf,
        interpreter: String,
    },
    /// The dynamic loader that the file names is missing.
    NoLoader {
        path: PathBuf,
        loader: String,
    },
    WrongArchitecture {
        path: PathBuf,
        built_for: String,
    },
    /// Text that does not start with `#!`.
    NoShebang(PathBuf),
    Empty(PathBuf),
    Unknown(PathBuf),
    Fine(PathBuf),
}

/// Looks for `command` as execvp(3) would, and at what it finds.
pub(super) fn examine(root: &Root, command: &str, path: &str, cwd: &Path) -> Program {
    if command.contains('/') {
        return match look(root, &cwd.join(command)) {
            Some(program) => program,
            None => Program::NotFound { searched: None },
        };
    }
    let mut refused = None;
    for folder in path.split(':') {
        match look(root, &cwd.join(folder).join(command)) {
            Some(Program::NotExecutable(path)) => refused = Some(Program::NotExecutable(path)),
            Some(Program::Folder(_)) | None => {}
            Some(program) => return program,
        }
    }
    refused.unwrap_or(Program::NotFound { searched: Some(path.to_owned()) })
}

fn look(root: &Root, path: &Path) -> Option<Program> {
    let found = root.find(path).ok()?;
    let path = path.to_owned();
    match found.kind() {
        FileType::Directory => return Some(Program::Folder(path)),
        FileType::RegularFile => {}
        _ => return Some(Program::Unknown(path)),
    }
    if found.stat.st_mode & 0o111 == 0 {
        return Some(Program::NotExecutable(path));
    }
    let mut head = Vec::new();
    let file = files::reopen(&found).ok()?;
    std::fs::File::from(file).take(HEAD_BYTES).read_to_end(&mut head).ok()?;
    Some(judge(root, path, &head))
}

fn judge(root: &Root, path: PathBuf, head: &[u8]) -> Program {
    if head.is_empty() {
        return Program::Empty(path);
    }
    if let Some(rest) = head.strip_prefix(b"#!") {
        let line = rest.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let word = line.trim_start_matches([' ', '\t']).split([' ', '\t']).next().unwrap_or_default();
        return match root.find(Path::new(word)) {
            Ok(found) if found.kind() == FileType::RegularFile => Program::Fine(path),
            _ => Program::NoInterpreter { path, interpreter: word.to_owned() },
        };
    }
    match Elf::read(head) {
        Some(elf) if !elf.runs_here() => Program::WrongArchitecture { path, built_for: elf.machine() },
        Some(Elf { interpreter: Some(loader), .. }) if root.find(Path::new(&loader)).is_err() => {
            Program::NoLoader { path, loader }
        }
        Some(_) => Program::Fine(path),
        None if head.iter().take(256).all(|&byte| byte != 0) => Program::NoShebang(path),
        None => Program::Unknown(path),
    }
}

/// What elf(5) says of a program in its headers.
#[derive(Debug, PartialEq, Eq)]
struct Elf {
    is_64_bit: bool,
    machine: u16,
    interpreter: Option<String>,
}

impl Elf {
    fn read(head: &[u8]) -> Option<Elf> {
        if head.get(..4)? != b"\x7fELF" {
            return None;
        }
        let (is_64_bit, little) = (*head.get(4)? == 2, *head.get(5)? == 1);
        let number = |at: usize, length: usize| -> Option<u64> {
            let bytes = head.get(at..at.checked_add(length)?)?;
            let fold = |all: u64, byte: &u8| all << 8 | u64::from(*byte);
            Some(if little { bytes.iter().rev().fold(0, fold) } else { bytes.iter().fold(0, fold) })
        };
        let machine = u16::try_from(number(18, 2)?).ok()?;
        let (table, size, count) = match is_64_bit {
            true => (number(32, 8)?, number(54, 2)?, number(56, 2)?),
            false => (number(28, 4)?, number(42, 2)?, number(44, 2)?),
        };
        const PT_INTERP: u64 = 3;
        let mut interpreter = None;
        for index in 0..count.min(64) {
            let at = usize::try_from(table.checked_add(index * size)?).ok()?;
            let Some(kind) = number(at, 4) else { break };
            if kind == PT_INTERP {
                let (offset, length) = match is_64_bit {
                    true => (number(at + 8, 8)?, number(at + 32, 8)?),
                    false => (number(at + 4, 4)?, number(at + 16, 4)?),
                };
                let start = usize::try_from(offset).ok()?;
                let end = start.checked_add(usize::try_from(length).ok()?)?;
                let text = head.get(start..end)?;
                let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
                interpreter = Some(String::from_utf8_lossy(text).into_owned());
            }
        }
        Some(Elf { is_64_bit, machine, interpreter })
    }

    fn machine(&self) -> String {
        match self.machine {
            3 => "386".to_owned(),
            40 => "arm".to_owned(),
            62 => "amd64".to_owned(),
            183 => "arm64".to_owned(),
            243 => "riscv64".to_owned(),
            21 => "ppc64le".to_owned(),
            22 => "s390x".to_owned(),
            8 => "mips".to_owned(),
            other => format!("machine {other}"),
        }
    }

    /// Emulators registered with binfmt_misc are not asked: where one was, the start did not fail.
    fn runs_here(&self) -> bool {
        match std::env::consts::ARCH {
            "x86_64" => matches!(self.machine, 62 | 3),
            "aarch64" => matches!(self.machine, 183 | 40),
            "riscv64" => self.machine == 243,
            "powerpc64" => self.machine == 21,
            "s390x" => self.machine == 22,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_types::mount::Rootfs;
    use std::os::unix::fs::PermissionsExt;

    fn with(files: &[(&str, &[u8], u32)]) -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        for (name, content, mode) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(*mode)).unwrap();
        }
        let root = Root::of_image(&Rootfs::Directory { path: folder.path().to_owned() }).unwrap();
        (folder, root)
    }

    /// A 64-bit little-endian header with one PT_INTERP.
    fn elf(machine: u16, loader: &str) -> Vec<u8> {
        let mut head = vec![0_u8; 120];
        head[..6].copy_from_slice(b"\x7fELF\x02\x01");
        head[18..20].copy_from_slice(&machine.to_le_bytes());
        head[32] = 64;
        head[54] = 56;
        head[56] = 1;
        head[64] = 3;
        head[72] = 120;
        head[96] = u8::try_from(loader.len() + 1).unwrap();
        head.extend_from_slice(loader.as_bytes());
        head.push(0);
        head
    }

    fn found(files: &[(&str, &[u8], u32)], command: &str) -> Program {
        let (_folder, root) = with(files);
        examine(&root, command, "/usr/bin:/bin", Path::new("/"))
    }

    #[test]
    fn each_reason_has_its_name() {
        let path = PathBuf::from("/bin/x");
        assert_eq!(found(&[], "x"), Program::NotFound { searched: Some("/usr/bin:/bin".to_owned()) });
        assert_eq!(found(&[], "/bin/x"), Program::NotFound { searched: None });
        assert_eq!(found(&[("bin/x", b"#!", 0o644)], "x"), Program::NotExecutable(path.clone()));
        assert_eq!(found(&[("bin/x", b"", 0o755)], "x"), Program::Empty(path.clone()));
        assert_eq!(found(&[("bin/x", b"echo hi\n", 0o755)], "x"), Program::NoShebang(path.clone()));
        assert_eq!(found(&[("bin/x/y", b"", 0o755)], "/bin/x"), Program::Folder(path.clone()));
        let interpreter = "/bin/bash\r".to_owned();
        let script: &[u8] = b"#!/bin/bash\r\necho\r\n";
        assert_eq!(found(&[("bin/x", script, 0o755)], "x"), Program::NoInterpreter { path: path.clone(), interpreter });
        let files: [(&str, &[u8], u32); 2] = [("bin/x", b"#! /bin/sh -e\n", 0o755), ("bin/sh", b"\x7fELF", 0o755)];
        assert_eq!(found(&files, "x"), Program::Fine(path));
    }

    #[test]
    fn a_program_of_another_machine_or_without_its_loader_is_told() {
        let (here, other) = if cfg!(target_arch = "aarch64") { (183, 62) } else { (62, 183) };
        let path = PathBuf::from("/bin/x");
        let foreign = elf(other, "/lib/ld.so");
        assert!(matches!(found(&[("bin/x", &foreign, 0o755)], "x"), Program::WrongArchitecture { .. }));
        let own = elf(here, "/lib/ld-musl.so.1");
        let loader = "/lib/ld-musl.so.1".to_owned();
        assert_eq!(found(&[("bin/x", &own, 0o755)], "x"), Program::NoLoader { path: path.clone(), loader });
        assert_eq!(found(&[("bin/x", &own, 0o755), ("lib/ld-musl.so.1", b"x", 0o755)], "x"), Program::Fine(path));
    }

    #[test]
    fn damaged_headers_are_no_program_and_no_panic() {
        for length in 0..160 {
            let whole = elf(62, "/lib/ld.so");
            Elf::read(&whole[..length.min(whole.len())]);
        }
        let mut wild = elf(62, "/lib/ld.so");
        wild[32..40].fill(0xff);
        Elf::read(&wild);
    }
}
