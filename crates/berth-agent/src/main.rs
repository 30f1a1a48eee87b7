//! `berth-agent`: what a machine's kernel starts first where the machine runs a container, and a service where it is a
//! whole system (`berth-agent --service`).
//!
//! ```text
//!  init     file systems, modules of the initramfs, a root that can be left (pivot_root)
//!  serve    one thread, one poll: the port to the host, its streams, the guest's questions for names
//!  process  a stream that is a process: the container's first or one beside it
//!  files    archives out and in: a process of our own for each
//!  workload disks and root of the container, its cgroup, its first process
//! ```
//!
//! It has one thread, because it clones. What the host sends is trusted with everything in here; what processes of
//! the container do reaches it only as bytes of pipes, terminals and questions for names.

mod dns;
mod files;
mod freeze;
mod hardware;
mod identity;
mod init;
mod network;
mod port;
mod power;
mod process;
mod processes;
mod serve;
mod statistics;
mod workload;

/// Code of a service that cannot serve.
const FAILED: i32 = 1;

fn main() {
    if std::env::args().nth(1).as_deref() == Some(files::WORD) {
        std::process::exit(files::main(std::env::args().skip(2)));
    }
    let service = std::env::args().nth(1).as_deref() == Some("--service");
    let is_init = std::process::id() == 1;
    if !service && !is_init {
        eprintln!("berth-agent: is started by a kernel, or as a service of one: berth-agent --service");
        std::process::exit(2);
    }
    let outcome = if service { Ok(()) } else { init::prepare() };
    let outcome = outcome.and_then(|()| serve::run(!service));
    let Err(error) = outcome else { return };
    eprintln!("berth-agent: {error}");
    if service {
        std::process::exit(FAILED);
    }
    // The kernel panics when its first process ends; a machine that is off is a clearer end.
    init::power_off();
}
