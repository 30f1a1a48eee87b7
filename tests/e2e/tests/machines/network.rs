//! What a guest is told of its network. The guest is OVMF's own shell, which has a DHCP client.

use crate::{clear, console, start, view};
use berth_testkit::Client;
use std::path::Path;
use std::time::{Duration, Instant};

/// Types `text` again and again until the console shows `wanted`.
#[track_caller]
fn until(line: &mut Client, text: &str, wanted: &str) {
    let deadline = Instant::now() + Duration::from_secs(300);
    while !line.stdout().contains(wanted) {
        assert!(Instant::now() < deadline, "no {wanted:?} after {text:?}:\n{}", line.stdout());
        for byte in text.chars() {
            // A serial line without flow control, and a slow reader.
            line.send(byte.to_string());
            std::thread::sleep(Duration::from_millis(20));
        }
        let patience = Instant::now() + Duration::from_secs(10);
        while Instant::now() < patience && !line.stdout().contains(wanted) {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

#[test]
fn a_guest_is_told_its_address_and_its_name_server() {
    if !Path::new("/usr/share/OVMF").exists() {
        return eprintln!("skipped: needs ovmf");
    }
    let Some(engine) = start("vm-dhcp") else { return };
    engine.docker(["network", "create", "back"]).success();
    let words = ["vm", "create", "--uefi", "--disk", "size=1M", "-m", "256m", "--network", "back", "--start", "box"];
    engine.berth(words).success();
    let seen = view(&engine, "box")["networks"]["back"].clone();
    let (address, mac) = (seen["ipv4"].as_str().unwrap().to_owned(), seen["mac"].as_str().unwrap().to_owned());
    let mut line = console(&engine, "box");
    until(&mut line, "\r", "Shell>");
    // The firmware looks at what it boots from only, until it is told to look at everything.
    until(&mut line, "connect -r\r", "Result");
    until(&mut line, "ifconfig -l\r", &mac.to_uppercase());
    until(&mut line, "ifconfig -s eth0 dhcp\rifconfig -l\r", &address);
    until(&mut line, "ifconfig -l\r", "169.254.0.53");
    // Its wire is the network's: the gateway answers.
    let gateway = engine.docker(["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "back"]).success();
    until(&mut line, &format!("ping -n 1 {}\r", gateway.trim()), "1 packets transmitted, 1 received");
    drop(line);
    clear(&engine);
}
