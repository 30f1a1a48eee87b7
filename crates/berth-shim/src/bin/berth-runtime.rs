//! The OCI runtime's command line; everything is in [`berth_shim::oci`].

fn main() -> std::process::ExitCode {
    // Those that make a process of a container's.
    let clones = std::env::args_os().any(|word| ["create", "run", "exec"].iter().any(|name| word == *name));
    if clones && let Err(error) = berth_shim::own_program::protect() {
        eprintln!("berth-runtime: cannot protect the own program: {error}");
        return std::process::ExitCode::FAILURE;
    }
    rustix::thread::set_name(c"berth-runtime").ok();
    berth_shim::oci::main(std::env::args_os().skip(1))
}
