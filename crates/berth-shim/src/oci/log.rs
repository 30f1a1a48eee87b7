//! Where errors and warnings go: standard error, or the file of `--log` as lines of text or JSON.

use std::io::Write;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// The global flags about logging.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) path: Option<PathBuf>,
    pub(crate) json: bool,
}

impl Log {
    pub(crate) fn warn(&self, message: &str) {
        self.write("warning", message);
    }

    /// The last word of a failing command. With a log file it goes there and to standard error, as callers
    /// read either.
    pub(crate) fn fail(&self, message: &str) {
        self.write("error", message);
        if self.path.is_some() {
            eprintln!("berth-runtime: {message}");
        }
    }

    fn write(&self, level: &str, message: &str) {
        let Some(path) = &self.path else {
            eprintln!("berth-runtime: {message}");
            return;
        };
        let time = rfc3339(SystemTime::now());
        let line = if self.json {
            let line = serde_json::json!({ "level": level, "msg": message, "time": time });
            format!("{line}\n")
        } else {
            format!("time=\"{time}\" level={level} msg={message:?}\n")
        };
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
        if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
            eprintln!("berth-runtime: cannot write the log {}: {error}", path.display());
        }
    }
}

/// `2026-11-24T02:06:14.123456789Z`.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days as i64);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", since.subsec_nanos())
}

/// Year, month and day of a day counted from 1970-01-01 (Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms", `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_written_as_rfc_3339() {
        let at = |seconds| rfc3339(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59.000000000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(at(1_795_485_974), "2026-11-24T02:06:14.000000000Z");
    }
}
