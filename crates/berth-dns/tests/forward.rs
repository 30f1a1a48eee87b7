//! The whole server: real sockets, name servers of the test's own, an engine's requests.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test program; clippy knows only #[test] functions as tests"
)]

use berth_dns::protocol::{self, Op, Reply, View};
use berth_dns::server::Server;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(8);
const TRIES: u32 = 4;

/// Upstream servers listen on port 53 of loopback addresses: one test at a time, in a network namespace of its own.
fn in_private_network(work: impl FnOnce() + Send + 'static) {
    static ONE: Mutex<()> = Mutex::new(());
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: needs root");
    }
    let _one: MutexGuard<'_, ()> = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let thread = std::thread::spawn(move || {
        berth_sys::netns::unshare_network().unwrap();
        raise_loopback();
        work();
    });
    thread.join().unwrap();
}

fn raise_loopback() {
    let mut batch = berth_net::netlink::Batch::default();
    berth_net::route::set_up(&mut batch, 1);
    berth_net::route::Route::open().unwrap().run(batch).unwrap();
}

/// A server on a thread, its engine's connection, and the container's two addresses.
struct Fixture {
    engine: OwnedFd,
    udp: SocketAddr,
    tcp: SocketAddr,
    folder: PathBuf,
}

impl Fixture {
    fn start(resolv_conf: &str, view: View) -> Fixture {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("berth-dns-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("resolv.conf"), resolv_conf).unwrap();
        let seqpacket = || {
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
        };
        let (listener, engine) = (seqpacket(), seqpacket());
        let address = SocketAddrUnix::new(folder.join("s")).unwrap();
        rustix::net::bind(&listener, &address).unwrap();
        rustix::net::listen(&listener, 1).unwrap();
        let path = folder.join("resolv.conf");
        std::thread::spawn(move || Server::new(listener, path).unwrap().run().unwrap());
        rustix::net::connect(&engine, &address).unwrap();

        let udp = UdpSocket::bind("127.0.0.11:0").unwrap();
        let tcp = TcpListener::bind("127.0.0.11:0").unwrap();
        let namespace = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        let fixture = Fixture { engine, udp: udp.local_addr().unwrap(), tcp: tcp.local_addr().unwrap(), folder };
        let put = Op::Put {
            network: "n".to_owned(),
            label: "net".to_owned(),
            one: false,
            container: "c".to_owned(),
            names: vec!["web".to_owned()],
            addresses: vec!["10.0.0.2".parse().unwrap()],
        };
        let ops = [Op::Hello, Op::Begin, Op::Serve { view, sockets: true }, put, Op::End];
        let reply = fixture.tell(&ops, &[udp.as_fd(), tcp.as_fd(), namespace.as_fd()]);
        assert_eq!((reply.version, reply.error), (protocol::VERSION, None));
        fixture
    }

    fn tell(&self, ops: &[Op], descriptors: &[BorrowedFd<'_>]) -> Reply {
        protocol::send(self.engine.as_fd(), &ops, descriptors).unwrap();
        protocol::receive::<Reply>(self.engine.as_fd()).unwrap().0
    }

    /// Asks as a resolver does: again after two seconds, since a datagram may find the server's buffer full (resolv.conf(5)).
    fn ask(&self, name: &str) -> Option<Vec<u8>> {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(self.udp).unwrap();
        client.set_read_timeout(Some(DEADLINE / TRIES)).unwrap();
        let mut buffer = [0; 4096];
        (0..TRIES).find_map(|_| {
            client.send(&question(name)).unwrap();
            let length = client.recv(&mut buffer).ok()?;
            Some(buffer[..length].to_vec())
        })
    }

    fn ask_over_tcp(&self, name: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.tcp).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let question = question(name);
        stream.write_all(&(question.len() as u16).to_be_bytes()).unwrap();
        stream.write_all(&question).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer).unwrap();
        answer
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.tell(&[Op::Quit], &[]);
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

fn view(servers: &[&str], forward: bool) -> View {
    View {
        container: "c".to_owned(),
        networks: vec!["n".to_owned()],
        servers: servers.iter().map(|text| text.parse::<IpAddr>().unwrap()).collect(),
        forward,
        links: Default::default(),
    }
}

fn question(name: &str) -> Vec<u8> {
    let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, 1, 0, 1]);
    bytes
}

fn answer_to(question: &[u8], last: u8, ttl: u8) -> Vec<u8> {
    let mut answer = question.to_vec();
    answer[2..4].copy_from_slice(&[0x81, 0x80]);
    answer[7] = 1;
    answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, ttl, 0, 4, 192, 0, 2, last]);
    answer
}

