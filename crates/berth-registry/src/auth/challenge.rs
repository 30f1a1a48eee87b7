//! `WWW-Authenticate` (RFC 9110, 11.6.1): several challenges may share a header, parameters may be quoted.

/// What a registry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: String, scope: String },
}

/// The strongest of all challenges: a token before a password.
pub(super) fn best<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut found = None;
    for challenge in headers.flat_map(parse) {
        match challenge {
            Challenge::Bearer { .. } => return Some(challenge),
            Challenge::Basic => found = Some(challenge),
        }
    }
    found
}

struct Scanner<'a> {
    rest: &'a str,
}

impl Scanner<'_> {
    fn skip(&mut self, letters: &[char]) {
        self.rest = self.rest.trim_start_matches(letters);
    }

    fn token(&mut self) -> String {
        let end = self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/:".contains(c)));
        let (token, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        token.to_owned()
    }

    fn value(&mut self) -> String {
        let Some(quoted) = self.rest.strip_prefix('"') else { return self.token() };
        let (mut value, mut escaped) = (String::new(), false);
        for (at, c) in quoted.char_indices() {
            match (escaped, c) {
                (false, '\\') => escaped = true,
                (false, '"') => {
                    self.rest = &quoted[at + 1..];
                    return value;
                }
                _ => {
                    value.push(c);
                    escaped = false;
                }
            }
        }
        self.rest = "";
        value
    }
}

fn parse(header: &str) -> Vec<Challenge> {
    let mut scanner = Scanner { rest: header };
    let mut all: Vec<(String, Vec<(String, String)>)> = Vec::new();
    loop {
        scanner.skip(&[' ', '\t', ',']);
        let before = scanner.rest.len();
        let word = scanner.token();
        scanner.skip(&[' ', '\t']);
        if scanner.rest.starts_with('=') && !word.is_empty() {
            scanner.rest = &scanner.rest[1..];
            scanner.skip(&[' ', '\t']);
            let value = scanner.value();
            if let Some((_, parameters)) = all.last_mut() {
                parameters.push((word.to_ascii_lowercase(), value));
            }
        } else if !word.is_empty() {
            all.push((word.to_ascii_lowercase(), Vec::new()));
        }
        if scanner.rest.is_empty() || scanner.rest.len() == before {
            break;
        }
    }
    all.into_iter()
        .filter_map(|(scheme, parameters)| {
            let get = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
            match scheme.as_str() {
                "basic" => Some(Challenge::Basic),
                "bearer" => Some(Challenge::Bearer {
                    realm: get("realm")?,
                    service: get("service").unwrap_or_default(),
                    scope: get("scope").unwrap_or_default(),
                }),
                _ => None,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_in_all_their_spellings() {
        let bearer = |realm: &str, service: &str, scope: &str| {
            Some(Challenge::Bearer { realm: realm.into(), service: service.into(), scope: scope.into() })
        };
        for (header, expected) in [
            (r#"Basic realm="x""#, Some(Challenge::Basic)),
            (
                r#"bearer realm="https://a/t",service="r",scope="repository:a:pull,push""#,
                bearer("https://a/t", "r", "repository:a:pull,push"),
            ),
            (r#"Basic realm="a, Bearer b", Bearer realm="https://a/t""#, bearer("https://a/t", "", "")),
            (r#"Bearer realm = "a\"b" , error=invalid_token"#, bearer("a\"b", "", "")),
            (r#"Bearer service="x""#, None),
            ("Negotiate", None),
            (r#"Bearer realm="unfinished"#, bearer("unfinished", "", "")),
            ("", None),
            ("=,=\"\u{e4}", None),
        ] {
            assert_eq!(best([header].into_iter()), expected, "{header}");
        }
    }
}
