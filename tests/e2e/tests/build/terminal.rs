//! A build as somebody at a terminal sees it.

use crate::common::Context;
use berth_testkit::Engine;

/// What is on the screen after all that was written: lines, with the cursor's moves done.
fn screen(written: &str) -> Vec<String> {
    let (mut lines, mut at, mut column): (Vec<String>, usize, usize) = (vec![String::new()], 0, 0);
    let mut rest = written;
    while let Some(first) = rest.chars().next() {
        if let Some(sequence) = rest.strip_prefix("\u{1b}[") {
            let end = sequence.find(|c: char| c.is_ascii_alphabetic()).expect("a whole sequence");
            let count: usize = sequence[..end].parse().unwrap_or(1);
            match &sequence[end..=end] {
                "A" => at = at.saturating_sub(count),
                "J" => {
                    lines.truncate(at + 1);
                    lines[at].truncate(column);
                }
                other => panic!("an unexpected sequence: {other}"),
            }
            rest = &sequence[end + 1..];
            continue;
        }
        match first {
            '\n' => {
                at += 1;
                if at == lines.len() {
                    lines.push(String::new());
                }
                column = 0;
            }
            '\r' => column = 0,
            other => {
                let line = &mut lines[at];
                *line = line.chars().take(column).chain([other]).collect();
                column += 1;
            }
        }
        rest = &rest[first.len_utf8()..];
    }
    lines.into_iter().filter(|line| !line.is_empty()).collect()
}

#[test]
fn what_runs_is_redrawn_with_its_time_and_what_is_done_stays() {
    let Some(engine) = Engine::start("build-terminal") else { return };
    let context = Context::new(
        "FROM tiny AS one\nRUN echo first >/f\nRUN for i in 1 2 3 4 5 6 7; do echo line $i; done; sleep 2; echo last\n\
         FROM tiny\nENV A=1\nRUN sleep 1\nCOPY --from=one /f /f\n",
        &[],
    );
    let path = context.path().to_str().unwrap();
    let client = engine.berth_on_terminal(["build", "-t", "seen", path]);
    client.wait_for("=> => # line 7");
    // It says nothing for two seconds; its time goes on.
    client.wait_for(" 1.5s");
    let output = client.wait();
    assert_eq!(output.code, 0, "{}", output.stdout);
    for step in ["[one 2/3] RUN echo first", "[one 3/3] RUN for", "[stage-1 2/3] RUN sleep 1"] {
        assert!(output.stdout.contains(step), "{step}: {}", output.stdout);
    }
    assert!(output.stdout.contains("[+] Building "), "{}", output.stdout);
    let seen = screen(&output.stdout);
    // One line for each step, its time at the right, nothing left of what was redrawn.
    let step = |words: &str| seen.iter().filter(|line| line.contains(words)).collect::<Vec<_>>();
    assert_eq!(step("RUN for i in").len(), 1, "{seen:#?}");
    assert!(step("RUN for i in")[0].ends_with('s') && step("RUN for i in")[0].chars().count() <= 99, "{seen:#?}");
    assert!(step("=> => #").is_empty() && step("[+] Building").is_empty() && step("ENV").is_empty(), "{seen:#?}");
    assert!(seen.last().unwrap().starts_with("made sha256:"), "{seen:#?}");
    let again = engine.berth_on_terminal(["build", "-t", "seen", path]).wait();
    assert_eq!(screen(&again.stdout).iter().filter(|line| line.starts_with(" => CACHED ")).count(), 4, "{again:?}");
    context.write("Dockerfile", "FROM tiny\nRUN echo why >&2; exit 3\n");
    let failed = engine.berth_on_terminal(["build", path]).wait();
    let seen = screen(&failed.stdout);
    assert_eq!(failed.code, 1);
    let at =
        |words: &str| seen.iter().position(|line| line.contains(words)).unwrap_or_else(|| panic!("{words}: {seen:#?}"));
    assert!(at("=> ERROR [2/2] RUN echo why") < at(" > why") && at(" > why") < at("Dockerfile:2"), "{seen:#?}");
}
