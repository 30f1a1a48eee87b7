//! The language from outside: folders of Dockerfiles, words, mistakes, and anything at all.

use super::*;
use crate::shell::{Shell, env_lookup};
use proptest::prelude::*;
use std::fmt::Write;

/// A node as a list of lists, for the expected files.
fn dump(node: &Node) -> String {
    let mut out = node.keyword.to_lowercase();
    if !node.flags.is_empty() {
        let flags: Vec<String> = node.flags.iter().map(|flag| quote(flag)).collect();
        write!(out, " [{}]", flags.join(" ")).unwrap();
    }
    match &node.child {
        Some(child) => write!(out, " ({})", dump(child)).unwrap(),
        None => node.args.iter().for_each(|arg| write!(out, " {}", quote(arg)).unwrap()),
    }
    out
}

fn dump_file(text: &str) -> Result<String, ParseError> {
    let text = text::read(text)?;
    Ok(text.nodes.iter().map(|node| format!("({})\n", dump(node))).collect())
}

/// `testdata/<case>/Dockerfile` and what it becomes: `expected` (the nodes) or `error`.
#[test]
fn folders_of_dockerfiles_become_what_is_written_beside_them() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut count = 0;
    for entry in std::fs::read_dir(root).unwrap() {
        let folder = entry.unwrap().path();
        let bytes = std::fs::read(folder.join("Dockerfile")).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
        match (read("expected"), read("error")) {
            (Some(expected), None) => {
                assert_eq!(dump_file(&text).unwrap(), expected, "{}", folder.display());
                parse(&bytes).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
            }
            (None, Some(error)) => {
                assert_eq!(parse(&bytes).unwrap_err().to_string(), error.trim_end(), "{}", folder.display());
            }
            _ => panic!("{} needs expected or error", folder.display()),
        }
        count += 1;
    }
    assert!(count > 10);
}

fn error(text: &str) -> String {
    parse(text.as_bytes()).unwrap_err().to_string()
}

#[test]
fn mistakes_are_told_in_buildkits_words_with_their_line() {
    for (text, message) in [
        ("FROM x\nRNU true", "dockerfile parse error on line 2: unknown instruction: RNU (did you mean RUN?)"),
        (
            "FROM x\n\nCOPY a",
            "dockerfile parse error on line 3: COPY requires at least two arguments, but only one was \
          provided. Destination could not be determined",
        ),
        ("FROM x y", "dockerfile parse error on line 1: FROM requires either one or three arguments"),
        (
            "FROM x AS 1a",
            "dockerfile parse error on line 1: invalid name for build stage: \"1a\", name can't start \
          with a number or contain symbols",
        ),
        ("FROM x\nCOPY --form=y a b", "dockerfile parse error on line 2: unknown flag: --form (did you mean from?)"),
        ("FROM x\nCOPY --from=a --from=b a b", "dockerfile parse error on line 2: duplicate flag specified: --from"),
        (
            "FROM x\nCOPY --link=x a b",
            "dockerfile parse error on line 2: expecting boolean value for flag --link, not: x",
        ),
        ("FROM x\nRUN --network=bridge true", "dockerfile parse error on line 2: invalid network mode \"bridge\""),
        (
            "FROM x\nONBUILD ONBUILD RUN a",
            "dockerfile parse error on line 2: Chaining ONBUILD via `ONBUILD ONBUILD` \
          isn't allowed",
        ),
        ("FROM x\nONBUILD FROM y", "dockerfile parse error on line 2: FROM isn't allowed as an ONBUILD trigger"),
        ("FROM x\nSHELL sh -c", "dockerfile parse error on line 2: SHELL requires the arguments to be in JSON form"),
        ("FROM x\nHEALTHCHECK CMD", "dockerfile parse error on line 2: Missing command after HEALTHCHECK CMD"),
        (
            "FROM x\nHEALTHCHECK FOO x",
            "dockerfile parse error on line 2: Unknown type \"FOO\" in HEALTHCHECK (try CMD)",
        ),
        (
            "FROM x\nHEALTHCHECK --interval=1us CMD x",
            "dockerfile parse error on line 2: Interval \"interval\" cannot be less than 1ms",
        ),
        ("FROM x\nENV", "dockerfile parse error on line 2: ENV requires at least one argument"),
        ("FROM x\nENV a", "ENV must have two arguments"),
        ("FROM x\nENV a=1 b", "Syntax error - can't find = in \"b\". Must be of the form: name=value"),
        ("FROM x\nCMD [\"a\", 1]", "when using JSON array syntax, arrays must be comprised of strings only"),
        ("FROM x\nRUN <<EOF\nx", "unterminated heredoc"),
        (
            "FROM x\nCOPY a <<EOF\nx\nEOF",
            "dockerfile parse error on line 2: COPY cannot accept a heredoc as a destination",
        ),
        ("RUN true", "no build stage in current context"),
        ("", "file with no instructions"),
        ("# only\n", "file with no instructions"),
        ("# escape=x\nFROM x", "invalid escape token 'x' does not match ` or \\"),
        ("# escape=\\\n# escape=\\\nFROM x", "only one escape parser directive can be used"),
    ] {
        assert_eq!(error(text), message, "{text}");
    }
    assert_eq!(parse(b"FROM x\nRUN a \\\n b \\\n c\nFOO").unwrap_err().lines, Some(Lines::new(5, 5)));
}

