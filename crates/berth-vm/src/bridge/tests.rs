//! Guests and clients against the bridge: what passes, what is bounded, who is told.

use super::*;
use berth_agent_proto::encode;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Says hello and then never stops talking, unless it is told to or nobody stopped it in time.
fn flood(listener: &UnixListener, stop: &AtomicBool, written: &AtomicUsize, most: usize) {
    let (mut port, _) = listener.accept().unwrap();
    let mut decoder = berth_agent_proto::Decoder::default();
    let nonce = loop {
        let mut bytes = vec![0; 64 << 10];
        let count = port.read(&mut bytes).unwrap();
        decoder.push(&bytes[..count]);
        if let Some(frame) = decoder.next_frame().unwrap() {
            assert_eq!(frame.kind, Kind::Reset);
            break frame.payload.iter().map(|byte| format!("{byte:02x}")).collect();
        }
    };
    let hello = Hello { nonce, version: VERSION, kernel: "6".to_owned(), init: true, uptime_millis: 1 };
    let mut bytes = Vec::new();
    encode(Kind::Hello, 0, &hello.to_json(), &mut bytes).unwrap();
    port.write_all(&bytes).unwrap();
    let mut noise = Vec::new();
    let event = Event::OutOfMemory.to_json();
    while noise.len() < 256 << 10 {
        encode(Kind::Query, QUERIES_BEGIN | 1, &[0, 1, 2], &mut noise).unwrap();
        encode(Kind::Event, 0, &event, &mut noise).unwrap();
        encode(Kind::Answer, CONFIGURE, br#"{"Ok":"done"}"#, &mut noise).unwrap();
        encode(Kind::Data, MAIN, &[berth_agent_proto::STDOUT; 64], &mut noise).unwrap();
    }
    while !stop.load(Ordering::Relaxed) && written.load(Ordering::Relaxed) < most {
        let Ok(count) = port.write(&noise) else { return };
        written.fetch_add(count, Ordering::Relaxed);
    }
}

#[test]
fn a_guest_that_never_stops_talking_keeps_nobody_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join(AGENT_SOCKET)).unwrap();
    let mut bridge = Bridge::at(folder.path(), None).unwrap();
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    const MOST: usize = 256 << 20;
    let guest = {
        let (stop, written) = (stop.clone(), written.clone());
        std::thread::spawn(move || flood(&listener, &stop, &written, MOST))
    };
    let mut rounds = 0;
    while bridge.hello.is_none() || rounds < 3 {
        let before = written.load(Ordering::Relaxed);
        bridge.round();
        // Eight reads of 64 KiB, and what the socket holds.
        let taken = written.load(Ordering::Relaxed) - before;
        assert!(taken < 8 << 20, "{taken} bytes in one round");
        rounds += usize::from(bridge.hello.is_some());
    }
    // Somebody who asks is answered although the noise goes on.
    let mut client = UnixStream::connect(folder.path().join(CONTROL_SOCKET)).unwrap();
    let mut bytes = Vec::new();
    encode(Kind::Request, 1, &Request::AwaitStart.to_json(), &mut bytes).unwrap();
    client.write_all(&bytes).unwrap();
    client.set_nonblocking(true).unwrap();
    let mut answer = [0; 64];
    let heard = (0..1000).any(|_| {
        bridge.round();
        client.read(&mut answer).is_ok_and(|count| count > 0)
    });
    assert!(heard && written.load(Ordering::Relaxed) < MOST);
    stop.store(true, Ordering::Relaxed);
    drop(bridge);
    guest.join().unwrap();
}

/// The other end of a socket, of a guest's agent or of a client.
struct End {
    stream: UnixStream,
    decoder: berth_agent_proto::Decoder,
}

impl End {
    fn new(stream: UnixStream) -> End {
        stream.set_nonblocking(true).unwrap();
        End { stream, decoder: berth_agent_proto::Decoder::default() }
    }

    fn say(&mut self, bridge: &mut Bridge, kind: Kind, stream: u32, payload: &[u8]) {
        let mut bytes = Vec::new();
        encode(kind, stream, payload, &mut bytes).unwrap();
        self.send(bridge, &bytes);
    }

    /// The bridge reads meanwhile: a socket holds less than a reset is long.
    fn send(&mut self, bridge: &mut Bridge, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(cause) => assert_eq!(cause.kind(), std::io::ErrorKind::WouldBlock),
            }
            bridge.round();
        }
    }

    /// The next frame that the bridge sends here.
    fn hears(&mut self, bridge: &mut Bridge) -> Frame {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(60) {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return frame;
            }
            bridge.round();
            self.read();
        }
        panic!("nothing came");
    }

    fn read(&mut self) {
        let mut bytes = vec![0; 64 << 10];
        if let Ok(count) = self.stream.read(&mut bytes) {
            self.decoder.push(&bytes[..count]);
        }
    }

    /// An agent's answer to a reset.
    fn greets(&mut self, bridge: &mut Bridge) {
        let reset = self.hears(bridge);
        assert_eq!(reset.kind, Kind::Reset);
        let nonce: String = reset.payload.iter().map(|byte| format!("{byte:02x}")).collect();
        self.send(bridge, &hello(&nonce));
    }
}

