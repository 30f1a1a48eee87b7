//! Limits and statistics on v1, v2 and hybrid hosts, one interface
