//! Manifests, archives and unpacking: content + snapshot
