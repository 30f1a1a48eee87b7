//! Commands on virtual machines.

use super::{Command, MANY, Names, go};
use crate::commands;

const NO_FLAGS: &str = "";

pub(super) const COMMANDS: &[Command] = &[
    Command {
        paths: &["vm create"],
        usage: "[OPTIONS] NAME",
        about: "Create a virtual machine",
        flags: r#"    --append string  Arguments of the kernel that --kernel names
    --cdrom list  CD image to put in: a path on the engine's host
-c, --cpus int  Number of processors (default 1)
-d, --disk list  Disk: FILE[,format=raw|qcow2][,size=BYTES], or size=BYTES for an empty one
    --display string  Graphics card to have: none or vnc (default "none")
    --initrd string  Initial ramdisk for --kernel
    --kernel string  Boot this kernel directly: a path on the engine's host
-l, --label list  Set metadata for a machine
-m, --memory bytes  Memory (default 512m)
    --network string  Connect the machine to a network
-p, --publish list  Publish a machine's port to the host
    --restart string  Restart policy to apply when a machine ends
    --start  Start it at once
    --uefi  UEFI firmware instead of a BIOS"#,
        examples: "berth vm create --disk debian-12-generic-amd64.qcow2,size=20G -m 1g --start web\n\
                   berth vm create --disk size=20G --cdrom installer.iso --display vnc desk",
        min: 1,
        max: 1,
        tail: false,
        names: Names::None,
        run: go!(commands::vm::create),
    },
    Command {
        paths: &["vm ls", "vm list"],
        usage: "[OPTIONS]",
        about: "List virtual machines",
        flags: r#"    --format string  Print 'json' or a Go template for each line
-q, --quiet  Only display names"#,
        examples: "berth vm ls",
        min: 0,
        max: 0,
        tail: false,
        names: Names::None,
        run: go!(commands::vm::list),
    },
    Command {
        paths: &["vm inspect"],
        usage: "[OPTIONS] MACHINE [MACHINE...]",
        about: "Display detailed information on one or more virtual machines",
        flags: super::INSPECT_FORMAT,
        examples: "berth vm inspect -f '{{.state}}' web",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Any,
        run: go!(commands::vm::inspect),
    },
    Command {
        paths: &["vm start"],
        usage: "MACHINE [MACHINE...]",
        about: "Start one or more virtual machines",
        flags: NO_FLAGS,
        examples: "berth vm start web",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Any,
        run: go!(commands::vm::start),
    },
    Command {
        paths: &["vm stop"],
        usage: "[OPTIONS] MACHINE [MACHINE...]",
        about: "Press the power button of one or more virtual machines",
        flags: "-t, --timeout int  Seconds to wait before pulling the plug (default 30)",
        examples: "berth vm stop -t 60 web",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Any,
        run: go!(commands::vm::stop),
    },
    Command {
        paths: &["vm restart"],
        usage: "[OPTIONS] MACHINE [MACHINE...]",
        about: "Stop and start one or more virtual machines",
        flags: "-t, --timeout int  Seconds to wait before pulling the plug (default 30)",
        examples: "berth vm restart web",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Any,
        run: go!(commands::vm::restart),
    },
    Command {
        paths: &["vm kill"],
        usage: "MACHINE [MACHINE...]",
        about: "Pull the plug of one or more virtual machines",
        flags: NO_FLAGS,
        examples: "berth vm kill web",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Any,
        run: go!(commands::vm::kill),
    },
    Command {
        paths: &["vm reset"],
        usage: "MACHINE [MACHINE...]",
        about: "Press the reset button of one or more virtual machines",
        flags: NO_FLAGS,
        examples: "berth vm reset web",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Any,
        run: go!(commands::vm::reset),
    },
    Command {
        paths: &["vm pause"],
        usage: "MACHINE [MACHINE...]",
        about: "Hold one or more virtual machines still",
        flags: NO_FLAGS,
        examples: "berth vm pause web",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Any,
        run: go!(commands::vm::pause),
    },
    Command {
        paths: &["vm resume"],
        usage: "MACHINE [MACHINE...]",
        about: "Let one or more paused virtual machines go on",
        flags: NO_FLAGS,
        examples: "berth vm resume web",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Any,
        run: go!(commands::vm::resume),
    },
    Command {
        paths: &["vm rename"],
        usage: "MACHINE NEW_NAME",
        about: "Rename a virtual machine",
        flags: NO_FLAGS,
        examples: "berth vm rename web web-old",
        min: 2,
        max: 2,
        tail: false,
        names: Names::Any,
        run: go!(commands::vm::rename),
    },
    Command {
        paths: &["vm rm", "vm remove"],
        usage: "[OPTIONS] MACHINE [MACHINE...]",
        about: "Remove one or more virtual machines with their disks",
        flags: "-f, --force  End a running machine first",
        examples: "berth vm rm -f web",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Any,
        run: go!(commands::vm::remove),
    },
    Command {
        paths: &["vm logs"],
        usage: "[OPTIONS] MACHINE",
        about: "Fetch what a virtual machine wrote to its serial line",
        flags: r#"    --details  Show extra details provided to logs
-f, --follow  Follow log output
    --since string  Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)
-n, --tail string  Number of lines to show from the end of the logs (default "all")
-t, --timestamps  Show timestamps
    --until string  Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)"#,
        examples: "berth vm logs -f web",
        min: 1,
        max: 1,
        tail: false,
        names: Names::Any,
        run: go!(commands::logs::logs),
    },
    Command {
        paths: &["vm console"],
        usage: "[OPTIONS] MACHINE",
        about: "Type on a virtual machine's serial line; it comes back after an engine's restart",
        flags: r#"    --detach-keys string  Override the key sequence for leaving it (default ctrl-p,ctrl-q)"#,
        examples: "berth vm console web",
        min: 1,
        max: 1,
        tail: false,
        names: Names::Any,
        run: go!(commands::vm::console::console),
    },
    Command {
        paths: &["vm screenshot"],
        usage: "[OPTIONS] MACHINE",
        about: "Write a virtual machine's screen as a PNG",
        flags: "-o, --output string  Write to a file, instead of STDOUT",
        examples: "berth vm screenshot -o screen.png desk",
        min: 1,
        max: 1,
        tail: false,
        names: Names::Any,
        run: go!(commands::vm::screenshot),
    },
];
