//! Shell completion: three small scripts that ask this program, which knows its own tables.

use super::{Flag, GROUPS, Names, all, find, parse::GLOBAL_FLAGS};

pub(crate) const BASH: &str = r#"# berth completion for bash. The names come from the engine when tab is pressed.
_berth() {
    local cur words
    cur="${COMP_WORDS[COMP_CWORD]}"
    words=("${COMP_WORDS[@]:1:COMP_CWORD-1}")
    # A colon splits words in bash: put image names together again.
    if declare -F _get_comp_words_by_ref >/dev/null; then
        local all cword
        _get_comp_words_by_ref -n : -w all -i cword -c cur
        words=("${all[@]:1:cword-1}")
    fi
    local IFS=$'\n'
    COMPREPLY=($("${COMP_WORDS[0]}" __complete -- "${words[@]}" "$cur" 2>/dev/null))
    if [[ ${#COMPREPLY[@]} -eq 0 ]]; then
        compopt -o default 2>/dev/null
    fi
    declare -F __ltrim_colon_completions >/dev/null && __ltrim_colon_completions "$cur"
}
complete -F _berth berth
"#;

pub(crate) const ZSH: &str = r#"#compdef berth
# berth completion for zsh. The names come from the engine when tab is pressed.
_berth() {
    local -a found
    found=("${(@f)$(${words[1]} __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n "${found[1]}" ]]; then
        compadd -- "${found[@]}"
    else
        _files
    fi
}
if [[ "${funcstack[1]}" = "_berth" ]]; then _berth "$@"; else compdef _berth berth; fi
"#;

pub(crate) const FISH: &str = r#"# berth completion for fish. The names come from the engine when tab is pressed.
function __berth_complete
    set -l words (commandline -opc) (commandline -ct)
    berth __complete -- $words[2..-1] 2>/dev/null
end
complete -c berth -f -a '(__berth_complete)'
complete -c berth -n 'test (count (__berth_complete)) -eq 0' -F
"#;

/// What may stand in place of `current` behind `before`, and which names of the engine also may.
pub(crate) fn candidates(before: &[String], current: &str) -> (Vec<String>, Names) {
    let words = skip_global(before);
    let Some(called) = find(words) else {
        let mut out: Vec<String> = match words {
            [] => all()
                .flat_map(|c| c.paths)
                .filter(|p| !p.contains(' ') && !p.starts_with("__"))
                .map(|p| (*p).to_owned())
                .chain(GROUPS.iter().map(|(g, _)| (*g).to_owned()))
                .collect(),
            [group, ..] => all()
                .flat_map(|c| c.paths)
                .filter_map(|p| p.strip_prefix(group.as_str())?.strip_prefix(' '))
                .map(str::to_owned)
                .collect(),
        };
        if current.starts_with('-') && words.is_empty() {
            out = GLOBAL_FLAGS.lines().filter_map(Flag::from_line).map(|f| format!("--{}", f.long)).collect();
        }
        return (out, Names::None);
    };
    let (command, rest) = (called.command, &words[called.words()..]);
    let flags = command.parsed_flags();
    let (position, expects_value) = place(rest, &flags, command.tail);
    if let Some(flag) = expects_value {
        return match flag {
            "network" => (Vec::new(), Names::Networks),
            "volumes-from" | "link" => (Vec::new(), Names::Containers),
            "restart" => (["no", "always", "on-failure", "unless-stopped"].map(str::to_owned).to_vec(), Names::None),
            "pull" => (["always", "missing", "never"].map(str::to_owned).to_vec(), Names::None),
            "format" => (["json", "table"].map(str::to_owned).to_vec(), Names::None),
            "type" => (["container", "image", "network", "volume"].map(str::to_owned).to_vec(), Names::None),
            _ => (Vec::new(), Names::None),
        };
    }
    if command.tail && position > 0 {
        return (Vec::new(), Names::None);
    }
    if current.starts_with('-') {
        let mut out: Vec<String> = flags.iter().map(|f| format!("--{}", f.long)).collect();
        out.push("--help".to_owned());
        return (out, Names::None);
    }
    if command.name() == "completion" {
        return (["bash", "zsh", "fish"].map(str::to_owned).to_vec(), Names::None);
    }
    let names = match command.names {
        Names::NetworkThenContainer if position > 0 => Names::Containers,
        names if position < command.max => names,
        _ => Names::None,
    };
    (Vec::new(), names)
}

fn skip_global(words: &[String]) -> &[String] {
    let mut rest = words;
    while let Some(first) = rest.first().filter(|w| w.starts_with('-')) {
        let takes_value =
            matches!(first.as_str(), "-H" | "--host" | "-c" | "--context" | "--config" | "-l" | "--log-level");
        rest = rest.get(1 + usize::from(takes_value)..).unwrap_or_default();
    }
    rest
}

/// How many plain words there are, and the flag that waits for its value at the end.
fn place(words: &[String], flags: &[Flag], tail: bool) -> (usize, Option<&'static str>) {
    let mut position = 0;
    let mut waiting = None;
    for word in words {
        if waiting.take().is_some() {
            continue;
        }
        if tail && position > 0 {
            position += 1;
            continue;
        }
        let flag = match word.strip_prefix("--") {
            Some(long) if !long.contains('=') => flags.iter().find(|f| f.long == long),
            Some(_) => None,
            None if word.starts_with('-') => {
                word.chars().last().and_then(|c| flags.iter().find(|f| f.short == Some(c)))
            }
            None => {
                position += 1;
                None
            }
        };
        waiting = flag.filter(|f| !f.word.is_empty()).map(|f| f.long);
    }
    (position, waiting)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(words: &[&str], current: &str) -> (Vec<String>, Names) {
        candidates(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>(), current)
    }

    #[test]
    fn each_place_of_a_line_offers_what_belongs_there() {
        assert!(ask(&[], "").0.contains(&"run".to_owned()));
        assert!(ask(&["container"], "").0.contains(&"ls".to_owned()));
        assert_eq!(ask(&["rm", "-f"], "").1, Names::Containers);
        assert_eq!(ask(&["container", "rm"], "").1, Names::Containers);
        assert_eq!(ask(&["run", "--rm"], "").1, Names::Images);
        assert_eq!(ask(&["run", "--network"], "").1, Names::Networks);
        assert_eq!(ask(&["run", "img"], "").1, Names::None);
        assert_eq!(ask(&["-H", "unix:///x", "exec", "-it"], "").1, Names::Running);
        assert_eq!(ask(&["network", "connect", "a"], "").1, Names::Containers);
        assert!(ask(&["run"], "--vol").0.contains(&"--volume".to_owned()));
        assert!(ask(&["run", "--restart"], "").0.contains(&"always".to_owned()));
    }
}
