//! Capabilities by name: defaults, additions, removals.
