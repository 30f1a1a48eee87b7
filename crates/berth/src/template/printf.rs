//! Go's `Sprintf`, for the verbs people use in `--format`.

use super::funcs;
use crate::value::Value;

#[derive(Default)]
struct Spec {
    minus: bool,
    plus: bool,
    sharp: bool,
    zero: bool,
    space: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// Wider fields than this are a typing mistake that would only fill the memory.
const WIDTH_MAX: usize = 10_000;

pub(super) fn sprintf(format: &str, args: &[Value]) -> String {
    let mut out = String::new();
    let mut args_iter = args.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut spec = Spec::default();
        while let Some(flag) = chars.peek() {
            match flag {
                '-' => spec.minus = true,
                '+' => spec.plus = true,
                '#' => spec.sharp = true,
                '0' => spec.zero = true,
                ' ' => spec.space = true,
                _ => break,
            }
            chars.next();
        }
        let number = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>, args: &mut std::slice::Iter<'_, Value>| {
            if chars.peek() == Some(&'*') {
                chars.next();
                return args.next().and_then(|v| usize::try_from(v.int()).ok()).map(|n| n.min(WIDTH_MAX));
            }
            let mut n = None;
            while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
                n = Some((n.unwrap_or(0) * 10 + digit as usize).min(WIDTH_MAX));
                chars.next();
            }
            n
        };
        spec.width = number(&mut chars, &mut args_iter);
        if chars.peek() == Some(&'.') {
            chars.next();
            spec.precision = Some(number(&mut chars, &mut args_iter).unwrap_or(0));
        }
        match chars.next() {
            None => out.push_str("%!(NOVERB)"),
            Some('%') => out.push('%'),
            Some(verb) => match args_iter.next() {
                None => out.push_str(&format!("%!{verb}(MISSING)")),
                Some(arg) => out.push_str(&pad(one(verb, arg, &spec), &spec)),
            },
        }
    }
    let left: Vec<String> = args_iter.map(|a| format!("{}={}", funcs::type_name(a), funcs::inner(a))).collect();
    if !left.is_empty() {
        out.push_str(&format!("%!(EXTRA {})", left.join(", ")));
    }
    out
}

fn one(verb: char, arg: &Value, spec: &Spec) -> String {
    let signed = |s: String, negative: bool| match (negative, spec.plus, spec.space) {
        (false, true, _) => format!("+{s}"),
        (false, false, true) => format!(" {s}"),
        _ => s,
    };
    match (verb, arg) {
        ('v', value) if spec.sharp => value.to_json(),
        ('v' | 's', Value::Str(s)) => cut(s, spec),
        ('v', value) => funcs::inner(value),
        ('s', Value::List(_) | Value::Map(_)) => funcs::inner(arg),
        ('q', Value::Str(s)) => format!("{:?}", cut(s, spec)),
        ('q', Value::Int(n)) => format!("{:?}", u32::try_from(*n).ok().and_then(char::from_u32).unwrap_or('\u{fffd}')),
        ('q', Value::List(items)) => {
            format!("[{}]", items.iter().map(|i| format!("{:?}", funcs::inner(i))).collect::<Vec<_>>().join(" "))
        }
        ('t', Value::Bool(b)) => b.to_string(),
        ('d', Value::Int(n)) => signed(n.to_string(), *n < 0),
        ('x', Value::Int(n)) => based(*n, if spec.sharp { "0x" } else { "" }, format!("{:x}", n.unsigned_abs())),
        ('X', Value::Int(n)) => based(*n, if spec.sharp { "0X" } else { "" }, format!("{:X}", n.unsigned_abs())),
        ('o', Value::Int(n)) => based(*n, if spec.sharp { "0" } else { "" }, format!("{:o}", n.unsigned_abs())),
        ('b', Value::Int(n)) => based(*n, if spec.sharp { "0b" } else { "" }, format!("{:b}", n.unsigned_abs())),
        ('c', Value::Int(n)) => u32::try_from(*n).ok().and_then(char::from_u32).unwrap_or('\u{fffd}').to_string(),
        ('x', Value::Str(s)) => s.bytes().map(|b| format!("{b:02x}")).collect(),
        ('X', Value::Str(s)) => s.bytes().map(|b| format!("{b:02X}")).collect(),
        ('f' | 'F', Value::Float(f)) => signed(format!("{f:.*}", spec.precision.unwrap_or(6)), *f < 0.0),
        ('e', Value::Float(f)) => crate::units::go_exponent(*f, spec.precision.unwrap_or(6)),
        ('g' | 'G', Value::Float(f)) => match spec.precision {
            Some(p) => crate::units::go_g(*f, p),
            None => crate::units::go_float(*f),
        },
        ('T', value) => funcs::type_name(value).to_owned(),
        (verb, value) => format!("%!{verb}({}={})", funcs::type_name(value), funcs::inner(value)),
    }
}

/// Go writes negative numbers of any base with a sign.
fn based(n: i64, prefix: &str, digits: String) -> String {
    format!("{}{prefix}{digits}", if n < 0 { "-" } else { "" })
}

fn cut(s: &str, spec: &Spec) -> String {
    match spec.precision {
        Some(n) => s.chars().take(n).collect(),
        None => s.to_owned(),
    }
}

fn pad(s: String, spec: &Spec) -> String {
    let missing = spec.width.unwrap_or(0).saturating_sub(s.chars().count());
    match () {
        () if missing == 0 => s,
        () if spec.minus => s + &" ".repeat(missing),
        () if spec.zero => match s.strip_prefix(['-', '+']) {
            Some(digits) => format!("{}{}{digits}", &s[..1], "0".repeat(missing)),
            None => "0".repeat(missing) + &s,
        },
        () => " ".repeat(missing) + &s,
    }
}
