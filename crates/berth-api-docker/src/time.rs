//! Moments as the API writes and reads them.

use crate::params::why_no_number;
use berth_types::Error;
use jiff::Timestamp;

/// Go's zero time: "never".
pub(crate) const NEVER: &str = "0001-01-01T00:00:00Z";

/// RFC 3339 with as many digits as needed; 0 is never.
pub(crate) fn rfc3339(unix_nanos: i64) -> String {
    match Timestamp::from_nanosecond(i128::from(unix_nanos)) {
        Ok(moment) if unix_nanos != 0 => moment.to_string(),
        _ => NEVER.to_owned(),
    }
}

/// RFC 3339 with nine digits, as logs have it.
pub(crate) fn rfc3339_nano(unix_nanos: i64) -> String {
    Timestamp::from_nanosecond(i128::from(unix_nanos)).map_or_else(|_| NEVER.to_owned(), |m| format!("{m:.9}"))
}

/// `since`/`until`: seconds with fraction, RFC 3339, or a Go duration before now. `None` where absent or `0`.
pub(crate) fn moment(text: Option<&str>, now_unix_nanos: i64) -> Result<Option<i64>, Error> {
    let Some(text) = text.filter(|text| !text.is_empty() && *text != "0") else { return Ok(None) };
    if let Some(nanos) = seconds(text) {
        return Ok(Some(nanos));
    }
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(i64::try_from(moment.as_nanosecond()).ok());
    }
    if let Some(back) = go_duration(text) {
        return Ok(Some(now_unix_nanos.saturating_sub(back)));
    }
    Err(Error::invalid(format!("strconv.ParseInt: parsing {text:?}: {}", why_no_number(text))))
}

/// `1700000000.000000123`
fn seconds(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos: i64 = if fraction.is_empty() { 0 } else { format!("{fraction:0<9}").parse().ok()? };
    whole.parse::<i64>().ok()?.checked_mul(1_000_000_000)?.checked_add(nanos)
}

/// `1h30m`, `1.5s`
fn go_duration(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, factor) = [("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)]
            .into_iter()
            .find(|(unit, _)| rest.starts_with(unit) && !(*unit == "m" && rest.starts_with("ms")))?;
        rest = &rest[unit.len()..];
        total += number * factor;
    }
    Some(total as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_in_every_spelling_that_clients_send() {
        let now = 1_700_000_000_000_000_000;
        assert_eq!(moment(Some("1700000000.5"), now).unwrap(), Some(1_700_000_000_500_000_000));
        assert_eq!(moment(Some("2023-11-14T22:13:20Z"), now).unwrap(), Some(now));
        assert_eq!(moment(Some("1m30s"), now).unwrap(), Some(now - 90_000_000_000));
        assert_eq!(moment(Some("0"), now).unwrap(), None);
        assert!(moment(Some("yesterday"), now).is_err());
    }

    #[test]
    fn moments_are_written_as_go_does() {
        assert_eq!(rfc3339(0), NEVER);
        assert_eq!(rfc3339(1_700_000_000_500_000_000), "2023-11-14T22:13:20.5Z");
        assert_eq!(rfc3339_nano(1_700_000_000_500_000_000), "2023-11-14T22:13:20.500000000Z");
    }
}
