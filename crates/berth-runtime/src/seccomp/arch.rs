//! Architectures: what the kernel calls them, and their syscalls' numbers.

use super::{SeccompError, tables};
use oci_spec::runtime::Arch;

/// Set in the numbers of x32 syscalls, which otherwise look like x86-64 (<asm/unistd.h>).
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// Arm's own calls above the table (`__ARM_NR_BASE`, <asm/unistd.h>).
const ARM_PRIVATE: &[(&str, u32)] =
    &[("breakpoint", 0xf_0001), ("cacheflush", 0xf_0002), ("set_tls", 0xf_0005), ("get_tls", 0xf_0006)];

/// A table and the bit that its numbers carry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Abi {
    table: &'static [(&'static str, u16)],
    bit: u32,
    private: &'static [(&'static str, u32)],
}

impl Abi {
    pub(super) fn number(&self, syscall: &str) -> Option<u32> {
        match self.table.binary_search_by(|(name, _)| name.cmp(&syscall)) {
            Ok(at) => self.table.get(at).map(|&(_, number)| u32::from(number) | self.bit),
            Err(_) => self.private.iter().find(|(name, _)| *name == syscall).map(|&(_, number)| number),
        }
    }

    pub(super) fn bit(&self) -> u32 {
        self.bit
    }

    /// Numbers from here on are of another kind and no "newer syscalls".
    pub(super) fn table_end(&self) -> u32 {
        if self.private.is_empty() { X32_BIT } else { 0xf_0000 }
    }
}

/// What one value of `seccomp_data.arch` stands for; x86-64 and x32 share theirs.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) audit: u32,
    pub(super) abis: Vec<Abi>,
}

/// AUDIT_ARCH_*, <linux/audit.h>
pub(super) const AUDIT_X86_64: u32 = 0xc000_003e;
pub(super) const AUDIT_X86: u32 = 0x4000_0003;
pub(super) const AUDIT_AARCH64: u32 = 0xc000_00b7;
pub(super) const AUDIT_ARM: u32 = 0x4000_0028;

const fn abi(table: &'static [(&'static str, u16)]) -> Abi {
    Abi { table, bit: 0, private: &[] }
}

/// Those that the profile lists, this host's own first and always.
pub(super) fn machines(listed: Option<&[Arch]>) -> Result<Vec<Machine>, SeccompError> {
    let native = if cfg!(target_arch = "aarch64") { Arch::ScmpArchAarch64 } else { Arch::ScmpArchX86_64 };
    let mut machines: Vec<Machine> = Vec::new();
    for arch in [native].iter().chain(listed.unwrap_or_default()) {
        let (audit, abi) = match arch {
            Arch::ScmpArchNative => continue,
            Arch::ScmpArchX86_64 => (AUDIT_X86_64, abi(tables::x86_64::TABLE)),
            Arch::ScmpArchX32 => (AUDIT_X86_64, Abi { bit: X32_BIT, ..abi(tables::x32::TABLE) }),
            Arch::ScmpArchX86 => (AUDIT_X86, abi(tables::x86::TABLE)),
            Arch::ScmpArchAarch64 => (AUDIT_AARCH64, abi(tables::aarch64::TABLE)),
            Arch::ScmpArchArm => (AUDIT_ARM, Abi { private: ARM_PRIVATE, ..abi(tables::arm::TABLE) }),
            // Listed by profiles that serve many hosts; no process of theirs can run here.
            other if is_foreign(*other) => continue,
            other => return Err(SeccompError::Architecture(other.to_string())),
        };
        match machines.iter_mut().find(|machine| machine.audit == audit) {
            Some(machine) if machine.abis.iter().any(|known| known.bit == abi.bit) => {}
            Some(machine) => machine.abis.push(abi),
            None => machines.push(Machine { audit, abis: vec![abi] }),
        }
    }
    Ok(machines)
}

fn is_foreign(arch: Arch) -> bool {
    let name = arch.to_string();
    ["MIPS", "PPC", "S390", "RISCV", "LOONGARCH", "PARISC", "SHEB", "_SH", "M68K"]
        .iter()
        .any(|part| name.contains(part))
}
