//! Sizes, durations and times, in the wording of Docker's `go-units`.

/// `%.4g` sizes in powers of 1000: `12.3MB`.
pub(crate) fn human_size(bytes: f64) -> String {
    sized(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"], 4)
}

/// As `human_size` with three digits, which `docker images` and `history` use.
pub(crate) fn human_size3(bytes: f64) -> String {
    sized(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"], 3)
}

/// Sizes in powers of 1024: `1.5GiB`.
pub(crate) fn bytes_size(bytes: f64) -> String {
    sized(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"], 4)
}

fn sized(mut size: f64, base: f64, units: &[&str], digits: usize) -> String {
    let mut i = 0;
    while size >= base && i < units.len() - 1 {
        size /= base;
        i += 1;
    }
    go_g(size, digits) + units[i]
}

/// Go's `%.Ng`.
pub(crate) fn go_g(f: f64, precision: usize) -> String {
    let precision = precision.max(1);
    if f == 0.0 {
        return "0".to_owned();
    }
    let scientific = format!("{:.*e}", precision - 1, f);
    let exponent: i32 = scientific.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    if exponent < -4 || exponent >= precision as i32 {
        let (mantissa, _) = scientific.split_once('e').unwrap_or((&scientific, ""));
        return format!("{}e{}{:02}", trim_zeros(mantissa), if exponent < 0 { '-' } else { '+' }, exponent.abs());
    }
    let decimals = (precision as i32 - 1 - exponent).max(0) as usize;
    trim_zeros(&format!("{f:.decimals$}")).to_owned()
}

fn trim_zeros(s: &str) -> &str {
    if s.contains('.') { s.trim_end_matches('0').trim_end_matches('.') } else { s }
}

/// Go's `%v` of a float.
pub(crate) fn go_float(f: f64) -> String {
    if f != 0.0 && (f.abs() < 1e-4 || f.abs() >= 1e21) {
        return go_exponent_shortest(f);
    }
    format!("{f}")
}

fn go_exponent_shortest(f: f64) -> String {
    let s = format!("{f:e}");
    let (mantissa, exponent) = s.split_once('e').unwrap_or((&s, "0"));
    let n: i32 = exponent.parse().unwrap_or(0);
    format!("{mantissa}e{}{:02}", if n < 0 { '-' } else { '+' }, n.abs())
}

/// Go's `%.Ne`.
pub(crate) fn go_exponent(f: f64, precision: usize) -> String {
    let s = format!("{f:.precision$e}");
    let (mantissa, exponent) = s.split_once('e').unwrap_or((&s, "0"));
    let n: i32 = exponent.parse().unwrap_or(0);
    format!("{mantissa}e{}{:02}", if n < 0 { '-' } else { '+' }, n.abs())
}

/// `About an hour`, `3 weeks`: how long something took, roughly.
pub(crate) fn human_duration(seconds: i64) -> String {
    let minutes = seconds / 60;
    let hours = (seconds as f64 / 3600.0).round() as i64;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// `512m`, `1.5GiB`, `64k` or plain bytes: powers of 1024, as `--memory` takes them.
pub(crate) fn parse_bytes(text: &str) -> Result<i64, String> {
    parse_size(text, 1024.0)
}

fn parse_size(text: &str, base: f64) -> Result<i64, String> {
    let invalid = || format!("invalid size: '{text}'");
    let split = text.rfind(|c: char| c.is_ascii_digit() || c == '.').ok_or_else(invalid)?;
    let (digits, suffix) = text.split_at(split + 1);
    let number: f64 = digits.trim().parse().map_err(|_| invalid())?;
    if number < 0.0 {
        return Err(invalid());
    }
    let suffix = suffix.trim().to_ascii_lowercase();
    let unit = suffix.strip_suffix("ib").or(suffix.strip_suffix('b')).unwrap_or(&suffix);
    let power = match (unit, suffix.as_str()) {
        ("", "" | "b") => 0,
        ("k", _) => 1,
        ("m", _) => 2,
        ("g", _) => 3,
        ("t", _) => 4,
        ("p", _) => 5,
        _ => return Err(format!("invalid suffix: '{suffix}'")),
    };
    Ok((number * base.powi(power)) as i64)
}

/// A Go duration (`1h30m`, `250ms`, `1.5s`) in nanoseconds.
pub(crate) fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let number_len = rest
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .ok_or_else(|| format!("time: missing unit in duration {text:?}"))?;
        let number: f64 = rest[..number_len].parse().map_err(|_| invalid())?;
        rest = &rest[number_len..];
        let unit_len = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let nanos = match &rest[..unit_len] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            unit => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
        };
        total += number * nanos;
        rest = &rest[unit_len..];
    }
    Ok((sign * total) as i64)
}

pub(crate) fn now_seconds() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}

