//! The program must say what the rules say: a second, plain reading of the profile judges the compiled one.

use super::arch::{AUDIT_X86, AUDIT_X86_64, X32_BIT};
use super::program::{AND, ARCH, ARGUMENTS, AT_LEAST, EQUAL, GREATER, JUMP, LOAD, NUMBER, RETURN};
use super::rules::KILL_PROCESS;
use super::*;
use oci_spec::runtime::LinuxSeccompOperator as Op;
use serde_json::json;

mod libseccomp;

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0000 | 38;

/// A syscall as the kernel shows it to a filter.
#[derive(Debug, Clone, Copy)]
struct Call {
    arch: u32,
    number: u32,
    arguments: [u64; 6],
}

/// What the kernel's interpreter would answer; panics on what its checker would refuse.
fn run(filter: &Filter, call: Call) -> u32 {
    let (mut at, mut accumulator, mut steps) = (0usize, 0u32, 0u32);
    loop {
        let SockFilter { code, jt, jf, k } = filter.instructions[at];
        steps += 1;
        assert!(steps < 4096, "a program has no loops");
        at += 1;
        let mut branch = |holds: bool| at += usize::from(if holds { jt } else { jf });
        match code {
            LOAD => {
                accumulator = match k {
                    NUMBER => call.number,
                    ARCH => call.arch,
                    offset => {
                        let argument = call.arguments[(offset - ARGUMENTS) as usize / 8];
                        if (offset - ARGUMENTS).is_multiple_of(8) { argument as u32 } else { (argument >> 32) as u32 }
                    }
                }
            }
            AND => accumulator &= k,
            // BPF_JMP | BPF_JSET | BPF_K: libseccomp's, not ours
            0x45 => branch(accumulator & k != 0),
            JUMP => at += k as usize,
            EQUAL => branch(accumulator == k),
            GREATER => branch(accumulator > k),
            AT_LEAST => branch(accumulator >= k),
            RETURN => return k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn profile(value: serde_json::Value) -> LinuxSeccomp {
    serde_json::from_value(value).expect("a profile")
}

fn call(number: u32, arguments: [u64; 6]) -> Call {
    Call { arch: AUDIT_X86_64, number, arguments }
}

#[test]
fn every_operator_compares_all_sixty_four_bits() {
    let interesting =
        [0, 1, 2, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 32, (1 << 32) + 1, (5 << 32) + 7, u64::MAX - 1, u64::MAX];
    let operators = [
        ("SCMP_CMP_NE", Op::ScmpCmpNe),
        ("SCMP_CMP_LT", Op::ScmpCmpLt),
        ("SCMP_CMP_LE", Op::ScmpCmpLe),
        ("SCMP_CMP_EQ", Op::ScmpCmpEq),
        ("SCMP_CMP_GE", Op::ScmpCmpGe),
        ("SCMP_CMP_GT", Op::ScmpCmpGt),
        ("SCMP_CMP_MASKED_EQ", Op::ScmpCmpMaskedEq),
    ];
    for (name, operator) in operators {
        for value in interesting {
            for two in [0, value, value & 0x00ff_0000_00ff] {
                let filter = compile(&profile(json!({
                    "defaultAction": "SCMP_ACT_ERRNO",
                    "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW",
                        "args": [{"index": 3, "op": name, "value": value, "valueTwo": two}]}]
                })))
                .unwrap();
                for given in interesting {
                    let holds = match operator {
                        Op::ScmpCmpNe => given != value,
                        Op::ScmpCmpLt => given < value,
                        Op::ScmpCmpLe => given <= value,
                        Op::ScmpCmpEq => given == value,
                        Op::ScmpCmpGe => given >= value,
                        Op::ScmpCmpGt => given > value,
                        Op::ScmpCmpMaskedEq => given & value == two,
                    };
                    let expected = if holds { ALLOW } else { EPERM };
                    let answer = run(&filter, call(0, [9, 9, 9, given, 9, 9]));
                    assert_eq!(answer, expected, "{name} {value:#x} {two:#x} given {given:#x}");
                }
            }
        }
    }
}

#[test]
fn tests_of_one_rule_all_hold_and_rules_are_alternatives() {
    let filter = compile(&profile(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            {"names": ["write"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "op": "SCMP_CMP_EQ", "value": 1}, {"index": 2, "op": "SCMP_CMP_LT", "value": 10}]},
            {"names": ["write"], "action": "SCMP_ACT_ERRNO", "errnoRet": 9, "args": [
                {"index": 0, "op": "SCMP_CMP_EQ", "value": 7}]},
            {"names": ["close"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "op": "SCMP_CMP_EQ", "value": 1}, {"index": 0, "op": "SCMP_CMP_EQ", "value": 2}]},
        ]
    })))
    .unwrap();
    let write = |fd, length| run(&filter, call(1, [fd, 0, length, 0, 0, 0]));
    assert_eq!(write(1, 9), ALLOW);
    assert_eq!(write(1, 10), EPERM);
    assert_eq!(write(2, 9), EPERM);
    assert_eq!(write(7, 9), 0x0005_0009);
    // One argument tested twice means either.
    let close = |fd| run(&filter, call(3, [fd, 0, 0, 0, 0, 0]));
    assert_eq!([close(1), close(2), close(3)], [ALLOW, ALLOW, EPERM]);
}

