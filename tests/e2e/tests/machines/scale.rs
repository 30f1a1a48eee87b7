//! A machine that runs is given more and less: at once where its guest can.

use crate::agent::{ask_for_address, linux, said, wait_for_agent};
use crate::{clear, start, view};
use berth_testkit::{Engine, wait_until};

/// What the guest's kernel counts.
fn mib(engine: &Engine, machine: &str, line: &str) -> u64 {
    said(engine, machine, &format!("awk '/^{line}/ {{print int($2 / 1024)}}' /proc/meminfo")).parse().unwrap()
}

fn total_mib(engine: &Engine, machine: &str) -> u64 {
    mib(engine, machine, "MemTotal")
}

#[track_caller]
fn updated(engine: &Engine, words: &[&str], says: &[&str]) {
    let output = engine.berth([&["vm", "update"], words, &["one"]].concat());
    assert!(output.code == 0 && says.iter().all(|one| output.stderr.contains(one)), "{words:?}: {output:?}");
}

fn boot<'a>(kernel: &'a str, initrd: &'a str) -> [&'a str; 8] {
    ["vm", "create", "--kernel", kernel, "--initrd", initrd, "--append", "console=ttyS0 quiet mitigations=off"]
}

#[test]
fn processors_and_memory_come_and_go_while_a_guest_runs() {
    if std::thread::available_parallelism().unwrap().get() < 2 {
        return;
    }
    let Some(engine) = start("vm-scale") else { return };
    let Some((kernel, initrd)) = linux(&engine) else { return };
    let create = boot(kernel.to_str().unwrap(), initrd.to_str().unwrap());
    let rest = ["--disk", "size=64M", "-m", "224m", "--memory-max", "512m", "--network", "none", "--start", "one"];
    engine.berth([&create[..], &rest].concat()).success();
    wait_for_agent(&engine, "one");
    let began = total_mib(&engine, "one");
    assert_eq!(said(&engine, "one", "nproc"), "1");

    updated(&engine, &["-c", "2", "-m", "352m"], &["2 processors: at once", "352 MiB of memory: at once"]);
    assert_eq!(said(&engine, "one", "nproc"), "2");
    let grown = total_mib(&engine, "one");
    assert!((began + 120..=began + 128).contains(&grown), "{began} -> {grown}");
    assert_eq!(view(&engine, "one")["memory_bytes"].as_u64(), Some(352 << 20));
    updated(&engine, &["-c", "64"], &["64 processors: from its next start on, as it began with"]);
    updated(&engine, &["-c", "2"], &[]);
    let refused = engine.berth(["vm", "update", "-m", "1g", "one"]).failure(1);
    assert!(refused.contains("at most 536870912 bytes"), "{refused}");

    // Who goes on from there has all of it, and what was in it.
    said(
        &engine,
        "one",
        "mkdir /fill; mount -t tmpfs fill /fill; head -c 60000000 /dev/urandom > /fill/a; md5sum /fill/a > /data/sum",
    );
    engine.berth(["vm", "fork", "one", "copy"]).success();
    assert_eq!(said(&engine, "copy", "nproc; md5sum -c /data/sum"), "2\n/fill/a: OK");
    assert_eq!(total_mib(&engine, "copy"), grown);
    engine.berth(["vm", "update", "-m", "288m", "copy"]).success();
    assert_eq!(said(&engine, "copy", "md5sum -c /data/sum"), "/fill/a: OK");
    engine.berth(["vm", "rm", "-f", "copy"]).success();

    // Not below what it uses; then below what it began with, which is the balloon's affair.
    let refused = engine.berth(["vm", "update", "-m", "100m", "one"]).failure(1);
    assert!(refused.contains("MiB of its memory: 100 MiB are too little"), "{refused}");
    said(&engine, "one", "rm /fill/a");
    updated(&engine, &["-m", "224m"], &["224 MiB of memory: at once"]);
    assert_eq!(total_mib(&engine, "one"), began);
    let before = mib(&engine, "one", "MemAvailable");
    updated(&engine, &["-c", "1", "-m", "192m"], &["1 processor: at once", "192 MiB of memory: at once"]);
    assert_eq!(said(&engine, "one", "nproc"), "1");
    let taken = |now: u64| assert!((before - 40..=before - 20).contains(&now), "{before} -> {now}");
    taken(mib(&engine, "one", "MemAvailable"));
    engine.berth(["vm", "snapshot", "--memory", "one", "small"]).success();
    updated(&engine, &["-c", "2", "-m", "224m"], &["2 processors: at once", "224 MiB of memory: at once"]);
    assert_eq!(said(&engine, "one", "nproc"), "2");
    assert!(mib(&engine, "one", "MemAvailable") > before - 15);

    // Back to where it had less, and a start from the beginning.
    engine.berth(["vm", "stop", "-t", "0", "one"]).success();
    engine.berth(["vm", "revert", "one", "small"]).success();
    engine.berth(["vm", "start", "--wait", "one"]).success();
    taken(mib(&engine, "one", "MemAvailable"));
    assert_eq!(said(&engine, "one", "nproc"), "1");
    let now = view(&engine, "one");
    assert_eq!((now["cpus"].as_u64(), now["memory_bytes"].as_u64()), (Some(1), Some(192 << 20)));
    updated(&engine, &["-c", "2"], &["2 processors: at once"]);
    engine.berth(["vm", "stop", "-t", "0", "one"]).success();
    engine.berth(["vm", "start", "--wait", "one"]).success();
    let cold = total_mib(&engine, "one");
    assert!((began - 34..=began - 30).contains(&cold), "{began} -> {cold}");
    assert_eq!(said(&engine, "one", "nproc"), "2");
    clear(&engine);
}