#[test]
fn instructions_know_their_lines() {
    let file =
        parse(b"# a comment\nFROM x AS Base\n\nRUN one \\\n  # within\n  two\nCOPY <<A <<B /d/\na\nA\nb\nB\n").unwrap();
    let stage = &file.stages[0];
    assert_eq!((stage.name.as_deref(), stage.lines), (Some("base"), Lines::new(2, 2)));
    assert_eq!(stage.instructions[0].lines, Lines::new(4, 6));
    assert_eq!(stage.instructions[0].code, "RUN one   two");
    assert_eq!(stage.instructions[1].lines, Lines::new(7, 11));
    let Kind::Copy(copy) = &stage.instructions[1].kind else { panic!() };
    assert_eq!(copy.sources.contents[1], Content { path: "B".into(), data: "b\n".into(), expand: true });
    let rules: Vec<lint::Rule> = file.warnings.iter().map(|warning| warning.rule).collect();
    assert_eq!(rules, [lint::Rule::StageNameCasing]);
}

#[test]
fn here_documents_keep_their_forms() {
    for (word, name, expand, chomp) in [
        ("<<EOF", "EOF", true, false),
        ("<<-EOF", "EOF", true, true),
        ("<<'EOF'", "EOF", false, false),
        ("3<<-\"E F\"", "E F", false, true),
        ("<<E\"O\"F", "EOF", false, false),
    ] {
        let heredoc = parse_heredoc(word).unwrap();
        assert_eq!((heredoc.name.as_str(), heredoc.expand, heredoc.chomp), (name, expand, chomp), "{word}");
    }
    for none in ["<EOF", "<<", "<<<x", "a<<EOF", "<<a b", "EOF"] {
        assert_eq!(parse_heredoc(none), None, "{none}");
    }
    let file = parse(b"FROM x\nRUN <<-EOF\n\techo\n\tEOF\n").unwrap();
    let Kind::Run(run) = &file.stages[0].instructions[0].kind else { panic!() };
    assert_eq!(run.command.files[0].text(), "echo\n");
}

fn word(text: &str) -> Result<String, String> {
    let env = ["HOME=/root", "EMPTY=", "P=a/b/c.tar.gz", "X=foobar"].map(str::to_owned);
    Shell::new('\\').word(text, &env_lookup(&env)).map(|word| word.text).map_err(|error| error.message)
}

#[test]
fn variables_have_all_modifiers() {
    for (text, expected) in [
        ("$HOME/x", "/root/x"),
        ("${HOME}x", "/rootx"),
        ("'$HOME'", "$HOME"),
        ("\"$HOME\"", "/root"),
        ("\\$HOME", "$HOME"),
        ("${NO:-d}", "d"),
        ("${NO-d}", "d"),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY-d}", ""),
        ("${HOME:+s}", "s"),
        ("${EMPTY+s}", "s"),
        ("${EMPTY:+s}", ""),
        ("${NO:-${HOME:+x}}", "x"),
        ("${HOME?}", "/root"),
        ("${P#*/}", "b/c.tar.gz"),
        ("${P##*/}", "c.tar.gz"),
        ("${P%.*}", "a/b/c.tar"),
        ("${P%%.*}", "a/b/c"),
        ("${X/o/0}", "f0obar"),
        ("${X//o/0}", "f00bar"),
        ("${P//\\//-}", "a-b-c.tar.gz"),
        ("${X#nope}", "foobar"),
        ("${X//?/xy}", "xyxyxyxyxyxy"),
        ("a $NO b", "a  b"),
        ("$", "$"),
        ("trailing\\", "trailing"),
    ] {
        assert_eq!(word(text).as_deref(), Ok(expected), "{text}");
    }
    for (text, message) in [
        ("${NO?gone}", "NO: gone"),
        ("${NO?}", "NO: is not allowed to be unset"),
        ("${EMPTY:?}", "EMPTY: is not allowed to be empty"),
        ("${HOME", "unsupported modifier (\u{fffd}) in substitution"),
        ("${}", "syntax error: bad substitution"),
        ("${", "syntax error: missing '}'"),
        ("${A:-b", "syntax error: missing '}'"),
        ("${A/b}", "syntax error: missing '/' in ${}"),
        ("${A:=b}", "unsupported modifier (:=) in substitution"),
        ("${A:#b}", "unsupported modifier (:#) in substitution"),
        ("${X#\\a}", "invalid pattern (\\a) in substitution: invalid escape '\\a'"),
        ("'a", "unexpected end of statement while looking for matching single-quote"),
    ] {
        assert_eq!(word(text), Err(message.to_owned()), "{text}");
    }
}

