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
    if !Path::new("/usr/bin/chromium").exists() {
        return eprintln!("skipped: needs chromium: apt-get install chromium");
    }
    for (path, what) in
        [("web/node_modules/playwright-core", "playwright-core"), ("web/dist/app/index.html", "the pages")]
    {
        if !root.join(path).exists() {
            return eprintln!("skipped: needs {what}: make console");
        }
    }
    let output = Command::new("node")
        .arg("--test")
        .args(
            ["console.test.mjs", "machines.test.mjs", "work.test.mjs", "hostile.test.mjs"]
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
