//! Commands on volumes.

use super::{Command, MANY, Names, go};
use crate::commands;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        paths: &["volume ls", "volume list"],
        usage: "[OPTIONS]",
        about: "List volumes",
        flags: r#"-f, --filter filter  Provide filter values (e.g. "dangling=true")
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
        flags: r#"-d, --driver string  Volume driver (default "local")
    --label list  Set metadata for a volume
-o, --opt map  Set driver specific options"#,
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
        about: "Remove one or more volumes. A volume in use by a container is kept.",
        flags: "-f, --force  Force the removal of one or more volumes",
        examples: "berth volume rm data",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Volumes,
        run: go!(commands::volume::remove),
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
