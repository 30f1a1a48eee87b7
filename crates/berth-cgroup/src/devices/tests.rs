use super::*;

fn rule(allow: bool, kind: DeviceKind, major: Option<u32>, minor: Option<u32>, access: &str) -> DeviceRule {
    DeviceRule { allow, kind, major, minor, access: Access::parse(access) }
}

/// What security/device_cgroup.c answers.
fn judge(policy: &Policy, kind: DeviceKind, major: u32, minor: u32, access: &str) -> bool {
    let asked = Access::parse(access).bits;
    let matches = |known: &&Exception| {
        known.kind == kind
            && known.major.is_none_or(|known| known == major)
            && known.minor.is_none_or(|known| known == minor)
    };
    let mut matching = policy.exceptions.iter().filter(matches);
    match policy.allow {
        false => matching.any(|known| asked & !known.access == 0),
        true => !matching.any(|known| asked & known.access != 0),
    }
}

/// The program, interpreted.
fn run(policy: &Policy, kind: DeviceKind, major: u32, minor: u32, access: &str) -> bool {
    let kind = if kind == DeviceKind::Block { 1 } else { 2 };
    let context = [u32::from(Access::parse(access).bits) << 16 | kind, major, minor];
    let program = policy.program();
    let (mut registers, mut at) = ([0_u32; 11], 0);
    loop {
        let instruction = program[at].to_le_bytes();
        let (code, dst, src) = (instruction[0], usize::from(instruction[1] & 15), usize::from(instruction[1] >> 4));
        let offset = i16::from_le_bytes([instruction[2], instruction[3]]);
        let value = u32::from_le_bytes([instruction[4], instruction[5], instruction[6], instruction[7]]);
        at += 1;
        match code {
            0x61 => registers[dst] = context[offset as usize / 4],
            0xbc => registers[dst] = registers[src],
            0xb4 => registers[dst] = value,
            0x74 => registers[dst] >>= value,
            0x54 => registers[dst] &= value,
            0x16 if registers[dst] == value => at += offset as usize,
            0x56 if registers[dst] != value => at += offset as usize,
            0x16 | 0x56 => {}
            0x95 => return registers[0] != 0,
            other => panic!("instruction {other:#x}"),
        }
    }
}

#[test]
fn program_and_kernel_rules_agree() {
    let sets = [
        default_rules(),
        vec![],
        vec![rule(false, DeviceKind::Block, Some(8), None, "w"), rule(false, DeviceKind::Char, Some(1), Some(3), "rm")],
        vec![
            rule(false, DeviceKind::All, None, None, ""),
            rule(true, DeviceKind::Char, Some(1), Some(3), "r"),
            rule(true, DeviceKind::Char, Some(1), Some(3), "w"),
            rule(true, DeviceKind::Block, None, Some(1), "rwm"),
            rule(false, DeviceKind::Block, None, Some(1), "m"),
        ],
    ];
    for rules in sets {
        let policy = Policy::new(&rules);
        for kind in [DeviceKind::Block, DeviceKind::Char] {
            for major in [0, 1, 5, 8, 136, u32::MAX] {
                for minor in [0, 1, 3, 5, 200] {
                    for access in ["r", "w", "m", "rw", "rm", "wm", "rwm"] {
                        let told = run(&policy, kind, major, minor, access);
                        assert_eq!(
                            told,
                            judge(&policy, kind, major, minor, access),
                            "{rules:?} {kind:?} {major}:{minor}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn containers_make_any_node_but_open_few() {
    let policy = Policy::new(&default_rules());
    assert!(run(&policy, DeviceKind::Block, 8, 0, "m"));
    assert!(!run(&policy, DeviceKind::Block, 8, 0, "r"));
    assert!(run(&policy, DeviceKind::Char, 136, 7, "rw"));
    assert!(run(&policy, DeviceKind::Char, 1, 3, "rw"));
}

#[test]
fn rights_given_apart_are_rights_together() {
    let policy = Policy::new(&[
        rule(false, DeviceKind::All, None, None, ""),
        rule(true, DeviceKind::Char, Some(1), Some(3), "r"),
        rule(true, DeviceKind::Char, Some(1), Some(3), "w"),
    ]);
    assert!(run(&policy, DeviceKind::Char, 1, 3, "rw") && !run(&policy, DeviceKind::Char, 1, 3, "m"));
}

#[test]
fn a_list_reads_back_as_it_was_written() {
    let policy = Policy::new(&default_rules());
    let list: String = policy.exceptions.iter().map(|known| known.line() + "\n").collect();
    assert_eq!(Policy::parse_v1(&list), policy);
    assert!(Policy::parse_v1("a *:* rwm\n").allows_everything());
}