#[test]
fn calls_newer_than_the_profile_do_not_exist() {
    let with = |action: &str| {
        compile(&profile(json!({"defaultAction": action, "syscalls": [
            {"names": ["read", "write", "openat2", "no_such_call"], "action": "SCMP_ACT_ALLOW"}]})))
        .unwrap()
    };
    let filter = with("SCMP_ACT_ERRNO");
    let at = |number| run(&filter, call(number, [0; 6]));
    assert_eq!(
        [at(0), at(1), at(2), at(436), at(437), at(438), at(1000)],
        [ALLOW, ALLOW, EPERM, EPERM, ALLOW, ENOSYS, ENOSYS]
    );
    // A number of x32 is none of ours.
    assert_eq!(at(X32_BIT), KILL_PROCESS);
    assert_eq!(at(X32_BIT + 437), KILL_PROCESS);
    assert_eq!(run(&with("SCMP_ACT_LOG"), call(1000, [0; 6])), 0x7ffc_0000);
    assert_eq!(run(&with("SCMP_ACT_KILL_PROCESS"), call(1000, [0; 6])), ENOSYS);
}

#[test]
fn architectures_are_told_apart_and_others_are_killed() {
    let filter = compile(&profile(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_S390X"],
        "syscalls": [{"names": ["getpid", "openat2"], "action": "SCMP_ACT_ALLOW"}]
    })))
    .unwrap();
    let at = |arch, number| run(&filter, Call { arch, number, arguments: [0; 6] });
    assert_eq!([at(AUDIT_X86_64, 39), at(AUDIT_X86_64, 20)], [ALLOW, EPERM]);
    assert_eq!([at(AUDIT_X86, 20), at(AUDIT_X86, 39)], [ALLOW, EPERM]);
    assert_eq!([at(AUDIT_X86_64, X32_BIT + 39), at(AUDIT_X86_64, X32_BIT + 20)], [ALLOW, EPERM]);
    assert_eq!(at(AUDIT_X86_64, X32_BIT + 600), ENOSYS);
    assert_eq!(at(0xc000_00b7, 172), KILL_PROCESS);
}

