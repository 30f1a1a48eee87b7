//! Commands on the engine, and on everything at once.

macro_rules! context_endpoint {
    ($verb:literal) => {
        concat!(
            "Docker endpoint config:\n\n",
            "NAME                DESCRIPTION\n",
            "from                Copy named context's Docker endpoint configuration\n",
            "host                Docker endpoint on which to connect\n",
            "ca                  Trust certs signed only by this CA\n",
            "cert                Path to TLS certificate file\n",
            "key                 Path to TLS key file\n",
            "skip-tls-verify     Skip TLS certificate validation\n\n",
            "Example:\n\n$ berth context ",
            $verb,
            " my-context --description \"some description\" --docker \"host=tcp://myserver:2376,ca=~/ca-file,",
            "cert=~/cert-file,key=~/key-file\""
        )
    };
}

use super::{Command, INSPECT_FORMAT, MANY, Names, go};
use crate::commands;

const CREATE_CONTEXT: &str = concat!("Create a context\n\n", context_endpoint!("create"));
const UPDATE_CONTEXT: &str = concat!("Update a context\n\n", context_endpoint!("update"));
const CONTEXT_FLAGS: &str = "    --description string  Description of the context
    --docker stringToString  set the docker endpoint (default [])
    --from string  create context from a named context";

