//! Rules: what each syscall number leads to.

use super::SeccompError;
use super::arch::{Abi, Machine, X32_BIT};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompOperator, LinuxSyscall};
use std::collections::BTreeMap;

/// `SECCOMP_RET_*`, <linux/seccomp.h>
pub(super) const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const NOTIFY: u32 = 0x7fc0_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// MAX_ERRNO, <linux/err.h>
const ERRNO_MAX: u32 = 4095;

/// One test of an argument; `mask` is all ones but for masked comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Test {
    pub(super) index: u8,
    pub(super) operator: LinuxSeccompOperator,
    pub(super) mask: u64,
    pub(super) value: u64,
}

/// What happens to a syscall: the first case whose tests all hold, else the answer at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leaf {
    pub(super) cases: Vec<(Vec<Test>, u32)>,
    pub(super) otherwise: u32,
}

impl Leaf {
    fn always(answer: u32) -> Leaf {
        Leaf { cases: Vec::new(), otherwise: answer }
    }
}

fn answer(action: LinuxSeccompAction, errno: Option<u32>, notify: &mut bool) -> Result<u32, SeccompError> {
    let data = |otherwise: u32| match errno {
        Some(errno) if errno > ERRNO_MAX => Err(SeccompError::Errno(errno)),
        errno => Ok(errno.unwrap_or(otherwise)),
    };
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => KILL_THREAD,
        LinuxSeccompAction::ScmpActKillProcess => KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => TRAP,
        LinuxSeccompAction::ScmpActErrno => ERRNO | data(EPERM)?,
        LinuxSeccompAction::ScmpActNotify => {
            *notify = true;
            NOTIFY
        }
        LinuxSeccompAction::ScmpActTrace => TRACE | data(EPERM)?,
        LinuxSeccompAction::ScmpActLog => LOG,
        LinuxSeccompAction::ScmpActAllow => ALLOW,
    })
}

/// Whether calls that the profile could not know yet are to be told apart from those that it refuses.
fn hides_new_calls(profile: &LinuxSeccomp) -> bool {
    let refuses = !matches!(
        profile.default_action(),
        LinuxSeccompAction::ScmpActAllow
            | LinuxSeccompAction::ScmpActLog
            | LinuxSeccompAction::ScmpActTrace
            | LinuxSeccompAction::ScmpActNotify
    );
    refuses && profile.default_errno_ret() != Some(ENOSYS)
}

/// Where each range of numbers starts, and what it leads to. The first starts at 0.
pub(super) fn ranges(
    profile: &LinuxSeccomp,
    machine: &Machine,
    notify: &mut bool,
) -> Result<Vec<(u32, Leaf)>, SeccompError> {
    let default = answer(profile.default_action(), profile.default_errno_ret(), notify)?;
    let mut ranges: Vec<(u32, Leaf)> = Vec::new();
    let mut push = |start: u32, leaf: Leaf| {
        if ranges.last().is_none_or(|(_, last)| *last != leaf) {
            ranges.push((start, leaf));
        }
    };
    let mut abis: Vec<&Abi> = machine.abis.iter().collect();
    abis.sort_by_key(|abi| abi.bit());
    let has_x32 = abis.iter().any(|abi| abi.bit() == X32_BIT);
    for abi in abis {
        let leaves = leaves(profile, abi, default, notify)?;
        let mut next = abi.bit();
        for (&number, leaf) in &leaves {
            if number > next {
                push(next, Leaf::always(default));
            }
            push(number, leaf.clone());
            next = number + 1;
        }
        if hides_new_calls(profile) {
            let newest = leaves.keys().copied().filter(|&number| number & !abi.bit() < abi.table_end()).max();
            let first_new = newest.map_or(abi.bit(), |number| number + 1);
            match leaves.range(first_new..).next() {
                None => push(next, Leaf::always(ERRNO | ENOSYS)),
                // Private calls lie above: cut the gap before them. They are rare enough to rebuild the list.
                Some((&private, _)) => {
                    let at = ranges.iter().position(|&(start, _)| start >= private).unwrap_or(ranges.len());
                    let gap = ranges.iter().rposition(|&(start, _)| start <= first_new).unwrap_or(0);
                    if ranges.get(gap).is_some_and(|&(start, _)| start == first_new) {
                        ranges[gap].1 = Leaf::always(ERRNO | ENOSYS);
                    } else {
                        ranges.insert(at, (first_new, Leaf::always(ERRNO | ENOSYS)));
                    }
                    ranges.push((next, Leaf::always(default)));
                    return Ok(ranges);
                }
            }
        } else {
            push(next, Leaf::always(default));
        }
    }
    // x86-64 only: a number with the x32 bit belongs to an ABI that the profile does not list.
    if machine.audit == super::arch::AUDIT_X86_64 && !has_x32 {
        push(X32_BIT, Leaf::always(KILL_PROCESS));
    }
    Ok(ranges)
}

/// Rules of the same syscall are alternatives, the ones with tests first; its last unconditional action stands.
fn leaves(
    profile: &LinuxSeccomp,
    abi: &Abi,
    default: u32,
    notify: &mut bool,
) -> Result<BTreeMap<u32, Leaf>, SeccompError> {
    let mut leaves: BTreeMap<u32, Leaf> = BTreeMap::new();
    for rule in profile.syscalls().iter().flatten() {
        let answer = answer(rule.action(), rule.errno_ret(), notify)?;
        for name in rule.names() {
            let cases = cases(rule, name)?;
            let Some(number) = abi.number(name) else { continue };
            let leaf = leaves.entry(number).or_insert_with(|| Leaf::always(default));
            if cases.is_empty() {
                leaf.otherwise = answer;
            } else {
                leaf.cases.extend(cases.into_iter().map(|tests| (tests, answer)));
            }
        }
    }
    for leaf in leaves.values_mut() {
        // Tests that lead where everything else goes, at the end, decide nothing.
        while leaf.cases.last().is_some_and(|(_, answer)| *answer == leaf.otherwise) {
            leaf.cases.pop();
        }
    }
    Ok(leaves)
}

/// The tests of one rule: all must hold, but a rule that tests one argument twice means either (as runc reads it).
fn cases(rule: &LinuxSyscall, name: &str) -> Result<Vec<Vec<Test>>, SeccompError> {
    let mut tests = Vec::new();
    for argument in rule.args().iter().flatten() {
        let index = argument.index();
        if index > 5 {
            return Err(SeccompError::ArgumentIndex { syscall: name.to_owned(), index });
        }
        let (mask, value) = match argument.op() {
            LinuxSeccompOperator::ScmpCmpMaskedEq => (argument.value(), argument.value_two().unwrap_or(0)),
            _ => (u64::MAX, argument.value()),
        };
        tests.push(Test { index: index as u8, operator: argument.op(), mask, value });
    }
    let twice = tests.iter().enumerate().any(|(at, test)| tests[..at].iter().any(|other| other.index == test.index));
    Ok(match tests.is_empty() {
        true => Vec::new(),
        false if twice => tests.into_iter().map(|test| vec![test]).collect(),
        false => vec![tests],
    })
}
