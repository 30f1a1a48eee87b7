//! An image's configuration: the JSON whose digest is the image's id.
//!
//! Formats: Docker's image specification 1.2 and OCI's `config.md`, which agree but for a few keys that only
//! one of them has. Bytes from outside are kept as they are; [`ImageConfig::to_bytes`] writes the same bytes
//! for the same content, so that an image made twice has one id.

use berth_types::spec::{Config, Healthcheck, ImageDefaults, PortProto};
use berth_types::{Digest, Error, ErrorKind, Result};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Real ones have a few kilobytes; a bigger one would only cost memory.
pub(super) const CONFIG_BYTES_MAX: usize = 8 << 20;
/// overlayfs stacks at most 500 layers (fs/overlayfs/params.h, `OVL_MAX_STACK`).
pub(super) const LAYERS_MAX: usize = 500;

/// Go writes absent lists, maps and texts as `null`.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

/// Goes on when the text is none that we can read as a moment: an odd date must not make an image unusable.
pub(crate) fn moment(text: &str) -> i64 {
    let nanos = text.parse::<jiff::Timestamp>().map_or(0, |moment| moment.as_nanosecond());
    // Go's zero time means that there is none.
    i64::try_from(nanos).unwrap_or(0).max(0)
}

pub(crate) fn rfc3339(unix_nanos: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(unix_nanos)).map_or_else(|_| String::new(), |moment| moment.to_string())
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ImageConfig {
    #[serde(deserialize_with = "or_default")]
    pub architecture: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub author: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub comment: String,
    #[serde(deserialize_with = "or_default")]
    pub config: Inner,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub created: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub docker_version: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Step>,
    #[serde(deserialize_with = "or_default")]
    pub os: String,
    #[serde(rename = "os.version", deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    #[serde(deserialize_with = "or_default")]
    pub rootfs: Layers,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// What its build came to, step by step, for builds elsewhere.
    #[serde(
        rename = "moby.buildkit.cache.v0",
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub build_cache: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Layers {
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    #[serde(deserialize_with = "or_default")]
    pub diff_ids: Vec<Digest>,
}

/// One line of `history`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Step {
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub created: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub author: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub comment: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

impl Step {
    pub(super) fn created_unix_nanos(&self) -> i64 {
        moment(&self.created)
    }
}

/// Go's `map[string]struct{}`.
type Set = BTreeMap<String, serde::de::IgnoredAny>;

fn write_set<S: serde::Serializer>(set: &Set, to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(set.keys().map(|key| (key, BTreeMap::<String, String>::new())))
}

/// The part that says how to run it, in JSON's spelling.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Inner {
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    env: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entrypoint: Option<Vec<String>>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Set::is_empty", serialize_with = "write_set")]
    exposed_ports: Set,
    #[serde(skip_serializing_if = "Option::is_none")]
    healthcheck: Option<Probe>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_build: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shell: Option<Vec<String>>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    stop_signal: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_timeout: Option<i64>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    user: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Set::is_empty", serialize_with = "write_set")]
    volumes: Set,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    working_dir: String,
}

