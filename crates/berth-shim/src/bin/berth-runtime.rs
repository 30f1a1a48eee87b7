//! The OCI runtime's command line; everything is in [`berth_shim::oci`].

fn main() -> std::process::ExitCode {
    berth_shim::oci::main(std::env::args_os().skip(1))
}
