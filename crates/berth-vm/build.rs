//! The programs of this crate are linked as the shim is: static, at a fixed address.

#[path = "../berth-shim/build.rs"]
mod linking;

fn main() {
    linking::main();
}
