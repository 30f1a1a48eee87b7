//! `--security-opt`: what each word means.
