//! What the daemon is told: arguments first, then the configuration file, then defaults.

use crate::registries::{self, RegistryArgs};
use berth_engine::EngineConfig;
use clap::Parser;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The berth engine
#[derive(Debug, Parser)]
#[command(name = "berthd", version)]
pub(crate) struct Options {
    /// Socket to listen on: unix://PATH, tcp://ADDRESS:PORT or fd:// (socket activation); repeatable
    #[arg(short = 'H', long = "host", value_name = "URL")]
    pub(crate) hosts: Vec<String>,
    /// Folder of everything that survives a reboot [default: /var/lib/berth]
    #[arg(long)]
    data_root: Option<PathBuf>,
    /// Folder of everything that a reboot ends [default: /run/berth]
    #[arg(long)]
    exec_root: Option<PathBuf>,
    /// Address and subnet of the default bridge, for example 172.30.0.1/16
    #[arg(long, value_name = "CIDR")]
    bip: Option<String>,
    /// Interface of the default bridge [default: berth0; with another data root a name made from it]
    #[arg(long, value_name = "NAME")]
    bridge_name: Option<String>,
    /// Parent of the containers' cgroups [default: /berth; with another data root a name made from it]
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<String>,
    /// error, warn, info, debug or trace [default: info]
    #[arg(short = 'l', long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Same as --log-level debug
    #[arg(short = 'D', long)]
    debug: bool,
    /// File for the process id
    #[arg(short = 'p', long, value_name = "FILE")]
    pidfile: Option<PathBuf>,
    /// Group that may use the Unix socket [default: docker or berth, where it exists]
    #[arg(short = 'G', long)]
    pub(crate) group: Option<String>,
    /// Configuration file in JSON, with dockerd's keys [default: /etc/berth/daemon.json, where it exists]
    #[arg(long, value_name = "FILE")]
    config_file: Option<PathBuf>,
    /// The berth-shim program [default: next to berthd]
    #[arg(long, value_name = "FILE")]
    shim: Option<PathBuf>,
    /// How new layers of images lie on the disk: overlay (folders) or erofs (images) [default: erofs where
    /// the kernel lets containers share mounts of images, Linux 6.15, else overlay]
    #[arg(long, value_name = "DRIVER")]
    storage_driver: Option<String>,
    /// Runtime of containers that name none: runc, or vm for a machine of their own [default: runc]
    #[arg(long, value_name = "RUNTIME")]
    default_runtime: Option<String>,
    /// Log driver of containers that name none [default: json-file]
    #[arg(long, value_name = "DRIVER")]
    log_driver: Option<String>,
    /// Option of that driver, for example max-size=10m; repeatable
    #[arg(long = "log-opt", value_name = "KEY=VALUE")]
    log_options: Vec<String>,
    /// Label of the engine; repeatable
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    #[command(flatten)]
    registries: RegistryArgs,
    /// Serve tcp:// only to clients whose certificate --tlscacert signed
    #[arg(long)]
    pub(crate) tlsverify: bool,
    /// The CA of the clients' certificates, PEM (berth cert makes all three)
    #[arg(long, value_name = "FILE")]
    pub(crate) tlscacert: Option<PathBuf>,
    /// The engine's certificate, PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) tlscert: Option<PathBuf>,
    /// The key of that certificate, PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) tlskey: Option<PathBuf>,
    /// Serve the web console and its API with TLS, for example at 127.0.0.1:9443
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) console: Option<std::net::SocketAddr>,
    /// Certificate chain of the console in PEM [default: made on the first run]
    #[arg(long, value_name = "FILE", requires = "console_key")]
    console_cert: Option<PathBuf>,
    /// Its private key in PEM
    #[arg(long, value_name = "FILE", requires = "console_cert")]
    console_key: Option<PathBuf>,
    /// Check the configuration and exit
    #[arg(long)]
    pub(crate) validate: bool,
}

const DEFAULT_FILE: &str = "/etc/berth/daemon.json";
const DEFAULT_DATA_ROOT: &str = "/var/lib/berth";

impl Options {
    /// Fills from the configuration file what the arguments leave open. A key in both is refused, as dockerd does.
    pub(crate) fn with_file(self) -> Result<Options, String> {
        let path = self.config_file.clone().unwrap_or_else(|| DEFAULT_FILE.into());
        match std::fs::read(&path) {
            Ok(bytes) => self.merge(&bytes).map_err(|text| format!("{}: {text}", path.display())),
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound && self.config_file.is_none() => Ok(self),
            Err(cause) => Err(format!("cannot read {}: {cause}", path.display())),
        }
    }