impl PartialEq for Inner {
    fn eq(&self, other: &Inner) -> bool {
        self.to_config().ok() == other.to_config().ok()
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Probe {
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    test: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    interval: i64,
    #[serde(skip_serializing_if = "is_zero")]
    timeout: i64,
    #[serde(skip_serializing_if = "is_zero")]
    start_period: i64,
    #[serde(skip_serializing_if = "is_zero")]
    start_interval: i64,
    #[serde(skip_serializing_if = "is_zero")]
    retries: i64,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

impl Inner {
    pub(super) fn from_config(config: &Config) -> Inner {
        let set = |keys: &mut dyn Iterator<Item = String>| keys.map(|key| (key, serde::de::IgnoredAny)).collect();
        Inner {
            env: config.env.clone(),
            cmd: config.cmd.clone(),
            entrypoint: config.entrypoint.clone(),
            exposed_ports: set(&mut config.exposed_ports.iter().map(PortProto::to_string)),
            healthcheck: config.healthcheck.as_ref().map(|probe| Probe {
                test: probe.test.clone(),
                interval: probe.interval_nanos,
                timeout: probe.timeout_nanos,
                start_period: probe.start_period_nanos,
                start_interval: probe.start_interval_nanos,
                retries: i64::from(probe.retries),
            }),
            labels: config.labels.clone(),
            on_build: config.on_build.clone().filter(|list| !list.is_empty()),
            shell: config.shell.clone().filter(|list| !list.is_empty()),
            stop_signal: config.stop_signal.clone().unwrap_or_default(),
            stop_timeout: config.stop_timeout_seconds,
            user: config.user.clone(),
            volumes: set(&mut config.volumes.iter().cloned()),
            working_dir: config.working_dir.clone(),
        }
    }

    fn to_config(&self) -> Result<Config> {
        let ports = self.exposed_ports.keys().map(|port| port.parse::<PortProto>());
        let exposed_ports: BTreeSet<PortProto> = ports
            .collect::<Result<_, _>>()
            .map_err(|cause| Error::because(ErrorKind::DataLoss, "the image's configuration is damaged", &cause))?;
        Ok(Config {
            env: self.env.clone(),
            cmd: self.cmd.clone(),
            entrypoint: self.entrypoint.clone(),
            exposed_ports,
            healthcheck: self.healthcheck.as_ref().map(|probe| Healthcheck {
                test: probe.test.clone(),
                interval_nanos: probe.interval,
                timeout_nanos: probe.timeout,
                start_period_nanos: probe.start_period,
                start_interval_nanos: probe.start_interval,
                retries: u32::try_from(probe.retries).unwrap_or(0),
            }),
            labels: self.labels.clone(),
            on_build: self.on_build.clone().filter(|list| !list.is_empty()),
            shell: self.shell.clone(),
            stop_signal: Some(self.stop_signal.clone()).filter(|signal| !signal.is_empty()),
            stop_timeout_seconds: self.stop_timeout,
            user: self.user.clone(),
            volumes: self.volumes.keys().cloned().collect(),
            working_dir: self.working_dir.clone(),
            ..Config::default()
        })
    }
}

impl ImageConfig {
    pub(super) fn parse(bytes: &[u8]) -> Result<ImageConfig> {
        let damaged = |why: &str| Error::new(ErrorKind::DataLoss, format!("invalid image configuration: {why}"));
        if bytes.len() > CONFIG_BYTES_MAX {
            return Err(damaged(&format!("longer than {CONFIG_BYTES_MAX} bytes")));
        }
        if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
            return Err(damaged("not a JSON object"));
        }
        let config: ImageConfig = serde_json::from_slice(bytes).map_err(|cause| damaged(&cause.to_string()))?;
        if config.rootfs.diff_ids.len() > LAYERS_MAX {
            return Err(damaged(&format!("more than {LAYERS_MAX} layers")));
        }
        config.inner()?;
        Ok(config)
    }

    /// The same content gives the same bytes.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts, lists and maps with text keys always serialise")
    }

    /// How to run it, in the engine's words.
    pub(super) fn inner(&self) -> Result<Config> {
        self.config.to_config()
    }

    pub(super) fn set_inner(&mut self, config: &Config) {
        self.config = Inner::from_config(config);
    }

    pub(super) fn created_unix_nanos(&self) -> i64 {
        moment(&self.created)
    }

    pub(super) fn labels(&self) -> &BTreeMap<String, String> {
        &self.config.labels
    }

    pub(super) fn defaults(&self, id: Digest) -> Result<ImageDefaults> {
        Ok(ImageDefaults {
            image_id: Some(id),
            config: self.inner()?,
            architecture: self.architecture.clone(),
            os: self.os.clone(),
            variant: self.variant.clone(),
        })
    }
}

/// Go's name of the machine we were built for.
pub(super) fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_of_dockers_is_read_with_its_nulls() {
        let text = br#"{"architecture":"amd64","config":{"Hostname":"","Env":null,"Cmd":["sh"],"Image":"sha256:1",
            "ExposedPorts":{"80/tcp":{}},"Volumes":{"/data":{}},"Labels":null,"OnBuild":null,
            "Healthcheck":{"Test":["CMD","true"],"Interval":5}},"container":"x","created":"2024-01-02T03:04:05.5Z",
            "history":null,"os":"linux","rootfs":{"type":"layers","diff_ids":null}}"#;
        let config = ImageConfig::parse(text).unwrap();
        let inner = config.inner().unwrap();
        assert_eq!(inner.cmd.as_deref(), Some(&["sh".to_owned()][..]));
        assert_eq!(inner.exposed_ports.first().unwrap().to_string(), "80/tcp");
        assert_eq!(inner.healthcheck.unwrap().interval_nanos, 5);
        assert_eq!(config.created_unix_nanos(), 1_704_164_645_500_000_000);
    }

    #[test]
    fn what_is_written_reads_back_and_is_the_same_bytes_again() {
        let mut config = ImageConfig { os: "linux".into(), ..ImageConfig::default() };
        config.set_inner(&Config {
            cmd: Some(vec!["a".into()]),
            env: vec!["A=1".into()],
            volumes: ["/v".to_owned()].into(),
            exposed_ports: ["53/udp".parse().unwrap()].into(),
            ..Config::default()
        });
        let bytes = config.to_bytes();
        assert_eq!(ImageConfig::parse(&bytes).unwrap().to_bytes(), bytes);
        assert!(String::from_utf8(bytes).unwrap().contains(r#""ExposedPorts":{"53/udp":{}}"#));
    }

    #[test]
    fn damaged_configurations_are_refused() {
        for bad in
            [&b"{"[..], b"[]", br#"{"rootfs":{"diff_ids":["md5:1"]}}"#, br#"{"config":{"ExposedPorts":{"x":{}}}}"#]
        {
            assert_eq!(ImageConfig::parse(bad).unwrap_err().kind, ErrorKind::DataLoss);
        }
        let many = serde_json::json!({"rootfs": {"diff_ids": vec![Digest::from_bytes([1; 32]); LAYERS_MAX + 1]}});
        assert!(ImageConfig::parse(many.to_string().as_bytes()).is_err());
    }
}
