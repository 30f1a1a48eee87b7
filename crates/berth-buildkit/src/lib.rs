//! BuildKit's wire: gRPC over HTTP/2, its messages, how files travel.
//!
//! ```text
//!  grpc     frames of messages and a status at the end; Channel (we ask), serve (we answer)
//!  proto    the messages, by their field numbers: control (a build), gateway (a frontend's calls), session (what
//!           the client serves while its build runs), fsutil (a folder as packets), errdefs (where an error lies)
//!  stat     a file as fsutil describes it: Go's mode bits, and names that stay inside
//! ```
//!
//! Messages are written by hand from BuildKit's public `.proto` files: only the fields that a builder reads or says.
//! Unknown fields are skipped, as protobuf has it. Every message is bounded by [`grpc::MESSAGE_BYTES_MAX`]. This crate
//! knows no build: `berth-api-docker` makes requests of the engine out of it.

pub mod grpc;
pub mod proto;
pub mod stat;

pub use prost::Message;
