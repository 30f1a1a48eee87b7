//! What a command said.

/// Exit code and texts of a finished command.
#[derive(Debug)]
pub struct Output {
    pub command: String,
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Runs `command` to its end; panics if it does not start.
    #[track_caller]
    pub fn of(command: &mut std::process::Command) -> Output {
        let shown = format!("{command:?}");
        let output = command.output().unwrap_or_else(|error| panic!("cannot start {shown}: {error}"));
        Output::said(shown, &output)
    }

    /// What a process said that was started as `command`.
    pub(crate) fn said(command: String, output: &std::process::Output) -> Output {
        Output {
            command,
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Standard output without the final newline; panics with everything said unless the code was 0.
    #[track_caller]
    pub fn success(self) -> String {
        assert_eq!(self.code, 0, "{}\nstdout: {}\nstderr: {}", self.command, self.stdout, self.stderr);
        self.stdout.trim_end_matches('\n').to_owned()
    }

    /// Standard error; panics unless the command exited with `code`.
    #[track_caller]
    pub fn failure(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}\nstdout: {}\nstderr: {}", self.command, self.stdout, self.stderr);
        self.stderr
    }
}
