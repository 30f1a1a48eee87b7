//! Guests that say on their serial line what a test wants to see. Assembled by hand: no test needs an assembler.
//!
//! All of them write to the first serial port and, where they listen, send back what they read; `q` switches the machine
//! off by ACPI's port of q35 (0x604).

use berth_testkit::Engine;
use std::path::PathBuf;

/// At each boot it adds one to a byte on its disk and writes `boot ` and that many-th letter. 16-bit code for 0x7c00, in
/// the order of the comments.
fn boot_sector() -> Vec<u8> {
    let hex = [
        // Segments 0, stack below, the boot drive's number kept at 0x7df0.
        "31c0 8ed8 8ec0 8ed0 bc007c 8816f07d",
        // Reads the second sector to 0x7e00, adds one to its first byte, writes it back (INT 13h).
        "b80102 bb007e b90200 b600 cd13 fe06007e b80103 bb007e b90200 8a16f07d b600 cd13",
        // No interrupts from here on: the firmware's timer would read the serial line too, as a keyboard.
        "fa",
        // Each byte of the text at 0x7c79 to the serial line, then the letter, then a new line.
        "be797c ac 84c0 7405 e82c00 ebf6 a0007e 0440 e82200 b00a e81d00",
        // Waits for a byte, with PAUSE: without it, and without interrupts, the guest never leaves its emulator's loop, and a
        // device_add that meets QEMU's RCU thread at the wrong moment waits for that (QEMU 7.2, drain_call_rcu). `q`: power off; else sends it back.
        "bafd03 f390 ec a801 74f6 b2f8 ec 3c71 7507 ba0406 b80020 ef e80200 ebe3",
        // Sends AL once the transmitter is empty.
        "88c4 bafd03 ec a820 74fb b2f8 88e0 ee c3",
    ];
    let mut bytes = code(&hex.concat());
    assert_eq!(bytes.len(), 0x79, "the text's address is in the code");
    bytes.extend(b"boot \0");
    sector(&bytes)
}

/// A raw disk of one megabyte that boots.
pub(crate) fn disk(engine: &Engine) -> PathBuf {
    let mut bytes = boot_sector();
    bytes.resize(1 << 20, 0);
    write(engine, "boot.raw", &bytes)
}

/// The bytes of a hexadecimal listing.
fn code(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| *byte != b' ').collect();
    let number = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("two digits");
    digits.chunks(2).map(number).collect()
}

/// A boot sector of this code.
fn sector(code: &[u8]) -> Vec<u8> {
    let mut bytes = code.to_vec();
    assert!(bytes.len() <= 510, "a boot sector");
    bytes.resize(510, 0);
    bytes.extend([0x55, 0xaa]);
    bytes
}

fn write(engine: &Engine, name: &str, bytes: &[u8]) -> PathBuf {
    let path = engine.root().join(name);
    std::fs::write(&path, bytes).expect("the guest is written");
    path
}

/// A CD that installs the guest of [`disk`]: it writes that boot sector onto the first disk, `CD` to the serial line,
/// and switches the machine off.
pub(crate) fn installer(engine: &Engine) -> PathBuf {
    // INT 13h writes the sector behind this one, at 0x7e00, to disk 0x80.
    let mut hex = "31c0 8ed8 8ec0 8ed0 bc007c b80103 bb007e b90100 ba8000 cd13".to_owned();
    hex.push_str("b043 e81400 b044 e80f00 b00a e80a00 ba0406 b80020 ef f4 ebfd");
    hex.push_str("88c4 bafd03 ec a820 74fb b2f8 88e0 ee c3");
    let program = [sector(&code(&hex)), boot_sector()].concat();
    const BLOCK: usize = 2048;
    let mut image = vec![0_u8; 64 * BLOCK];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    // ISO 9660: a volume and its end; El Torito 1.0: the record that leads to the catalog, and its one entry.
    put(16 * BLOCK, b"\x01CD001\x01");
    put(17 * BLOCK, b"\x00CD001\x01EL TORITO SPECIFICATION");
    put(17 * BLOCK + 0x47, &19_u32.to_le_bytes());
    put(18 * BLOCK, b"\xffCD001\x01");
    let mut validation = [0_u8; 32];
    (validation[0], validation[30], validation[31]) = (1, 0x55, 0xaa);
    let sum = validation.chunks(2).fold(0_u16, |sum, two| sum.wrapping_add(u16::from_le_bytes([two[0], two[1]])));
    validation[28..30].copy_from_slice(&sum.wrapping_neg().to_le_bytes());
    put(19 * BLOCK, &validation);
    // Bootable, no emulation, two sectors of 512 bytes, block 20.
    put(19 * BLOCK + 32, &[0x88, 0, 0, 0, 0, 0, 2, 0, 20, 0, 0, 0]);
    put(20 * BLOCK, &program);
    write(engine, "installer.iso", &image)
}

/// A multiboot kernel: it writes its arguments and its first module, each as a line.
pub(crate) fn kernel(engine: &Engine) -> PathBuf {
    // The header: load all of it at 1 MiB, enter behind the header.
    let mut hex = "02b0ad1b 03000100 fb4f51e4 00001000 00001000 00000000 00000000 20001000".to_owned();
    // EBX: multiboot information, arguments at 16, number of modules at 20, the first one's place at 24.
    hex.push_str("bc00002000 8b7310 e839000000 f70308000000 7410 837b1400 740a 8b7b18 8b37 e821000000");
    hex.push_str("66bafd03 ec a801 74fb b2f8 ec 3c71 750a 66ba0406 66b80020 66ef e810000000 ebdf");
    hex.push_str("ac 84c0 7407 e804000000 ebf4 b00a 88c4 66bafd03 ec a820 74fb b2f8 88e0 ee c3");
    write(engine, "kernel", &code(&hex))
}

