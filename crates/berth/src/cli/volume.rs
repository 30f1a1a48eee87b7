//! Commands on volumes.

use super::{Command, MANY, Names, go};
use crate::commands;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        paths: &["volume ls", "volume list"],
        usage: "[OPTIONS]",
        about: "List volumes",
        flags: r#"    --cluster  Display only cluster volumes, and use cluster volume list formatting
-f, --filter filter  Provide filter values (e.g. "dangling=true")
    --format string  Print 'table', 'table TEMPLATE', 'json', or a Go template for each line
-q, --quiet  Only display volume names"#,
        examples: "berth volume ls -qf dangling=true",
        min: 0,
        max: 0,
        tail: false,
        names: Names::None,
        run: go!(commands::volume::list),
    },
    Command {
        paths: &["volume create"],
        usage: "[OPTIONS] [VOLUME]",
        about: "Create a volume",
        flags: r#"    --availability string  Cluster Volume availability ("active", "pause", "drain") (default "active")
-d, --driver string  Specify volume driver name (default "local")
    --group string  Cluster Volume group (cluster volumes)
    --label list  Set metadata for a volume
    --limit-bytes bytes  Minimum size of the Cluster Volume in bytes
-o, --opt map  Set driver specific options
    --required-bytes bytes  Maximum size of the Cluster Volume in bytes
    --scope string  Cluster Volume access scope ("single", "multi") (default "single")
    --secret map  Cluster Volume secrets
    --sharing string  Cluster Volume access sharing ("none", "readonly", "onewriter", "all") (default "none")
    --topology-preferred list  A topology that the Cluster Volume would be preferred in
    --topology-required list  A topology that the Cluster Volume must be accessible from
    --type string  Cluster Volume access type ("mount", "block") (default "block")"#,
        examples: "berth volume create data",
        min: 0,
        max: 1,
        tail: false,
        names: Names::None,
        run: go!(commands::volume::create),
    },
    Command {
        paths: &["volume inspect"],
        usage: "[OPTIONS] VOLUME [VOLUME...]",
        about: "Display detailed information on one or more volumes",
        flags: "-f, --format string  Print 'json' or a Go template",
        examples: "berth volume inspect data --format '{{.Mountpoint}}'",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Volumes,
        run: go!(commands::inspect::volume),
    },
    Command {
        paths: &["volume rm", "volume remove"],
        usage: "[OPTIONS] VOLUME [VOLUME...]",
        about: "Remove one or more volumes. You cannot remove a volume that is in use by a container.",
        flags: "-f, --force  Force the removal of one or more volumes",
        examples: "berth volume rm data",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Volumes,
        run: go!(commands::volume::remove),
    },
    Command {
        paths: &["volume update"],
        usage: "[OPTIONS] [VOLUME]",
        about: "Update a volume (cluster volumes only)",
        flags: r#"    --availability string  Cluster Volume availability ("active", "pause", "drain") (default "active")"#,
        examples: "berth volume update --availability drain shared",
        min: 1,
        max: 1,
        tail: false,
        names: Names::Volumes,
        run: go!(commands::volume::update),
    },
    Command {
        paths: &["volume prune"],
        usage: "[OPTIONS]",
        about: "Remove unused local volumes",
        flags: r#"-a, --all  Remove all unused volumes, not just anonymous ones
    --filter filter  Provide filter values (e.g. "label=<label>")
-f, --force  Do not prompt for confirmation"#,
        examples: "berth volume prune -af",
        min: 0,
        max: 0,
        tail: false,
        names: Names::None,
        run: go!(commands::prune::volumes),
    },
];
