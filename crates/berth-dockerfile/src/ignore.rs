//! `.dockerignore`, and the patterns of `--exclude` and `--parents`: Go's rules, as moby's pattern matcher has them.
//!
//! ```text
//!  *      any characters but /            [a-z] [^a]  one of a class
//!  **     any number of folders           \x          x itself
//!  ?      one character but /             !pattern    what is left out comes back
//! ```
//!
//! A pattern that matches a folder matches all that is in it. The last pattern that matches decides.

/// Patterns of one file: more would make every file of a context cost too much.
pub const PATTERNS_MAX: usize = 10_000;

/// Go's `filepath.Clean`.
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(&"..") | None if !rooted => parts.push(".."),
                _ => drop(parts.pop()),
            },
            part => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

/// Patterns of an ignore file's text.
pub fn read(text: &str) -> Vec<String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut list = Vec::new();
    // A comment begins at the very start of its line.
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let (not, pattern) = match line.strip_prefix('!') {
            Some(rest) => ("!", rest.trim()),
            None => ("", line),
        };
        let mut pattern = if pattern.is_empty() { String::new() } else { clean(pattern) };
        if pattern.len() > 1 && pattern.starts_with('/') {
            pattern.remove(0);
        }
        list.push(format!("{not}{pattern}"));
    }
    list
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Char(char),
    /// One character but `/`.
    One,
    /// Any number of them.
    Star,
    /// `**/`: nothing, or anything up to a slash.
    Folders,
    /// `**` at the end: anything.
    All,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

#[derive(Debug, Clone)]
enum Match {
    Exact,
    /// The text before a trailing `**`.
    Prefix(String),
    /// The text behind a leading `**`.
    Suffix(String),
    Tokens(Vec<Token>),
}

#[derive(Debug, Clone)]
struct Pattern {
    text: String,
    brings_back: bool,
    how: Match,
}

/// A list of patterns.
#[derive(Debug, Clone, Default)]
pub struct Matcher {
    patterns: Vec<Pattern>,
    brings_back: bool,
}

/// What a folder's patterns matched, for what is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parent(Vec<bool>);

impl Matcher {
    pub fn new(patterns: &[String]) -> Result<Matcher, String> {
        if patterns.len() > PATTERNS_MAX {
            return Err(format!("more than {PATTERNS_MAX} patterns"));
        }
        let mut matcher = Matcher::default();
        for pattern in patterns {
            let pattern = pattern.trim();
            if pattern.is_empty() {
                continue;
            }
            let cleaned = clean(pattern);
            let (brings_back, text) = match cleaned.strip_prefix('!') {
                Some("") => return Err("illegal exclusion pattern: \"!\"".to_owned()),
                Some(rest) => (true, rest.to_owned()),
                None => (false, cleaned),
            };
            matcher.brings_back |= brings_back;
            let how = compile(&text).ok_or_else(|| format!("syntax error in pattern {}", crate::quote(&text)))?;
            matcher.patterns.push(Pattern { text, brings_back, how });
        }
        Ok(matcher)
    }

    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether some pattern brings files back: then folders that are left out must be looked into.
    pub fn brings_back(&self) -> bool {
        self.brings_back
    }

    /// Whether everything is left out, whatever it is called.
    pub fn covers_all(&self) -> bool {
        let all = |pattern: &Pattern| !pattern.brings_back && matches!(pattern.text.as_str(), "*" | "**" | "**/*");
        self.patterns.iter().any(all)
    }

    /// Whether `path` (without a leading slash), or a folder above it, is matched in the end.
    pub fn matches(&self, path: &str) -> bool {
        let mut matched = false;
        for pattern in &self.patterns {
            if pattern.brings_back != matched {
                continue;
            }
            if pattern.matches_or_parent(path) {
                matched = !pattern.brings_back;
            }
        }
        matched
    }

    /// The same in a walk from the top: `parent` is what the folder above answered.
    pub fn matches_in(&self, path: &str, parent: &Parent) -> (bool, Parent) {
        let mut matched = false;
        let mut info = vec![false; self.patterns.len()];
        for (at, pattern) in self.patterns.iter().enumerate() {
            let mut hit = parent.0.get(at).copied().unwrap_or(false);
            if !hit {
                if pattern.brings_back != matched {
                    continue;
                }
                hit = if parent.0.is_empty() { pattern.matches_or_parent(path) } else { pattern.matches(path) };
            }
            info[at] = hit;
            if hit {
                matched = !pattern.brings_back;
            }
        }
        (matched, Parent(info))
    }

