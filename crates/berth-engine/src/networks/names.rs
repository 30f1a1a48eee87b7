//! Names of containers on user networks: what the name server is told, and that it runs.
//!
//! ```text
//!  attach, connect, disconnect, detach ── ops ──▶ berth-dns      one request each, answered before they return
//!  no connection                       ── all ──▶ berth-dns      found by its socket or started, told everything
//!  it ended                            ──────────▶ the same, at once
//! ```
//!
//! The name server ([`berth_dns`]) is a process of its own that goes on while the engine is down. It is started when the
//! first container joins a user network. One lock guards the connection; whoever holds it may take the networks' lock,
//! never the other way round.

use super::state::{Held, Live, Shared, State};
use super::types::Endpoint;
use berth_dns::protocol::{self, DESCRIPTORS_PER_CONTAINER, Op, Reply, SERVES_MAX, VERSION, View};
use berth_net::names::NameSockets;
use berth_net::slot::Namespace;
use berth_types::{ContainerId, Error, ErrorKind, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use std::collections::{BTreeMap, HashSet};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, Weak};
use std::time::Duration;

/// A name server that does not answer by then is replaced.
const ANSWER: Duration = Duration::from_secs(3);
/// Room for a request that tells a thousand containers' names.
const BUFFER_BYTES: usize = 4 << 20;
/// Puts in one request.
const OPS_MAX: usize = 500;

/// The engine's end.
pub(crate) struct Names {
    program: Option<PathBuf>,
    socket: PathBuf,
    log: PathBuf,
    line: Mutex<Option<OwnedFd>>,
}

/// What to tell of one container.
struct Told {
    serve: Op,
    sockets: Option<NameSockets>,
    puts: Vec<Op>,
}

impl Names {
    pub(super) fn new(program: Option<&Path>, exec_root: &Path) -> Names {
        Names {
            program: program.map(Path::to_owned),
            socket: exec_root.join(berth_dns::SOCKET_NAME),
            log: exec_root.join("dns.log"),
            line: Mutex::new(None),
        }
    }

    /// Without the program there are no names (tests of the networks alone).
    pub(super) fn are_there(&self) -> bool {
        self.program.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.line.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Wakes whoever waits for its end.
    pub(super) fn hang_up(&self) {
        if let Some(line) = self.lock().take() {
            // Closed by the other side already: as good.
            rustix::net::shutdown(&line, rustix::net::Shutdown::Both).ok();
        }
    }

    fn dial(&self) -> Result<OwnedFd> {
        let failed = |cause: rustix::io::Errno| {
            Error::because(ErrorKind::Unavailable, format!("cannot reach {}", self.socket.display()), &cause)
        };
        let socket = seqpacket().map_err(failed)?;
        let address = SocketAddrUnix::new(&self.socket).map_err(failed)?;
        rustix::net::connect(&socket, &address).map_err(failed)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER)).map_err(failed)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(ANSWER)).map_err(failed)?;
        // As much as the host allows; then larger messages are refused aloud.
        sockopt::set_socket_send_buffer_size_force(&socket, BUFFER_BYTES).ok();
        Ok(socket)
    }

    fn start(&self) -> Result<()> {
        let program = self.program.as_deref().ok_or_else(|| Error::internal("there is no name server"))?;
        let failed = |cause: std::io::Error| {
            Error::because(
                ErrorKind::Unavailable,
                format!("cannot start the name server {}", program.display()),
                &cause,
            )
            .with_hint("berth-dns lies next to berth-shim")
        };
        match std::fs::remove_file(&self.socket) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => return Err(failed(cause)),
            _ => (),
        }
        let listener = seqpacket().map_err(|errno| failed(errno.into()))?;
        let address = SocketAddrUnix::new(&self.socket).map_err(|errno| failed(errno.into()))?;
        rustix::net::bind(&listener, &address).map_err(|errno| failed(errno.into()))?;
        std::fs::set_permissions(&self.socket, std::os::unix::fs::PermissionsExt::from_mode(0o600)).map_err(failed)?;
        rustix::net::listen(&listener, 8).map_err(|errno| failed(errno.into()))?;
        // Accepted connections inherit it: replies to a hello are long.
        sockopt::set_socket_send_buffer_size_force(&listener, BUFFER_BYTES).ok();

        let text = |bytes: &[u8]| CString::new(bytes).map_err(|cause| failed(cause.into()));
        let folder = self.socket.parent().unwrap_or(Path::new("/"));
        let arguments = [text(b"berth-dns")?, text(folder.as_os_str().as_bytes())?];
        let environment: Vec<CString> = std::env::var_os("BERTH_RESOLV_CONF")
            .and_then(|path| CString::new([b"BERTH_RESOLV_CONF=", path.as_bytes()].concat()).ok())
            .into_iter()
            .collect();
        let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").map_err(failed)?;
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).map_err(failed)?;
        let descriptors =
            [(null.as_fd(), 0), (null.as_fd(), 1), (log.as_fd(), 2), (listener.as_fd(), berth_dns::LISTENER)];
        let pid =
            berth_sys::spawn::spawn(&text(program.as_os_str().as_bytes())?, &arguments, &environment, &descriptors)
                .map_err(|errno| failed(errno.into()))?;
        // Its end is seen on the connection; this takes its exit status, so that it is no zombie.
        let reap = move || {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                // Somebody else reaped it.
                rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).ok();
            }
        };
        std::thread::Builder::new()
            .name("dns-end".to_owned())
            .stack_size(super::behind::STACK_BYTES)
            .spawn(reap)
            .map(drop)
            .map_err(failed)
    }
}