/// Serial numbers of the guest's disks, in its order.
fn disks(engine: &Engine, machine: &str) -> String {
    let script = "for disk in /sys/block/vd*; do cat $disk/serial; echo; done | sort | grep disk";
    said(engine, machine, script).lines().collect::<Vec<_>>().join(" ")
}

#[test]
fn disks_come_and_go_while_a_guest_runs() {
    let Some(engine) = start("vm-disks") else { return };
    let Some((kernel, initrd)) = linux(&engine) else { return };
    let create = boot(kernel.to_str().unwrap(), initrd.to_str().unwrap());
    let rest = ["--disk", "size=64M", "--disk", "size=16M", "-m", "192m", "--network", "none", "--start", "one"];
    engine.berth([&create[..], &rest].concat()).success();
    wait_for_agent(&engine, "one");
    assert_eq!(disks(&engine, "one"), "disk0 disk1");

    updated(&engine, &["--add-disk", "size=32M"], &["disk2 with 32 MiB: at once"]);
    said(&engine, "one", "until [ -e /dev/vdc ]; do sleep 1; done; mke2fs /dev/vdc >/dev/null 2>&1; mkdir /more");
    said(&engine, "one", "mount -t ext4 /dev/vdc /more; echo there > /more/file");
    engine.berth(["vm", "snapshot", "one", "three"]).success();
    updated(&engine, &["--remove-disk", "disk1"], &["without disk1: at once"]);
    assert_eq!(disks(&engine, "one"), "disk0 disk2");
    for (words, says) in
        [(["--remove-disk", "disk1"], "has no disk disk1"), (["--add-disk", "format=raw"], "needs a size")]
    {
        let refused = engine.berth(["vm", "update", words[0], words[1], "one"]).failure(1);
        assert!(refused.contains(says), "{words:?}: {refused}");
    }

    // A saved state has them where they are.
    engine.berth(["vm", "snapshot", "--memory", "one", "two"]).success();
    engine.berth(["vm", "fork", "one", "copy"]).success();
    assert_eq!(said(&engine, "copy", "cat /more/file; echo mine > /more/file; sync; cat /more/file"), "there\nmine");
    assert_eq!(said(&engine, "one", "cat /more/file"), "there");
    engine.berth(["vm", "rm", "-f", "copy"]).success();

    // What goes is gone, and its name and slot are not used again for another.
    said(&engine, "one", "umount /more");
    updated(
        &engine,
        &["--remove-disk", "disk2", "--add-disk", "size=8M"],
        &["without disk2: at once", "disk3 with 8 MiB: at once"],
    );
    // The first is in a built-in slot; a memory of now would not fit what comes.
    engine.berth(["vm", "update", "--add-disk", "size=64M", "one"]).success();
    updated(
        &engine,
        &["--remove-disk", "disk0"],
        &["without disk0: from its next start on, as its slot is a built-in one"],
    );
    let refused = engine.berth(["vm", "snapshot", "--memory", "one", "late"]).failure(1);
    assert!(refused.contains("other disks from its next start on"), "{refused}");
    engine.berth(["vm", "stop", "-t", "0", "one"]).success();

    let refused = engine.berth(["vm", "revert", "one", "two"]).failure(1);
    assert!(refused.contains("has disk3, which snapshot two has not"), "{refused}");
    engine.berth(["vm", "revert", "one", "three"]).success();
    engine.berth(["vm", "update", "--remove-disk", "disk4", "one"]).success();
    engine.berth(["vm", "start", "--wait", "one"]).success();
    assert_eq!(disks(&engine, "one"), "disk0 disk1 disk2 disk3");
    engine.berth(["vm", "stop", "-t", "0", "one"]).success();
    engine.berth(["vm", "update", "--remove-disk", "disk3", "--remove-disk", "disk1", "one"]).success();
    engine.berth(["vm", "revert", "one", "two"]).success();
    engine.berth(["vm", "start", "--wait", "one"]).success();
    assert_eq!(said(&engine, "one", "cat /more/file"), "there");
    clear(&engine);
}

