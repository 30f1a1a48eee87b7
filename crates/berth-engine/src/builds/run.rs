//! A `RUN` in a container that nobody records.
//!
//! ```text
//!  snapshot <id> on the state's layers
//!  network attached - <exec-root>/shims/<id>/{config.json, build} - Create, attach, Start - output - exit
//!  shim let go, network given back, folders gone - stubs of mounts gone - the snapshot becomes a layer
//! ```
//!
//! Files that the step sees (/etc/hosts, secrets) are in `<exec-root>/builds/<id>/`: the shim's own folder is where
//! the runtime attaches the root filesystem.
//!
//! The same shim, runtime and rules as a container's, with Docker's default rights. Whatever happens, also when the
//! build is cancelled, the step is killed and swept: see [`super::sweep`].

use super::sweep::{MARK, Step, Sweep};
use crate::Engine;
use crate::containers::OutputStream;
use crate::networks::{AttachRequest, Attachment, files};
use crate::oci::{self, ContainerFiles, Joins, OciInput};
use crate::shim::{Incoming, Shim};
use berth_build::NetworkChoice;
use berth_shim_proto::{Attach, Body, Create, ExitRecord, LogFormat, LogTarget, Notice, Target};
use berth_types::mount::Rootfs;
use berth_types::spec::{Config, ContainerSpec, HostConfig, NetworkMode, Resources};
use berth_types::{ContainerId, Error, ErrorKind, Result};
use oci_spec::runtime::Mount;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Chunks on their way from the shim; when nobody takes them the step waits.
const CHUNKS_MAX: usize = 16;
/// After the exit what the step's orphans hold open is not waited for.
const DRAIN: Duration = Duration::from_secs(5);

/// What runs, all paths decided.
pub(crate) struct Program {
    pub id: ContainerId,
    pub rootfs: Rootfs,
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub cwd: String,
    pub user: String,
    pub network: NetworkChoice,
    pub insecure: bool,
    pub extra_hosts: Vec<String>,
    pub mounts: Vec<Mount>,
    pub files: Vec<InFile>,
    pub limits: Resources,
    pub shm_size_bytes: u64,
}

/// A file that only this step sees, such as a secret: in the shim's folder, which goes with the step.
pub(crate) struct InFile {
    pub target: String,
    pub data: Vec<u8>,
    pub owner: (u32, u32),
    pub mode: u32,
}

/// Runs it to its end; `output` gets what it prints. `holds` is what the step needs: given back with its end, or, when
/// the build is cancelled or the step fails to run, dropped once nothing of it runs any more.
pub(crate) async fn run<H: Send + 'static>(
    engine: &Engine,
    program: Program,
    holds: H,
    output: berth_build::Output,
) -> Result<(ExitRecord, H)> {
    let spec = spec(&program);
    let shim_folder = crate::containers::shims_folder(engine.config()).join(program.id.as_str());
    let cgroup = oci::cgroup_path(&engine.config().cgroup_parent, &spec, &program.id);
    let seen = engine.config().exec_root.join("builds").join(program.id.as_str());
    let step = Step {
        engine: engine.clone(),
        id: program.id.clone(),
        cgroup: cgroup.clone(),
        attached: None,
        attaching: None,
        writing: None,
        shim: None,
        folder: shim_folder.clone(),
        seen: seen.clone(),
    };
    let mut sweep = Sweep::new(step, holds);
    let (program, spec) = (Arc::new(program), Arc::new(spec));
    let (of, what, how) = (engine.clone(), program.clone(), spec.clone());
    let attachment = sweep.attach(async move { attach(&of, &what, &how).await }).await?;
    let (folder, rootfs, id) = (shim_folder.clone(), program.rootfs.clone(), program.id.clone());
    let group = cgroup.clone();
    sweep.write(move || write(&program, &spec, attachment.as_ref(), &group, &folder, &seen)).await?;

    let mut taken = engine.pool().take().await?;
    sweep.step().shim = Some(taken.pid);
    taken.note(&shim_folder, engine.boot_id()).map_err(|cause| {
        Error::because(ErrorKind::Internal, format!("cannot write into {}", shim_folder.display()), &cause)
    })?;
    let create = Create {
        id,
        dir: shim_folder.clone(),
        rootfs,
        cgroup,
        tty: false,
        console_size: (0, 0),
        stdin: false,
        stdin_once: false,
        log: LogTarget {
            format: LogFormat::None,
            path: PathBuf::new(),
            bytes_max: 0,
            files_max: 0,
            compress: false,
            attributes: None,
        },
        init: false,
        health: None,
        seccomp_cache: Some(engine.config().data_root.join("seccomp")),
        seccomp_profile: None,
    };
    let exit = converse(&mut taken.incoming, &taken.shim, create, &shim_folder, output).await?;
    let holds = sweep.finish(taken.shim, taken.incoming).await?;
    Ok((exit, holds))
}

