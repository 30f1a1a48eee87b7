//! A link between a client and a server that counts bytes and breaks.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Small: a link does not hold much that it then loses.
const PIECE_BYTES: usize = 16 << 10;

/// What the kernel takes on behalf of a slow link; of its own accord it takes megabytes, which are then sent at once.
const WAITING_BYTES: usize = 64 << 10;

/// Forwards TCP connections; runs until it is dropped.
pub struct Link {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    to: String,
    /// Bytes that went to clients.
    down: AtomicU64,
    /// Bytes that came from clients.
    up: AtomicU64,
    cut_every: u64,
    /// Whether bytes from clients are what it breaks under.
    cut_up: bool,
    /// Between two pieces.
    pause: Duration,
    cuts_left: AtomicU64,
    next_cut: AtomicU64,
    stop: AtomicBool,
}

impl Link {
    /// A link to `to` that breaks `cuts` times: the connection that brings the `cut_every`th byte ends there.
    pub fn start(to: &str, cuts: u64, cut_every: u64) -> Link {
        Link::with(to, cuts, cut_every, false, Duration::ZERO)
    }

    /// The same, counting the bytes that come from clients.
    pub fn broken_upwards(to: &str, cuts: u64, cut_every: u64) -> Link {
        Link::with(to, cuts, cut_every, true, Duration::ZERO)
    }

    /// A link of about `megabytes_per_second`, either way, that does not break.
    pub fn slow(to: &str, megabytes_per_second: u32) -> Link {
        Link::slow_and_broken(to, megabytes_per_second, 0, u64::MAX)
    }

    /// Both.
    pub fn slow_and_broken(to: &str, megabytes_per_second: u32, cuts: u64, cut_every: u64) -> Link {
        let pause = Duration::from_secs(1) * PIECE_BYTES as u32 / (megabytes_per_second << 20);
        Link::with(to, cuts, cut_every, false, pause)
    }

    fn with(to: &str, cuts: u64, cut_every: u64, cut_up: bool, pause: Duration) -> Link {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        if !pause.is_zero() {
            // What it accepts has the same.
            take_little(&listener);
        }
        let shared = Arc::new(Shared {
            to: to.to_owned(),
            down: AtomicU64::new(0),
            up: AtomicU64::new(0),
            cut_every,
            cut_up,
            pause,
            cuts_left: AtomicU64::new(cuts),
            next_cut: AtomicU64::new(cut_every),
            stop: AtomicBool::new(false),
        });
        let in_thread = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if in_thread.stop.load(Ordering::Acquire) {
                    return;
                }
                let Ok(server) = TcpStream::connect(&in_thread.to) else { continue };
                if !in_thread.pause.is_zero() {
                    take_little(&server);
                }
                let pairs = [(client.try_clone(), server.try_clone(), true), (Ok(server), Ok(client), false)];
                for (from, to, is_up) in pairs {
                    let (Ok(from), Ok(to)) = (from, to) else { continue };
                    let shared = in_thread.clone();
                    std::thread::spawn(move || pump(from, to, is_up, &shared));
                }
            }
        });
        Link { address, shared }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    pub fn bytes_down(&self) -> u64 {
        self.shared.down.load(Ordering::Acquire)
    }

    pub fn bytes_up(&self) -> u64 {
        self.shared.up.load(Ordering::Acquire)
    }

    pub fn cuts_left(&self) -> u64 {
        self.shared.cuts_left.load(Ordering::Acquire)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        drop(TcpStream::connect(self.address));
    }
}

fn take_little(socket: &impl AsFd) {
    rustix::net::sockopt::set_socket_recv_buffer_size(socket, WAITING_BYTES).expect("a socket of our own");
}

fn pump(mut from: TcpStream, mut to: TcpStream, is_up: bool, shared: &Shared) {
    let mut buffer = [0; PIECE_BYTES];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 || to.write_all(&buffer[..count]).is_err() {
            break;
        }
        let counter = if is_up { &shared.up } else { &shared.down };
        let total = counter.fetch_add(count as u64, Ordering::AcqRel) + count as u64;
        if !shared.pause.is_zero() {
            // This is what makes it slow; nothing waits for it.
            std::thread::sleep(shared.pause);
        }
        if is_up != shared.cut_up || shared.cuts_left.load(Ordering::Acquire) == 0 {
            continue;
        }
        let next = shared.next_cut.load(Ordering::Acquire);
        if total >= next
            && shared
                .next_cut
                .compare_exchange(next, total + shared.cut_every, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
        {
            shared.cuts_left.fetch_sub(1, Ordering::AcqRel);
            break;
        }
    }
    // Either may be closed already.
    drop(from.shutdown(Shutdown::Both));
    drop(to.shutdown(Shutdown::Both));
}