pub(super) const COMMANDS: &[Command] = &[
    Command {
        paths: &["inspect"],
        usage: "[OPTIONS] NAME|ID [NAME|ID...]",
        about: "Return low-level information on Docker objects",
        flags: "-f, --format string  Print 'json' or a Go template
-s, --size  Display total file sizes if the type is container
    --type string  Only inspect objects of the given type",
        examples: "berth inspect web
berth inspect --format '{{.State.Status}}' web
berth inspect --type volume data",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Any,
        run: go!(commands::inspect::any),
    },
    Command {
        paths: &["info", "system info"],
        usage: "[OPTIONS]",
        about: "Display system-wide information",
        flags: "-f, --format string  Print 'json' or a Go template",
        examples: "berth info
berth info --format '{{.ServerVersion}}'",
        min: 0,
        max: 0,
        tail: false,
        names: Names::None,
        run: go!(commands::info::info),
    },
    Command {
        paths: &["version"],
        usage: "[OPTIONS]",
        about: "Show the Docker version information",
        flags: "-f, --format string  Print 'json' or a Go template",
        examples: "berth version
berth version --format '{{.Server.Version}}'",
        min: 0,
        max: 0,
        tail: false,
        names: Names::None,
        run: go!(commands::version::version),
    },
    Command {
        paths: &["events", "system events"],
        usage: "[OPTIONS]",
        about: "Get real time events from the server",
        flags: "-f, --filter filter  Filter output based on conditions provided
    --format string  Print 'json' or a Go template
    --since string  Show all events created since timestamp
    --until string  Stream events until this timestamp",
        examples: "berth events --since 10m --until 0s
berth events --filter event=die --format json",
        min: 0,
        max: 0,
        tail: false,
        names: Names::None,
        run: go!(commands::events::events),
    },
    Command {
        paths: &["system df"],
        usage: "[OPTIONS]",
        about: "Show docker disk usage",
        flags: "    --format string  Print 'table', 'table TEMPLATE', 'json', or a Go template for each line
-v, --verbose  Show detailed information on space usage",
        examples: "berth system df -v",
        min: 0,
        max: 0,
        tail: false,
        names: Names::None,
        run: go!(commands::df::df),
    },
    Command {
        paths: &["system check"],
        usage: "[OPTIONS]",
        about: "Compare all images' files with their digests",
        flags: "    --repair  Fetch damaged layers again from where they came; containers run on",
        examples: "berth system check
berth system check --repair",
        min: 0,
        max: 0,
        tail: false,
        names: Names::None,
        run: go!(commands::check::check),
    },
    Command {
        paths: &["system prune"],
        usage: "[OPTIONS]",
        about: "Remove unused data",
        flags: r#"-a, --all  Remove all unused images not just dangling ones
    --filter filter  Provide filter values (e.g. "label=<key>=<value>")
-f, --force  Do not prompt for confirmation
    --volumes  Prune anonymous volumes"#,
        examples: "berth system prune -af --volumes",
        min: 0,
        max: 0,
        tail: false,
        names: Names::None,
        run: go!(commands::prune::system),
    },
    Command {
        paths: &["system dial-stdio"],
        usage: "",
        about: "Proxy the stdio stream to the daemon connection. Should not be invoked manually.",
        flags: "",
        examples: "ssh HOST berth system dial-stdio",
        min: 0,
        max: 0,
        tail: false,
        names: Names::None,
        run: go!(commands::remote::dial_stdio),
    },
    Command {
        paths: &["cert"],
        usage: "[OPTIONS] [HOST...]",
        about: "Make the certificates by which an engine on TCP knows its clients, and they know it",
        flags: r#"    --days int  Days until they are invalid (default 397)
    --dir string  Folder to write to (default ".")"#,
        examples: "berth cert --dir ~/.docker build.example.com 192.0.2.7",
        min: 0,
        max: MANY,
        tail: false,
        names: Names::None,
        run: go!(commands::remote::cert),
    },
    Command {
        paths: &["doctor"],
        usage: "[OPTIONS]",
        about: "Check this host: kernel, cgroups, file systems, firewall, limits; each with its fix",
        flags: r#"    --format string  Print 'json' instead of text
    --data-root string  Folder whose file system is checked (default "/var/lib/berth")"#,
        examples: "berth doctor
berth doctor --format json",
        min: 0,
        max: 0,
        tail: false,
        names: Names::None,
        run: go!(commands::doctor::doctor),
    },
    Command {
        paths: &["console token"],
        usage: "",
        about: "Print a one-time token that makes an administrator of the web console",
        flags: "",
        examples: "berth console token",
        min: 0,
        max: 0,
        tail: false,
        names: Names::None,
        run: go!(commands::console::token),
    },
    Command {
        paths: &["host add"],
        usage: "[OPTIONS] NAME ADDRESS",
        about: "Make another engine known: https://HOST:PORT of its console, or ssh://USER@HOST",
        flags: r#"    --fingerprint string  SHA-256 of its certificate, as the log of the engine there shows it
    --token string  API token of that engine (default: read from stdin)"#,
        examples: "berth host add prod ssh://root@10.0.0.2
berth host add prod https://10.0.0.2:9443 --fingerprint AB:CD:... < token
berth --host prod ps
berth --host most-room run -d nginx",
        min: 2,
        max: 2,
        tail: false,
        names: Names::None,
        run: go!(commands::hosts::add),
    },
    Command {
        paths: &["host ls", "host list"],
        usage: "[OPTIONS]",
        about: "List the engines that this one knows, and how they are",
        flags: r#"    --format string  Print 'json' or a Go template for each line
-q, --quiet  Only display names"#,
        examples: "berth host ls",
        min: 0,
        max: 0,
        tail: false,
        names: Names::None,
        run: go!(commands::hosts::list),
    },
    Command {
        paths: &["host rm", "host remove"],
        usage: "NAME [NAME...]",
        about: "Forget other engines; their containers go on",
        flags: "",
        examples: "berth host rm prod",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::None,
        run: go!(commands::hosts::remove),
    },
    Command {
        paths: &["completion"],
        usage: "bash|zsh|fish",
        about: "Print a completion script for your shell",
        flags: "",
        examples: "berth completion bash > /etc/bash_completion.d/berth
berth completion zsh > ~/.zfunc/_berth
berth completion fish > ~/.config/fish/completions/berth.fish",
        min: 1,
        max: 1,
        tail: false,
        names: Names::None,
        run: go!(commands::completion::script),
    },
    Command {
        paths: &["__complete"],
        usage: "WORD...",
        about: "What may follow these words",
        flags: "",
        examples: "berth __complete rm ''",
        min: 0,
        max: MANY,
        tail: true,
        names: Names::None,
        run: go!(commands::completion::words),
    },
    Command {
        paths: &["context ls", "context list"],
        usage: "[OPTIONS]",
        about: "List contexts",
        flags: "    --format string  Print 'table', 'table TEMPLATE', 'json', or a Go template for each line
-q, --quiet  Only show context names",
        examples: "berth context ls",
        min: 0,
        max: 0,
        tail: false,
        names: Names::None,
        run: go!(commands::context::list),
    },
    Command {
        paths: &["context create"],
        usage: "[OPTIONS] CONTEXT",
        about: CREATE_CONTEXT,
        flags: CONTEXT_FLAGS,
        examples: "berth context create far --docker host=ssh://me@far",
        min: 1,
        max: 1,
        tail: false,
        names: Names::None,
        run: go!(commands::context::manage::create),
    },
    Command {
        paths: &["context update"],
        usage: "[OPTIONS] CONTEXT",
        about: UPDATE_CONTEXT,
        flags: "    --description string  Description of the context
    --docker stringToString  set the docker endpoint (default [])",
        examples: "berth context update --description 'the build host' far",
        min: 1,
        max: 1,
        tail: false,
        names: Names::Contexts,
        run: go!(commands::context::manage::update),
    },
    Command {
        paths: &["context inspect"],
        usage: "[OPTIONS] [CONTEXT] [CONTEXT...]",
        about: "Display detailed information on one or more contexts",
        flags: INSPECT_FORMAT,
        examples: "berth context inspect far",
        min: 0,
        max: MANY,
        tail: false,
        names: Names::Contexts,
        run: go!(commands::context::manage::inspect),
    },
    Command {
        paths: &["context rm", "context remove"],
        usage: "CONTEXT [CONTEXT...]",
        about: "Remove one or more contexts",
        flags: "-f, --force  Force the removal of a context in use",
        examples: "berth context rm far",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Contexts,
        run: go!(commands::context::manage::remove),
    },
    Command {
        paths: &["context export"],
        usage: "[OPTIONS] CONTEXT [FILE|-]",
        about: "Export a context to a tar archive FILE or a tar stream on STDOUT.",
        flags: "",
        examples: "berth context export far far.tar",
        min: 1,
        max: 2,
        tail: false,
        names: Names::Contexts,
        run: go!(commands::context::manage::export),
    },
    Command {
        paths: &["context import"],
        usage: "CONTEXT FILE|-",
        about: "Import a context from a tar or zip file",
        flags: "",
        examples: "berth context import far far.tar",
        min: 2,
        max: 2,
        tail: false,
        names: Names::None,
        run: go!(commands::context::manage::import),
    },
    Command {
        paths: &["context show"],
        usage: "",
        about: "Print the name of the current context",
        flags: "",
        examples: "berth context show",
        min: 0,
        max: 0,
        tail: false,
        names: Names::None,
        run: go!(commands::context::show),
    },
    Command {
        paths: &["context use"],
        usage: "CONTEXT",
        about: "Set the current docker context",
        flags: "",
        examples: "berth context use build",
        min: 1,
        max: 1,
        tail: false,
        names: Names::Contexts,
        run: go!(commands::context::choose),
    },
];