/// Seconds since 1970 of an RFC 3339 time; Go's zero time and nonsense are none.
pub(crate) fn parse_time(text: &str) -> Option<jiff::Timestamp> {
    let t: jiff::Timestamp = text.parse().ok()?;
    (t.as_second() > 0).then_some(t)
}

/// Go's `Time.String` in the local zone: `2026-11-23 22:10:01 +0000 UTC`.
pub(crate) fn local_time(seconds: i64) -> String {
    let Ok(t) = jiff::Timestamp::from_second(seconds) else { return String::new() };
    t.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
}

/// What `--since` and `--until` send: Unix seconds from a time, a date, a Unix time, or "that long ago".
pub(crate) fn timestamp_argument(text: &str) -> Result<String, String> {
    if text.is_empty() || text.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Ok(text.to_owned());
    }
    if let Ok(nanos) = parse_duration(text) {
        // Whole seconds, as Docker's client: `--since 0s` still shows the current one.
        let then = jiff::Timestamp::now().as_nanosecond() - i128::from(nanos);
        return Ok(then.div_euclid(1_000_000_000).to_string());
    }
    if let Ok(t) = text.parse::<jiff::Timestamp>() {
        return Ok(format!("{}.{:09}", t.as_second(), t.subsec_nanosecond()));
    }
    // Without an offset a time is local.
    let civil =
        text.parse::<jiff::civil::DateTime>().or_else(|_| format!("{text}:00").parse::<jiff::civil::DateTime>());
    match civil.ok().and_then(|c| c.to_zoned(jiff::tz::TimeZone::system()).ok()) {
        Some(zoned) => Ok(format!("{}.{:09}", zoned.timestamp().as_second(), zoned.timestamp().subsec_nanosecond())),
        None => Err(format!("failed to parse value as time or duration: {text:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_docker_prints_them() {
        for (bytes, expected) in
            [(0.0, "0B"), (999.0, "999B"), (1000.0, "1kB"), (117_214_000.0, "117.2MB"), (1_234_567_890.0, "1.235GB")]
        {
            assert_eq!(human_size(bytes), expected);
        }
        assert_eq!(human_size3(117_214_000.0), "117MB");
        assert_eq!(bytes_size(1.5 * 1024.0 * 1024.0), "1.5MiB");
        assert_eq!(bytes_size(1000.0 * 1024.0), "1000KiB");
        assert_eq!(human_size3(999_999.0), "1e+03kB", "go-units rounds so, and so do we");
    }

    #[test]
    fn memory_sizes_are_powers_of_1024() {
        for (text, bytes) in [
            ("512m", 512 << 20),
            ("1g", 1 << 30),
            ("1.5GiB", 3 << 29),
            ("64K", 65536),
            ("10", 10),
            ("3kb", 3072),
            ("4 mb", 4 << 20),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for bad in ["", "m", "-1", "1x", "1mm", "1..2", "abc"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_go_durations() {
        assert_eq!(parse_duration("1h30m"), Ok(5_400_000_000_000));
        assert_eq!(parse_duration("250ms"), Ok(250_000_000));
        assert_eq!(parse_duration("1.5s"), Ok(1_500_000_000));
        assert_eq!(parse_duration("0"), Ok(0));
        for bad in ["", "5", "5x", "h", "1h2"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ages_are_rounded_as_people_say_them() {
        for (seconds, expected) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (120, "2 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (86400 * 3, "3 days"),
            (86400 * 21, "3 weeks"),
            (86400 * 90, "3 months"),
            (86400 * 365 * 3, "3 years"),
        ] {
            assert_eq!(human_duration(seconds), expected);
        }
    }

    #[test]
    fn since_takes_times_dates_and_ages() {
        assert_eq!(timestamp_argument("1700000000").unwrap(), "1700000000");
        assert_eq!(timestamp_argument("2013-01-02T13:23:37Z").unwrap(), "1357133017.000000000");
        assert!(timestamp_argument("10m").unwrap().parse::<u64>().is_ok());
        assert!(timestamp_argument("yesterday").is_err());
    }
}