/// Create; somebody who listens; Start; the end.
async fn converse(
    incoming: &mut Incoming,
    shim: &Arc<Shim>,
    create: Create,
    folder: &Path,
    output: berth_build::Output,
) -> Result<ExitRecord> {
    let mut bodies = crate::shim::greeting();
    bodies.push(Body::Create(Box::new(create)));
    for reply in shim.send(bodies).await? {
        incoming.answer(reply).await?;
    }
    let wanted = Attach { target: Target::Init, stdin: false, stdout: true, stderr: true };
    let streams = crate::shim::attach(folder, wanted).await?;
    let (sender, mut printed) = mpsc::channel(CHUNKS_MAX);
    let pumping = tokio::spawn(streams.run(sender, None, None, false));
    for reply in shim.send(vec![Body::Start]).await? {
        incoming.answer(reply).await?;
    }
    let print = |(stream, bytes): (OutputStream, bytes::Bytes)| {
        let stream = match stream {
            OutputStream::Stderr => berth_build::Stream::Stderr,
            _ => berth_build::Stream::Stdout,
        };
        output(stream, &bytes);
    };
    let mut open = true;
    let exit = loop {
        tokio::select! {
            chunk = printed.recv(), if open => match chunk {
                Some(chunk) => print(chunk),
                None => open = false,
            },
            notice = incoming.next() => match notice {
                Some(Notice::Exited(exit)) => break exit,
                Some(_) => {}
                None => {
                    pumping.abort();
                    return Err(Error::internal("the step's shim was killed"));
                }
            },
        }
    };
    // The last words are on their way still.
    let rest = async {
        while open {
            match printed.recv().await {
                Some(chunk) => print(chunk),
                None => open = false,
            }
        }
    };
    tokio::time::timeout(DRAIN, rest).await.ok();
    pumping.abort();
    Ok(exit)
}

fn spec(program: &Program) -> ContainerSpec {
    let network_mode = match &program.network {
        NetworkChoice::Default => NetworkMode::Default,
        NetworkChoice::None => NetworkMode::None,
        NetworkChoice::Host => NetworkMode::Host,
        NetworkChoice::Named(name) => NetworkMode::Named(name.clone()),
    };
    ContainerSpec {
        config: Config {
            // BuildKit's steps have this name: what a build says must not depend on the step's id.
            hostname: "buildkitsandbox".to_owned(),
            user: program.user.clone(),
            env: program.env.clone(),
            working_dir: program.cwd.clone(),
            ..Config::default()
        },
        host: HostConfig {
            network_mode,
            extra_hosts: program.extra_hosts.clone(),
            privileged: program.insecure,
            shm_size_bytes: program.shm_size_bytes,
            resources: program.limits.clone(),
            ..HostConfig::default()
        },
        ..ContainerSpec::default()
    }
}

async fn attach(engine: &Engine, program: &Program, spec: &ContainerSpec) -> Result<Option<Attachment>> {
    let primary = match &program.network {
        NetworkChoice::Host => return Ok(None),
        NetworkChoice::None => "none",
        NetworkChoice::Default => "bridge",
        NetworkChoice::Named(name) => name,
    };
    let endpoints = BTreeMap::new();
    let exposed = Default::default();
    let request = AttachRequest {
        id: &program.id,
        name: program.id.short(),
        endpoints: &endpoints,
        primary: Some(primary),
        host: &spec.host,
        exposed_ports: &exposed,
        hostname: "",
    };
    engine.networks().attach(request).await.map(Some)
}