/// A disk that paints its screen red (320 by 200 points, which are shown doubled), writes `D`, and then every key that is pressed, each
/// as a line.
pub(crate) fn painter(engine: &Engine) -> PathBuf {
    let mut hex = "31c0 8ed8 8ed0 bc007c b81300 cd10 b800a0 8ec0 31ff b80404 b9007d f3ab b044 e80900".to_owned();
    // INT 16h waits for a key.
    hex.push_str("b400 cd16 e80200 ebf7 e80200 b00a 88c4 bafd03 ec a820 74fb b2f8 88e0 ee c3");
    let mut bytes = sector(&code(&hex));
    bytes.resize(1 << 20, 0);
    write(engine, "painter.raw", &bytes)
}

/// An EFI system partition without a partition table; its program counts its starts in a variable of the firmware and
/// writes `efi ` and that many-th letter.
pub(crate) fn efi_disk(engine: &Engine) -> PathBuf {
    // RBX: runtime services; GetVariable is at 72, SetVariable at 88 (non-volatile, boot and runtime access). Then no
    // interrupts: the firmware's timer would read the serial line too.
    let mut hex =
        "53 56 4883ec38 488b5a58 48c744243001000000 48c744242800000000 488d0db6000000 488d159f000000".to_owned();
    hex.push_str("4531c0 4c8d4c2430 488d442428 4889442420 ff5348 488b742428 ffc6 4889742428");
    hex.push_str("488d0d87000000 488d1570000000 41b807000000 41b901000000 488d442428 4889442420 ff5358 fa 89f3");
    hex.push_str("488d3569000000 ac 84c0 7407 e832000000 ebf4 8d4340 e828000000 b00a e821000000");
    hex.push_str("66bafd03 ec a801 74fb b2f8 ec 3c71 750a 66ba0406 66b80020 66ef e802000000 ebdf");
    hex.push_str("88c4 66bafd03 ec a820 74fb b2f8 88e0 ee c3");
    // The variable's vendor and name, the text.
    hex.push_str("74726562 0068 0040 8000000000000001 62006f006f0074007300 0000 65666920 00");
    let program = pe(&code(&hex));
    let image = berth_vm::fat::image("EFI", &[("EFI/BOOT/BOOTX64.EFI", &program)]).expect("a file system");
    write(engine, "efi.raw", &image)
}

/// A PE32+ program for EFI of one section.
fn pe(code: &[u8]) -> Vec<u8> {
    const PAGE: u32 = 0x1000;
    const FILE: u32 = 0x200;
    let mut image = vec![0_u8; 2 * FILE as usize];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(0x3c, &0x40_u32.to_le_bytes());
    put(0x40, b"PE\0\0");
    // For x86-64, one section, an optional header of 0xf0 bytes; executable, no symbols, more than 2 GiB of addresses.
    for (at, value) in [(0x44, 0x8664_u16), (0x46, 1), (0x54, 0xf0), (0x56, 0x22e), (0x58, 0x20b), (0x9c, 10)] {
        put(at, &value.to_le_bytes());
    }
    let optional = [
        (0x5c, FILE),     // size of code
        (0x68, PAGE),     // entry
        (0x6c, PAGE),     // base of code
        (0x78, PAGE),     // section alignment
        (0x7c, FILE),     // file alignment
        (0x90, 2 * PAGE), // size of image
        (0x94, FILE),     // size of headers
        (0xc4, 16),       // number of directories
    ];
    for (at, value) in optional {
        put(at, &value.to_le_bytes());
    }
    put(0x148, b".text");
    for (at, value) in [(0x150, PAGE), (0x154, PAGE), (0x158, FILE), (0x15c, FILE), (0x16c, 0xe000_0020)] {
        put(at, &value.to_le_bytes());
    }
    put(FILE as usize, code);
    image
}

/// A disk whose guest keeps a letter in its memory, `A` at each boot, and tells it after each byte that it reads: `n` takes
/// the next one, `w` writes it to the disk, `r` reads it from there. It writes `MA` when it boots and `=` and the letter
/// afterwards.
pub(crate) fn memo(engine: &Engine) -> PathBuf {
    let hex = [
        "31c0 8ed8 8ec0 8ed0 bc007c 8816f07d c606007e41 fa b04d e84a00",
        // Reads a byte as above; `n`, `w`, `r` (INT 13h, second sector, 0x7e00), `q`.
        "bafd03 f390 ec a801 74f9 b2f8 ec 3c6e 7506 fe06007e eb2c 3c77 7505 b80103 eb07 3c72 7514 b80102",
        "bb007e b90200 8a16f07d b600 cd13 fa eb0b 3c71 7507 ba0406 b80020 ef b03d e80200 ebb6",
        "e80800 a0007e e80200 b00a 88c4 bafd03 ec a820 74fb b2f8 88e0 ee c3",
    ];
    let mut bytes = sector(&code(&hex.concat()));
    bytes.resize(1 << 20, 0);
    write(engine, "memo.raw", &bytes)
}