#[test]
fn network_cards_come_and_go_while_a_guest_runs() {
    let Some(engine) = start("vm-cards") else { return };
    let Some((kernel, initrd)) = linux(&engine) else { return };
    for network in ["front", "back"] {
        engine.docker(["network", "create", network]).success();
    }
    engine.docker(["run", "-d", "--name", "peer", "--network", "back", "tiny", "sleep", "1000"]).success();
    let create = boot(kernel.to_str().unwrap(), initrd.to_str().unwrap());
    let rest = ["--disk", "size=64M", "-m", "192m", "--network", "front", "--start", "one"];
    engine.berth([&create[..], &rest].concat()).success();
    wait_for_agent(&engine, "one");

    engine.docker(["network", "connect", "back", "one"]).success();
    let seen = view(&engine, "one")["networks"]["back"].clone();
    let (address, mac) = (seen["ipv4"].as_str().unwrap(), seen["mac"].as_str().unwrap());
    // Its agent gave the card its address, and whoever asks by DHCP gets the same.
    let card = said(&engine, "one", &format!("grep -l {mac} /sys/class/net/*/address | cut -d/ -f5"));
    assert!(said(&engine, "one", &format!("ip -4 -o addr show dev {card}")).contains(&format!("{address}/")));
    let peer = engine.inspect("peer")["NetworkSettings"]["Networks"]["back"]["IPAddress"].clone();
    said(&engine, "one", &format!("ping -c 1 -w 20 {}", peer.as_str().unwrap()));
    let asked = said(&engine, "one", &format!("udhcpc -i {card} -n -q -s /bin/true 2>&1"));
    assert!(asked.contains(&format!("lease of {address} obtained")), "{asked}");
    let refused = engine.berth(["vm", "snapshot", "--memory", "one", "now"]).failure(1);
    assert!(refused.contains("network cards that came or went"), "{refused}");

    engine.docker(["network", "disconnect", "front", "one"]).success();
    assert_eq!(said(&engine, "one", "ls -d /sys/class/net/e* | wc -l"), "1");
    assert!(view(&engine, "one")["networks"]["front"].is_null());
    // With its next start it has what it has now, from the beginning.
    engine.berth(["vm", "stop", "-t", "0", "one"]).success();
    engine.berth(["vm", "start", "--wait", "one"]).success();
    assert_eq!(
        said(&engine, "one", "cat /sys/class/net/e*/address"),
        view(&engine, "one")["networks"]["back"]["mac"].as_str().unwrap()
    );
    engine.berth(["vm", "snapshot", "--memory", "one", "now"]).success();
    engine.docker(["rm", "-f", "peer"]).success();
    clear(&engine);
}

/// Bytes a second that `script` moves in the guest, of `bytes`; the guest's own clock, which is the host's.
fn speed(engine: &Engine, script: &str, bytes: u64) -> u64 {
    let timed = format!("sync; a=$(cut -d' ' -f1 /proc/uptime); {script}; b=$(cut -d' ' -f1 /proc/uptime); echo $a $b");
    let answer = said(engine, "one", &timed);
    let times: Vec<f64> = answer.lines().last().unwrap().split(' ').map(|time| time.parse().unwrap()).collect();
    (bytes as f64 / (times[1] - times[0]).max(0.01)) as u64
}

