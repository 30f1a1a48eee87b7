//! Processes: the container's own, those of `exec`, and health probes.

use super::security::Security;
use super::{HostFacts, caps, security};
use crate::containers::ExecSpec;
use berth_types::spec::ContainerSpec;
use berth_types::{Error, ErrorKind, Result};
use oci_spec::runtime::{
    BoxBuilder, LinuxCapabilities, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, User,
};
use std::path::Path;
use std::str::FromStr;

/// Where programs are looked for when nobody says otherwise.
const PATH_DEFAULT: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The container's own process.
pub(super) fn main_process(
    spec: &ContainerSpec,
    hostname: &str,
    command: &[String],
    security: &Security,
    labels: Option<&str>,
) -> Result<Process> {
    let config = &spec.config;
    let mut process = common(spec, hostname, security)?;
    process
        .set_args(Some(command.to_vec()))
        .set_terminal(Some(config.tty))
        .set_console_size(config.tty.then(|| console(spec.host.console_size)).flatten())
        .set_oom_score_adj(Some(spec.host.resources.oom_score_adj))
        .set_selinux_label(labels.map(str::to_owned));
    Ok(process)
}

/// What all processes of a container share: user, environment, folder, rights, limits.
fn common(spec: &ContainerSpec, hostname: &str, security: &Security) -> Result<Process> {
    let config = &spec.config;
    let cwd = if config.working_dir.is_empty() { "/" } else { &config.working_dir };
    let mut process = Process::default();
    process
        .set_user(user(&config.user, spec))
        .set_env(Some(environment(spec, hostname, config.tty)))
        .set_cwd(super::clean(Path::new(cwd)))
        .set_capabilities(Some(capabilities(spec, false)?))
        .set_rlimits(rlimits(spec)?)
        .set_no_new_privileges(Some(security.no_new_privileges))
        .set_apparmor_profile(security::apparmor(security, spec.host.privileged, HostFacts::get()))
        .set_terminal(Some(false));
    Ok(process)
}

/// The user is Docker's text: the runtime looks it up inside the root filesystem.
fn user(text: &str, spec: &ContainerSpec) -> User {
    let mut user = User::default();
    user.set_username(Some(text.to_owned()));
    let numbers: Vec<u32> = spec.host.group_add.iter().filter_map(|group| group.parse().ok()).collect();
    user.set_additional_gids((!numbers.is_empty()).then_some(numbers));
    user
}

/// Groups that `--group-add` names by name; numbers are in `additionalGids` already.
pub(super) fn named_groups(spec: &ContainerSpec) -> Option<String> {
    let names: Vec<&str> =
        spec.host.group_add.iter().filter(|group| group.parse::<u32>().is_err()).map(String::as_str).collect();
    (!names.is_empty()).then(|| names.join(","))
}

fn capabilities(spec: &ContainerSpec, privileged: bool) -> Result<LinuxCapabilities> {
    Ok(caps::sets(&if privileged { caps::all() } else { caps::of(&spec.host)? }))
}

fn console((rows, columns): (u16, u16)) -> Option<oci_spec::runtime::Box> {
    let size = BoxBuilder::default().height(rows).width(columns).build();
    size.ok().filter(|_| rows > 0 && columns > 0)
}

/// Docker's defaults, then the container's own; an entry without `=` takes one away.
fn environment(spec: &ContainerSpec, hostname: &str, tty: bool) -> Vec<String> {
    let mut env = vec![PATH_DEFAULT.to_owned(), format!("HOSTNAME={hostname}")];
    if tty {
        env.push("TERM=xterm".to_owned());
    }
    overlay(&mut env, &spec.config.env);
    env
}

fn overlay(env: &mut Vec<String>, entries: &[String]) {
    let key = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    for entry in entries {
        let wanted = key(entry);
        let at = env.iter().position(|have| key(have) == wanted);
        match (at, entry.contains('=')) {
            (Some(at), true) => entry.clone_into(&mut env[at]),
            (Some(at), false) => drop(env.remove(at)),
            (None, true) => env.push(entry.clone()),
            (None, false) => {}
        }
    }
}

fn rlimits(spec: &ContainerSpec) -> Result<Option<Vec<PosixRlimit>>> {
    let one = |limit: &berth_types::spec::Ulimit| {
        let typ = rlimit_type(&limit.name)?;
        let value = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
        let built = PosixRlimitBuilder::default().typ(typ).soft(value(limit.soft)).hard(value(limit.hard)).build();
        built.map_err(|cause| Error::because(ErrorKind::Internal, "resource limit", &cause))
    };
    let limits = spec.host.resources.ulimits.iter().map(one).collect::<Result<Vec<_>>>()?;
    Ok((!limits.is_empty()).then_some(limits))
}

pub(super) fn rlimit_type(name: &str) -> Result<PosixRlimitType> {
    PosixRlimitType::from_str(&format!("RLIMIT_{}", name.to_uppercase()))
        .map_err(|_| Error::invalid(format!("invalid ulimit type: {name}")))
}