    /// Whether something within folder `path`, which is left out, may come back.
    pub fn may_bring_back_in(&self, path: &str) -> bool {
        self.patterns.iter().filter(|pattern| pattern.brings_back).any(|pattern| {
            let wild = pattern.text.find(['*', '?', '[', '\\']);
            let literal = &pattern.text[..wild.unwrap_or(pattern.text.len())];
            let folder = format!("{path}/");
            match wild {
                // Beyond the first star anything may follow.
                Some(_) => literal.starts_with(&folder) || folder.starts_with(literal),
                None => literal.starts_with(&folder),
            }
        })
    }
}

impl Pattern {
    fn matches(&self, path: &str) -> bool {
        match &self.how {
            Match::Exact => path == self.text,
            Match::Prefix(prefix) => path.starts_with(prefix.as_str()),
            Match::Suffix(suffix) => {
                path.ends_with(suffix.as_str()) || suffix.strip_prefix('/').is_some_and(|rest| rest == path)
            }
            Match::Tokens(tokens) => matches(tokens, path),
        }
    }

    fn matches_or_parent(&self, path: &str) -> bool {
        self.matches(path) || path.match_indices('/').any(|(at, _)| self.matches(&path[..at]))
    }
}

/// `None`: malformed.
fn compile(text: &str) -> Option<Match> {
    #[derive(PartialEq, Clone, Copy)]
    enum Kind {
        Exact,
        Prefix,
        Suffix,
        Tokens,
    }
    let (mut tokens, mut kind) = (Vec::new(), Kind::Exact);
    let mut chars = text.chars().peekable();
    let mut first = true;
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.next_if_eq(&'*').is_some() => {
                chars.next_if_eq(&'/');
                if chars.peek().is_none() {
                    if kind == Kind::Exact {
                        kind = Kind::Prefix;
                    } else {
                        kind = Kind::Tokens;
                    }
                    tokens.push(Token::All);
                } else {
                    tokens.push(Token::Folders);
                    kind = Kind::Tokens;
                }
                if first {
                    kind = Kind::Suffix;
                }
            }
            '*' => {
                tokens.push(Token::Star);
                kind = Kind::Tokens;
            }
            '?' => {
                tokens.push(Token::One);
                kind = Kind::Tokens;
            }
            '\\' => {
                tokens.push(Token::Char(chars.next()?));
                kind = Kind::Tokens;
            }
            '[' => {
                tokens.push(class(&mut chars)?);
                kind = Kind::Tokens;
            }
            c => tokens.push(Token::Char(c)),
        }
        first = false;
    }
    Some(match kind {
        Kind::Exact => Match::Exact,
        // What is before the two stars, a slash after them included as moby has it.
        Kind::Prefix => Match::Prefix(text[..text.len().saturating_sub(2)].to_owned()),
        Kind::Suffix => Match::Suffix(text[2..].to_owned()),
        Kind::Tokens => Match::Tokens(tokens),
    })
}

fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Token> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
            return Some(Token::Class { negated, ranges });
        }
        let mut bound = || -> Option<char> {
            match chars.next()? {
                '\\' => chars.next(),
                '-' | ']' => None,
                c => Some(c),
            }
        };
        let low = bound()?;
        let high = match chars.next_if_eq(&'-') {
            Some(_) => match chars.next()? {
                '\\' => chars.next()?,
                '-' | ']' => return None,
                c => c,
            },
            None => low,
        };
        if low > high {
            return None;
        }
        ranges.push((low, high));
    }
}