#[test]
fn disks_and_cards_keep_their_limits() {
    const MIB: u64 = 1 << 20;
    let Some(engine) = start("vm-limits") else { return };
    let Some((kernel, initrd)) = linux(&engine) else { return };
    let create = boot(kernel.to_str().unwrap(), initrd.to_str().unwrap());
    engine.docker(["network", "create", "back"]).success();
    let rest = ["--disk", "size=64M,write-bps=1m,read-bps=2m", "-m", "192m", "--network", "back", "--start", "one"];
    engine.berth([&create[..], &rest].concat()).success();
    wait_for_agent(&engine, "one");
    assert_eq!(view(&engine, "one")["disks"][0]["limits"]["write_bytes"].as_u64(), Some(MIB));

    // A limit holds from the first instruction on, and by another one at once. QEMU lets a tenth of a second through in advance.
    let write = "dd if=/dev/zero of=/data/full bs=64k count=64 conv=fsync 2>/dev/null";
    let slow = speed(&engine, write, 4 * MIB);
    assert!(slow < MIB * 5 / 4, "{slow} bytes a second of at most {MIB}");
    let says = "disk0 with at most 2097152 B/s written, 500 reads/s: at once";
    updated(&engine, &["--disk-limit", "disk0:write-bps=2m,read-iops=500"], &[says]);
    let twice = speed(&engine, write, 4 * MIB);
    assert!(twice < MIB * 5 / 2, "{twice} bytes a second of at most {}", 2 * MIB);
    updated(&engine, &["--disk-limit", "disk0:none"], &["disk0 without limits: at once"]);
    let free = speed(&engine, write, 4 * MIB);
    // What the first limit would not have let through; a host that is busy is no faster for certain.
    assert!(free > MIB * 5 / 4, "{free} bytes a second without a limit");

    // What the host sends to the guest, and the other way.
    let address = view(&engine, "one")["networks"]["back"]["ipv4"].as_str().unwrap().to_owned();
    ask_for_address(&engine, "one");
    let says = "bandwidth in 4 Mbit/s, out 8 Mbit/s: at once";
    updated(&engine, &["--bandwidth", "in=4m,out=8m"], &[says]);
    let sink = std::thread::spawn(move || {
        let mut stream = None;
        wait_until("the guest listens", || {
            stream = std::net::TcpStream::connect((address.as_str(), 900)).ok();
            stream.is_some()
        });
        std::io::Write::write_all(&mut stream.unwrap(), &vec![0; 2 << 20]).unwrap();
    });
    let received = speed(&engine, "nc -l -p 900 > /dev/null", 2 * MIB);
    sink.join().unwrap();
    assert!(received < 4_000_000 / 8 * 5 / 4, "{received} bytes a second of at most 500,000");
    let gateway = engine.docker(["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "back"]).success();
    let gateway = gateway.trim();
    let listener = std::net::TcpListener::bind((gateway, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let source = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::copy(&mut stream, &mut std::io::sink()).unwrap()
    });
    let sent = speed(&engine, &format!("head -c {} /dev/zero | nc {gateway} {port}", 2 * MIB), 2 * MIB);
    assert_eq!(source.join().unwrap(), 2 * MIB);
    assert!(sent < 1_000_000 * 5 / 4, "{sent} bytes a second of at most 1,000,000");

    // They stay over a start, and go with their machine's copy.
    updated(&engine, &["--disk-limit", "disk0:write-bps=1m"], &["disk0 with at most 1048576 B/s written: at once"]);
    engine.berth(["vm", "fork", "one", "copy"]).success();
    let copy = view(&engine, "copy");
    assert_eq!(copy["disks"][0]["limits"]["write_bytes"].as_u64(), Some(MIB));
    assert_eq!(copy["bandwidth"]["out_bits_per_second"].as_u64(), Some(8_000_000));
    engine.berth(["vm", "rm", "-f", "copy"]).success();
    engine.berth(["vm", "stop", "-t", "0", "one"]).success();
    engine.berth(["vm", "start", "--wait", "one"]).success();
    let slow = speed(&engine, write, 4 * MIB);
    assert!(slow < MIB * 5 / 4, "{slow} bytes a second of at most {MIB} after a start");
    for (words, says) in [
        (["--bandwidth", "1k"], "at least 8000"),
        (["--disk-limit", "disk7:none"], "has no disk disk7"),
        (["--disk-limit", "disk0:speed=1"], "unknown limit"),
    ] {
        let refused = engine.berth(["vm", "update", words[0], words[1], "one"]).failure(1);
        assert!(refused.contains(says), "{words:?}: {refused}");
    }
    clear(&engine);
}
