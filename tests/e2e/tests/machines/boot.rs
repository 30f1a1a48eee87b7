//! What a machine boots from, and its screen.

use crate::{clear, console, guests, start, state, view, wait_for_text};
use berth_testkit::{Engine, wait_until};
use std::io::{BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

#[test]
fn an_empty_disk_is_installed_from_a_cd_and_boots_afterwards() {
    let Some(engine) = start("vm-cd") else { return };
    let cd = guests::installer(&engine);
    engine.berth(["vm", "create", "--disk", "size=4M", "--cdrom", cd.to_str().unwrap(), "-m", "64m", "one"]).success();
    let kinds: Vec<_> = view(&engine, "one")["disks"].as_array().unwrap().iter().map(|d| d["kind"].clone()).collect();
    assert_eq!(kinds, ["disk", "cdrom"]);
    engine.berth(["vm", "start", "one"]).success();
    // Once from the firmware, "Booting from DVD/CD...", whose end may be cut off, and once from the installer.
    wait_for_text(&engine, "one", "CD", 2);
    wait_until("the installer has switched the machine off", || state(&engine, "one") == "exited");
    engine.berth(["vm", "start", "one"]).success();
    wait_for_text(&engine, "one", "boot A", 1);
    assert_eq!(engine.berth(["vm", "logs", "one"]).success().matches("CD").count(), 2, "the disk comes first");
    clear(&engine);
}

#[test]
fn a_kernel_is_booted_directly_with_its_arguments_and_its_ramdisk() {
    let Some(engine) = start("vm-kernel") else { return };
    let kernel = guests::kernel(&engine);
    let ramdisk = engine.root().join("ramdisk");
    std::fs::write(&ramdisk, b"the ramdisk's text\0").unwrap();
    let words = ["vm", "create", "-m", "64m", "--kernel", kernel.to_str().unwrap(), "--append", "root=/dev/null a,b=c"];
    engine.berth(words.iter().chain(&["--initrd", ramdisk.to_str().unwrap(), "--start", "one"])).success();
    wait_for_text(&engine, "one", "root=/dev/null a,b=c", 1);
    wait_for_text(&engine, "one", "the ramdisk's text", 1);
    assert_eq!(view(&engine, "one")["direct_kernel"].as_bool(), Some(true));
    // The files were copied: those of the host may go.
    std::fs::remove_file(&kernel).unwrap();
    std::fs::remove_file(&ramdisk).unwrap();
    engine.berth(["vm", "clone", "one", "two"]).success();
    engine.berth(["vm", "start", "two"]).success();
    wait_for_text(&engine, "two", "the ramdisk's text", 1);
    for wrong in [["--uefi", "--append", "x"], ["--append", "x", "--label"]] {
        engine.berth(["vm", "create", "--disk", "size=1M"].iter().chain(&wrong).chain(&["three"])).failure(1);
    }
    clear(&engine);
}

#[test]
fn uefi_boots_and_keeps_its_variables() {
    if !Path::new("/usr/share/OVMF").exists() {
        return eprintln!("skipped: needs ovmf");
    }
    let Some(engine) = start("vm-uefi") else { return };
    let disk = guests::efi_disk(&engine);
    engine
        .berth(["vm", "create", "--uefi", "--disk", disk.to_str().unwrap(), "-m", "128m", "--start", "one"])
        .success();
    assert_eq!(view(&engine, "one")["firmware"].as_str(), Some("uefi"));
    wait_for_text(&engine, "one", "efi A", 1);
    let mut line = console(&engine, "one");
    wait_until("the guest has switched itself off", || {
        // What is typed before it is connected may be lost.
        if line.runs() {
            line.send("q");
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
        state(&engine, "one") == "exited"
    });
    // Another process of QEMU: what the firmware knows was kept in a file.
    engine.berth(["vm", "start", "one"]).success();
    wait_for_text(&engine, "one", "efi B", 1);
    engine.berth(["vm", "kill", "one"]).success();
    wait_until("its end", || state(&engine, "one") == "exited");
    // A clone has a copy of the variables.
    engine.berth(["vm", "clone", "--start", "one", "two"]).success();
    wait_for_text(&engine, "two", "efi C", 1);
    clear(&engine);
}

/// Width and height of a PNG.
fn size(picture: &[u8]) -> (u32, u32) {
    assert!(picture.starts_with(b"\x89PNG\r\n\x1a\n"), "no PNG");
    let word = |at: usize| u32::from_be_bytes(picture[at..at + 4].try_into().unwrap());
    (word(16), word(20))
}

/// Reads what came with the answer's head first.
struct Both<'a>(&'a mut BufReader<UnixStream>);

impl Read for Both<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(bytes)
    }
}

impl Write for Both<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.get_mut().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.get_mut().flush()
    }
}

