//! The distribution protocol: how images come from registries and go there (OCI distribution specification 1.1, and
//! what Docker's registries did before it).
//!
//! ```text
//! Client ── Repository ── manifest, resolve, tags, referrers, blob (resumes), has_blob, mount, upload, put_manifest
//!    │           └ endpoints: mirrors, then the registry            config.rs
//!    ├ auth      challenges -> tokens, passwords                    auth.rs, auth/challenge.rs
//!    └ http      kept connections, redirects, silence               http.rs
//!         └ connect: addresses, proxies, TLS with own CAs           connect.rs, proxy.rs, tls.rs
//! ```
//!
//! - What a registry says is bounded: manifests, tokens, lists, redirects, URLs, errors, waiting.
//! - A manifest's digest is checked here, a blob's by whoever stores it; a blob never has more bytes than announced.
//! - A mirror that fails or lies is named, and the next place is asked. That and longer waits are told: `Notice`.
//! - Cut transfers go on where they were; what fails for a moment is tried again, more slowly each time.
//! - Credentials go to the registry they belong to: not to mirrors, redirects, or token servers in the clear.
//! - An error holds the registry's own reason.

mod auth;
mod blobs;
mod client;
mod config;
mod connect;
mod error;
mod http;
pub mod manifest;
mod notice;
mod platform;
mod proxy;
mod push;
mod retry;
mod search;
mod tls;
mod url;

pub use auth::Credentials;
pub use blobs::BlobReader;
pub use client::{Access, Client, Download, Repository, Sources};
pub use config::{Config, Proxies, Registry};
pub use error::{ConnectError, Reason, RegistryError};
pub use http::Source;
pub use manifest::{Descriptor, Document, Manifest};
pub use notice::{Notice, Notify};
pub use platform::{Platform, choose};
pub use push::{BytesSource, FileSource, Positioned, Uploaded};
pub use search::Found;
pub use tls::TlsError;
