//! Scratch roots, a started engine, waiting with a deadline