/// The process that `exec` asks for, in a container of this merged specification.
pub fn exec_process(spec: &ContainerSpec, exec: &ExecSpec) -> Result<Process> {
    if exec.cmd.is_empty() {
        return Err(Error::invalid("No exec command specified"));
    }
    let security = security::parse(&spec.host)?;
    let mut process = common(spec, &spec.config.hostname, &security)?;
    let mut env = environment(spec, &spec.config.hostname, exec.tty || spec.config.tty);
    overlay(&mut env, &exec.env);
    process
        .set_args(Some(exec.cmd.clone()))
        .set_env(Some(env))
        .set_terminal(Some(exec.tty))
        .set_console_size(exec.tty.then(|| console(exec.console_size)).flatten())
        .set_oom_score_adj(Some(spec.host.resources.oom_score_adj));
    if exec.privileged {
        process.set_capabilities(Some(capabilities(spec, true)?));
    }
    if !exec.user.is_empty() {
        process.set_user(user(&exec.user, spec));
    }
    if !exec.working_dir.is_empty() {
        if !exec.working_dir.starts_with('/') {
            return Err(Error::invalid(format!(
                "the working directory '{}' is invalid, it needs to be an absolute path",
                exec.working_dir
            )));
        }
        process.set_cwd(super::clean(Path::new(&exec.working_dir)));
    }
    Ok(process)
}

/// The process of a health probe; `None` where there is no probe (`NONE`, or none asked for).
pub fn health_process(spec: &ContainerSpec) -> Result<Option<Process>> {
    let Some(check) = &spec.config.healthcheck else { return Ok(None) };
    let cmd = match check.test.split_first() {
        None => return Ok(None),
        Some((kind, _)) if kind == "NONE" => return Ok(None),
        Some((kind, rest)) if kind == "CMD" => rest.to_vec(),
        Some((kind, rest)) if kind == "CMD-SHELL" => {
            let shell = spec.config.shell.clone().filter(|shell| !shell.is_empty());
            let mut cmd = shell.unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()]);
            cmd.extend(rest.first().cloned());
            cmd
        }
        Some((kind, _)) => {
            return Err(Error::invalid(format!("Unknown type {kind:?} in HEALTHCHECK (try CMD)")));
        }
    };
    let exec = ExecSpec { cmd, ..ExecSpec::default() };
    exec_process(spec, &exec).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_types::spec::{Healthcheck, Ulimit};

    fn spec(env: &[&str]) -> ContainerSpec {
        let mut spec = ContainerSpec::default();
        spec.config.env = env.iter().map(|&entry| entry.to_owned()).collect();
        spec.config.hostname = "web".to_owned();
        spec
    }

    #[test]
    fn the_environment_starts_with_dockers_and_the_callers_wins() {
        let env = environment(&spec(&["PATH=/x", "A=1", "A=2", "HOSTNAME"]), "web", true);
        assert_eq!(env, ["PATH=/x", "TERM=xterm", "A=2"]);
        assert_eq!(environment(&spec(&[]), "web", false), [PATH_DEFAULT, "HOSTNAME=web"]);
    }

    #[test]
    fn an_exec_inherits_what_it_does_not_say() {
        let mut spec = spec(&["A=1"]);
        spec.config.user = "db:db".to_owned();
        spec.config.working_dir = "/var/lib/".to_owned();
        let exec = ExecSpec { cmd: vec!["ls".to_owned()], env: vec!["B=2".to_owned()], ..ExecSpec::default() };
        let process = exec_process(&spec, &exec).unwrap();
        assert_eq!(process.user().username().as_deref(), Some("db:db"));
        assert_eq!(process.cwd().to_str(), Some("/var/lib"));
        assert_eq!(process.env().as_ref().unwrap()[2..], ["A=1".to_owned(), "B=2".to_owned()]);
        let exec = ExecSpec { user: "0".to_owned(), privileged: true, working_dir: "/".to_owned(), ..exec };
        let process = exec_process(&spec, &exec).unwrap();
        assert_eq!(process.user().username().as_deref(), Some("0"));
        assert!(process.capabilities().as_ref().unwrap().bounding().as_ref().unwrap().len() > 14);
    }

    #[test]
    fn a_shell_probe_runs_in_the_images_shell() {
        let mut spec = spec(&[]);
        let test = ["CMD-SHELL", "exit 0"].map(str::to_owned).to_vec();
        spec.config.healthcheck = Some(Healthcheck { test, ..Healthcheck::default() });
        let args = |spec: &ContainerSpec| health_process(spec).unwrap().unwrap().args().clone().unwrap();
        assert_eq!(args(&spec), ["/bin/sh", "-c", "exit 0"]);
        spec.config.shell = Some(vec!["/bin/bash".to_owned(), "-ec".to_owned()]);
        assert_eq!(args(&spec), ["/bin/bash", "-ec", "exit 0"]);
        spec.config.healthcheck.as_mut().unwrap().test = vec!["NONE".to_owned()];
        assert!(health_process(&spec).unwrap().is_none());
    }

    #[test]
    fn ulimits_have_names_and_minus_one_is_unlimited() {
        let mut spec = spec(&[]);
        spec.host.resources.ulimits = vec![Ulimit { name: "nofile".to_owned(), soft: 5, hard: -1 }];
        let limits = rlimits(&spec).unwrap().unwrap();
        assert_eq!((limits[0].typ(), limits[0].soft(), limits[0].hard()), (PosixRlimitType::RlimitNofile, 5, u64::MAX));
        assert!(rlimit_type("nonsense").is_err());
    }
}
