//! A container's log on disk: bounded writers, readers that follow