fn hello(nonce: &str) -> Vec<u8> {
    let hello =
        Hello { nonce: nonce.to_owned(), version: VERSION, kernel: "6".to_owned(), init: false, uptime_millis: 1 };
    let mut bytes = padding();
    encode(Kind::Hello, 0, &hello.to_json(), &mut bytes).unwrap();
    bytes
}

/// A machine whose agent has begun a process for a client, who waits for its end.
fn waiting(folder: &Path) -> (Bridge, UnixListener, End, End) {
    let listener = UnixListener::bind(folder.join(AGENT_SOCKET)).unwrap();
    let mut bridge = Bridge::at(folder, None).unwrap();
    bridge.round();
    let mut agent = End::new(listener.accept().unwrap().0);
    agent.greets(&mut bridge);
    while bridge.hello.is_none() {
        bridge.round();
    }
    let mut client = End::new(UnixStream::connect(folder.join(CONTROL_SOCKET)).unwrap());
    let stream = begun(&mut bridge, &mut agent, &mut client, 7);
    assert!(stream >= FIRST_OF_CLIENTS);
    (bridge, listener, agent, client)
}

/// The number that the agent hears for a process of the client's.
fn begun(bridge: &mut Bridge, agent: &mut End, client: &mut End, theirs: u32) -> u32 {
    let request = Request::Stat { path: "/".to_owned() };
    client.say(bridge, Kind::Request, theirs, &request.to_json());
    let asked = agent.hears(bridge);
    assert_eq!((asked.kind, asked.payload), (Kind::Request, request.to_json()));
    let answer: Result<Answer, Failure> = Ok(Answer::Started { pid: 9 });
    agent.say(bridge, Kind::Answer, asked.stream, &answer.to_json());
    assert_eq!(client.hears(bridge).kind, Kind::Answer);
    asked.stream
}

#[track_caller]
fn is_told(end: &Frame, stream: u32, text: &str) {
    assert_eq!((end.kind, end.stream), (Kind::End, stream));
    let ended: Ended = serde_json::from_slice(&end.payload).unwrap();
    assert!(matches!(&ended, Ended::Failed(failure) if failure.text.contains(text)), "{ended:?}");
}

#[test]
fn who_waits_hears_that_the_agent_began_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (mut bridge, _listener, mut agent, mut client) = waiting(folder.path());
    // The one before was in the middle of a frame when it was killed.
    let mut words = Vec::new();
    encode(Kind::Data, 999, &[berth_agent_proto::STDOUT; 100], &mut words).unwrap();
    words.truncate(50);
    words.extend(hello(""));
    agent.send(&mut bridge, &words);
    is_told(&client.hears(&mut bridge), 7, "began anew");
    // The new one is asked as the first was.
    agent.greets(&mut bridge);
    while bridge.hello.is_none() {
        bridge.round();
    }
    begun(&mut bridge, &mut agent, &mut client, 8);
}

/// What QEMU's monitor answers to everything.
fn monitor(folder: &Path, open: bool) -> std::thread::JoinHandle<()> {
    let listener = UnixListener::bind(folder.join(crate::spec::EVENTS_SOCKET)).unwrap();
    std::thread::spawn(move || {
        use std::io::BufRead;
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"{\"QMP\": {}}\n").unwrap();
        let lines = std::io::BufReader::new(stream.try_clone().unwrap()).lines();
        for line in lines.map_while(Result::ok) {
            let answer = match line.contains("query-chardev") {
                true => format!("[{{\"label\": \"agent\", \"frontend-open\": {open}}}]"),
                false => "{\"running\": true}".to_owned(),
            };
            stream.write_all(format!("{{\"return\": {answer}}}\n").as_bytes()).unwrap();
        }
    })
}

#[test]
fn who_waits_hears_that_the_agent_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let (mut bridge, _listener, mut agent, mut client) = waiting(folder.path());
    let monitor = monitor(folder.path(), false);
    bridge.pulse.was_silent(pulse::SILENT / 2);
    is_told(&client.hears(&mut bridge), 7, "is gone");
    // The next one finds the reset in its port.
    agent.greets(&mut bridge);
    monitor.join().unwrap();
}

#[test]
fn who_waits_hears_that_the_guest_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let (mut bridge, _listener, mut agent, mut client) = waiting(folder.path());
    let monitor = monitor(folder.path(), true);
    bridge.pulse.was_silent(pulse::SILENT);
    is_told(&client.hears(&mut bridge), 7, "has not answered for 120 seconds");
    agent.greets(&mut bridge);
    monitor.join().unwrap();
}

#[test]
fn who_waits_hears_that_the_machine_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let (mut bridge, _listener, _agent, mut client) = waiting(folder.path());
    assert_eq!(bridge.machine_ended(3), 3);
    let heard = std::thread::spawn(move || {
        client.stream.set_nonblocking(false).unwrap();
        while client.decoder.next_frame().unwrap().is_none_or(|frame| {
            is_told(&frame, 7, "the machine has ended");
            false
        }) {
            client.read();
        }
    });
    bridge.farewell();
    heard.join().unwrap();
    assert!(bridge.clients.is_empty(), "it was waited for");
}
