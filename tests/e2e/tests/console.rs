//! The web console in a real browser: `tests/console/`, run with node.

use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn the_console_works_in_a_real_browser() {
    if let Some(why) = berth_testkit::missing() {
        return eprintln!("skipped: {why}");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let node = Command::new("node").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !node.is_ok_and(|status| status.success()) {
        return eprintln!("skipped: needs node");
    }
    if std::env::var_os("BERTH_NO_BROWSER").is_some() {
        return eprintln!("skipped: BERTH_NO_BROWSER is set");
    }
    // Nobody reads what a test that passes has written: where there is node, what else is missing is a failure.
    let needed = [
        (Path::new("/usr/bin/chromium").to_owned(), "apt-get install chromium"),
        (root.join("web/node_modules/playwright-core"), "make console"),
        (root.join("web/dist/app/index.html"), "make console, then build the engine again"),
    ];
    for (path, remedy) in needed {
        assert!(path.exists(), "{} is missing: {remedy}; BERTH_NO_BROWSER=1 leaves this test out", path.display());
    }
    let output = Command::new("node")
        // They wait more than they work: not one after the other on a small machine.
        .args(["--test", "--test-concurrency=3"])
        .args(
            [
                "console.test.mjs",
                "machines.test.mjs",
                "work.test.mjs",
                "limits.test.mjs",
                "hostile.test.mjs",
                "upkeep.test.mjs",
            ]
            .map(|file| root.join("tests/console").join(file)),
        )
        .env("BERTH_PROGRAMS", berth_testkit::programs())
        .stdin(Stdio::null())
        .output()
        .expect("node starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("# pass ") || text.contains("ℹ pass "), "no test ran:\n{text}");
}