    fn merge(mut self, bytes: &[u8]) -> Result<Options, String> {
        let value: Value = serde_json::from_slice(bytes).map_err(|cause| format!("invalid JSON: {cause}"))?;
        let Value::Object(map) = value else { return Err("not a JSON object".to_owned()) };
        for (key, value) in &map {
            let text = || value.as_str().map(str::to_owned).ok_or_else(|| format!("{key}: must be a string"));
            let texts = || -> Result<Vec<String>, String> {
                let list = value.as_array().ok_or_else(|| format!("{key}: must be a list of strings"))?;
                list.iter()
                    .map(|item| {
                        item.as_str().map(str::to_owned).ok_or_else(|| format!("{key}: must be a list of strings"))
                    })
                    .collect()
            };
            let taken = match key.as_str() {
                "hosts" => replace_list(&mut self.hosts, texts()?),
                "labels" => replace_list(&mut self.labels, texts()?),
                "data-root" => replace(&mut self.data_root, text()?.into()),
                "exec-root" => replace(&mut self.exec_root, text()?.into()),
                "pidfile" => replace(&mut self.pidfile, text()?.into()),
                "shim" => replace(&mut self.shim, text()?.into()),
                "bip" => replace(&mut self.bip, text()?),
                "bridge-name" => replace(&mut self.bridge_name, text()?),
                "cgroup-parent" => replace(&mut self.cgroup_parent, text()?),
                "log-level" => replace(&mut self.log_level, text()?),
                "group" => replace(&mut self.group, text()?),
                "storage-driver" => replace(&mut self.storage_driver, text()?),
                "default-runtime" => replace(&mut self.default_runtime, text()?),
                "log-driver" => replace(&mut self.log_driver, text()?),
                "console" => {
                    let address = text()?.parse().map_err(|_| format!("{key}: must be ADDRESS:PORT"))?;
                    replace(&mut self.console, address)
                }
                "console-cert" => replace(&mut self.console_cert, text()?.into()),
                "console-key" => replace(&mut self.console_key, text()?.into()),
                "debug" => {
                    self.debug |= value.as_bool().ok_or_else(|| format!("{key}: must be true or false"))?;
                    true
                }
                "tlsverify" => {
                    self.tlsverify |= value.as_bool().ok_or_else(|| format!("{key}: must be true or false"))?;
                    true
                }
                "tlscacert" => replace(&mut self.tlscacert, text()?.into()),
                "tlscert" => replace(&mut self.tlscert, text()?.into()),
                "tlskey" => replace(&mut self.tlskey, text()?.into()),
                "live-restore" if value.as_bool() == Some(true) => true,
                "log-opts" => {
                    let map = value.as_object().ok_or_else(|| format!("{key}: must be an object"))?;
                    let list = map
                        .iter()
                        .map(|(name, value)| {
                            let text = value.as_str().ok_or_else(|| format!("{key}.{name}: must be a string"))?;
                            Ok(format!("{name}={text}"))
                        })
                        .collect::<Result<Vec<_>, String>>()?;
                    replace_list(&mut self.log_options, list)
                }
                key if registries::KEYS.contains(&key) => self.registries.merge(key, value)?,
                _ => {
                    return Err(format!(
                        "unable to configure the engine: the following directives don't match any configuration option: {key}"
                    ));
                }
            };
            if !taken {
                return Err(format!("{key} is specified both as a flag and in the configuration file"));
            }
        }
        Ok(self)
    }

    /// How the console is to be served, where it is.
    pub(crate) fn console_config(&self) -> Result<Option<berth_api::Config>, String> {
        let Some(address) = self.console else { return Ok(None) };
        let certificate = match (&self.console_cert, &self.console_key) {
            (Some(chain), Some(key)) => Some(berth_api::Certificate { chain: chain.clone(), key: key.clone() }),
            (None, None) => None,
            _ => return Err("console-cert and console-key belong together".to_owned()),
        };
        let unix = crate::sockets::hosts(self).into_iter().find(|host| host.starts_with("unix://"));
        Ok(Some(berth_api::Config { address, certificate, engine_host: unix }))
    }

    pub(crate) fn data_root(&self) -> &Path {
        self.data_root.as_deref().unwrap_or(Path::new(DEFAULT_DATA_ROOT))
    }

    pub(crate) fn exec_root(&self) -> &Path {
        self.exec_root.as_deref().unwrap_or(Path::new("/run/berth"))
    }

    pub(crate) fn log_filter(&self) -> &str {
        match (&self.log_level, self.debug) {
            (_, true) => "debug",
            (Some(level), false) if level == "fatal" => "error",
            (Some(level), false) => level,
            (None, false) => "info",
        }
    }

