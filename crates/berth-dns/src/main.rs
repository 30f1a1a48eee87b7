//! `berth-dns`: started by an engine with a listening socket as descriptor 3; ends by itself.

use std::path::PathBuf;
use std::process::ExitCode;

/// Sockets of thousands of containers.
const DESCRIPTORS: u64 = 1 << 20;

fn main() -> ExitCode {
    berth_sys::handed_over::limit_malloc_arenas(1);
    let Some(listener) = berth_sys::handed_over::take_descriptor(berth_dns::LISTENER) else {
        return fail("started by the engine only: it wants a listening socket as descriptor 3");
    };
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = Some(limit.maximum.unwrap_or(DESCRIPTORS).min(DESCRIPTORS));
    // With fewer it serves fewer, and says so when it comes to that.
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).ok();
    // For tests on machines whose own resolver must stay out of it.
    let resolv_conf = std::env::var_os("BERTH_RESOLV_CONF").map_or_else(|| "/etc/resolv.conf".into(), PathBuf::from);
    match berth_dns::server::Server::new(listener, resolv_conf).and_then(|mut server| server.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(errno) => fail(&errno.to_string()),
    }
}

fn fail(text: &str) -> ExitCode {
    use std::io::Write;
    // Nobody to tell when even that fails.
    writeln!(std::io::stderr(), "berth-dns: {text}").ok();
    ExitCode::FAILURE
}
