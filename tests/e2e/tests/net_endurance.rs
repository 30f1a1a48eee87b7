//! Traffic goes on while the engine is killed and started again.
//!
//! Fifty kills; `BERTH_ENDURANCE_KILLS` takes another number.

#![allow(clippy::unwrap_used, reason = "a test program; clippy knows only #[test] functions as tests")]

use berth_testkit::{Engine, wait_until};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(5);
const BODY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// An answer that is none to what was asked.
fn other() -> std::io::Error {
    std::io::Error::other("another answer")
}

/// What one kind of client did.
#[derive(Default)]
struct Count {
    done: AtomicU64,
    failed: AtomicU64,
    /// Why the first that failed did.
    why: OnceLock<String>,
}

impl Count {
    fn add(&self, outcome: std::io::Result<()>) {
        let number = self.done.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = outcome {
            self.failed.fetch_add(1, Ordering::Relaxed);
            self.why.get_or_init(|| format!("number {number}: {error}"));
        }
    }
}

/// Runs `work` on a thread inside the network of a container's process.
fn inside<T: Send + 'static>(pid: &str, work: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
    std::thread::spawn(move || {
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(LinkNameSpaceType::Network)).unwrap();
        drop(namespace);
        work()
    })
}

/// HTTP with connections that stay, and a UDP echo, on port 80. Over when the test is.
fn serve(pid: &str) {
    let bound = inside(pid, || (TcpListener::bind("0.0.0.0:80").unwrap(), UdpSocket::bind("0.0.0.0:80").unwrap()));
    let (tcp, udp) = bound.join().unwrap();
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            std::thread::spawn(move || {
                let mut stream = BufReader::new(stream.unwrap());
                let mut line = String::new();
                while stream.read_line(&mut line).is_ok_and(|length| length > 0) {
                    if line.ends_with("\r\n\r\n") && stream.get_mut().write_all(BODY.as_bytes()).is_err() {
                        return;
                    }
                    if line.ends_with("\r\n\r\n") {
                        line.clear();
                    }
                }
            });
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
            udp.send_to(&buffer[..length], peer).unwrap();
        }
    });
}

fn request(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut answer = [0; BODY.len()];
    stream.read_exact(&mut answer)
}

fn connect(port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

#[test]
fn no_request_datagram_or_name_is_lost_while_the_engine_is_killed_again_and_again() {
    let kills = std::env::var("BERTH_ENDURANCE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(50);
    let Some(mut engine) = Engine::start("endurance") else { return };
    engine.docker(["network", "create", "n"]).success();
    #[rustfmt::skip]
    engine.docker(["run", "-d", "--name", "web", "--network", "n", "-p", "127.0.0.1::80", "-p", "127.0.0.1::80/udp",
        "tiny", "sleep", "10000"]).success();
    let published = |port: &str| -> u16 {
        let text = engine.docker(["port", "web", port]).success();
        text.rsplit_once(':').unwrap().1.parse().unwrap()
    };
    let (tcp_port, udp_port) = (published("80/tcp"), published("80/udp"));
    let pid = engine.docker(["inspect", "-f", "{{.State.Pid}}", "web"]).success();
    serve(&pid);

    let stop = Arc::new(AtomicBool::new(false));
    let [kept, fresh, datagrams, names] = [(); 4].map(|()| Arc::new(Count::default()));
    let pause = Duration::from_millis(1);
    let mut clients = Vec::new();
    let mut stream = connect(tcp_port).unwrap();
    let (over, count) = (stop.clone(), kept.clone());
    clients.push(std::thread::spawn(move || {
        // One connection from beginning to end.
        while !over.load(Ordering::Relaxed) {
            count.add(request(&mut stream));
            std::thread::sleep(pause);
        }
    }));
    let (over, count) = (stop.clone(), fresh.clone());
    clients.push(std::thread::spawn(move || {
        while !over.load(Ordering::Relaxed) {
            count.add(connect(tcp_port).and_then(|mut stream| request(&mut stream)));
            std::thread::sleep(pause);
        }
    }));
    let (over, count) = (stop.clone(), datagrams.clone());
    clients.push(std::thread::spawn(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(("127.0.0.1", udp_port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = [0; 16];
        for number in 0_u64.. {
            if over.load(Ordering::Relaxed) {
                return;
            }
            let echoed = socket.send(&number.to_be_bytes()).and_then(|_| socket.recv(&mut buffer));
            let same = |length: usize| buffer[..length] == number.to_be_bytes();
            count.add(echoed.and_then(|length| same(length).then_some(()).ok_or_else(other)));
            std::thread::sleep(pause);
        }
    }));
    let (over, count) = (stop.clone(), names.clone());
    clients.push(inside(&pid, move || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect("127.0.0.11:53").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x00\x00\x01\x00\x01";
        let mut buffer = [0; 512];
        while !over.load(Ordering::Relaxed) {
            let answered = socket.send(question).and_then(|_| socket.recv(&mut buffer));
            // No error, one answer.
            let good = |()| (buffer[3] & 0xf == 0 && buffer[7] == 1).then_some(()).ok_or_else(other);
            count.add(answered.map(drop).and_then(good));
            std::thread::sleep(pause);
        }
    }));

    for _ in 0..kills {
        engine.restart_after_kill();
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().unwrap();
    }
    for (what, count) in [("kept", kept), ("fresh", fresh), ("datagrams", datagrams), ("names", names)] {
        let (done, failed) = (count.done.load(Ordering::Relaxed), count.failed.load(Ordering::Relaxed));
        eprintln!("{what}: {done} done, {failed} failed, {kills} kills");
        let why = count.why.get().map_or("", String::as_str);
        assert!(done > 50 && failed == 0, "{what}: {failed} of {done} failed: {why}");
    }
    // The published port is still the container's, and the engine's to take back.
    engine.docker(["rm", "-f", "web"]).success();
    // A program that the engine is just starting has its sockets for a moment too.
    wait_until("the port is free", || TcpListener::bind(("127.0.0.1", tcp_port)).is_ok());
}
