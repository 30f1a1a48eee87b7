//! Signals by number or by name, as `kill` takes them.

/// Linux's names on the architectures we build for; signal(7).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];
/// As glibc counts them; the kernel's 32 and 33 are glibc's own.
const REALTIME_MIN: i32 = 34;
const REALTIME_MAX: i32 = 64;

/// The number of `9`, `KILL`, `SIGKILL`, `rtmin+3`; `None` for anything else.
pub(crate) fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (0..=REALTIME_MAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(index) = NAMES.iter().position(|known| *known == name) {
        return i32::try_from(index + 1).ok();
    }
    match name {
        "IOT" => return Some(6),
        "CLD" => return Some(17),
        "POLL" => return Some(29),
        _ => {}
    }
    let number = if let Some(above) = name.strip_prefix("RTMIN") {
        REALTIME_MIN + offset(above, '+')?
    } else {
        REALTIME_MAX - offset(name.strip_prefix("RTMAX")?, '-')?
    };
    (REALTIME_MIN..=REALTIME_MAX).contains(&number).then_some(number)
}

fn offset(text: &str, sign: char) -> Option<i32> {
    if text.is_empty() {
        return Some(0);
    }
    text.strip_prefix(sign)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn numbers_and_names_mean_the_same() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("sigterm", 15),
            ("SYS", 31),
            ("POLL", 29),
            ("RTMIN+3", 37),
            ("SIGRTMAX-1", 63),
            ("0", 0),
        ] {
            assert_eq!(parse(text), Some(number), "{text}");
        }
    }

    #[test]
    fn what_is_no_signal_is_none() {
        for text in ["", "65", "-1", "SIG", "FOO", "RTMIN+31", "RTMIN3", "9 "] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