#[test]
fn arms_private_calls_lie_beyond_the_new_ones() {
    let listed = [oci_spec::runtime::Arch::ScmpArchArm];
    let machines = arch::machines(Some(&listed)).unwrap();
    let arm = machines.iter().find(|machine| machine.audit == arch::AUDIT_ARM).unwrap();
    let profile = profile(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["getpid", "cacheflush", "set_tls"], "action": "SCMP_ACT_ALLOW"}]}));
    let ranges = rules::ranges(&profile, arm, &mut false).unwrap();
    let starts: Vec<u32> = ranges.iter().map(|(start, _)| *start).collect();
    assert!(starts.is_sorted(), "{starts:x?}");
    let filter =
        Filter { instructions: program::whole(&[(arm.audit, program::section(&ranges))]), flags: 0, notify: false };
    let at = |number| run(&filter, Call { arch: arm.audit, number, arguments: [0; 6] });
    assert_eq!([at(20), at(19), at(21), at(500)], [ALLOW, EPERM, ENOSYS, ENOSYS]);
    assert_eq!([at(0xf_0002), at(0xf_0005), at(0xf_0003), at(0xf_0006)], [ALLOW, ALLOW, EPERM, EPERM]);
}

#[test]
fn long_programs_jump_far() {
    // Every second syscall with tests of its own: ranges and cases beyond the reach of a short jump.
    let syscalls: Vec<_> = tables::x86_64::TABLE
        .iter()
        .filter(|(_, number)| number % 2 == 0 && *number < 250)
        .map(|(name, number)| {
            json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "op": "SCMP_CMP_EQ", "value": number}, {"index": 1, "op": "SCMP_CMP_GT", "value": 1u64 << 40}]})
        })
        .collect();
    let filter = compile(&profile(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": syscalls}))).unwrap();
    for number in 0..240u32 {
        let holds = run(&filter, call(number, [u64::from(number), 1 << 41, 0, 0, 0, 0]));
        let fails = run(&filter, call(number, [u64::from(number), 1 << 40, 0, 0, 0, 0]));
        let known = number % 2 == 0 && tables::x86_64::TABLE.iter().any(|(_, other)| u32::from(*other) == number);
        assert_eq!((holds, fails), (if known { ALLOW } else { EPERM }, EPERM), "{number}");
    }
}

#[test]
fn bad_profiles_are_refused_with_their_reason() {
    let text = |value| compile(&profile(value)).unwrap_err().to_string();
    let index = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO",
        "args": [{"index": 6, "op": "SCMP_CMP_EQ", "value": 0}]}]});
    assert!(text(index).contains("argument 6"));
    let errno = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5000});
    assert!(text(errno).contains("5000"));
}

#[test]
fn a_kept_filter_is_the_compiled_one_and_a_damaged_file_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let profile = profile(json!({"defaultAction": "SCMP_ACT_ERRNO", "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]}));
    let compiled = compile(&profile).unwrap();
    let load = || load_or_compile(&profile, Some(folder.path())).unwrap();
    assert_eq!(load(), compiled);
    assert_eq!(load(), compiled);
    let path = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        std::fs::write(&path, &damaged[..if at % 2 == 0 { damaged.len() } else { at }]).unwrap();
        assert_eq!(load(), compiled, "byte {at}");
    }
    // The same file serves who has the profile as text.
    let text = serde_json::to_vec(&profile).unwrap();
    let from_text = |text: &[u8]| load_or_compile_text(text, Some(folder.path()));
    assert_eq!(from_text(&text).unwrap(), compiled);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    assert_eq!(load_or_compile_text(&text, None).unwrap(), compiled);
    assert!(matches!(from_text(b"{"), Err(SeccompError::Text(_))));
}

#[test]
#[ignore = "a measurement: cargo test --release -p berth-runtime -- --ignored compile_time --nocapture"]
fn compile_time() {
    let names: Vec<_> =
        tables::x86_64::TABLE.iter().map(|(name, _)| *name).filter(|name| !name.starts_with('k')).collect();
    let profile = profile(
        json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]}),
    );
    let start = std::time::Instant::now();
    for _ in 0..1000 {
        compile(&profile).unwrap();
    }
    eprintln!("compile: {:?}", start.elapsed() / 1000);
    let text = serde_json::to_vec(&profile).unwrap();
    let start = std::time::Instant::now();
    for _ in 0..1000 {
        serde_json::from_slice::<LinuxSeccomp>(&text).unwrap();
    }
    eprintln!("parse: {:?} of {} bytes", start.elapsed() / 1000, text.len());
}
