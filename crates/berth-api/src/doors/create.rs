//! A wish for a new instance, and the specification that it becomes.

use super::instances::{Created, may, parse_restart};
use super::projects::settle;
use super::render::{Texts, texts};
use crate::Api;
use crate::error::ApiResult;
use crate::extract::Json;
use crate::guard::Target;
use crate::identity::Who;
use crate::quota::{Need, room};
use crate::schema::requests;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use berth_types::spec::{
    ContainerSpec, EndpointSpec, Healthcheck, HostConfig, MountKind, MountSpec, NetworkMode, PortBinding, PortProto,
    Protocol,
};
use berth_types::{Error, Result};
use std::collections::BTreeMap;

requests! {
    /// What a new instance is to be.
    CreateInstance {
        /// Empty: in none, or in the only one that its maker has.
        project: String,
        /// Empty: chosen by the engine.
        name: String,
        image: String,
        /// Instead of the image's; empty: the image's.
        command: Vec<String>,
        entrypoint: Option<Vec<String>>,
        /// NAME=value.
        env: Vec<String>,
        labels: BTreeMap<String, String>,
        user: String,
        working_dir: String,
        hostname: String,
        tty: bool,
        open_stdin: bool,
        /// 0: no limit.
        memory_bytes: i64,
        /// Processors; 0: no limit.
        cpus: f64,
        /// 0: no limit.
        processes: i64,
        mounts: Vec<MountWish>,
        /// bridge, none, host, or the name of a network; empty: bridge.
        network: String,
        ports: Vec<PortWish>,
        /// no, always, unless-stopped, on-failure or on-failure:N.
        restart: String,
        health: Option<HealthWish>,
        /// A small first process that collects orphans.
        init: bool,
        read_only: bool,
        privileged: bool,
        /// vm: in a machine with a kernel of its own; empty: a container.
        isolation: String,
        /// Start it at once.
        start: bool,
    }
    MountWish {
        /// volume, bind or tmpfs.
        kind: String,
        /// A volume's name or a folder of the host.
        source: String,
        target: String,
        read_only: bool,
    }
    PortWish {
        /// Where it listens on the host: 127.0.0.1 for this host only; empty: every address.
        address: String,
        /// 0: chosen by the engine.
        host_port: u16,
        port: u16,
        /// tcp or udp; empty: tcp.
        protocol: String,
    }
    HealthWish {
        /// Run by a shell inside; exit status 0 is healthy.
        command: String,
        interval_seconds: i64,
        timeout_seconds: i64,
        retries: u32,
        start_period_seconds: i64,
    }
}

const SECOND_NANOS: i64 = 1_000_000_000;

impl PortWish {
    pub(crate) fn parse(&self) -> Result<(PortProto, PortBinding)> {
        let protocol = match self.protocol.as_str() {
            "" | "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            other => return Err(Error::invalid(format!("unknown protocol {other:?}: must be tcp or udp"))),
        };
        if self.port == 0 {
            return Err(Error::invalid("a published port needs the port inside the instance"));
        }
        let host_ip = match self.address.as_str() {
            "" => None,
            address => Some(
                address.parse().map_err(|_| Error::invalid(format!("{address:?} is not an address of this host")))?,
            ),
        };
        let binding = PortBinding { host_ip, host_port: (self.host_port, self.host_port) };
        Ok((PortProto { port: self.port, protocol }, binding))
    }
}

impl MountWish {
    pub(crate) fn parse(&self) -> Result<MountSpec> {
        let kind = match self.kind.as_str() {
            "volume" => MountKind::Volume,
            "bind" => MountKind::Bind,
            "tmpfs" => MountKind::Tmpfs,
            "secret" => MountKind::Secret,
            "config" => MountKind::Config,
            other => {
                let kinds = "volume, bind, tmpfs, secret or config";
                return Err(Error::invalid(format!("unknown kind of mount {other:?}: must be {kinds}")));
            }
        };
        if kind == MountKind::Volume && self.source.contains('/') {
            return Err(Error::invalid(format!("{:?} is not a volume's name", self.source)));
        }
        Ok(MountSpec {
            kind,
            source: if kind == MountKind::Tmpfs { String::new() } else { self.source.clone() },
            target: self.target.clone(),
            read_only: self.read_only,
            consistency: String::new(),
            bind: None,
            volume: None,
            tmpfs: None,
            image_subpath: String::new(),
            file: None,
        })
    }
}

impl HealthWish {
    pub(crate) fn parse(&self) -> Healthcheck {
        Healthcheck {
            test: vec!["CMD-SHELL".to_owned(), self.command.clone()],
            interval_nanos: self.interval_seconds.saturating_mul(SECOND_NANOS),
            timeout_nanos: self.timeout_seconds.saturating_mul(SECOND_NANOS),
            start_period_nanos: self.start_period_seconds.saturating_mul(SECOND_NANOS),
            start_interval_nanos: 0,
            retries: self.retries,
        }
    }
}

pub(crate) fn ports(wishes: &[PortWish]) -> Result<BTreeMap<PortProto, Vec<PortBinding>>> {
    let mut all: BTreeMap<PortProto, Vec<PortBinding>> = BTreeMap::new();
    for wish in wishes {
        let (port, binding) = wish.parse()?;
        all.entry(port).or_default().push(binding);
    }
    Ok(all)
}

