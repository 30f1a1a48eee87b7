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
