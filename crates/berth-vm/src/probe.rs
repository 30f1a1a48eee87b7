//! Does KVM run a guest here? A kernel of 254 bytes finds out.
//!
//! `/dev/kvm` alone proves nothing: under some hypervisors it is there and runs no ordinary kernel, or runs it by
//! emulating every instruction, slower than QEMU itself does. The guest goes into 64-bit mode, executes what such an
//! emulation lacks (`cmpxchg16b`, a VEX instruction), counts to twenty million and says how it went by a port that ends
//! QEMU. One that is slow or stuck is not waited for.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// `probe.s`, assembled.
const CODE: &str = "\
    fabf000020000f22dfc70703102000c7870010000003202000c7870020000083000000c78708200000830020000f20e0\
    83c8200f22e0b9800000c00f320d000100000f300f20c00d010000800f22c00f0115f8001000ea5d001000080031c031\
    d2bb07000000b909000000f0480fc70d5c000000754348833d5a00000009753931c00fa283f8077223b80700000031c9\
    0fa20fbae3087314b801000000b904000000c4e271f7c083f810750db9002d3101ffc975fcb010eb02b02066baf400ee\
    f4ebfd66662e0f1f8400000000006690000000000000000000000000000000000000000000000000ffff0000009aaf00\
    ffff00000092cf001700e0001000";
const LOADED_AT: u64 = 0x10_0000;
/// The guest writes 0x10; isa-debug-exit makes an odd code of it.
const PASSED: i32 = 0x10 << 1 | 1;
/// Hardware needs a tenth of a second, QEMU's start included; a busy host some more.
const DEADLINE: Duration = Duration::from_secs(10);
const WORDS_MAX: usize = 300;

fn code() -> Vec<u8> {
    let digits = CODE.as_bytes();
    let value = |digit: u8| char::from(digit).to_digit(16).unwrap_or(0) as u8;
    digits.chunks(2).map(|pair| value(pair[0]) << 4 | value(pair[1])).collect()
}

/// The guest as QEMU's `-kernel` takes it.
fn elf() -> Vec<u8> {
    let code = code();
    let at = 64 + 2 * 56;
    let note = at + code.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let mut halves = |values: &[u16]| elf.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    halves(&[2, 62, 1, 0]);
    let mut longs = |values: &[u64]| elf.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    longs(&[LOADED_AT, 64, 0]);
    elf.extend([0; 4]);
    elf.extend([64, 56, 2, 0, 0, 0].map(u16::to_le_bytes).concat());
    let size = code.len() as u64 + 20;
    for (kind, offset, bytes) in [(1_u32, at, size), (4, note, 20)] {
        elf.extend(kind.to_le_bytes());
        elf.extend(7_u32.to_le_bytes());
        let place = LOADED_AT + offset - at;
        elf.extend([offset, place, place, bytes, bytes, 1].map(u64::to_le_bytes).concat());
    }
    elf.extend(code);
    // XEN_ELFNOTE_PHYS32_ENTRY
    elf.extend([4_u32, 4, 18].map(u32::to_le_bytes).concat());
    elf.extend(b"Xen\0");
    elf.extend((LOADED_AT as u32).to_le_bytes());
    elf
}

/// Whether a guest runs under KVM as it should; else why not, in words. `program` is QEMU.
pub fn kvm(program: &str) -> Result<(), String> {
    run(program, &["-accel", "kvm", "-cpu", "host"])
}

fn run(program: &str, accelerator: &[&str]) -> Result<(), String> {
    let memory =
        rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::empty()).map_err(|errno| errno.to_string())?;
    let mut remaining = elf();
    while !remaining.is_empty() {
        let count = rustix::io::write(&memory, &remaining).map_err(|errno| errno.to_string())?;
        remaining.drain(..count);
    }
    // The descriptor is inherited: QEMU opens it by its own number.
    let kernel = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&memory));
    let mut child = Command::new(program)
        .args(["-machine", "q35", "-m", "16", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args(accelerator)
        .args(["-sandbox", "on", "-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-kernel", &kernel])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|cause| format!("cannot start {program}: {cause}"))?;
    let deadline = Instant::now() + DEADLINE;
    let code = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status.code(),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            _ => break None,
        }
    };
    // One that has ended is only collected.
    child.kill().ok();
    let output = child.wait_with_output().map_err(|cause| cause.to_string())?;
    if code == Some(PASSED) {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let first = words.lines().find(|line| line.contains("error") || line.contains("KVM")).unwrap_or_default();
    let why = match code {
        None => format!("a guest did not finish within {} seconds", DEADLINE.as_secs()),
        Some(code) => format!("QEMU ended with {code}"),
    };
    let first: String = first.trim().chars().take(WORDS_MAX).collect();
    Err(if first.is_empty() { why } else { format!("{why} ({first})") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_is_what_its_source_says() {
        let folder = tempfile::tempdir().unwrap();
        let (object, raw) = (folder.path().join("probe.o"), folder.path().join("probe.bin"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/probe.s");
        let assembled = Command::new("as").arg("--64").arg("-o").arg(&object).arg(source).status();
        if !assembled.is_ok_and(|status| status.success()) {
            return;
        }
        let linked = folder.path().join("probe.elf");
        let link = ["-Ttext=0x100000", "-e", "start", "--no-warn-rwx-segments", "-o"];
        assert!(Command::new("ld").args(link).arg(&linked).arg(&object).status().unwrap().success());
        let copied = Command::new("objcopy").args(["-O", "binary", "-j", ".text"]).arg(&linked).arg(&raw).status();
        assert!(copied.unwrap().success());
        assert_eq!(std::fs::read(raw).unwrap(), code());
    }

    #[test]
    fn the_guest_passes_where_every_instruction_is_emulated_well() {
        let program = crate::command::PROGRAM;
        if !std::path::Path::new(program).exists() {
            return;
        }
        // On a busy host even this may take longer than the deadline: then it says so, and nothing else.
        match run(program, &["-accel", "tcg", "-cpu", "Nehalem"]) {
            Ok(()) => {}
            Err(why) => assert!(why.contains("did not finish"), "{why}"),
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        assert!(kvm("/no/such/qemu").unwrap_err().contains("/no/such/qemu"));
    }
}
