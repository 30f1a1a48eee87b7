//! Kernel parameters that belong to a namespace.
