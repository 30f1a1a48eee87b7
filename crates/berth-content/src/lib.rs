//! Blobs by digest, leases, garbage collection
