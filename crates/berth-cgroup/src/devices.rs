//! Device rules: who may read, write and make which device.
//!
//! ```text
//!  rules in order --Policy--> a default and its exceptions --v1--> devices.deny, devices.allow
//!                                                         '--v2--> a BPF program on the cgroup
//! ```
//!
//! A policy behaves as the kernel's v1 controller does (security/device_cgroup.c), on both versions: a request
//! passes a refusing default when one exception covers all of it, and fails an allowing one when an exception
//! touches any of it.

use crate::CgroupError;
use crate::files::{read, write};
use berth_sys::bpf;
use rustix::fs::{Mode, OFlags};
use std::fmt::Write as _;
use std::os::fd::AsFd as _;
use std::path::Path;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceKind {
    All,
    Block,
    Char,
}

/// Some of read, write and mknod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Access {
    bits: u8,
}

impl Access {
    /// As in `BPF_DEVCG_ACC_*`, <linux/bpf.h>.
    const MKNOD: u8 = 1;
    const READ: u8 = 2;
    const WRITE: u8 = 4;
    pub const ALL: Access = Access { bits: 7 };

    /// From some of the letters `rwm`; others are ignored, none means all of them.
    pub fn parse(letters: &str) -> Access {
        let bit = |letter: char, bit: u8| if letters.contains(letter) { bit } else { 0 };
        match bit('m', Access::MKNOD) | bit('r', Access::READ) | bit('w', Access::WRITE) {
            0 => Access::ALL,
            bits => Access { bits },
        }
    }

