//! Terminals: the container's own devpts, handed to a console socket.

use crate::bundle::{Bundle, wait_until};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use serde_json::json;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

fn receive(listener: &UnixListener) -> OwnedFd {
    let (stream, _) = listener.accept().unwrap();
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    rustix::net::recvmsg(&stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message {
            return fds.next().unwrap();
        }
    }
    panic!("no descriptor came");
}

/// Reads until the text is there.
fn read_until(master: &mut std::fs::File, wanted: &str) -> String {
    let mut all = String::new();
    wait_until(wanted, || {
        let mut chunk = [0; 4096];
        let count = master.read(&mut chunk).unwrap_or(0);
        all.push_str(&String::from_utf8_lossy(&chunk[..count]));
        all.contains(wanted)
    });
    all
}

fn with_terminal(name: &str) -> Option<(Bundle, UnixListener, String)> {
    let mut b = Bundle::new(name)?;
    b.config["process"]["terminal"] = json!(true);
    b.config["process"]["consoleSize"] = json!({ "height": 33, "width": 111 });
    let path = b.path.join("console.sock");
    let listener = UnixListener::bind(&path).unwrap();
    Some((b, listener, path.to_str().unwrap().to_owned()))
}

#[test]
fn the_terminals_master_comes_through_the_console_socket() {
    let Some((mut b, listener, path)) = with_terminal("tty") else { return };
    b.script("tty; stty size; ls -l /dev/console; test -c /dev/console && echo console; read line; echo \"got $line\"; exec sleep 1000");
    b.call(&["create", "--console-socket", &path, &b.id]).success();
    let mut master = std::fs::File::from(receive(&listener));
    b.start();
    let text = read_until(&mut master, "console\r\n");
    assert!(text.contains("/dev/pts/0\r\n") && text.contains("33 111\r\n"), "{text}");
    master.write_all(b"hello\n").unwrap();
    read_until(&mut master, "got hello");
    // A hang-up ends the session's leader only if it asks for it; the container goes on.
    assert_eq!(b.status(), "running");
}

#[test]
fn job_control_works_as_the_terminal_is_the_controlling_one() {
    let Some((mut b, listener, path)) = with_terminal("ctty") else { return };
    b.script("trap 'echo interrupted; exit 0' INT; echo ready; while :; do usleep 10000; done");
    b.call(&["create", "--console-socket", &path, &b.id]).success();
    let mut master = std::fs::File::from(receive(&listener));
    b.start();
    read_until(&mut master, "ready");
    master.write_all(b"\x03").unwrap();
    read_until(&mut master, "interrupted");
    b.wait_for_status("stopped");
}

#[test]
fn exec_gets_a_terminal_of_the_containers_devpts() {
    let Some(mut b) = Bundle::new("exectty") else { return };
    b.sleeping();
    let path = b.path.join("console.sock");
    let listener = UnixListener::bind(&path).unwrap();
    b.call(&[
        "exec",
        "--detach",
        "--tty",
        "--console-socket",
        path.to_str().unwrap(),
        &b.id,
        "sh",
        "-c",
        "tty; exec sleep 1000",
    ])
    .success();
    let mut master = std::fs::File::from(receive(&listener));
    let text = read_until(&mut master, "\r\n");
    assert!(text.contains("/dev/pts/"), "{text}");
}

#[test]
fn a_terminal_without_a_place_to_go_is_refused() {
    let Some((b, _listener, path)) = with_terminal("nosocket") else { return };
    b.call(&["create", &b.id]).failure();
    b.call(&["run", "--detach", &b.id]).failure();
    let wrong = format!("{path}.not");
    b.call(&["create", "--console-socket", &wrong, &b.id]).failure();
    assert!(b.cgroups_left().is_empty());
}

#[test]
fn run_in_the_foreground_carries_the_terminal() {
    let Some((mut b, _listener, _)) = with_terminal("carry") else { return };
    b.script("tty; exit 3");
    let said = b.run();
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.out.contains("/dev/pts/0"), "{said:?}");
}

#[test]
fn a_missing_program_is_told_of_also_with_a_terminal() {
    let Some((mut b, _listener, socket)) = with_terminal("tmiss") else { return };
    b.args(&["nosuch"]);
    let said = b.call(&["create", "--console-socket", &socket, &b.id]).failure();
    assert!(said.contains("not found"), "{said}");
    let Some((mut b, _listener, socket)) = with_terminal("tmissx") else { return };
    b.config["process"]["terminal"] = serde_json::json!(false);
    b.sleeping();
    let said = b.call(&["exec", "--tty", "--console-socket", &socket, &b.id, "nosuch"]).failure();
    assert!(said.contains("not found"), "{said}");
}
