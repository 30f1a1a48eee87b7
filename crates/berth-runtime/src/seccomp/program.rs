//! Ranges become instructions.
//!
//! ```text
//!   A = arch;  A == x86-64 ? section : A == x86 ? section : kill the process
//!   section:  A = number;  A >= middle ? right half : left half;  ...  return
//! ```
//!
//! Conditional jumps reach 255 instructions; a longer way goes through one unconditional jump.

use super::SockFilter;
use super::rules::{KILL_PROCESS, Leaf, Test};
use oci_spec::runtime::LinuxSeccompOperator;

/// <linux/bpf_common.h>
pub(super) const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
pub(super) const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
pub(super) const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
pub(super) const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
pub(super) const GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
pub(super) const AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
pub(super) const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// Offsets in `struct seccomp_data`, <linux/seccomp.h>
pub(super) const NUMBER: u32 = 0;
pub(super) const ARCH: u32 = 4;
pub(super) const ARGUMENTS: u32 = 16;

fn plain(code: u16, k: u32) -> SockFilter {
    SockFilter { code, jt: 0, jf: 0, k }
}

/// Jumps over `yes` unless the test holds, in which case it runs into it.
fn over(code: u16, k: u32, yes: &[SockFilter]) -> Vec<SockFilter> {
    match u8::try_from(yes.len()) {
        Ok(length) => vec![SockFilter { code, jt: 0, jf: length, k }],
        Err(_) => vec![SockFilter { code, jt: 1, jf: 0, k }, plain(JUMP, yes.len() as u32)],
    }
}

/// The whole program over its architectures' sections.
pub(super) fn whole(sections: &[(u32, Vec<SockFilter>)]) -> Vec<SockFilter> {
    let mut program = vec![plain(LOAD, ARCH)];
    for (audit, section) in sections {
        program.extend(over(EQUAL, *audit, section));
        program.extend(section);
    }
    program.push(plain(RETURN, KILL_PROCESS));
    program
}

pub(super) fn section(ranges: &[(u32, Leaf)]) -> Vec<SockFilter> {
    let mut section = vec![plain(LOAD, NUMBER)];
    section.extend(search(ranges));
    section
}

fn search(ranges: &[(u32, Leaf)]) -> Vec<SockFilter> {
    match ranges {
        [] => vec![plain(RETURN, KILL_PROCESS)],
        [(_, only)] => leaf(only),
        _ => {
            let (lower, upper) = ranges.split_at(ranges.len() / 2);
            let upper_code = search(upper);
            let mut code = over(AT_LEAST, upper[0].0, &upper_code);
            code.extend(upper_code);
            code.extend(search(lower));
            code
        }
    }
}

fn leaf(leaf: &Leaf) -> Vec<SockFilter> {
    let mut code = Vec::new();
    for (tests, answer) in &leaf.cases {
        let mut case = vec![plain(RETURN, *answer)];
        for test in tests.iter().rev() {
            case = prepend(test, case);
        }
        code.extend(case);
    }
    code.push(plain(RETURN, leaf.otherwise));
    code
}

/// `test` before `case`: runs into it where the test holds, past its end where it does not.
///
/// Arguments have 64 bits and the machine 32: the upper half decides unless it is equal.
fn prepend(test: &Test, case: Vec<SockFilter>) -> Vec<SockFilter> {
    let (low_at, high_at) = halves(test.index);
    let (high, low) = ((test.value >> 32) as u32, test.value as u32);
    let (high_mask, low_mask) = ((test.mask >> 32) as u32, test.mask as u32);
    let mut code = Vec::with_capacity(case.len() + 8);
    let load = |code: &mut Vec<SockFilter>, at: u32, mask: u32| {
        code.push(plain(LOAD, at));
        if mask != u32::MAX {
            code.push(plain(AND, mask));
        }
    };
    // `tail` instructions from the end of this test to the end of the case.
    let fail = case.len();
    let mut low_half = Vec::new();
    load(&mut low_half, low_at, low_mask);
    let low_test = |code: u16, k: u32, negated: bool| -> Vec<SockFilter> {
        // A false conditional jump reaches `fail`, through a long jump where it is far.
        match (u8::try_from(fail), negated) {
            (Ok(far), false) => vec![SockFilter { code, jt: 0, jf: far, k }],
            (Ok(far), true) => vec![SockFilter { code, jt: far, jf: 0, k }],
            (Err(_), false) => vec![SockFilter { code, jt: 1, jf: 0, k }, plain(JUMP, fail as u32)],
            (Err(_), true) => vec![SockFilter { code, jt: 0, jf: 1, k }, plain(JUMP, fail as u32)],
        }
    };
    use LinuxSeccompOperator as Op;
    low_half.extend(match test.operator {
        Op::ScmpCmpEq | Op::ScmpCmpMaskedEq => low_test(EQUAL, low, false),
        Op::ScmpCmpNe => low_test(EQUAL, low, true),
        Op::ScmpCmpGt => low_test(GREATER, low, false),
        Op::ScmpCmpGe => low_test(AT_LEAST, low, false),
        Op::ScmpCmpLt => low_test(AT_LEAST, low, true),
        Op::ScmpCmpLe => low_test(GREATER, low, true),
    });
    load(&mut code, high_at, high_mask);
    let (to_case, to_end) = (low_half.len() as u32, (low_half.len() + fail) as u32);
    // After the upper half: equal goes on to the lower; otherwise it is decided, by unconditional jumps
    // because their reach is never short.
    match test.operator {
        Op::ScmpCmpEq | Op::ScmpCmpMaskedEq => {
            code.push(SockFilter { code: EQUAL, jt: 1, jf: 0, k: high });
            code.push(plain(JUMP, to_end));
        }
        Op::ScmpCmpNe => {
            code.push(SockFilter { code: EQUAL, jt: 1, jf: 0, k: high });
            code.push(plain(JUMP, to_case));
        }
        Op::ScmpCmpGt | Op::ScmpCmpGe => {
            // greater: holds; less: does not
            code.push(SockFilter { code: GREATER, jt: 0, jf: 1, k: high });
            code.push(plain(JUMP, to_case + 2));
            code.push(SockFilter { code: EQUAL, jt: 1, jf: 0, k: high });
            code.push(plain(JUMP, to_end));
        }
        Op::ScmpCmpLt | Op::ScmpCmpLe => {
            code.push(SockFilter { code: GREATER, jt: 0, jf: 1, k: high });
            code.push(plain(JUMP, to_end + 2));
            code.push(SockFilter { code: EQUAL, jt: 1, jf: 0, k: high });
            code.push(plain(JUMP, to_case));
        }
    }
    code.extend(low_half);
    code.extend(case);
    code
}

/// Offsets of an argument's lower and upper half. Both architectures are little endian.
fn halves(index: u8) -> (u32, u32) {
    let at = ARGUMENTS + 8 * u32::from(index);
    (at, at + 4)
}
