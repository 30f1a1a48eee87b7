//! Which platform an image is of, where a caller asks for one. An image here has exactly one.

use super::Images;
use berth_types::{Error, Result};

/// Whether an image of `architecture` and `variant` is what `wanted`, `os[/arch[/variant]]`, says.
fn fits(wanted: &str, architecture: &str, variant: &str) -> bool {
    let mut parts = wanted.split('/');
    let (os, wanted_architecture, wanted_variant) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let same = |have: &str, wanted: Option<&str>| wanted.is_none_or(|wanted| have.is_empty() || wanted == have);
    match wanted_architecture {
        // A platform of one word may be either.
        None => os == "linux" || os == architecture,
        Some(_) => os == "linux" && same(architecture, wanted_architecture) && same(variant, wanted_variant),
    }
}

/// Refuses an image that is of another platform, in Docker's words.
pub(crate) fn check(reference: &str, wanted: &str, architecture: &str, variant: &str) -> Result<()> {
    if fits(wanted, architecture, variant) {
        return Ok(());
    }
    Err(Error::not_found(format!(
        "image with reference {reference} was found but its platform (linux/{architecture}) does not match the \
         specified platform ({wanted})"
    )))
}

impl Images {
    /// Refuses where the image is of another platform than `wanted`; `None` is content with any.
    pub async fn check_platform(&self, reference: &str, wanted: Option<&str>) -> Result<()> {
        let Some(wanted) = wanted.filter(|text| !text.is_empty()) else { return Ok(()) };
        let shared = self.shared();
        let config = shared.config(&shared.find(reference)?.id)?.config;
        check(reference, wanted, &config.architecture, &config.variant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_may_leave_out_what_it_does_not_mind() {
        for (wanted, fitting) in [
            ("linux/arm64/v8", true),
            ("linux/arm64", true),
            ("linux", true),
            ("arm64", true),
            ("linux/arm64/v9", false),
            ("linux/amd64", false),
            ("windows/arm64", false),
            ("amd64", false),
        ] {
            assert_eq!(fits(wanted, "arm64", "v8"), fitting, "{wanted}");
        }
        let error = check("a:1", "linux/s390x", "amd64", "").unwrap_err();
        assert!(error.message.contains("its platform (linux/amd64) does not match"), "{error}");
    }
}
