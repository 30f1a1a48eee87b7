//! Which kernel this is.

use std::sync::OnceLock;

/// Major and minor number of the running one.
pub fn release() -> (u32, u32) {
    static RELEASE: OnceLock<(u32, u32)> = OnceLock::new();
    *RELEASE.get_or_init(|| version(&rustix::system::uname().release().to_string_lossy()))
}

/// Major and minor number of a release's name: `6.1.0-18-amd64` is (6, 1). What is no number counts as 0.
pub fn version(text: &str) -> (u32, u32) {
    let mut numbers = text.split(|sign: char| !sign.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn releases_are_read_from_their_start() {
        for (release, since_6_8) in [
            ("6.1.0-18-amd64", false),
            ("6.7", false),
            ("6.8.0-rc1", true),
            ("6.18.44-x", true),
            ("10.0", true),
            ("", false),
        ] {
            assert_eq!(version(release) >= (6, 8), since_6_8, "{release}");
        }
        assert_eq!(version("4.8"), (4, 8));
    }
}