/// One pass over `path` with all states at once: bounded by pattern times path.
fn matches(tokens: &[Token], path: &str) -> bool {
    let count = tokens.len();
    let mut states = vec![false; count + 1];
    let spread = |states: &mut [bool]| {
        for at in 0..count {
            if states[at] && matches!(tokens[at], Token::Star | Token::Folders | Token::All) {
                states[at + 1] = true;
            }
        }
    };
    // Within `**/`: something was read that no slash ends yet.
    let mut inside = vec![false; count + 1];
    states[0] = true;
    spread(&mut states);
    for c in path.chars() {
        let (mut next, mut next_inside) = (vec![false; count + 1], vec![false; count + 1]);
        for at in 0..count {
            if !states[at] && !inside[at] {
                continue;
            }
            match &tokens[at] {
                Token::Folders => {
                    next_inside[at] = true;
                    if c == '/' {
                        next[at + 1] = true;
                    }
                }
                _ if !states[at] => {}
                Token::Char(wanted) if *wanted == c => next[at + 1] = true,
                Token::One if c != '/' => next[at + 1] = true,
                Token::Star if c != '/' => next[at] = true,
                Token::All => next[at] = true,
                Token::Class { negated, ranges }
                    if ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated =>
                {
                    next[at + 1] = true;
                }
                Token::Char(_) | Token::One | Token::Star | Token::Class { .. } => {}
            }
        }
        spread(&mut next);
        (states, inside) = (next, next_inside);
    }
    states[count]
}

/// One element of `COPY a*/b? .`: Go's `path.Match` without classes across slashes; used a name at a time.
pub fn name_matches(pattern: &str, name: &str) -> Option<bool> {
    let mut tokens = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        tokens.push(match c {
            '*' => Token::Star,
            '?' => Token::One,
            '\\' => Token::Char(chars.next()?),
            '[' => class(&mut chars)?,
            c => Token::Char(c),
        });
    }
    Some(matches(&tokens, name))
}

/// Whether a name has characters that stand for others.
pub fn has_wildcards(text: &str) -> bool {
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' | '?' | '[' => return true,
            '\\' => drop(chars.next()),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches_one(pattern: &str, path: &str) -> bool {
        Matcher::new(&[pattern.to_owned()]).unwrap().matches(path)
    }

    #[test]
    fn patterns_match_as_mobys_do() {
        for (pattern, path, expected) in [
            ("**", "file", true),
            ("**", "dir/file", true),
            ("**/", "file", true),
            ("**/**", "dir/file", true),
            ("dir/**", "dir/file", true),
            ("dir/**", "dir2/file", false),
            ("**/dir", "dir/file", true),
            ("**/dir2/*", "dir/dir2/file", true),
            ("**/dir2/*", "dir/dir2/dir2/file", true),
            ("**file", "file", true),
            ("**file", "dir/file", true),
            ("**/file", "dir/file", true),
            ("**file*", "dir/file.txt", true),
            ("*.txt", "dir/a.txt", false),
            ("**/*.txt", "a.txt", true),
            ("a[b-d]e", "ace", true),
            ("a[^b-d]e", "aze", true),
            ("a\\*b", "a*b", true),
            ("a?c", "a/c", false),
            ("abc.def", "abcdef", false),
            ("a(b)c/def", "a(b)c/def", true),
            ("dir", "dir/sub/file", true),
            ("**/foo/bar", "abc/foo/bar", true),
            ("abc/**/def", "abc/def", true),
            ("abc/**/def", "abc/x/y/def", true),
            ("*", "a/b", true),
        ] {
            assert_eq!(matches_one(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn the_last_pattern_decides_and_a_walk_answers_the_same() {
        let list = ["docs", "!docs/README.md", "*.o", "!keep.o"].map(str::to_owned);
        let matcher = Matcher::new(&list).unwrap();
        for (path, expected) in [
            ("docs", true),
            ("docs/a", true),
            ("docs/README.md", false),
            ("x.o", true),
            ("keep.o", false),
            ("y", false),
        ] {
            assert_eq!(matcher.matches(path), expected, "{path}");
            let mut parent = Parent::default();
            let mut last = false;
            let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
            for end in ends {
                (last, parent) = matcher.matches_in(&path[..end], &parent);
            }
            assert_eq!(last, expected, "{path} in a walk");
        }
        assert!(matcher.may_bring_back_in("docs") && !matcher.may_bring_back_in("src"));
    }

    #[test]
    fn a_file_of_patterns_is_cleaned() {
        let text = "\u{feff}# no\n/abs\n  a/./b/ \n!  /back\n\n #kept\n";
        assert_eq!(read(text), ["abs", "a/b", "!back", "#kept"]);
        assert!(Matcher::new(&["!".to_owned()]).is_err());
        assert!(Matcher::new(&["[a".to_owned()]).is_err());
        assert!(Matcher::new(&["a\\".to_owned()]).is_err());
    }
}