/// All files of the start. Blocks.
fn write(
    program: &Program,
    spec: &ContainerSpec,
    attachment: Option<&Attachment>,
    cgroup: &str,
    folder: &Path,
    seen: &Path,
) -> Result<()> {
    let failed = |path: &Path, cause: io::Error| {
        Error::because(ErrorKind::Internal, format!("cannot write {}", path.display()), &cause)
    };
    use std::io;
    for folder in [folder, seen] {
        std::fs::create_dir_all(folder).map_err(|cause| failed(folder, cause))?;
    }
    let write = |path: PathBuf, text: &[u8]| -> Result<PathBuf> {
        std::fs::write(&path, text).map_err(|cause| failed(&path, cause))?;
        Ok(path)
    };
    write(folder.join(MARK), b"")?;
    let put = |name: &str, text: &[u8]| write(seen.join(name), text);
    let host_network = program.network == NetworkChoice::Host;
    let hostname = put("hostname", files::hostname(&spec.config.hostname).as_bytes())?;
    let gateway = attachment.and_then(|attachment| attachment.host_gateway);
    let mut others = Vec::new();
    for entry in &program.extra_hosts {
        others.push(files::extra_host(entry, gateway).map_err(|cause| Error::invalid(cause.to_string()))?);
    }
    let hosts = match host_network {
        true => {
            let mut text = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
            others.iter().for_each(|(address, names)| text.push_str(&format!("{address}\t{names}\n")));
            text
        }
        false => {
            let own: Vec<std::net::IpAddr> = attachment
                .iter()
                .flat_map(|attachment| attachment.endpoints.values())
                .filter_map(|endpoint| endpoint.ipv4.map(|address| address.0.into()))
                .collect();
            files::hosts(&files::Hosts {
                hostname: &spec.config.hostname,
                domainname: "",
                own: &own,
                others: &others,
                ipv6: true,
            })
        }
    };
    let hosts = put("hosts", hosts.as_bytes())?;
    let servers: Vec<String> =
        attachment.iter().flat_map(|attachment| &attachment.dns_servers).map(std::net::IpAddr::to_string).collect();
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let embedded = attachment.is_some_and(|attachment| attachment.names);
    let resolver = files::Resolver { servers: &servers, search: &[], options: &[], host_network, embedded };
    let resolv_conf = put("resolv.conf", files::resolv_conf(&text, &resolver).as_bytes())?;
    let mut built = oci::build(OciInput {
        id: &program.id,
        spec,
        command: &program.args,
        mounts: &[],
        files: ContainerFiles { resolv_conf: Some(&resolv_conf), hostname: Some(&hostname), hosts: Some(&hosts) },
        netns: attachment.map(|attachment| attachment.netns.as_path()),
        cgroup,
        joins: Joins::default(),
    })?;
    let mut mounts = built.spec.mounts().clone().unwrap_or_default();
    mounts.extend(program.mounts.iter().cloned());
    for (number, file) in program.files.iter().enumerate() {
        let path = put(&format!("file-{number}"), &file.data)?;
        let (uid, gid) = file.owner;
        std::os::unix::fs::chown(&path, Some(uid), Some(gid)).map_err(|cause| failed(&path, cause))?;
        let rights = std::os::unix::fs::PermissionsExt::from_mode(file.mode);
        std::fs::set_permissions(&path, rights).map_err(|cause| failed(&path, cause))?;
        let mut mount = Mount::default();
        mount
            .set_destination(PathBuf::from(&file.target))
            .set_typ(Some("bind".to_owned()))
            .set_source(Some(path))
            .set_options(Some(["rbind", "ro", "rprivate"].map(str::to_owned).to_vec()));
        mounts.push(mount);
    }
    built.spec.set_mounts(Some(mounts));
    let config = serde_json::to_vec(&built.spec)
        .map_err(|cause| Error::because(ErrorKind::Internal, "cannot write the configuration", &cause))?;
    write(folder.join("config.json"), &config)?;
    Ok(())
}
