//! The Docker Engine API: translates, nothing more