/// The client's side of RFB 3.8 without a password; width and height of the screen.
fn greet(stream: &mut (impl Read + Write)) -> (u16, u16) {
    let mut version = [0; 12];
    stream.read_exact(&mut version).unwrap();
    assert_eq!(&version, b"RFB 003.008\n");
    stream.write_all(&version).unwrap();
    let mut kinds = [0; 2];
    stream.read_exact(&mut kinds).unwrap();
    assert_eq!(kinds, [1, 1], "no security of its own: the API's");
    stream.write_all(&[1]).unwrap();
    let mut result = [0; 4];
    stream.read_exact(&mut result).unwrap();
    assert_eq!(result, [0; 4]);
    stream.write_all(&[1]).unwrap();
    let mut screen = [0; 24];
    stream.read_exact(&mut screen).unwrap();
    (u16::from_be_bytes([screen[0], screen[1]]), u16::from_be_bytes([screen[2], screen[3]]))
}

/// Presses and releases a key.
fn press(stream: &mut impl Write, key: u8) {
    for down in [1, 0] {
        stream.write_all(&[4, down, 0, 0, 0, 0, 0, key]).unwrap();
    }
}

/// The payload of the next binary WebSocket frame that the engine sends.
fn frame(stream: &mut impl Read) -> Vec<u8> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(head[0], 0x82, "a whole binary frame");
    let length = match head[1] {
        126 => {
            let mut long = [0; 2];
            stream.read_exact(&mut long).unwrap();
            usize::from(u16::from_be_bytes(long))
        }
        short => usize::from(short),
    };
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).unwrap();
    payload
}

fn picture(engine: &Engine) -> Vec<u8> {
    let path = engine.root().join("screen.png");
    engine.berth(["vm", "screenshot", "-o", path.to_str().unwrap(), "desk"]).success();
    std::fs::read(path).unwrap()
}

#[test]
fn a_screen_is_seen_and_typed_at_through_the_engine() {
    let Some(engine) = start("vm-screen") else { return };
    let disk = guests::painter(&engine);
    let path = disk.to_str().unwrap();
    engine.berth(["vm", "create", "--display", "vnc", "--disk", path, "-m", "64m", "--start", "desk"]).success();
    wait_for_text(&engine, "desk", "D", 1);
    let painted = picture(&engine);
    assert_eq!(size(&painted), (640, 400));
    assert_eq!(engine.api("GET", "/api/v1/machines/desk/screenshot", "").expect(200).body[..8], painted[..8]);

    // Bytes both ways, as the command line has them.
    let mut raw =
        engine.exchange("GET", "/api/v1/machines/desk/display", &[("Connection", "Upgrade"), ("Upgrade", "tcp")], b"");
    assert_eq!(raw.status(), 101);
    assert_eq!(greet(&mut Both(raw.stream())), (640, 400));
    press(raw.stream().get_mut(), b'x');
    wait_for_text(&engine, "desk", "\nx", 1);

    // As a browser has them.
    let headers = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Protocol", "binary"),
    ];
    let mut socket = engine.exchange("GET", "/api/v1/machines/desk/display", &headers, b"");
    assert_eq!(socket.status(), 101);
    assert_eq!(frame(socket.stream()), b"RFB 003.008\n");
    // Masked with zeros.
    let answer = [&[0x82, 0x8c, 0, 0, 0, 0][..], b"RFB 003.008\n"].concat();
    socket.stream().get_mut().write_all(&answer).unwrap();
    assert_eq!(frame(socket.stream()), [1, 1]);

    // A viewer's socket on this side.
    let own = engine.root().join("viewer.sock");
    let listening = engine.berth_running(["vm", "vnc", "--listen", own.to_str().unwrap(), "desk"]);
    listening.wait_for("viewer.sock");
    let mut viewer = UnixStream::connect(&own).unwrap();
    assert_eq!(greet(&mut viewer), (640, 400));
    press(&mut viewer, b'y');
    wait_for_text(&engine, "desk", "\ny", 1);
    drop(listening);

    // Neither without a display nor without an upgrade.
    assert_eq!(engine.api("GET", "/api/v1/machines/desk/display", "").status, 400);
    engine.berth(["vm", "create", "--disk", path, "-m", "64m", "blind"]).success();
    for command in [vec!["vm", "screenshot", "-o", "/dev/null", "blind"], vec!["vm", "vnc", "blind"]] {
        let refused = engine.berth(&command).failure(1);
        assert!(refused.contains("--display vnc"), "{command:?}: {refused}");
    }
    engine.berth(["vm", "stop", "-t", "0", "desk"]).success();
    let refused = engine.berth(["vm", "vnc", "desk"]).failure(1);
    assert!(refused.contains("berth vm start desk"), "{refused}");
    clear(&engine);
}
