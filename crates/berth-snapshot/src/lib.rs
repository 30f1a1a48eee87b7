//! Snapshots as mounts: the Snapshotter trait, its contract tests, the overlay driver