#[test]
fn what_doubles_itself_ends_in_an_error() {
    let big = [format!("A={}", "x".repeat(400_000))];
    let error = Shell::new('\\').word("$A$A$A", &env_lookup(&big)).unwrap_err();
    assert!(error.message.contains("longer than"), "{error}");
    let nested = "${a:-".repeat(10_000);
    assert!(word(&nested).unwrap_err().contains("nested"));
    assert!(parse("FROM x\nONBUILD ".repeat(5_000).as_bytes()).is_err());
    let stars = format!("${{A#{}z}}", "*a".repeat(3_000));
    let error = Shell::new('\\').word(&stars, &env_lookup(&big)).unwrap_err();
    assert!(error.message.contains("too long to match"), "{error}");
}

/// BuildKit's own cases, where somebody has them: `BUILDKIT_VECTORS` names a checkout's frontend/dockerfile.
#[test]
fn buildkits_public_vectors_agree() {
    let Some(root) = std::env::var_os("BUILDKIT_VECTORS").map(std::path::PathBuf::from) else {
        eprintln!("skipped: BUILDKIT_VECTORS is not set");
        return;
    };
    let mut problems = Vec::new();
    for entry in std::fs::read_dir(root.join("parser/testfiles")).unwrap() {
        let folder = entry.unwrap().path();
        let text = std::fs::read_to_string(folder.join("Dockerfile")).unwrap();
        let expected = std::fs::read_to_string(folder.join("result")).unwrap();
        match dump_file(&text) {
            Ok(got) if got.trim() == expected.trim() => {}
            got => problems.push(format!("{}:\n{got:?}\n{expected:?}", folder.display())),
        }
    }
    for entry in std::fs::read_dir(root.join("parser/testfiles-negative")).unwrap() {
        let folder = entry.unwrap().path();
        if parse(&std::fs::read(folder.join("Dockerfile")).unwrap()).is_ok() {
            problems.push(format!("{} should fail", folder.display()));
        }
    }
    let env = ["PWD=/home", "SHELL=bash", "KOREAN=한국어", "NULL="].map(str::to_owned);
    for (name, several) in [("shell/envVarTest", false), ("shell/wordsTest", true)] {
        let mut env = if several { vec!["PWD=/home".to_owned(), "SHELL=bash".to_owned()] } else { env.to_vec() };
        for line in std::fs::read_to_string(root.join(name)).unwrap().lines() {
            env.extend(line.strip_prefix("ENV ").filter(|_| several).map(str::to_owned));
            let line = line.split(" # ").next().unwrap();
            if line.starts_with('#') || line.trim().is_empty() {
                continue;
            }
            let line = match (several, line.split_once('|')) {
                (false, Some(("A" | "U", rest))) => rest,
                (false, _) => continue,
                (true, _) => line,
            };
            let Some((word, expected)) = line.split_once('|') else { continue };
            let (word, expected) = (word.trim(), expected.trim());
            let shell = Shell::new('\\');
            let got = match several {
                true => shell.words(&word.replace("\\n", "\n"), &env_lookup(&env)).map(|words| words.join(",")),
                false => shell.word(word, &env_lookup(&env)).map(|word| word.text),
            };
            let fine = match &got {
                Ok(text) if several => {
                    text.split(',').map(str::trim).eq(expected.split(',').map(str::trim)) || text == expected
                }
                Ok(text) => text.trim() == expected,
                Err(_) => expected == "error",
            };
            if !fine {
                problems.push(format!("{name}: {word:?}: {got:?} instead of {expected:?}"));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

proptest! {
    #[test]
    fn nothing_panics_on_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        drop(parse(&bytes));
    }

    #[test]
    fn nothing_panics_on_what_looks_like_a_dockerfile(
        lines in prop::collection::vec(
            "(FROM|RUN|COPY|ADD|ENV|ARG|LABEL|ONBUILD|HEALTHCHECK|SHELL|EXPOSE|VOLUME|CMD)? ?(--[a-z]{0,6}=?)?[ -~]{0,40}",
            0..8,
        ),
    ) {
        let text = lines.join("\n");
        if let Ok(mut file) = parse(text.as_bytes()) {
            let shell = Shell::new('\\');
            for one in file.stages.iter_mut().flat_map(|stage| &mut stage.instructions) {
                let mut expander = |word: &str| shell.word(word, &|_: &str| Some("v*[".to_owned())).map(|word| word.text);
                drop(one.expand(&mut expander));
            }
        }
    }

    #[test]
    fn words_and_patterns_never_panic(text in "[$\\{\\}:#%/?*a'\"\\\\ <+-]{0,40}", path in "[a-c/*\\[\\]^-]{0,20}") {
        drop(Shell::new('\\').word(&text, &|_: &str| Some("a/b*".to_owned())));
        drop(Shell::new('`').words(&text, &|_: &str| None));
        prop_assert!(ignore::name_matches(&path, &text).is_none_or(|hit| hit == ignore::name_matches(&path, &text).unwrap()));
        if let Ok(matcher) = ignore::Matcher::new(&[path]) {
            prop_assert_eq!(matcher.matches(&text), matcher.matches(&text));
        }
    }
}
