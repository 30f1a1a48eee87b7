use super::*;
use crate::containers::State;
use crate::networks::Attachment;
use berth_types::ContainerId;
use std::path::PathBuf;

fn inspect(phase: Phase, error: &str) -> Inspect {
    let exit_code = match phase {
        Phase::Exited { status, .. } => i64::from(status.shell_code()),
        _ => 0,
    };
    let state = State {
        phase,
        restarting: false,
        started_unix_nanos: 10 * SECOND_NANOS,
        finished_unix_nanos: 20 * SECOND_NANOS,
        error: error.to_owned(),
        exit_code,
        oom_killed: false,
        dead: false,
        health: None,
        template: false,
    };
    Inspect {
        id: ContainerId::from_bytes([1; 32]),
        name: "web".to_owned(),
        created_unix_nanos: 0,
        spec: Default::default(),
        image_id: None,
        platform: String::new(),
        path: "server".to_owned(),
        args: Vec::new(),
        state,
        restart_count: 0,
        resolv_conf_path: PathBuf::new(),
        hostname_path: PathBuf::new(),
        hosts_path: PathBuf::new(),
        log_path: PathBuf::new(),
        app_armor_profile: String::new(),
        exec_ids: Vec::new(),
        rootfs: None,
        mounts: Vec::new(),
        network: Attachment::default(),
        networks: Default::default(),
        sizes: None,
    }
}

fn record(status: ExitStatus) -> ExitRecord {
    ExitRecord {
        status,
        oom_killed: false,
        started_unix_nanos: 10 * SECOND_NANOS,
        finished_unix_nanos: 20 * SECOND_NANOS,
        memory_limit_bytes: Some(64 << 20),
        memory_peak_bytes: Some(64 << 20),
        last_signal_sent: None,
    }
}

fn answer(inspect: &Inspect, exit: Option<&ExitRecord>, program: Option<&Program>) -> Answer {
    let lines = ["FATAL: no config".to_owned()];
    explain(&Facts {
        full: vec!["the disk of /data is full".to_owned()],
        unwritten: false,
        port_holder: None,
        inspect,
        exit,
        program,
        lines: &lines,
        now_unix_nanos: 80 * SECOND_NANOS,
    })
}

fn ended(exit: &ExitRecord) -> Answer {
    answer(&inspect(Phase::Exited { status: exit.status, oom_killed: exit.oom_killed }, ""), Some(exit), None)
}

#[test]
fn out_of_memory_says_limit_peak_and_how_to_raise_it() {
    let exit = ExitRecord { oom_killed: true, ..record(ExitStatus::Signal(9)) };
    let (summary, details, hint) = ended(&exit);
    assert_eq!(summary, "was killed by the kernel: out of memory");
    assert!(details.contains(&"its memory limit is 64 MiB".to_owned()), "{details:?}");
    assert!(details.contains(&"the most that it had was 64 MiB".to_owned()), "{details:?}");
    assert_eq!(hint.unwrap(), "berth update --memory 128m --memory-swap 256m web && berth start web");
}

#[test]
fn a_signal_of_ours_is_told_from_a_strangers() {
    let ours = ExitRecord { last_signal_sent: Some((15, 19 * SECOND_NANOS)), ..record(ExitStatus::Signal(15)) };
    assert_eq!(ended(&ours).0, "was stopped by SIGTERM, as asked");
    assert_eq!(ended(&record(ExitStatus::Signal(9))).0, "was killed by SIGKILL from outside of this engine");
    assert_eq!(ended(&record(ExitStatus::Signal(11))).0, "crashed with SIGSEGV");
    let polite = ExitRecord { last_signal_sent: Some((15, 19 * SECOND_NANOS)), ..record(ExitStatus::Code(143)) };
    assert_eq!(ended(&polite).0, "ended with code 143 after SIGTERM, as asked");
}

#[test]
fn a_failure_quotes_the_last_words() {
    let (summary, details, hint) = ended(&record(ExitStatus::Code(1)));
    assert_eq!(summary, "ended by itself with code 1");
    assert_eq!(details.last().unwrap(), "  FATAL: no config");
    assert_eq!(details[0], "ran for 10 seconds, ended 60 seconds ago");
    assert_eq!(hint.as_deref(), Some("berth logs web"));
    assert!(!ended(&record(ExitStatus::Code(0))).1.iter().any(|line| line.contains("FATAL")));
}

#[test]
fn a_start_that_failed_is_explained_by_the_program_file() {
    let inspect = inspect(Phase::Created, "exec /app/run: no such file or directory");
    let path = PathBuf::from("/app/run");
    let says = |program: Program| {
        let (summary, _, hint) = answer(&inspect, None, Some(&program));
        (summary, hint.unwrap_or_default())
    };
    let (summary, hint) = says(Program::NoLoader { path: path.clone(), loader: "/lib/ld-musl-x86_64.so.1".to_owned() });
    assert_eq!(summary, "does not start: the loader of /app/run is missing");
    assert!(hint.contains("musl"), "{hint}");
    let interpreter = "/bin/bash\r".to_owned();
    assert!(says(Program::NoInterpreter { path: path.clone(), interpreter }).0.ends_with("has Windows line endings"));
    assert!(
        says(Program::WrongArchitecture { path: path.clone(), built_for: "s390x".to_owned() })
            .0
            .ends_with("another processor")
    );
    assert!(says(Program::NoShebang(path.clone())).1.starts_with("put #!/bin/sh"));
    assert!(says(Program::NotExecutable(path)).1.starts_with("chmod +x"));
}

#[test]
fn other_failures_are_known_by_their_words_and_keep_their_own_hint() {
    let says = |error: &str| answer(&inspect(Phase::Created, error), None, None);
    assert_eq!(
        says("Bind for 0.0.0.0:80 failed: port is already allocated").0,
        "does not start: a port that it publishes is taken"
    );
    assert!(says("unable to find user x: no matching entries in passwd file").2.unwrap().contains("--user"));
    let (_, details, hint) = says("something odd\nhint: do that");
    assert_eq!((details.as_slice(), hint.as_deref()), (&["something odd".to_owned()][..], Some("do that")));
}

#[test]
fn the_living_are_explained_too() {
    let mut inspect = inspect(Phase::Running { pid: 7 }, "");
    assert_eq!(answer(&inspect, None, None).0, "runs since 70 seconds");
    inspect.state.phase = Phase::Paused { pid: 7 };
    assert_eq!(answer(&inspect, None, None).2.as_deref(), Some("berth unpause web"));
    inspect.state.phase = Phase::Created;
    assert_eq!(answer(&inspect, None, None).0, "has been created and was never started");
}
