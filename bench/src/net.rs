//! Both ends of the network's benchmark; see `bench/network.sh`.
//!
//! ```text
//! bench-net serve PORT                      answers HTTP, takes whatever else comes
//! bench-net http ADDRESS SECONDS CLIENTS    requests per second, one connection kept alive by each client
//! bench-net bulk ADDRESS SECONDS            Gbit/s of one connection
//! bench-net dns SERVER NAME SECONDS         answers per second, one question at a time
//! bench-net names NAME TIMES                how often each address comes first when the C library resolves it
//! ```
//!
//! The same program on every path, so that what differs is the path.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error>>;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nHello, world\n";
const BULK_BYTES: usize = 128 << 10;
const PATIENCE: Duration = Duration::from_secs(5);

fn main() -> Outcome<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["serve", port] => serve(port.parse()?),
        ["http", address, seconds, clients] => {
            let seconds: u64 = seconds.parse()?;
            println!("{:.0}", requests(address, Duration::from_secs(seconds), clients.parse()?)?);
            Ok(())
        }
        ["bulk", address, seconds] => {
            let seconds: u64 = seconds.parse()?;
            println!("{:.2}", bulk(address, Duration::from_secs(seconds))?);
            Ok(())
        }
        ["dns", server, name, seconds] => {
            let seconds: u64 = seconds.parse()?;
            println!("{:.0}", questions(server, name, Duration::from_secs(seconds))?);
            Ok(())
        }
        ["names", name, times] => {
            for (address, times) in firsts(name, times.parse()?)? {
                println!("{times} {address}");
            }
            Ok(())
        }
        _ => Err("usage: bench-net serve|http|bulk|dns|names ...; see bench/src/net.rs".into()),
    }
}

fn firsts(name: &str, times: usize) -> Outcome<BTreeMap<IpAddr, usize>> {
    let mut all = BTreeMap::new();
    for _ in 0..times {
        let first = (name, 80).to_socket_addrs()?.next().ok_or("the name has no address")?;
        *all.entry(first.ip()).or_default() += 1;
    }
    Ok(all)
}

fn serve(port: u16) -> Outcome<()> {
    for stream in TcpListener::bind(("0.0.0.0", port))?.incoming() {
        let stream = stream?;
        std::thread::spawn(move || {
            // A client that goes ends only its own connection.
            drop(answer(stream));
        });
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; BULK_BYTES];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        if buffer[..count] == *REQUEST {
            stream.write_all(ANSWER)?;
        }
    }
}

fn requests(address: &str, time: Duration, clients: usize) -> Outcome<f64> {
    let begin = Instant::now();
    let ask = || -> std::io::Result<u64> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (mut count, mut buffer) = (0, [0; ANSWER.len()]);
        while begin.elapsed() < time {
            stream.write_all(REQUEST)?;
            stream.read_exact(&mut buffer)?;
            count += 1;
        }
        Ok(count)
    };
    let counts: Vec<std::io::Result<u64>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(ask)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(std::io::Error::other("a client panicked"))))
            .collect()
    });
    let mut all = 0;
    for count in counts {
        all += count?;
    }
    Ok(all as f64 / begin.elapsed().as_secs_f64())
}

fn bulk(address: &str, time: Duration) -> Outcome<f64> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let (buffer, begin, mut sent) = (vec![b'x'; BULK_BYTES], Instant::now(), 0_u64);
    while begin.elapsed() < time {
        sent += stream.write(&buffer)? as u64;
    }
    Ok(sent as f64 * 8.0 / 1e9 / begin.elapsed().as_secs_f64())
}

fn questions(server: &str, name: &str, time: Duration) -> Outcome<f64> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect((server, 53))?;
    let mut question = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len())?);
        question.extend_from_slice(label.as_bytes());
    }
    question.extend_from_slice(&[0, 0, 1, 0, 1]);
    let (begin, mut count, mut answer) = (Instant::now(), 0_u16, [0; 512]);
    let mut all = 0_u64;
    while begin.elapsed() < time {
        count = count.wrapping_add(1);
        question[..2].copy_from_slice(&count.to_be_bytes());
        socket.send(&question)?;
        let length = socket.recv(&mut answer)?;
        if length < 12 || answer[..2] != question[..2] || answer[3] & 15 != 0 || answer[7] == 0 {
            return Err(format!("no address for {name}").into());
        }
        all += 1;
    }
    Ok(all as f64 / begin.elapsed().as_secs_f64())
}
