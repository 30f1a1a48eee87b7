//! Docker Compose against this engine. Needs the compose plugin; without one each test is skipped, aloud.

mod examples;
mod plugin;
mod project;
