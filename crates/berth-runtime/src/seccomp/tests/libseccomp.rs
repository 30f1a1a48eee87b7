//! The same rules through libseccomp, and both programs asked about the same calls.

use super::{ALLOW, Call, EPERM, profile};
use crate::seccomp::arch::{AUDIT_X86, AUDIT_X86_64, X32_BIT};
use crate::seccomp::{Filter, SockFilter, compile, tables};
use serde_json::json;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const SOURCE: &str = include_str!("against_libseccomp.c");
/// `SCMP_CMP_*` of <seccomp.h>, from 1.
const OPERATORS: [&str; 7] =
    ["SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ"];
/// In all three tables under one name and with no history of multiplexing.
const NAMES: [&str; 12] =
    ["read", "write", "open", "close", "ioctl", "kill", "dup2", "prctl", "personality", "clone", "openat", "fcntl"];
const VALUES: [u64; 9] = [0, 1, 7, 0x7e02_0000, 0xffff_ffff, 1 << 32, (1 << 32) + 7, u64::MAX - 1, u64::MAX];

/// xorshift: the same calls in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, count: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % count
    }

    fn value(&mut self) -> u64 {
        VALUES[self.below(VALUES.len())]
    }
}

fn helper(folder: &Path) -> Option<PathBuf> {
    let (source, program) = (folder.join("against.c"), folder.join("against"));
    std::fs::write(&source, SOURCE).unwrap();
    let built = Command::new("cc").arg(&source).arg("-o").arg(&program).arg("-lseccomp").stderr(Stdio::null()).status();
    built.is_ok_and(|status| status.success()).then_some(program)
}

fn their(program: &Path, rules: &str) -> Filter {
    let mut child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{:?}\n{rules}", output.status);
    let instructions = output.stdout.chunks_exact(8).map(|at| SockFilter {
        code: u16::from_le_bytes([at[0], at[1]]),
        jt: at[2],
        jf: at[3],
        k: u32::from_le_bytes([at[4], at[5], at[6], at[7]]),
    });
    Filter { instructions: instructions.collect(), flags: 0, notify: false }
}

#[test]
fn libseccomp_makes_the_same_of_the_same_rules() {
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = helper(folder.path()) else {
        println!("skipped: needs cc and libseccomp-dev");
        return;
    };
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    let newest = json!({"names": ["openat2"], "action": "SCMP_ACT_ALLOW"});
    for round in 0..60 {
        // To libseccomp x86 and x32 have arguments of 32 bits, whose wider values it cuts short.
        let narrow = round % 2 == 0;
        let cut = |value: u64| if narrow { value & 0xffff_ffff } else { value };
        let mut rules = vec![newest.clone()];
        let mut text = format!(
            "default {EPERM}\narch {AUDIT_X86_64}\narch {AUDIT_X86}\narch {}\nrule {ALLOW} openat2 0\n",
            X32_BIT | 62
        );
        for name in NAMES {
            let alternatives = dice.below(4);
            let plain = alternatives == 0;
            if plain && dice.below(2) == 0 {
                continue;
            }
            for _ in 0..alternatives.max(1) {
                let (mut arguments, mut line) = (Vec::new(), String::new());
                let mut indexes = vec![0, 1, 2, 3, 4, 5];
                // Alternatives are single tests for equality: where rules of other shapes meet, libseccomp 2.5
                // drops some of them.
                let alone = alternatives == 1;
                for _ in 0..if plain {
                    0
                } else if alone {
                    1 + dice.below(3)
                } else {
                    1
                } {
                    let index = indexes.remove(if alone { dice.below(indexes.len()) } else { 1 });
                    let operator = if alone { dice.below(OPERATORS.len()) } else { 3 };
                    let (value, two) = (cut(dice.value()), cut(dice.value()));
                    // A masked value with bits beyond its mask never holds; the kernel's library refuses none.
                    let two = two & value;
                    arguments.push(json!({"index": index, "op": OPERATORS[operator], "value": value, "valueTwo": two}));
                    write!(line, " {index} {} {value} {two}", operator + 1).unwrap();
                }
                writeln!(text, "rule {ALLOW} {name} {}{line}", arguments.len()).unwrap();
                rules.push(json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": arguments}));
            }
        }
        let ours = compile(&profile(json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": rules,
        })))
        .unwrap();
        let theirs = their(&program, &text);
        let tables = [
            (AUDIT_X86_64, 0, tables::x86_64::TABLE),
            (AUDIT_X86, 0, tables::x86::TABLE),
            (AUDIT_X86_64, X32_BIT, tables::x32::TABLE),
        ];
        for (arch, bit, table) in tables {
            let wide = arch == AUDIT_X86_64 && bit == 0;
            if !wide && !narrow {
                continue;
            }
            // Every number once, the named ones often.
            let numbers = (0..=437).map(|number| number | bit);
            // x32's own numbers lie above the newest call: ENOSYS to us where they are not named.
            let named = table
                .iter()
                .filter(|(name, number)| NAMES.contains(name) && *number < 438)
                .map(|(_, number)| u32::from(*number) | bit);
            let often: Vec<u32> = named.flat_map(|number| [number; 60]).collect();
            for number in numbers.chain(often) {
                let call = Call {
                    arch,
                    number,
                    arguments: [(); 6].map(|()| if wide { dice.value() } else { cut(dice.value()) }),
                };
                let answers = (super::run(&ours, call), super::run(&theirs, call));
                assert_eq!(answers.0, answers.1, "round {round}: {call:x?}\n{text}");
            }
        }
        for arch in [0xc000_00b7, 0x4000_0028] {
            let call = Call { arch, number: 0, arguments: [0; 6] };
            assert_eq!(super::run(&ours, call), super::run(&theirs, call));
        }
    }
}
