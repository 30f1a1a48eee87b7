//! Commands on secrets and configurations: the same verbs.

use super::{Command, INSPECT_FORMAT, MANY, Names, go};
use crate::commands::secret;

const CREATE_FLAGS: &str = r#"-l, --label list  Set metadata on it
    --template-driver string  Not supported: there is no swarm to fill in a template"#;
const LIST_FLAGS: &str = r#"-f, --filter filter  Provide filter values (e.g. "name=db")
    --format string  Print 'table', 'table TEMPLATE', 'json', or a Go template for each line
-q, --quiet  Only display IDs"#;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        paths: &["secret create"],
        usage: "[OPTIONS] SECRET [file|-]",
        about: "Create a secret from a file or STDIN",
        flags: CREATE_FLAGS,
        examples: "printf %s hunter2 | berth secret create db-password -",
        min: 1,
        max: 2,
        tail: false,
        names: Names::None,
        run: go!(secret::create_secret),
    },
    Command {
        paths: &["secret ls", "secret list"],
        usage: "[OPTIONS]",
        about: "List secrets",
        flags: LIST_FLAGS,
        examples: "berth secret ls",
        min: 0,
        max: 0,
        tail: false,
        names: Names::None,
        run: go!(secret::list_secrets),
    },
    Command {
        paths: &["secret inspect"],
        usage: "[OPTIONS] SECRET [SECRET...]",
        about: "Display detailed information on one or more secrets",
        flags: INSPECT_FORMAT,
        examples: "berth secret inspect db-password",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Secrets,
        run: go!(crate::commands::inspect::secret),
    },
    Command {
        paths: &["secret rm", "secret remove"],
        usage: "SECRET [SECRET...]",
        about: "Remove one or more secrets that no container has",
        flags: "",
        examples: "berth secret rm db-password",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Secrets,
        run: go!(secret::remove_secret),
    },
    Command {
        paths: &["config create"],
        usage: "[OPTIONS] CONFIG file|-",
        about: "Create a configuration from a file or STDIN",
        flags: CREATE_FLAGS,
        examples: "printf %s hunter2 | berth config create db-password -",
        min: 1,
        max: 2,
        tail: false,
        names: Names::None,
        run: go!(secret::create_config),
    },
    Command {
        paths: &["config ls", "config list"],
        usage: "[OPTIONS]",
        about: "List configurations",
        flags: LIST_FLAGS,
        examples: "berth config ls",
        min: 0,
        max: 0,
        tail: false,
        names: Names::None,
        run: go!(secret::list_configs),
    },
    Command {
        paths: &["config inspect"],
        usage: "[OPTIONS] CONFIG [CONFIG...]",
        about: "Display detailed information on one or more configurations",
        flags: INSPECT_FORMAT,
        examples: "berth config inspect db-password",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Configs,
        run: go!(crate::commands::inspect::config),
    },
    Command {
        paths: &["config rm", "config remove"],
        usage: "CONFIG [CONFIG...]",
        about: "Remove one or more configurations that no container has",
        flags: "",
        examples: "berth config rm db-password",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Configs,
        run: go!(secret::remove_config),
    },
];
