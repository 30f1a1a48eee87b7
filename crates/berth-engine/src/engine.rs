//! The handle that doors hold.

use crate::secrets::{SecretKind, Secrets};
use crate::{
    containers::Containers, events::Events, images::Images, networks::Networks, system::System, volumes::Volumes,
};
use berth_store::Store;
use berth_types::{Error, ErrorKind, Result};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Where an engine lives and what it starts from.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Everything that must survive a reboot.
    pub data_root: PathBuf,
    /// Everything that a reboot ends; on a tmpfs.
    pub exec_root: PathBuf,
    /// The `berth-shim` program.
    pub shim_program: PathBuf,
    /// Parent of all containers' cgroups, for example `/berth`.
    pub cgroup_parent: String,
    /// Shims started ahead of time.
    pub idle_shims: usize,
    /// Name of the default bridge's interface, `berth0`; several engines on one host need different ones.
    pub bridge_name: String,
    /// The default bridge's subnet; `None`: chosen so that it meets no route of the host.
    pub bridge_subnet: Option<String>,
    /// The `berth-dns` program; `None`: containers look up no names of each other.
    pub dns_program: Option<PathBuf>,
    /// TCP ports of the host that no container may reach: doors that ask for no proof of who calls.
    pub closed_ports: Vec<u16>,
    /// Labels of the engine itself, shown by `info`.
    pub labels: Vec<String>,
    /// How new layers lie on the disk; `None`: as images where the kernel can, else as folders.
    pub storage_driver: Option<crate::images::StorageDriver>,
    pub log_driver: String,
    /// Of containers that name none: empty or `runc` for the host's kernel, `vm` for a machine of their own.
    pub default_runtime: String,
    pub log_options: std::collections::BTreeMap<String, String>,
    /// Mirrors, trust and credentials for pulls, pushes and builds.
    pub registries: crate::images::RegistryOptions,
}

impl EngineConfig {
    /// The defaults for these folders and this shim.
    pub fn new(data_root: impl Into<PathBuf>, exec_root: impl Into<PathBuf>, shim_program: impl Into<PathBuf>) -> Self {
        let shim_program = shim_program.into();
        let dns_program = Some(shim_program.with_file_name("berth-dns"));
        EngineConfig {
            data_root: data_root.into(),
            exec_root: exec_root.into(),
            shim_program,
            dns_program,
            closed_ports: Vec::new(),
            cgroup_parent: "/berth".to_owned(),
            idle_shims: 4,
            bridge_name: "berth0".to_owned(),
            bridge_subnet: None,
            labels: Vec::new(),
            storage_driver: None,
            log_driver: "json-file".to_owned(),
            default_runtime: String::new(),
            log_options: Default::default(),
            registries: Default::default(),
        }
    }
}

/// One engine on its own folders. Cloning costs a counter.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    config: EngineConfig,
    events: Events,
    networks: Arc<crate::networks::Shared>,
    volumes: Arc<crate::volumes::Shared>,
    secrets: Arc<crate::secrets::Shared>,
    configs: Arc<crate::secrets::Shared>,
    images: Arc<crate::images::Shared>,
    builds: Arc<crate::builds::Shared>,
    machines: Arc<crate::machines::Shared>,
    store: Store,
    table: crate::containers::Table,
    pool: Arc<crate::shim::Pool>,
    /// The kernel's name for this boot.
    boot_id: String,
    closing: std::sync::atomic::AtomicBool,
}

impl Engine {
    /// Takes the folders' lock, reads the records, finds running containers again and finishes what an
    /// earlier engine left half done. Must be called within a tokio runtime.
    pub async fn open(config: EngineConfig) -> Result<Engine> {
        let networks = crate::networks::Shared::open(&config)?;
        let volumes = crate::volumes::Shared::open(&config.data_root);
        let secrets = Arc::new(crate::secrets::Shared::open(&config.data_root, SecretKind::Secret)?);
        let configs = Arc::new(crate::secrets::Shared::open(&config.data_root, SecretKind::Config)?);
        let failed = |action: &str, cause: &(dyn std::error::Error + 'static)| {
            Error::because(ErrorKind::Unavailable, format!("cannot {action} {}", config.data_root.display()), cause)
        };
        std::fs::create_dir_all(&config.data_root).map_err(|cause| failed("make", &cause))?;
        let store = Store::open(&config.data_root.join("state.redb"), |_, _, record| record)
            .map_err(|cause| failed("use", &cause))?;
        let builds = crate::builds::Shared::open(&config.data_root, store.clone())?;
        let images = crate::images::Shared::open(&config, store.clone(), builds.clone())?;
        std::fs::create_dir_all(config.exec_root.join("shims")).map_err(|cause| failed("make", &cause))?;
        crate::shim::collect_profiles(&config.exec_root);
        let pool = crate::shim::Pool::new(&config);
        let machines = crate::machines::Shared::new(&config);
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let engine = Engine {
            inner: Arc::new(Inner {
                config,
                events: Events::new(),
                networks,
                volumes,
                secrets,
                configs,
                images,
                builds,
                machines,
                store,
                table: crate::containers::Table::default(),
                pool,
                boot_id,
                closing: Default::default(),
            }),
        };
        engine.builds().recover().await;
        engine.containers().recover().await?;
        engine.inner.pool.refill();
        tokio::spawn(give_back_when_quiet(engine.events().clone()));
        Ok(engine)
    }