/// A name server that answers 192.0.2.`last` to everything, and counts.
fn upstream(address: &str, last: u8) -> Arc<AtomicUsize> {
    let asked = Arc::new(AtomicUsize::new(0));
    let udp = UdpSocket::bind((address, 53)).unwrap();
    let tcp = TcpListener::bind((address, 53)).unwrap();
    let (count, count_tcp) = (asked.clone(), asked.clone());
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
            count.fetch_add(1, Ordering::Relaxed);
            udp.send_to(&answer_to(&buffer[..length], last, 60), peer).unwrap();
        }
    });
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let (mut stream, mut length) = (stream.unwrap(), [0; 2]);
            count_tcp.fetch_add(1, Ordering::Relaxed);
            stream.read_exact(&mut length).unwrap();
            let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut question).unwrap();
            // Many records: more than any datagram holds.
            let mut answer = question.clone();
            answer[2..4].copy_from_slice(&[0x81, 0x80]);
            answer[7] = 200;
            for n in 0..200 {
                answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, n]);
            }
            stream.write_all(&(answer.len() as u16).to_be_bytes()).unwrap();
            stream.write_all(&answer).unwrap();
        }
    });
    asked
}

#[test]
fn our_names_are_answered_and_others_are_asked_for_once() {
    in_private_network(|| {
        let asked = upstream("127.0.0.2", 7);
        let fixture = Fixture::start("nameserver 127.0.0.2\n", view(&[], true));
        assert!(fixture.ask("web").unwrap().ends_with(&[10, 0, 0, 2]));
        assert!(fixture.ask("web.net").unwrap().ends_with(&[10, 0, 0, 2]));
        assert_eq!(asked.load(Ordering::Relaxed), 0);
        for _ in 0..3 {
            let answer = fixture.ask("example.test").unwrap();
            assert_eq!(answer[..2], [0xab, 0xcd]);
            assert!(answer.ends_with(&[192, 0, 2, 7]));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1, "the rest came from memory");
        assert_eq!(fixture.ask_over_tcp("large.test")[7], 200);
    });
}

#[test]
fn a_dead_name_server_costs_little_and_only_once() {
    in_private_network(|| {
        // Silent: bound, and nobody reads.
        let silent = UdpSocket::bind("127.0.0.2:53").unwrap();
        upstream("127.0.0.3", 7);
        let fixture = Fixture::start("nameserver 127.0.0.2\nnameserver 127.0.0.3\n", view(&[], true));
        assert!(fixture.ask("first.test").unwrap().ends_with(&[192, 0, 2, 7]));
        let since = Instant::now();
        for n in 0..20 {
            assert!(fixture.ask(&format!("n{n}.test")).unwrap().ends_with(&[192, 0, 2, 7]));
        }
        // Twenty times the tenth of a second that the first question waited would be two seconds.
        assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
        drop(silent);
        // Refused at once is as good as answered by the next.
        assert!(fixture.ask("closed.test").unwrap().ends_with(&[192, 0, 2, 7]));
    });
}

#[test]
fn own_servers_are_asked_and_internal_containers_ask_nobody() {
    in_private_network(|| {
        let host = upstream("127.0.0.2", 7);
        upstream("127.0.0.4", 9);
        let fixture = Fixture::start("nameserver 127.0.0.2\n", view(&["127.0.0.4"], true));
        assert!(fixture.ask("example.test").unwrap().ends_with(&[192, 0, 2, 9]));
        fixture.tell(&[Op::Serve { view: view(&[], false), sockets: false }], &[]);
        let refused = fixture.ask("secret.test").unwrap();
        assert_eq!(refused[3] & 0xf, 2, "no names carry data out of an internal network");
        assert!(fixture.ask("web").unwrap().ends_with(&[10, 0, 0, 2]));
        assert_eq!(host.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn hostile_clients_do_not_keep_others_from_answers() {
    in_private_network(|| {
        let silent = UdpSocket::bind("127.0.0.2:53").unwrap();
        let fixture = Fixture::start("nameserver 127.0.0.2\n", view(&[], true));
        let noise = UdpSocket::bind("127.0.0.1:0").unwrap();
        for n in 0..3000_u32 {
            let mut bytes: Vec<u8> = (0..n % 700).map(|at| (at.wrapping_mul(n) >> 3) as u8).collect();
            if n % 3 == 0 {
                bytes = question(&format!("x{n}.test"));
            }
            noise.send_to(&bytes, fixture.udp).unwrap();
        }
        // Connections that say nothing, half a length, or a length that nobody's question has.
        let idle: Vec<TcpStream> = (0..100)
            .filter_map(|n| {
                let mut stream = TcpStream::connect(fixture.tcp).ok()?;
                stream.write_all(&[0xff, 0xff, 0][..n % 4]).ok()?;
                Some(stream)
            })
            .collect();
        assert!(fixture.ask("web").unwrap().ends_with(&[10, 0, 0, 2]));
        drop(idle);
        assert_eq!(fixture.ask_over_tcp("web")[7], 1);
        drop(silent);
    });
}
