//! Shell patterns of `${a#p}`, `${a%p}` and `${a/p/r}`: `*`, `?` and escapes, no brackets.

/// One element of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    /// Any number of characters but line breaks.
    Star,
    /// One character but a line break.
    One,
    Char(char),
}

#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    tokens: Vec<Token>,
}

/// Work that one substitution may do: values of megabytes with many stars take no longer than that.
const STEPS_MAX: usize = 50_000_000;

impl Pattern {
    pub(crate) fn new(text: &str) -> Result<Pattern, String> {
        let mut tokens = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' => Token::Star,
                '?' => Token::One,
                '\\' => match chars.next() {
                    Some(next @ ('*' | '?' | '\\' | '}' | '/')) => Token::Char(next),
                    other => {
                        let shown = other.map_or("\u{fffd}".to_owned(), String::from);
                        return Err(format!("invalid escape '\\{shown}'"));
                    }
                },
                c => Token::Char(c),
            });
        }
        // Two stars say what one says.
        tokens.dedup_by(|a, b| *a == Token::Star && *b == Token::Star);
        Ok(Pattern { tokens })
    }

    pub(crate) fn reversed(mut self) -> Pattern {
        self.tokens.reverse();
        self
    }

    /// Length of the shortest or longest beginning of `text` that the pattern matches.
    pub(crate) fn prefix(&self, text: &[char], longest: bool, steps: &mut usize) -> Result<Option<usize>, String> {
        let count = self.tokens.len();
        let mut states = vec![false; count + 1];
        states[0] = true;
        self.skip_stars(&mut states);
        let mut found = states[count].then_some(0);
        if found.is_some() && !longest {
            return Ok(found);
        }
        for (at, &c) in text.iter().enumerate() {
            *steps += count + 1;
            if *steps > STEPS_MAX {
                return Err("the pattern takes too long to match".to_owned());
            }
            let mut next = vec![false; count + 1];
            let mut alive = false;
            for (state, _) in states.iter().enumerate().take(count).filter(|(_, on)| **on) {
                let to = match self.tokens[state] {
                    Token::Star if c != '\n' => state,
                    Token::One if c != '\n' => state + 1,
                    Token::Char(wanted) if wanted == c => state + 1,
                    _ => continue,
                };
                next[to] = true;
                alive = true;
            }
            if !alive {
                break;
            }
            self.skip_stars(&mut next);
            states = next;
            if states[count] {
                found = Some(at + 1);
                if !longest {
                    break;
                }
            }
        }
        Ok(found)
    }

    fn skip_stars(&self, states: &mut [bool]) {
        for state in 0..self.tokens.len() {
            if states[state] && self.tokens[state] == Token::Star {
                states[state + 1] = true;
            }
        }
    }

    /// `text` with the first or every longest match replaced, leftmost first.
    pub(crate) fn replace(&self, text: &str, with: &str, all: bool) -> Result<String, String> {
        let chars: Vec<char> = text.chars().collect();
        let (mut out, mut at, mut steps) = (String::new(), 0, 0);
        // Right behind a match an empty one does not count.
        let mut after_match = false;
        while at <= chars.len() {
            match self.prefix(&chars[at..], true, &mut steps)? {
                Some(0) if after_match => {}
                Some(length) => {
                    match all {
                        true => template(with, &chars[at..at + length], &mut out),
                        false => out.push_str(with),
                    }
                    at += length;
                    if !all {
                        out.extend(&chars[at..]);
                        return Ok(out);
                    }
                    after_match = true;
                    if length > 0 {
                        continue;
                    }
                }
                None => {}
            }
            out.extend(chars.get(at));
            at += 1;
            after_match = false;
        }
        Ok(out)
    }
}

/// Go's `ReplaceAllString` reads `$0`, `${0}` and `$$` in the replacement; names of groups that are not there are empty.
fn template(with: &str, matched: &[char], out: &mut String) {
    let mut rest = with;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let (name, after) = match rest.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some(found) => found,
            None => rest.split_at(rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())),
        };
        if name.is_empty() {
            out.push('$');
            continue;
        }
        if name == "0" {
            out.extend(matched);
        }
        rest = after;
    }
    out.push_str(rest);
}