    fn letters(self) -> String {
        [(Access::READ, 'r'), (Access::WRITE, 'w'), (Access::MKNOD, 'm')]
            .iter()
            .filter(|(bit, _)| self.bits & bit != 0)
            .map(|(_, letter)| letter)
            .collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRule {
    pub allow: bool,
    pub kind: DeviceKind,
    /// `None`: any.
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub access: Access,
}

/// What every container may use, as all engines agree: making any node, and the harmless devices.
pub fn default_rules() -> Vec<DeviceRule> {
    let rule = |kind, major, minor, access: &str| DeviceRule {
        allow: true,
        kind,
        major,
        minor,
        access: Access::parse(access),
    };
    let device = |major, minor| rule(DeviceKind::Char, Some(major), minor, "rwm");
    vec![
        DeviceRule { allow: false, ..rule(DeviceKind::All, None, None, "rwm") },
        rule(DeviceKind::Char, None, None, "m"),
        rule(DeviceKind::Block, None, None, "m"),
        device(1, Some(3)), // null
        device(1, Some(5)), // zero
        device(1, Some(7)), // full
        device(1, Some(8)), // random
        device(1, Some(9)), // urandom
        device(5, Some(0)), // tty
        device(5, Some(1)), // console
        device(5, Some(2)), // ptmx
        device(136, None),  // pts/*
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Exception {
    kind: DeviceKind,
    major: Option<u32>,
    minor: Option<u32>,
    access: u8,
}

impl Exception {
    fn covers(&self, other: &Exception) -> bool {
        let (kind, any) = (self.kind == other.kind, |mine: Option<u32>, theirs| mine.is_none() || mine == theirs);
        kind && any(self.major, other.major) && any(self.minor, other.minor)
    }

    /// As v1's files take it.
    fn line(&self) -> String {
        let mut line = String::new();
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
        let kind = match self.kind {
            DeviceKind::All => 'a',
            DeviceKind::Block => 'b',
            DeviceKind::Char => 'c',
        };
        write!(line, "{kind} {}:{} {}", number(self.major), number(self.minor), Access { bits: self.access }.letters())
            .expect("a String takes any text");
        line
    }
}

/// Rules, applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    allow: bool,
    /// What is answered the other way than `allow`.
    exceptions: Vec<Exception>,
}

impl Policy {
    pub(crate) fn new(rules: &[DeviceRule]) -> Policy {
        let mut policy = Policy { allow: true, exceptions: Vec::new() };
        for rule in rules {
            policy.apply(rule);
        }
        policy
    }

    pub(crate) fn allows_everything(&self) -> bool {
        self.allow && self.exceptions.is_empty()
    }

    fn apply(&mut self, rule: &DeviceRule) {
        if rule.kind == DeviceKind::All {
            *self = Policy { allow: rule.allow, exceptions: Vec::new() };
            return;
        }
        let given = Exception { kind: rule.kind, major: rule.major, minor: rule.minor, access: rule.access.bits };
        if rule.allow == self.allow {
            // Back to the default: takes its bits out of what it covers.
            for known in &mut self.exceptions {
                if given.covers(known) {
                    known.access &= !given.access;
                }
            }
            self.exceptions.retain(|known| known.access != 0);
            return;
        }
        let same = |known: &&mut Exception| Exception { access: given.access, ..**known } == given;
        match self.exceptions.iter_mut().find(same) {
            Some(known) => known.access |= given.access,
            None => self.exceptions.push(given),
        }
    }

    /// Writes a fresh v1 cgroup's files; its parent allows everything.
    pub(crate) fn write_v1(&self, dir: &Path) -> Result<(), CgroupError> {
        if self.allows_everything() {
            return Ok(());
        }
        if !self.allow {
            write(dir, "devices.deny", "a")?;
        }
        write_lines(dir, if self.allow { "devices.deny" } else { "devices.allow" }, &self.exceptions)
    }

    /// Changes a v1 cgroup in use: what stays allowed is allowed throughout.
    pub(crate) fn update_v1(&self, dir: &Path) -> Result<(), CgroupError> {
        let now = Policy::parse_v1(&read(dir, "devices.list")?);
        if self.allow || now.allow {
            // The kernel has no way from one default to the other that keeps exceptions.
            write(dir, if self.allow { "devices.allow" } else { "devices.deny" }, "a")?;
            return write_lines(dir, if self.allow { "devices.deny" } else { "devices.allow" }, &self.exceptions);
        }
        let missing: Vec<Exception> =
            self.exceptions.iter().filter(|wanted| !now.exceptions.contains(wanted)).copied().collect();
        write_lines(dir, "devices.allow", &missing)?;
        let mut surplus = Vec::new();
        for known in &now.exceptions {
            let keep = self
                .exceptions
                .iter()
                .find(|wanted| Exception { access: known.access, ..**wanted } == *known)
                .map_or(0, |wanted| wanted.access);
            if known.access & !keep != 0 {
                surplus.push(Exception { access: known.access & !keep, ..*known });
            }
        }
        write_lines(dir, "devices.deny", &surplus)
    }

    /// Reads `devices.list`.
    fn parse_v1(list: &str) -> Policy {
        let mut policy = Policy { allow: false, exceptions: Vec::new() };
        for line in list.lines() {
            let mut words = line.split([' ', ':']);
            let kind = match words.next() {
                Some("b") => DeviceKind::Block,
                Some("c") => DeviceKind::Char,
                _ => return Policy { allow: true, exceptions: Vec::new() },
            };
            let mut number = || words.next().and_then(|number| number.parse().ok());
            let (major, minor) = (number(), number());
            let access = Access::parse(words.next().unwrap_or_default()).bits;
            policy.exceptions.push(Exception { kind, major, minor, access });
        }
        policy
    }

    /// Puts the policy on a v2 cgroup in place of the one that is there.
    pub(crate) fn attach_v2(&self, dir: &Path, fresh: bool) -> Result<(), CgroupError> {
        let failed = |step| move |errno| CgroupError::DeviceProgram { step, path: dir.to_owned(), errno };
        if fresh && self.allows_everything() {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let cgroup = rustix::fs::open(dir, flags, Mode::empty()).map_err(failed("open"))?;
        let (cgroup, question) = (cgroup.as_fd(), bpf::Question::Device);
        let program = bpf::load(question, "berth_devices", &self.program()).map_err(failed("load"))?;
        let old = if fresh { Vec::new() } else { bpf::attached(cgroup, question).map_err(failed("list"))? };
        // One of ours is replaced in one step; a second one could only come from somebody else's hand.
        let replaced = if let [only] = old.as_slice() { Some(only.as_fd()) } else { None };
        bpf::attach(cgroup, question, program.as_fd(), replaced).map_err(failed("attach"))?;
        if replaced.is_none() {
            for program in &old {
                bpf::detach(cgroup, question, program.as_fd()).map_err(failed("detach"))?;
            }
        }
        Ok(())
    }

    /// The policy as a program over `struct bpf_cgroup_dev_ctx`, <linux/bpf.h>.
    fn program(&self) -> Vec<u64> {
        use bpf::insn;
        let mut code = vec![
            insn::load_word(2, 1, 0), // access << 16 | kind
            insn::load_word(4, 1, 4), // major
            insn::load_word(5, 1, 8), // minor
            insn::move_register(3, 2),
            insn::shift_right(3, 16),
            insn::and(2, 0xffff),
        ];
        for exception in &self.exceptions {
            let mut tests: Vec<Box<dyn Fn(i16) -> u64>> = Vec::new();
            let mut block: Vec<Option<u64>> = Vec::new();
            let mut unless = |block: &mut Vec<Option<u64>>, test: Box<dyn Fn(i16) -> u64>| {
                block.push(None);
                tests.push(test);
            };
            // BPF_DEVCG_DEV_BLOCK 1, BPF_DEVCG_DEV_CHAR 2
            let kind = match exception.kind {
                DeviceKind::Block => 1,
                DeviceKind::Char | DeviceKind::All => 2,
            };
            unless(&mut block, Box::new(move |far| insn::jump_unless_equal(2, kind, far)));
            if exception.access != Access::ALL.bits || self.allow {
                block.push(Some(insn::move_register(1, 3)));
                if self.allow {
                    block.push(Some(insn::and(1, i32::from(exception.access))));
                    unless(&mut block, Box::new(|far| insn::jump_if_equal(1, 0, far)));
                } else {
                    block.push(Some(insn::and(1, i32::from(!exception.access & Access::ALL.bits))));
                    unless(&mut block, Box::new(|far| insn::jump_unless_equal(1, 0, far)));
                }
            }
            if let Some(major) = exception.major {
                unless(&mut block, Box::new(move |far| insn::jump_unless_equal(4, major as i32, far)));
            }
            if let Some(minor) = exception.minor {
                unless(&mut block, Box::new(move |far| insn::jump_unless_equal(5, minor as i32, far)));
            }
            block.push(Some(insn::move_value(0, i32::from(!self.allow))));
            block.push(Some(insn::exit()));
            let mut tests = tests.into_iter();
            let length = block.len();
            for (at, instruction) in block.into_iter().enumerate() {
                code.push(instruction.unwrap_or_else(|| {
                    let test = tests.next().expect("one test for each gap");
                    test((length - at - 1) as i16)
                }));
            }
        }
        code.extend([insn::move_value(0, i32::from(self.allow)), insn::exit()]);
        code
    }
}

/// One open file, one write for each line: the kernel takes no more in one.
fn write_lines(dir: &Path, name: &str, lines: &[Exception]) -> Result<(), CgroupError> {
    if lines.is_empty() {
        return Ok(());
    }
    let failed = |value: String| move |errno| CgroupError::Write { file: dir.join(name), value, errno };
    let file = rustix::fs::open(dir.join(name), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed(String::new()))?;
    for line in lines.iter().map(Exception::line) {
        rustix::io::write(&file, line.as_bytes()).map_err(failed(line))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