fn seqpacket() -> Result<OwnedFd, rustix::io::Errno> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

fn ask(line: &OwnedFd, ops: &[Op], descriptors: &[BorrowedFd<'_>]) -> Result<Reply> {
    let failed = |cause: protocol::ProtocolError| {
        Error::because(ErrorKind::Unavailable, "the containers' name server does not answer", &cause)
    };
    protocol::send(line.as_fd(), &ops, descriptors).map_err(failed)?;
    let (reply, _) = protocol::receive::<Reply>(line.as_fd()).map_err(failed)?;
    match reply.error {
        Some(error) => Err(Error::internal(error)),
        None => Ok(reply),
    }
}

impl NameSocketsExt for NameSockets {
    fn borrowed(&self) -> [BorrowedFd<'_>; DESCRIPTORS_PER_CONTAINER] {
        [self.udp.as_fd(), self.tcp.as_fd(), self.namespace.as_fd()]
    }
}

trait NameSocketsExt {
    fn borrowed(&self) -> [BorrowedFd<'_>; DESCRIPTORS_PER_CONTAINER];
}

impl State {
    /// The endpoints of a container that have names, the preferred first.
    fn named<'a>(&'a self, held: &'a Held) -> Vec<(&'a Live, &'a Endpoint)> {
        let mut all: Vec<(&Live, &Endpoint)> = held
            .attachment
            .endpoints
            .values()
            .filter_map(|endpoint| Some((self.networks.get(endpoint.network_id.as_ref()?)?, &**endpoint)))
            .filter(|(live, _)| live.has_names())
            .collect();
        all.sort_by_key(|(_, e)| (e.gateway.is_none(), e.interface.len(), e.interface.clone()));
        all
    }

    /// What the name server has to know of a container; `None`: nothing.
    fn ops_of(&self, id: &ContainerId, sockets: bool) -> Option<(Op, Vec<Op>)> {
        let held = self.held.get(id)?;
        let named = self.named(held);
        if named.is_empty() {
            return None;
        }
        let network = |endpoint: &Endpoint| endpoint.network_id.as_ref().map(ToString::to_string).unwrap_or_default();
        let leads_out = |endpoint: &Endpoint| {
            let live = endpoint.network_id.as_ref().and_then(|id| self.networks.get(id));
            live.is_some_and(|live| !live.network.internal)
        };
        let mut links = BTreeMap::new();
        for (_, endpoint) in &named {
            for link in &endpoint.spec.links {
                let (target, alias) = link.split_once(':').unwrap_or((link, link));
                links.insert(alias.to_ascii_lowercase(), target.to_ascii_lowercase());
            }
        }
        let view = View {
            container: id.to_string(),
            networks: named.iter().map(|(_, endpoint)| network(endpoint)).collect(),
            servers: held.attachment.dns_servers.clone(),
            forward: held.attachment.endpoints.values().any(|endpoint| leads_out(endpoint)),
            links,
        };
        let put = |(live, endpoint): &(&Live, &Endpoint)| Op::Put {
            network: network(endpoint),
            label: live.network.name.clone(),
            one: live.answers_one(),
            container: id.to_string(),
            names: endpoint.dns_names.clone(),
            addresses: endpoint.addresses(),
        };
        Some((Op::Serve { view, sockets }, named.iter().map(put).collect()))
    }
}

impl Shared {
    /// Tells what is so of one container; `gone`: networks that it has left. Starts the name server where
    /// there is none.
    pub(super) fn tell_names(&self, id: &ContainerId, gone: &[String], sockets: Option<NameSockets>) -> Result<()> {
        if !self.names.are_there() {
            return Ok(());
        }
        let mut line = self.names.lock();
        let told = {
            let mut state = self.lock();
            if let (Some(held), true) = (state.held.get_mut(id), sockets.is_some()) {
                held.names_on_the_way = false;
            }
            state.ops_of(id, sockets.is_some())
        };
        if told.is_none() && line.is_none() {
            return Ok(());
        }
        if let Some(connected) = line.as_ref() {
            let mut ops: Vec<Op> =
                gone.iter().map(|network| Op::Remove { network: network.clone(), container: id.to_string() }).collect();
            match told {
                Some((serve, puts)) => {
                    ops.push(serve);
                    ops.extend(puts);
                }
                None => ops.push(Op::Unserve { container: id.to_string() }),
            }
            let descriptors: Vec<BorrowedFd<'_>> = sockets.iter().flat_map(|sockets| sockets.borrowed()).collect();
            match ask(connected, &ops, &descriptors) {
                Ok(_) => return Ok(()),
                Err(error) => tracing::warn!(%error, "the name server is told everything anew"),
            }
        }
        drop(sockets);
        *line = None;
        *line = Some(self.connect_names()?);
        Ok(())
    }

    /// After a start of the engine, and when the name server has ended.
    pub(super) fn restore_names(&self) -> Result<()> {
        if !self.names.are_there() {
            return Ok(());
        }
        let mut line = self.names.lock();
        let needed = {
            let state = self.lock();
            !state.closing && state.held.values().any(|held| !state.named(held).is_empty())
        };
        *line = None;
        // One that serves nobody ends by itself; one that is there must hear what is gone.
        if needed || self.names.dial().is_ok() {
            *line = Some(self.connect_names()?);
        }
        Ok(())
    }

    /// A connection to a name server that knows everything.
    fn connect_names(&self) -> Result<OwnedFd> {
        let found = self.names.dial().and_then(|line| {
            let reply = ask(&line, &[Op::Hello], &[])?;
            Ok((line, reply))
        });
        let (line, serving) = match found {
            Ok((line, reply)) if reply.version == VERSION => (line, reply.serving),
            other => {
                if let Ok((line, _)) = other {
                    // Its sockets are opened anew below; it has nothing more to do.
                    ask(&line, &[Op::Quit], &[]).ok();
                }
                self.names.start()?;
                let line = self.names.dial()?;
                ask(&line, &[Op::Hello], &[])?;
                (line, Vec::new())
            }
        };
        self.tell_everything(&line, &serving.into_iter().collect())?;
        self.watch_names(&line)?;
        Ok(line)
    }

    fn tell_everything(&self, line: &OwnedFd, serving: &HashSet<String>) -> Result<()> {
        let mut all: Vec<Told> = Vec::new();
        let namespaces: Vec<(ContainerId, Option<Namespace>)> = {
            let state = self.lock();
            let namespace = |held: &Held| held.namespace.as_ref().and_then(|own| Namespace::open(&own.path()).ok());
            state
                .held
                .iter()
                .filter(|(_, held)| !held.names_on_the_way && !state.named(held).is_empty())
                .map(|(id, held)| (id.clone(), if serving.contains(id.as_str()) { None } else { namespace(held) }))
                .collect()
        };
        for (id, namespace) in namespaces {
            let sockets = match (serving.contains(id.as_str()), namespace) {
                (true, _) => None,
                (false, Some(namespace)) => match namespace.open_name_sockets() {
                    Ok(sockets) => Some(sockets),
                    Err(error) => {
                        tracing::error!(container = id.short(), %error, "no names for a container");
                        continue;
                    }
                },
                (false, None) => {
                    tracing::error!(container = id.short(), "no names for a container whose namespace is not known");
                    continue;
                }
            };
            // Gone meanwhile: it is told nothing about.
            if let Some((serve, puts)) = self.lock().ops_of(&id, sockets.is_some()) {
                all.push(Told { serve, sockets, puts });
            }
        }
        ask(line, &[Op::Begin], &[])?;
        let mut rest = all.as_slice();
        while !rest.is_empty() {
            let (mut count, mut ops) = (0, Vec::new());
            let mut descriptors: Vec<BorrowedFd<'_>> = Vec::new();
            for told in rest.iter().take(SERVES_MAX) {
                if count > 0 && ops.len() + told.puts.len() > OPS_MAX {
                    break;
                }
                ops.push(told.serve.clone());
                ops.extend(told.puts.iter().cloned());
                descriptors.extend(told.sockets.iter().flat_map(|sockets| sockets.borrowed()));
                count += 1;
            }
            ask(line, &ops, &descriptors)?;
            rest = &rest[count..];
        }
        ask(line, &[Op::End], &[]).map(drop)
    }

    /// A thread that hears when the name server ends, and sees to another.
    fn watch_names(&self, line: &OwnedFd) -> Result<()> {
        let failed = |cause: std::io::Error| {
            Error::because(ErrorKind::Internal, "cannot watch the containers' name server", &cause)
        };
        let own = rustix::io::fcntl_dupfd_cloexec(line, 0).map_err(|errno| failed(errno.into()))?;
        let me = self.me.clone();
        let builder = std::thread::Builder::new().name("dns-watch".to_owned()).stack_size(super::behind::STACK_BYTES);
        builder.spawn(move || watch(&own, &me)).map(drop).map_err(failed)
    }
}

fn watch(line: &OwnedFd, shared: &Weak<Shared>) {
    use rustix::event::{PollFd, PollFlags, poll};
    loop {
        let mut ends = [PollFd::new(line, PollFlags::RDHUP)];
        match poll(&mut ends, None) {
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
    let Some(shared) = shared.upgrade() else { return };
    let is_current = {
        let current = shared.names.lock();
        let same = |fd: &OwnedFd| {
            let id = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|stat| stat.st_ino);
            matches!((id(fd), id(line)), (Ok(one), Ok(other)) if one == other)
        };
        current.as_ref().is_some_and(same)
    };
    if !is_current || shared.lock().closing {
        return;
    }
    tracing::warn!("the containers' name server ended; another is started");
    if let Err(error) = shared.restore_names() {
        tracing::error!(%error, "containers cannot look up names");
    }
}