    pub fn config(&self) -> &EngineConfig {
        &self.inner.config
    }

    pub fn containers(&self) -> Containers {
        Containers::new(self.clone())
    }

    pub fn images(&self) -> Images {
        Images::new(self.clone())
    }

    pub fn networks(&self) -> Networks {
        Networks::new(self.clone())
    }

    pub(crate) fn network_state(&self) -> &Arc<crate::networks::Shared> {
        &self.inner.networks
    }

    pub fn builds(&self) -> crate::builds::Builds {
        crate::builds::Builds::new(self.clone())
    }

    pub(crate) fn build_state(&self) -> &Arc<crate::builds::Shared> {
        &self.inner.builds
    }

    pub(crate) fn image_state(&self) -> &Arc<crate::images::Shared> {
        &self.inner.images
    }

    pub fn machines(&self) -> crate::machines::Machines {
        crate::machines::Machines::new(self.clone())
    }

    /// Kernels of containers in machines of their own.
    pub fn kernels(&self) -> crate::guests::Kernels {
        crate::guests::Kernels::new(self.clone())
    }

    pub(crate) fn machine_state(&self) -> &Arc<crate::machines::Shared> {
        &self.inner.machines
    }

    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }

    pub(crate) fn table(&self) -> &crate::containers::Table {
        &self.inner.table
    }

    pub(crate) fn pool(&self) -> &Arc<crate::shim::Pool> {
        &self.inner.pool
    }

    pub(crate) fn boot_id(&self) -> &String {
        &self.inner.boot_id
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.inner.closing.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Waits until `batch` is durable.
    pub(crate) async fn commit(&self, batch: berth_store::Batch) -> Result<()> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.inner.store.submit(batch, move |result| drop(sender.send(result)));
        let result = receiver.await.unwrap_or(Err(berth_store::StoreError::Closed));
        result.map_err(|cause| Error::because(ErrorKind::Internal, "cannot write a record", &cause))
    }

    pub fn volumes(&self) -> Volumes {
        Volumes::new(self.clone())
    }

    pub(crate) fn volume_state(&self) -> &Arc<crate::volumes::Shared> {
        &self.inner.volumes
    }

    pub fn secrets(&self) -> Secrets {
        Secrets::new(self.clone(), SecretKind::Secret)
    }

    /// Named configurations: secrets that may be looked at.
    pub fn configs(&self) -> Secrets {
        Secrets::new(self.clone(), SecretKind::Config)
    }

    pub(crate) fn secret_state(&self, kind: SecretKind) -> &Arc<crate::secrets::Shared> {
        match kind {
            SecretKind::Secret => &self.inner.secrets,
            SecretKind::Config => &self.inner.configs,
        }
    }

    pub fn events(&self) -> &Events {
        &self.inner.events
    }

    pub fn system(&self) -> System {
        System::new(self.clone())
    }

    /// Lets go of everything in order; containers run on. The engine answers nothing afterwards.
    pub async fn close(&self) {
        self.inner.closing.store(true, std::sync::atomic::Ordering::Release);
        self.inner.builds.close().await;
        self.inner.networks.close();
    }
}

/// Work leaves the heap full of holes: two megabytes after a hundred starts. They go back to the kernel when nothing
/// has happened for a while, once, so that an engine that does nothing is never woken.
async fn give_back_when_quiet(events: Events) {
    const PAUSE: Duration = Duration::from_secs(3);
    tokio::time::sleep(PAUSE).await;
    loop {
        // A walk through the whole heap under the allocator's locks: not between what tasks are at.
        if tokio::task::spawn_blocking(berth_sys::memory::give_back_heap).await.is_err() {
            return;
        }
        events.quiet(PAUSE).await;
    }
}
