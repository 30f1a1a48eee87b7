//! `--chmod`: octal, or symbolic as chmod(1) has it.

/// New rights, worked out for each file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chmod {
    Octal(u32),
    Symbolic(Vec<Clause>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clause {
    /// Which of 0o700, 0o070, 0o007.
    who: u32,
    /// Nobody was named: the umask would count, which is 0 here.
    operations: Vec<(char, String)>,
}

const OCTAL_MAX: u32 = 0o7777;

pub fn parse_chmod(text: &str) -> Result<Chmod, String> {
    let not_octal = || format!("invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777");
    if let Ok(mode) = u32::from_str_radix(text, 8) {
        return if mode <= OCTAL_MAX { Ok(Chmod::Octal(mode)) } else { Err(not_octal()) };
    }
    if text.is_empty() || text.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(not_octal());
    }
    let clause = |part: &str| -> Option<Clause> {
        let end = part.find(['+', '-', '='])?;
        let mut who = 0;
        for c in part[..end].chars() {
            who |= match c {
                'u' => 0o700,
                'g' => 0o070,
                'o' => 0o007,
                'a' => 0o777,
                _ => return None,
            };
        }
        let mut operations: Vec<(char, String)> = Vec::new();
        for c in part[end..].chars() {
            match c {
                '+' | '-' | '=' => operations.push((c, String::new())),
                'r' | 'w' | 'x' | 'X' | 's' | 't' | 'u' | 'g' | 'o' => operations.last_mut()?.1.push(c),
                _ => return None,
            }
        }
        Some(Clause { who: if who == 0 { 0o777 } else { who }, operations })
    };
    let clauses = text.split(',').map(clause).collect::<Option<Vec<_>>>();
    clauses.map(Chmod::Symbolic).ok_or_else(|| format!("invalid chmod parameter: '{text}'"))
}

impl Chmod {
    /// The rights of a file that has `mode` now.
    pub fn apply(&self, mode: u32, is_folder: bool) -> u32 {
        let clauses = match self {
            Chmod::Octal(mode) => return *mode,
            Chmod::Symbolic(clauses) => clauses,
        };
        let mut mode = mode & OCTAL_MAX;
        for clause in clauses {
            for (operation, rights) in &clause.operations {
                let mut bits = 0;
                let spread = |three: u32| (three * 0o111) & clause.who;
                for right in rights.chars() {
                    bits |= match right {
                        'r' => spread(4),
                        'w' => spread(2),
                        'x' => spread(1),
                        'X' if is_folder || mode & 0o111 != 0 => spread(1),
                        's' => ((clause.who & 0o100) << 5) | ((clause.who & 0o010) << 7),
                        't' => 0o1000,
                        'u' => spread(mode >> 6 & 7),
                        'g' => spread(mode >> 3 & 7),
                        'o' => spread(mode & 7),
                        _ => 0,
                    };
                }
                mode = match operation {
                    '+' => mode | bits,
                    '-' => mode & !bits,
                    // Whoever a file becomes when it is run is said anew as well; a folder keeps it (chmod(1)).
                    _ => {
                        let set_id = ((clause.who & 0o100) << 5) | ((clause.who & 0o010) << 7);
                        (mode & !clause.who & !if is_folder { 0 } else { set_id }) | bits
                    }
                };
            }
        }
        mode
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_change_as_chmod_does_it() {
        for (text, before, after) in [
            ("755", 0o600, 0o755),
            ("u+x", 0o644, 0o744),
            ("a=rX", 0o640, 0o444),
            ("a=rX", 0o750, 0o555),
            ("go-w,u=rwx", 0o666, 0o744),
            ("+x", 0o644, 0o755),
            ("g=u", 0o740, 0o770),
            ("u+s", 0o755, 0o4755),
            ("g+s", 0o755, 0o2755),
            ("u=rwx,go=r", 0o4750, 0o744),
            ("o=r", 0o6754, 0o6754),
            ("+t", 0o777, 0o1777),
        ] {
            assert_eq!(parse_chmod(text).unwrap().apply(before, false), after, "{text}");
        }
        assert_eq!(parse_chmod("a+X").unwrap().apply(0o600, true), 0o711);
        for bad in ["8", "10000", "x+u", "u", "u+q", ""] {
            assert!(parse_chmod(bad).is_err(), "{bad}");
        }
    }
}
