use super::*;
use berth_types::spec::{DeviceRequest, Ulimit};

fn facts() -> HostFacts {
    HostFacts {
        memory_limit: true,
        swap_limit: true,
        swappiness: true,
        oom_kill_disable: true,
        cpu_shares: true,
        cpu_cfs: true,
        cpuset: true,
        pids_limit: true,
        blkio_weight: true,
        blkio_throttle: true,
        seccomp: true,
        cpus: 2,
        cpus_online: "0-1".to_owned(),
        memory_nodes_online: "0".to_owned(),
        ..HostFacts::default()
    }
}

fn with(change: impl FnOnce(&mut ContainerSpec)) -> Result<Vec<String>> {
    let mut spec = ContainerSpec::default();
    spec.config.cmd = Some(vec!["true".to_owned()]);
    change(&mut spec);
    validate(&spec, &facts())
}

fn refusal(change: impl FnOnce(&mut ContainerSpec)) -> String {
    with(change).unwrap_err().to_string()
}

#[test]
fn a_plain_container_passes_without_a_word() {
    assert_eq!(with(|_| {}).unwrap(), [] as [String; 0]);
}

/// Makes one field of a good specification bad.
type Spoil = fn(&mut ContainerSpec);

#[test]
fn refusals_are_in_dockers_words() {
    let cases: [(&str, Spoil); 16] = [
        ("no command specified", |s| s.config.cmd = None),
        ("Minimum memory limit allowed is 6MB", |s| s.host.resources.memory_bytes = 1 << 20),
        ("Minimum memoryswap limit should be larger than memory limit, see usage", |s| {
            s.host.resources.memory_bytes = 64 << 20;
            s.host.resources.memory_swap_bytes = 32 << 20;
        }),
        ("You should always set the Memory limit when using Memoryswap limit, see usage", |s| {
            s.host.resources.memory_swap_bytes = 32 << 20;
        }),
        ("Invalid value: 101, valid memory swappiness range is 0-100", |s| {
            s.host.resources.memory_swappiness = Some(101);
        }),
        ("range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available", |s| {
            s.host.resources.nano_cpus = 3_000_000_000;
        }),
        ("Requested CPUs are not available - requested 0-7, available: 0-1", |s| {
            s.host.resources.cpuset_cpus = "0-7".to_owned();
        }),
        ("Range of blkio weight is from 10 to 1000", |s| s.host.resources.blkio_weight = 5),
        ("Invalid value 2000, range for oom score adj is [-1000, 1000]", |s| s.host.resources.oom_score_adj = 2000),
        ("can't create 'AutoRemove' container with restart policy", |s| {
            s.host.auto_remove = true;
            s.host.restart = RestartPolicy::Always;
        }),
        ("the working directory 'x' is invalid, it needs to be an absolute path", |s| {
            s.config.working_dir = "x".into()
        }),
        ("invalid environment variable: =x", |s| s.config.env = vec!["=x".to_owned()]),
        ("error looking up logging plugin syslog: plugin \"syslog\" not found", |s| {
            s.host.log.driver = "syslog".to_owned();
        }),
        ("unknown log opt 'colour' for json-file log driver", |s| {
            s.host.log.options.insert("colour".to_owned(), "red".to_owned());
        }),
        ("unknown or invalid runtime name: kata", |s| s.host.runtime = "kata".to_owned()),
        ("invalid signal: SIGNOPE", |s| s.config.stop_signal = Some("SIGNOPE".to_owned())),
    ];
    for (words, change) in cases {
        assert_eq!(refusal(change), words);
    }
}

#[test]
fn nothing_that_we_cannot_do_is_ignored() {
    let cases: [fn(&mut ContainerSpec); 9] = [
        |s| s.host.userns_mode = NamespaceMode::Private,
        |s| drop(s.host.storage_opt.insert("size".to_owned(), "1g".to_owned())),
        |s| s.host.resources.kernel_memory_bytes = 1 << 30,
        |s| s.host.resources.device_requests = vec![DeviceRequest::default()],
        |s| s.host.resources.cpu_rt_runtime_micros = 1,
        |s| s.host.isolation = "hyperv".to_owned(),
        |s| s.host.resources.cgroup_parent = "/a/../../b".to_owned(),
        |s| s.host.resources.ulimits = vec![Ulimit { name: "nofile".to_owned(), soft: 2, hard: 1 }],
        |s| s.host.dns = vec!["nowhere".to_owned()],
    ];
    for (number, change) in cases.into_iter().enumerate() {
        assert!(with(change).is_err(), "case {number}");
    }
}

#[test]
fn limits_that_the_host_cannot_keep_are_warned_about() {
    let mut spec = ContainerSpec::default();
    spec.config.cmd = Some(vec!["true".to_owned()]);
    spec.host.resources = Resources {
        memory_bytes: 64 << 20,
        cpu_shares: 10,
        pids_limit: Some(5),
        blkio_weight: 100,
        ..Resources::default()
    };
    let bare = HostFacts { cpus: 1, ..HostFacts::default() };
    assert_eq!(validate(&spec, &bare).unwrap().len(), 4);
    let no_swap = HostFacts { swap_limit: false, ..facts() };
    let warnings = validate(&spec, &no_swap).unwrap();
    assert!(warnings[0].ends_with("Memory limited without swap."), "{warnings:?}");
}

#[test]
fn an_update_does_not_contradict_what_is_set() {
    let now = Resources { nano_cpus: 1, memory_swap_bytes: 64 << 20, ..Resources::default() };
    let quota = Resources { cpu_quota_micros: 5000, ..Resources::default() };
    assert!(validate_update(&now, &quota, &facts()).is_err());
    let memory = Resources { memory_bytes: 128 << 20, ..Resources::default() };
    assert!(
        validate_update(&now, &memory, &facts()).unwrap_err().message.starts_with("Memory limit should be smaller")
    );
    validate_update(&now, &Resources { cpu_shares: 9, ..Resources::default() }, &facts()).unwrap();
}

#[test]
fn signals_have_names_numbers_and_realtime_offsets() {
    let pairs = [("SIGTERM", 15), ("term", 15), ("9", 9), ("RTMIN+3", 37), ("SIGRTMAX-1", 63), ("SIGWINCH", 28)];
    for (text, number) in pairs {
        assert_eq!(signal_number(text), Some(number), "{text}");
    }
    for bad in ["", "0", "65", "SIGNOPE", "RTMIN+99", "-9"] {
        assert_eq!(signal_number(bad), None, "{bad}");
    }
}

#[test]
fn sizes_are_read_as_docker_reads_them() {
    assert_eq!(size_bytes("10m"), Some(10 << 20));
    assert_eq!(size_bytes("1.5kb"), Some(1536));
    assert_eq!(size_bytes("ten"), None);
}
