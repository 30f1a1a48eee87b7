//! `--bandwidth`, and the limits of a disk.

use crate::error::{CliError, Result};
use crate::units;
use serde_json::{Value, json};

/// A disk's limits as they are written, and as the API names them.
pub(super) const DISK: [(&str, &str); 4] = [
    ("read-bps", "read_bytes"),
    ("write-bps", "write_bytes"),
    ("read-iops", "read_operations"),
    ("write-iops", "write_operations"),
];

/// `100m`, `1.5g`, `100mbit`, `none`: bits a second, by thousands as networks count.
fn bits(text: &str) -> std::result::Result<u64, String> {
    if text == "none" {
        return Ok(0);
    }
    let wrong = || format!("{text:?} is no rate; 100m is 100 million bits a second");
    let lower = text.to_ascii_lowercase();
    let short = lower.strip_suffix("bit/s").or(lower.strip_suffix("bit")).unwrap_or(&lower);
    let (number, power) = match short.char_indices().last() {
        Some((at, 'k')) => (&short[..at], 3),
        Some((at, 'm')) => (&short[..at], 6),
        Some((at, 'g')) => (&short[..at], 9),
        _ => (short, 0),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    match number.is_finite() && number > 0.0 {
        true => Ok((number * 10_f64.powi(power)) as u64),
        false => Err(wrong()),
    }
}

/// `RATE` both ways, or `in=RATE,out=RATE`; what is left out has no limit.
pub(super) fn bandwidth(text: &str) -> Result<Value> {
    let failed = |why: String| {
        CliError::failed(format!("--bandwidth {text}: {why}")).with_hint("write it as 100m, in=1g,out=50m, or none")
    };
    if !text.contains('=') {
        let both = bits(text).map_err(failed)?;
        return Ok(json!({"in_bits_per_second": both, "out_bits_per_second": both}));
    }
    let mut wanted = json!({});
    for part in text.split(',') {
        match part.split_once('=') {
            Some((way @ ("in" | "out"), rate)) => {
                wanted[format!("{way}_bits_per_second")] = json!(bits(rate).map_err(failed)?);
            }
            _ => return Err(failed(format!("{part:?} is neither in= nor out="))),
        }
    }
    Ok(wanted)
}

/// Adds `key=number` to a disk's limits.
pub(super) fn add(limits: &mut Value, key: &str, number: &str) -> std::result::Result<(), String> {
    let Some((_, name)) = DISK.iter().find(|(written, _)| *written == key) else {
        let known = DISK.map(|(written, _)| written).join(", ");
        return Err(format!("unknown limit {key:?}; there are {known}"));
    };
    let number = match key.ends_with("bps") {
        true => units::parse_bytes(number)?,
        false => number.parse::<u32>().map(i64::from).map_err(|_| format!("{number:?} is no number"))?,
    };
    limits[*name] = json!(number);
    Ok(())
}

/// `NAME:read-bps=50m,write-iops=200`, or `NAME:none`.
pub(super) fn of_disk(text: &str) -> Result<(&str, Value)> {
    let failed = |why: String| {
        CliError::failed(format!("--disk-limit {text}: {why}"))
            .with_hint("write it as disk0:read-bps=100m,write-iops=500, or disk0:none")
    };
    let (name, wanted) = text.split_once(':').ok_or_else(|| failed("no limit".to_owned()))?;
    let mut limits = json!({});
    for part in wanted.split(',').filter(|_| wanted != "none") {
        let (key, number) = part.split_once('=').ok_or_else(|| failed(format!("{part:?} is no limit")))?;
        add(&mut limits, key, number).map_err(failed)?;
    }
    Ok((name, limits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_count_by_thousands_both_ways_or_each() {
        assert_eq!(bits("100m"), Ok(100_000_000));
        assert_eq!(bits("1.5Gbit"), Ok(1_500_000_000));
        assert_eq!(bits("64kbit/s"), Ok(64_000));
        assert_eq!(bits("9600"), Ok(9600));
        assert!(["", "m", "-1", "fast", "1x", "inf", "nan"].iter().all(|bad| bits(bad).is_err()));
        let both = json!({"in_bits_per_second": 8_000_000, "out_bits_per_second": 8_000_000});
        assert_eq!(bandwidth("8m").unwrap(), both);
        assert_eq!(bandwidth("out=8m").unwrap(), json!({"out_bits_per_second": 8_000_000}));
        assert_eq!(bandwidth("none").unwrap()["in_bits_per_second"], 0);
        assert!(bandwidth("up=1m").is_err() && bandwidth("in=1m,2m").is_err());
    }

    #[test]
    fn limits_of_a_disk_are_named_and_what_is_left_out_is_none() {
        let (name, limits) = of_disk("disk1:read-bps=1m,write-iops=50").unwrap();
        assert_eq!((name, limits), ("disk1", json!({"read_bytes": 1 << 20, "write_operations": 50})));
        assert_eq!(of_disk("disk1:none").unwrap().1, json!({}));
        assert!(
            ["disk1", "disk1:", "disk1:fast=1", "disk1:read-bps=x", "disk1:read-iops=-1"]
                .iter()
                .all(|t| of_disk(t).is_err())
        );
    }
}
