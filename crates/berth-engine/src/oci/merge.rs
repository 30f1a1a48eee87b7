//! What the image says and what the caller says become one.

use berth_types::spec::{Config, ContainerSpec, ImageDefaults};
use berth_types::{Error, Result};

/// Fills in what the caller left to the image, as Docker does it, and the defaults that Docker's `inspect`
/// shows (swap limit, size of /dev/shm, masked and read-only paths).
pub fn merge(spec: &mut ContainerSpec, image: &ImageDefaults) {
    config(&mut spec.config, &image.config);
    let host = &mut spec.host;
    if host.resources.memory_bytes > 0 && host.resources.memory_swap_bytes == 0 {
        host.resources.memory_swap_bytes = host.resources.memory_bytes.saturating_mul(2);
    }
    if host.resources.memory_swappiness == Some(-1) {
        host.resources.memory_swappiness = None;
    }
    // Clients send 0 or -1 for no limit; `inspect` says `null` then.
    host.resources.pids_limit = host.resources.pids_limit.filter(|limit| *limit > 0);
    if host.shm_size_bytes == 0 {
        host.shm_size_bytes = super::build::SHM_BYTES_DEFAULT;
    }
    let unconfined = host.privileged || host.security_opt.iter().any(|opt| opt == "systempaths=unconfined");
    if !unconfined {
        host.masked_paths.get_or_insert_with(|| super::build::masked_paths().to_vec());
        host.readonly_paths.get_or_insert_with(super::build::readonly_paths);
    }
}

fn config(own: &mut Config, image: &Config) {
    let fill = |own: &mut String, image: &String| {
        if own.is_empty() {
            own.clone_from(image);
        }
    };
    fill(&mut own.user, &image.user);
    fill(&mut own.working_dir, &image.working_dir);
    own.exposed_ports.extend(image.exposed_ports.iter().copied());
    own.volumes.extend(image.volumes.iter().cloned());
    let key = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let asked: std::collections::HashSet<String> = own.env.iter().map(|entry| key(entry)).collect();
    own.env.extend(image.env.iter().filter(|entry| !asked.contains(&key(entry))).cloned());
    for (key, value) in &image.labels {
        own.labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    // A new entry point drops the image's arguments: they belong to the old one.
    if own.entrypoint.as_ref().is_none_or(Vec::is_empty) {
        if own.cmd.as_ref().is_none_or(Vec::is_empty) {
            own.cmd.clone_from(&image.cmd);
        }
        if own.entrypoint.is_none() {
            own.entrypoint.clone_from(&image.entrypoint);
        }
    }
    if own.entrypoint.as_deref() == Some(&[String::new()]) {
        own.entrypoint = None;
    }
    if own.stop_signal.is_none() {
        own.stop_signal.clone_from(&image.stop_signal);
    }
    if own.shell.is_none() {
        own.shell.clone_from(&image.shell);
    }
    if let Some(theirs) = &image.healthcheck {
        let ours = own.healthcheck.get_or_insert_default();
        if ours.test.is_empty() {
            ours.test.clone_from(&theirs.test);
        }
        for (ours, theirs) in [
            (&mut ours.interval_nanos, theirs.interval_nanos),
            (&mut ours.timeout_nanos, theirs.timeout_nanos),
            (&mut ours.start_period_nanos, theirs.start_period_nanos),
            (&mut ours.start_interval_nanos, theirs.start_interval_nanos),
        ] {
            if *ours == 0 {
                *ours = theirs;
            }
        }
        if ours.retries == 0 {
            ours.retries = theirs.retries;
        }
    }
}

/// Program and arguments of a merged specification; `no command specified` where there are none.
pub fn command(spec: &ContainerSpec) -> Result<Vec<String>> {
    let parts = [&spec.config.entrypoint, &spec.config.cmd];
    let command: Vec<String> = parts.into_iter().flatten().flatten().cloned().collect();
    if command.is_empty() {
        return Err(Error::invalid("no command specified"));
    }
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(words: &[&str]) -> Option<Vec<String>> {
        Some(words.iter().map(|&word| word.to_owned()).collect())
    }

    fn image() -> ImageDefaults {
        ImageDefaults {
            config: Config {
                entrypoint: list(&["/entry"]),
                cmd: list(&["serve"]),
                env: vec!["PATH=/bin".to_owned(), "A=1".to_owned()],
                user: "web".to_owned(),
                ..Config::default()
            },
            ..ImageDefaults::default()
        }
    }

    fn merged(config: Config) -> ContainerSpec {
        let mut spec = ContainerSpec { config, ..ContainerSpec::default() };
        merge(&mut spec, &image());
        spec
    }

    #[test]
    fn the_callers_arguments_replace_the_images_and_keep_its_entry_point() {
        let spec = merged(Config { cmd: list(&["ls"]), ..Config::default() });
        assert_eq!(command(&spec).unwrap(), ["/entry", "ls"]);
        assert_eq!(command(&merged(Config::default())).unwrap(), ["/entry", "serve"]);
    }

    #[test]
    fn a_new_entry_point_drops_the_images_arguments() {
        let spec = merged(Config { entrypoint: list(&["/bin/sh"]), ..Config::default() });
        assert_eq!(command(&spec).unwrap(), ["/bin/sh"]);
    }

    #[test]
    fn an_empty_entry_point_resets_it_and_without_arguments_nothing_is_left_to_run() {
        let reset = Config { entrypoint: list(&[""]), cmd: list(&["ls"]), ..Config::default() };
        assert_eq!(command(&merged(reset)).unwrap(), ["ls"]);
        let nothing = Config { entrypoint: list(&[""]), ..Config::default() };
        assert_eq!(command(&merged(nothing)).unwrap_err().message, "no command specified");
    }

    #[test]
    fn the_callers_environment_comes_first_and_wins() {
        let spec = merged(Config { env: vec!["A=2".to_owned(), "B=3".to_owned()], ..Config::default() });
        assert_eq!(spec.config.env, ["A=2", "B=3", "PATH=/bin"]);
        assert_eq!(spec.config.user, "web");
    }

    #[test]
    fn what_clients_send_for_no_limit_is_none() {
        for (sent, limit) in [(0, None), (-1, None), (7, Some(7))] {
            let mut spec = ContainerSpec::default();
            spec.host.resources.pids_limit = Some(sent);
            spec.host.resources.memory_swappiness = Some(-1);
            merge(&mut spec, &ImageDefaults::default());
            assert_eq!((spec.host.resources.pids_limit, spec.host.resources.memory_swappiness), (limit, None));
        }
    }

    #[test]
    fn swap_defaults_to_twice_the_memory() {
        let mut spec = ContainerSpec::default();
        spec.host.resources.memory_bytes = 64 << 20;
        merge(&mut spec, &ImageDefaults::default());
        assert_eq!(spec.host.resources.memory_swap_bytes, 128 << 20);
        assert_eq!(spec.host.shm_size_bytes, 64 << 20);
        assert!(spec.host.masked_paths.unwrap().contains(&"/proc/kcore".to_owned()));
    }
}
