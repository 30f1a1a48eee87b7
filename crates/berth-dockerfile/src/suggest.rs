//! The nearest of several words, for "did you mean".

/// Words further away than this are another word (BuildKit and HCL have the same).
const DISTANCE_MAX: usize = 2;
/// Longer words are not compared: the table below grows with their product.
const CHARS_MAX: usize = 256;

/// The option nearest to `value`; `None` where none is near, or one is exactly it.
pub fn nearest<'a>(value: &str, options: impl IntoIterator<Item = &'a str>, case_sensitive: bool) -> Option<String> {
    let fold = |text: &str| if case_sensitive { text.to_owned() } else { text.to_lowercase() };
    let wanted = fold(value);
    let mut best: Option<((usize, bool), String)> = None;
    for option in options {
        let option = fold(option);
        if option == wanted {
            return None;
        }
        let distance = distance(&wanted, &option);
        // Of two that are equally near the one that begins alike: RNU is RUN, not ENV.
        let rank = (distance, option.chars().next() != wanted.chars().next());
        if distance <= DISTANCE_MAX && best.as_ref().is_none_or(|(least, _)| rank < *least) {
            best = Some((rank, option));
        }
    }
    best.map(|(_, option)| match case_sensitive {
        false if value == value.to_uppercase() => option.to_uppercase(),
        _ => option,
    })
}

/// `message (did you mean x?)`, where something is near.
pub fn with_suggestion<'a>(
    message: String,
    value: &str,
    options: impl IntoIterator<Item = &'a str>,
    case_sensitive: bool,
) -> String {
    match nearest(value, options, case_sensitive) {
        Some(near) => format!("{message} (did you mean {near}?)"),
        None => message,
    }
}

/// Levenshtein's.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) > DISTANCE_MAX || a.len() > CHARS_MAX || b.len() > CHARS_MAX {
        return DISTANCE_MAX + 1;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let next = (corner + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            corner = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found_in_the_callers_case() {
        assert_eq!(nearest("FORM", ["FROM", "RUN"], false).as_deref(), Some("FROM"));
        assert_eq!(nearest("form", ["FROM", "RUN"], false).as_deref(), Some("from"));
        assert_eq!(nearest("xyzzy", ["FROM", "RUN"], false), None);
        assert_eq!(nearest("run", ["RUN", "RUM"], false), None, "it is spelt right: something else is wrong");
        assert_eq!(nearest("bulid", ["build", "base"], true).as_deref(), Some("build"));
    }
}
