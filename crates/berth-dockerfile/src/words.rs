//! Taking a line apart: words with their quotes, flags, and Go's way of quoting.

/// Blanks between words of a line; a line break never is one.
pub(crate) fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\x0b' | '\x0c' | '\r' | ' ')
}

/// At the first run of blanks.
pub(crate) fn split_first(text: &str) -> Option<(&str, &str)> {
    let start = text.find(is_blank)?;
    let end = text[start..].find(|c| !is_blank(c)).map_or(text.len(), |n| start + n);
    Some((&text[..start], &text[end..]))
}

/// At every run of blanks; as Go's `regexp.Split`, the ends may be empty.
pub(crate) fn split_blanks(text: &str) -> Vec<&str> {
    let mut list = Vec::new();
    let mut rest = text;
    while let Some((first, after)) = split_first(rest) {
        list.push(first);
        rest = after;
    }
    list.push(rest);
    list
}

#[derive(PartialEq)]
enum Phase {
    Spaces,
    Word,
    Quote(char),
}

/// Words, quotes and escapes kept in place for the expansion that follows.
pub(crate) fn words(text: &str, escape: char) -> Vec<String> {
    let (mut list, mut word, mut phase, mut blank_ok) = (Vec::new(), String::new(), Phase::Spaces, false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if phase == Phase::Spaces {
            if c.is_whitespace() {
                continue;
            }
            phase = Phase::Word;
        }
        match phase {
            Phase::Quote(quote) => {
                if c == quote {
                    phase = Phase::Word;
                }
                if c == escape && quote != '\'' {
                    // An escape at the end is dropped.
                    let Some(next) = chars.next() else {
                        phase = Phase::Word;
                        break;
                    };
                    word.push(c);
                    word.push(next);
                    continue;
                }
                word.push(c);
            }
            _ => {
                if c.is_whitespace() {
                    phase = Phase::Spaces;
                    if blank_ok || !word.is_empty() {
                        list.push(std::mem::take(&mut word));
                    }
                    blank_ok = false;
                    continue;
                }
                if c == '\'' || c == '"' {
                    phase = Phase::Quote(c);
                    blank_ok = true;
                }
                if c == escape {
                    let Some(next) = chars.next() else { break };
                    word.push(c);
                    word.push(next);
                    continue;
                }
                word.push(c);
            }
        }
    }
    if phase != Phase::Spaces && (blank_ok || !word.is_empty()) {
        list.push(word);
    }
    list
}

/// Leading `--flags`, quotes and escapes taken away, and what follows them.
pub(crate) fn flags(text: &str, escape: char) -> (Vec<String>, &str) {
    let (mut list, mut word, mut phase, mut blank_ok) = (Vec::new(), String::new(), Phase::Spaces, false);
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if phase == Phase::Spaces {
            if c.is_whitespace() {
                continue;
            }
            if !text[at..].starts_with("--") {
                return (list, &text[at..]);
            }
            phase = Phase::Word;
        }
        match phase {
            Phase::Quote(quote) => match c {
                _ if c == quote => phase = Phase::Word,
                _ if c == escape => match chars.next() {
                    Some((_, next)) => word.push(next),
                    None => phase = Phase::Word,
                },
                _ => word.push(c),
            },
            _ => {
                if c.is_whitespace() {
                    phase = Phase::Spaces;
                    let done = std::mem::take(&mut word);
                    if done == "--" {
                        return (list, &text[at..]);
                    }
                    if blank_ok || !done.is_empty() {
                        list.push(done);
                    }
                    blank_ok = false;
                } else if c == '\'' || c == '"' {
                    phase = Phase::Quote(c);
                    blank_ok = true;
                } else if c == escape {
                    word.extend(chars.next().map(|(_, next)| next));
                } else {
                    word.push(c);
                }
            }
        }
    }
    if phase != Phase::Spaces && word != "--" && (blank_ok || !word.is_empty()) {
        list.push(word);
    }
    (list, "")
}

/// As Go's `%q` writes a text.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0b' => out.push_str("\\v"),
            '\x0c' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if c.is_control() || c == '\u{a0}' || c == '\u{ad}' || c == '\u{feff}' => {
                out.push_str(&format!("\\u{:04x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