    pub(crate) fn engine_config(&self) -> Result<EngineConfig, String> {
        let shim = match &self.shim {
            Some(path) => path.clone(),
            None => std::env::current_exe()
                .map_err(|cause| format!("cannot tell where berthd is: {cause}"))?
                .with_file_name("berth-shim"),
        };
        if !shim.is_file() {
            return Err(format!(
                "there is no {}\nhint: install it next to berthd, or say where it is with --shim",
                shim.display()
            ));
        }
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(|cause| format!("cannot make {} absolute: {cause}", path.display()))
        };
        let mut config = EngineConfig::new(absolute(self.data_root())?, absolute(self.exec_root())?, absolute(&shim)?);
        if let Some(instance) = instance(&config.data_root) {
            config.bridge_name = format!("berth-{instance}");
            config.cgroup_parent = format!("/berth-{instance}");
        }
        config.bridge_subnet = self.bip.clone();
        let tcp_port = |host: &String| host.strip_prefix("tcp://")?.rsplit_once(':')?.1.parse().ok();
        config.closed_ports = self.hosts.iter().filter_map(tcp_port).collect();
        config.labels = self.labels.clone();
        config.registries = self.registries.options();
        if let Some(name) = &self.bridge_name {
            config.bridge_name = name.clone();
        }
        if let Some(parent) = &self.cgroup_parent {
            config.cgroup_parent = parent.clone();
        }
        if let Some(driver) = &self.storage_driver {
            config.storage_driver = Some(driver.parse()?);
        }
        if let Some(runtime) = &self.default_runtime {
            if !matches!(runtime.as_str(), "runc" | "vm") {
                return Err(format!("default-runtime {runtime}: runc and vm are possible"));
            }
            config.default_runtime = runtime.clone();
        }
        if let Some(driver) = &self.log_driver {
            config.log_driver = driver.clone();
        }
        config.log_options = self
            .log_options
            .iter()
            .map(|option| match option.split_once('=') {
                Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
                None => Err(format!("invalid --log-opt {option:?}: must be KEY=VALUE")),
            })
            .collect::<Result<BTreeMap<_, _>, _>>()?;
        Ok(config)
    }

    /// Writes the process id; answers the file to remove at the end.
    pub(crate) fn write_pid_file(&self) -> Result<Option<PathBuf>, String> {
        let Some(path) = &self.pidfile else { return Ok(None) };
        std::fs::write(path, format!("{}\n", std::process::id()))
            .map_err(|cause| format!("cannot write {}: {cause}", path.display()))?;
        Ok(Some(path.clone()))
    }
}

/// What tells this engine's bridge and cgroups from those of others on the host: made from the data root,
/// since that is what two engines cannot share. `None`: the host's usual engine.
fn instance(data_root: &Path) -> Option<String> {
    use std::os::unix::ffi::OsStrExt as _;
    if data_root == Path::new(DEFAULT_DATA_ROOT) {
        return None;
    }
    // FNV-1a: the name must be the same after an upgrade, which the standard library's hashes do not promise.
    let hash = data_root
        .as_os_str()
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    Some(format!("{:08x}", (hash ^ (hash >> 32)) as u32))
}

/// False where there was one already.
fn replace<T>(slot: &mut Option<T>, value: T) -> bool {
    let free = slot.is_none();
    if free {
        *slot = Some(value);
    }
    free
}

fn replace_list(slot: &mut Vec<String>, value: Vec<String>) -> bool {
    let free = slot.is_empty();
    if free {
        *slot = value;
    }
    free
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_fills_gaps_and_a_key_in_both_places_is_refused() {
        let options = Options::parse_from(["berthd", "--data-root", "/a"]);
        let merged = options.merge(br#"{"exec-root": "/b", "log-opts": {"max-size": "1m"}}"#).unwrap();
        assert_eq!(merged.exec_root(), Path::new("/b"));
        assert_eq!(merged.log_options, ["max-size=1m"]);
        let options = Options::parse_from(["berthd", "--data-root", "/a"]);
        assert!(options.merge(br#"{"data-root": "/b"}"#).unwrap_err().contains("both"));
    }

    #[test]
    fn engines_with_folders_of_their_own_have_names_of_their_own() {
        assert_eq!(instance(Path::new("/var/lib/berth")), None);
        let (one, other) = (instance(Path::new("/a")).unwrap(), instance(Path::new("/b")).unwrap());
        assert_ne!(one, other);
        assert_eq!(instance(Path::new("/a")), Some(one.clone()));
        assert!("berth-".len() + one.len() <= 15, "an interface's name has at most 15 bytes");
    }

    #[test]
    fn an_unknown_key_of_the_file_is_named() {
        let error = Options::parse_from(["berthd"]).merge(br#"{"colour": 1}"#).unwrap_err();
        assert!(error.ends_with("configuration option: colour"));
    }
}
