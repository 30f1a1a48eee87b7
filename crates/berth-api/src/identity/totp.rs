//! The second factor: six digits of an authenticator program (RFC 6238: SHA-1, 30 seconds), and recovery codes
//! for whoever has lost it.

use super::password::same;
use super::{digest, random};
use berth_types::{Error, Result};
use serde::{Deserialize, Serialize};

const STEP_SECONDS: i64 = 30;
/// Clocks may differ by one step either way.
const STEPS_OFF: i64 = 1;
const SECRET_BYTES: usize = 20;
const RECOVERY_CODES: usize = 8;

/// Kept in the record of its user. The secret must be there in clear to be computed with; the recovery codes are not.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Totp {
    secret: [u8; SECRET_BYTES],
    /// The newest step that was used: a code is good once.
    used_step: i64,
    recovery: Vec<String>,
}

/// A code's time, or the recovery code that it was.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Used {
    Step(i64),
    Recovery(usize),
}

impl Totp {
    pub(crate) fn new() -> Result<Totp> {
        Ok(Totp { secret: random::<SECRET_BYTES>()?, used_step: 0, recovery: Vec::new() })
    }

    /// As authenticator programs take it by hand.
    pub(crate) fn secret_text(&self) -> String {
        base32(&self.secret)
    }

    /// As authenticator programs take it as a link or picture.
    pub(crate) fn url(&self, user: &str, host: &str) -> String {
        let plain = |text: &str| -> String {
            text.bytes()
                .map(|byte| match byte.is_ascii_alphanumeric() || b"._-@".contains(&byte) {
                    true => char::from(byte).to_string(),
                    false => format!("%{byte:02X}"),
                })
                .collect()
        };
        format!(
            "otpauth://totp/berth%20{}:{}?secret={}&issuer=berth%20{}",
            plain(host),
            plain(user),
            self.secret_text(),
            plain(host)
        )
    }

    /// New recovery codes in clear; only their digests are kept.
    pub(crate) fn new_recovery(&mut self) -> Result<Vec<String>> {
        let mut codes = Vec::with_capacity(RECOVERY_CODES);
        for _ in 0..RECOVERY_CODES {
            let text = base32(&random::<10>()?).to_ascii_lowercase();
            codes.push(format!("{}-{}", &text[..8], &text[8..]));
        }
        self.recovery = codes.iter().map(|code| digest(code)).collect();
        Ok(codes)
    }

    #[cfg(test)]
    pub(crate) fn code_now(&self, now_unix: i64) -> String {
        six_digits(&self.secret, now_unix.div_euclid(STEP_SECONDS))
    }

    /// Whether `code` is good now, and by what.
    pub(crate) fn check(&self, code: &str, now_unix: i64) -> Option<Used> {
        let code: String = code.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_lowercase();
        if code.len() == 6 && code.bytes().all(|byte| byte.is_ascii_digit()) {
            let now = now_unix.div_euclid(STEP_SECONDS);
            let mut steps = (now - STEPS_OFF..=now + STEPS_OFF).filter(|step| *step > self.used_step);
            return steps
                .find(|step| same(six_digits(&self.secret, *step).as_bytes(), code.as_bytes()))
                .map(Used::Step);
        }
        let wanted = digest(&code);
        self.recovery.iter().position(|one| same(one.as_bytes(), wanted.as_bytes())).map(Used::Recovery)
    }

    /// What was used is good no more.
    pub(crate) fn spend(&mut self, used: &Used) {
        match used {
            Used::Step(step) => self.used_step = *step,
            Used::Recovery(index) => drop(self.recovery.remove(*index)),
        }
    }
}

fn six_digits(secret: &[u8], step: i64) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret);
    let tag = ring::hmac::sign(&key, &step.to_be_bytes());
    let bytes = tag.as_ref();
    let at = usize::from(bytes[bytes.len() - 1] & 15);
    let number = u32::from_be_bytes([bytes[at] & 127, bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    format!("{:06}", number % 1_000_000)
}

fn base32(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut text = String::new();
    let (mut bits, mut count) = (0_u32, 0);
    for byte in bytes {
        bits = bits << 8 | u32::from(*byte);
        count += 8;
        while count >= 5 {
            count -= 5;
            text.push(char::from(LETTERS[(bits >> count & 31) as usize]));
        }
    }
    if count > 0 {
        text.push(char::from(LETTERS[(bits << (5 - count) & 31) as usize]));
    }
    text
}

/// A code that is wrong or was used already; says no more.
pub(crate) fn refused() -> Error {
    Error::new(berth_types::ErrorKind::Unauthorized, "this code is not valid")
        .with_hint("codes are good once and for half a minute: wait for the next one, or use a recovery code")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totp() -> Totp {
        Totp { secret: *b"12345678901234567890", used_step: 0, recovery: Vec::new() }
    }

    #[test]
    fn codes_are_those_of_the_standard() {
        // RFC 6238, appendix B, the last six of eight digits.
        for (seconds, code) in [(59, "287082"), (1_111_111_109, "081804"), (20_000_000_000, "353130")] {
            assert_eq!(six_digits(b"12345678901234567890", seconds / STEP_SECONDS), code);
        }
        assert_eq!(totp().secret_text(), "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
        assert_eq!(
            totp().url("ada", "box 1"),
            "otpauth://totp/berth%20box%201:ada?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=berth%20box%201"
        );
    }

    #[test]
    fn a_code_is_good_once_and_for_a_while() {
        let mut totp = totp();
        let used = totp.check("287 082", 59).unwrap();
        assert_eq!(totp.check("287082", 59 + 30), Some(Used::Step(1)), "the clock is half a minute off");
        assert_eq!(totp.check("287082", 59 + 90), None);
        totp.spend(&used);
        assert_eq!(totp.check("287082", 59), None, "used already");
        assert_eq!(totp.check("", 59), None);
    }

    #[test]
    fn a_recovery_code_is_good_once() {
        let mut totp = totp();
        let codes = totp.new_recovery().unwrap();
        assert_eq!(codes.len(), RECOVERY_CODES);
        let used = totp.check(&codes[3].to_ascii_uppercase(), 0).unwrap();
        assert_eq!(used, Used::Recovery(3));
        totp.spend(&used);
        assert_eq!((totp.check(&codes[3], 0), totp.recovery.len()), (None, RECOVERY_CODES - 1));
    }
}