impl CreateInstance {
    pub(crate) fn spec(&self) -> Result<ContainerSpec> {
        if self.image.trim().is_empty() {
            return Err(Error::invalid("an instance needs an image"));
        }
        if !self.cpus.is_finite() || self.cpus < 0.0 {
            return Err(Error::invalid("the number of processors must be 0 or more"));
        }
        let mut spec = ContainerSpec::default();
        let config = &mut spec.config;
        config.image = self.image.trim().to_owned();
        config.cmd = (!self.command.is_empty()).then(|| self.command.clone());
        config.entrypoint = self.entrypoint.clone();
        config.env = self.env.clone();
        config.labels = self.labels.clone();
        config.user = self.user.clone();
        config.working_dir = self.working_dir.clone();
        config.hostname = self.hostname.clone();
        config.tty = self.tty;
        config.open_stdin = self.open_stdin;
        config.healthcheck = self.health.as_ref().map(HealthWish::parse);
        let host = &mut spec.host;
        host.resources.memory_bytes = self.memory_bytes;
        host.resources.nano_cpus = (self.cpus * 1e9) as i64;
        host.resources.pids_limit = (self.processes > 0).then_some(self.processes);
        host.mounts = self.mounts.iter().map(MountWish::parse).collect::<Result<_>>()?;
        host.port_bindings = ports(&self.ports)?;
        config.exposed_ports = host.port_bindings.keys().copied().collect();
        host.restart = parse_restart(&self.restart)?;
        host.init = self.init.then_some(true);
        host.readonly_rootfs = self.read_only;
        host.privileged = self.privileged;
        host.isolation = match self.isolation.as_str() {
            "" | "container" => String::new(),
            "vm" => "vm".to_owned(),
            other => return Err(Error::invalid(format!("unknown isolation {other:?}: must be vm or empty"))),
        };
        host.network_mode = match self.network.as_str() {
            "" | "bridge" | "default" => NetworkMode::Default,
            "none" => NetworkMode::None,
            "host" => NetworkMode::Host,
            name if name.starts_with("container:") => {
                return Err(Error::invalid("the network of another instance cannot be asked for here"));
            }
            name => NetworkMode::Named(name.to_owned()),
        };
        let primary = match &host.network_mode {
            NetworkMode::Default => Some("bridge".to_owned()),
            NetworkMode::Named(name) => Some(name.clone()),
            NetworkMode::None | NetworkMode::Host | NetworkMode::Container(_) => None,
        };
        spec.endpoints.extend(primary.map(|name| (name, EndpointSpec::default())));
        Ok(spec)
    }
}

/// `vm` or nothing.
pub(crate) fn isolation(host: &HostConfig) -> &'static str {
    if host.isolation == "vm" || host.runtime == "vm" { "vm" } else { "" }
}

pub(crate) async fn create(State(api): State<Api>, who: Who, Json(body): Json<CreateInstance>) -> ApiResult<Response> {
    let mut spec = body.spec()?;
    may(&who, &spec, "make")?;
    super::saved::check(&api, &who, &spec.config.image)?;
    let project = who.place(&body.project)?;
    let _turn = room(&api, project.as_deref(), &[Need::of(&spec.host.resources)], &[]).await?;
    settle(&api, &who, &mut spec, project.as_deref()).await?;
    let name = (!body.name.is_empty()).then_some(body.name.as_str());
    let made = api.engine.containers().create(name, spec).await?;
    let mut warnings = made.warnings;
    if body.start
        && let Err(error) = api.engine.containers().start(made.id.as_str()).await
    {
        // It exists: its page tells why it did not start, so this is no failure of making it.
        warnings.push(error.to_string());
        warnings.extend(error.hint);
    }
    let target = format!("{} ({}) from {}", body.name, made.id.short(), body.image);
    let mut response = axum::Json(Created { id: made.id.to_string(), warnings }).into_response();
    response.extensions_mut().insert(Target(target));
    Ok(response)
}

pub(crate) async fn preview(Json(body): Json<CreateInstance>) -> ApiResult<axum::Json<Texts>> {
    body.spec()?;
    Ok(axum::Json(texts(&body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_limit_is_refused() {
        assert!(serde_json::from_str::<CreateInstance>(r#"{"image": "x", "memory": 5}"#).is_err());
    }

    #[test]
    fn a_wish_becomes_a_specification() {
        let wish: CreateInstance = serde_json::from_str(
            r#"{"image": "web", "cpus": 1.5, "restart": "on-failure:3", "network": "shop",
                "ports": [{"port": 80, "host_port": 8080, "address": "127.0.0.1"}],
                "mounts": [{"kind": "volume", "source": "data", "target": "/var"}]}"#,
        )
        .unwrap();
        let spec = wish.spec().unwrap();
        assert_eq!(spec.host.resources.nano_cpus, 1_500_000_000);
        assert_eq!(spec.host.network_mode, NetworkMode::Named("shop".to_owned()));
        assert!(spec.endpoints.contains_key("shop") && spec.config.cmd.is_none());
        assert_eq!(spec.host.port_bindings.keys().next().unwrap().to_string(), "80/tcp");
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for bad in [
            r#"{}"#,
            r#"{"image": "x", "cpus": -1}"#,
            r#"{"image": "x", "ports": [{"port": 0}]}"#,
            r#"{"image": "x", "ports": [{"port": 1, "address": "nowhere"}]}"#,
            r#"{"image": "x", "mounts": [{"kind": "volume", "source": "/etc", "target": "/x"}]}"#,
            r#"{"image": "x", "restart": "maybe"}"#,
            r#"{"image": "x", "isolation": "hyperv"}"#,
            r#"{"image": "x", "network": "container:other"}"#,
        ] {
            assert!(serde_json::from_str::<CreateInstance>(bad).unwrap().spec().is_err(), "{bad}");
        }
    }
}
