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
    --cloud-init  Tell an image with cloud-init its host name and network
    --bandwidth rate  What passes each network card, in bits a second: 100m, in=1g,out=50m
-c, --cpus int  Number of processors (default 1)
-d, --disk list  Disk: FILE[,format=FORMAT][,size=BYTES] (qcow2, raw, vmdk, vdi, vhdx, ova), or size=BYTES for an empty one; limits as of update's --disk-limit
    --display string  Graphics card to have: none or vnc (default "none")
    --from-image string  Image with a kernel, whose files become the first disk: IMAGE[,size=BYTES]
    --initrd string  Initial ramdisk for --kernel
    --kernel string  Boot this kernel directly: a path on the engine's host
-l, --label list  Set metadata for a machine
-m, --memory bytes  Memory (default 512m)
    --memory-max bytes  What it can be given of memory while it runs (by itself what the host has, where it has 1g to begin with)
    --network string  Connect the machine to a network
-p, --publish list  Publish a machine's port to the host
    --restart string  Restart policy to apply when a machine ends
    --ssh-key list  Public key for the image's user, or a file of such keys (cloud-init)
    --start  Start it at once
    --uefi  UEFI firmware instead of a BIOS
    --user-data string  File for cloud-init to follow
    --wait  With --start: return when the agent of its guest answers
    --wait-timeout int  Seconds for that (default 300); then its console's last lines are the error"#,
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
        about: "List virtual machines, running or not",
        flags: r#"-a, --all  As they always are: for who is used to it from 'ps'
    --format string  Print 'json' or a Go template for each line
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
        paths: &["vm stats"],
        usage: "[OPTIONS] [MACHINE...]",
        about: "Display what running virtual machines take of the host, and what their guests use of it",
        flags: r#"    --format string  Print 'json', a table with a Go template, or a Go template for each line
    --no-stream  Print one reading, instead of going on"#,
        examples: "berth vm stats\n\
                   berth vm stats --no-stream web",
        min: 0,
        max: MANY,
        tail: false,
        names: Names::Any,
        run: go!(commands::vm::stats::stats),
    },
    Command {
        paths: &["vm start"],
        usage: "[OPTIONS] MACHINE [MACHINE...]",
        about: "Start one or more virtual machines",
        flags: "    --wait  Return when the agent of its guest answers\n    --wait-timeout int  Seconds for that (default 300); then its console's last lines are the error",
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
        about: "Switch one or more virtual machines off: by their guests' agents, else by the power button",
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
        paths: &["vm exec"],
        usage: "[OPTIONS] MACHINE COMMAND [ARG...]",
        about: "Execute a command in a machine whose guest runs berth-agent",
        flags: super::container::EXEC_FLAGS,
        examples: "berth vm exec -it web sh",
        min: 2,
        max: MANY,
        tail: true,
        names: Names::Any,
        run: go!(commands::exec::exec),
    },
    Command {
        paths: &["vm cp"],
        usage: "[OPTIONS] MACHINE:SRC_PATH DEST_PATH|-\n[OPTIONS] SRC_PATH|- MACHINE:DEST_PATH",
        about: "Copy files/folders between a machine whose guest runs berth-agent and the local filesystem",
        flags: super::container::CP_FLAGS,
        examples: "berth vm cp web:/etc/hostname .\nberth vm cp site/. web:/srv/",
        min: 2,
        max: 2,
        tail: false,
        names: Names::Any,
        run: go!(commands::cp::cp),
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
        flags: super::LOGS_FLAGS,
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
        paths: &["vm update"],
        usage: "[OPTIONS] MACHINE",
        about: "Change a virtual machine's processors, memory, disks and limits",
        flags: r#"    --add-disk list  Another disk: FILE[,format=FORMAT][,size=BYTES], or size=BYTES for an empty one
    --bandwidth rate  What passes each network card, in bits a second: 100m, in=1g,out=50m, or none
-c, --cpus int  Number of processors
-d, --disk list  Grow a disk: NAME=BYTES
    --disk-limit list  A disk's limits a second: NAME:read-bps=BYTES,write-bps=BYTES,read-iops=N,write-iops=N, or NAME:none
-m, --memory bytes  Memory
    --memory-max bytes  What it can be given of memory while it runs, from its next start on
    --remove-disk list  Take a disk away, with what is on it: NAME"#,
        examples: "berth vm update --cpus 4 -m 2g web        # at once where its guest can; the answer says so\n\
                   berth vm update --disk disk0=40G --add-disk size=10G web\n\
                   berth vm update --bandwidth in=1g,out=100m --disk-limit disk0:read-bps=100m,write-iops=500 web",
        min: 1,
        max: 1,
        tail: false,
        names: Names::Any,
        run: go!(commands::vm::update),
    },
    Command {
        paths: &["vm template"],
        usage: "[OPTIONS] MACHINE [MACHINE...]",
        about: "Make a virtual machine a template: only there to be cloned, or forked",
        flags: "    --running  Of a running one: its forks go on from where it stands now",
        examples: "berth vm template golden\n\
                   berth vm template --running warm && berth vm fork warm web -n 20",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Any,
        run: go!(commands::vm::template),
    },
    Command {
        paths: &["vm clone"],
        usage: "[OPTIONS] MACHINE NAME [NAME...]",
        about: "Make further virtual machines that begin with what one's disks hold now",
        flags: r#"    --full  Copy their disks whole, instead of standing on the same ones
    --snapshot string  What this snapshot holds, instead of what the disks hold now
    --start  Start them at once"#,
        examples: "berth vm clone --start golden web1 web2 web3",
        min: 2,
        max: MANY,
        tail: false,
        names: Names::Any,
        run: go!(commands::vm::clone),
    },
    Command {
        paths: &["vm fork"],
        usage: "[OPTIONS] MACHINE [NAME...]",
        about: "Make and start virtual machines that go on from where one stands",
        flags: "-n, --count int  How many; with a name they are NAME-1, NAME-2, ... (default 1)",
        examples: "berth vm fork web web-copy\n\
                   berth vm fork warm worker -n 20",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Any,
        run: go!(commands::vm::fork),
    },
    Command {
        paths: &["vm snapshot"],
        usage: "[OPTIONS] MACHINE SNAPSHOT",
        about: "Remember what a virtual machine's disks hold now, and where it stands",
        flags: "    --memory  State and memory too: a revert goes on from there",
        examples: "berth vm snapshot web before-upgrade\n\
                   berth vm snapshot --memory web just-now",
        min: 2,
        max: 2,
        tail: false,
        names: Names::Any,
        run: go!(commands::vm::snapshot),
    },
    Command {
        paths: &["vm snapshots"],
        usage: "MACHINE",
        about: "List a virtual machine's snapshots",
        flags: NO_FLAGS,
        examples: "berth vm snapshots web",
        min: 1,
        max: 1,
        tail: false,
        names: Names::Any,
        run: go!(commands::vm::snapshots),
    },
    Command {
        paths: &["vm revert"],
        usage: "[OPTIONS] MACHINE SNAPSHOT",
        about: "Put a stopped virtual machine back to a snapshot",
        flags: "    --disks-only  Leave out its memory: the next start begins with the firmware",
        examples: "berth vm revert web before-upgrade",
        min: 2,
        max: 2,
        tail: false,
        names: Names::Any,
        run: go!(commands::vm::revert),
    },
    Command {
        paths: &["vm forget"],
        usage: "MACHINE SNAPSHOT [SNAPSHOT...]",
        about: "Forget snapshots of a virtual machine",
        flags: NO_FLAGS,
        examples: "berth vm forget web before-upgrade",
        min: 2,
        max: MANY,
        tail: false,
        names: Names::Any,
        run: go!(commands::vm::forget),
    },
    Command {
        paths: &["vm kernel install"],
        usage: "[PACKAGE.deb]",
        about: "Install a kernel for containers with --isolation vm",
        flags: NO_FLAGS,
        examples: "berth vm kernel install\n\
                   berth vm kernel install linux-image-6.12.1-cloud-amd64.deb",
        min: 0,
        max: 1,
        tail: false,
        names: Names::None,
        run: go!(commands::vm::kernel::install),
    },
    Command {
        paths: &["vm kernel ls", "vm kernel list"],
        usage: "",
        about: "List kernels for containers with --isolation vm",
        flags: NO_FLAGS,
        examples: "berth vm kernel ls",
        min: 0,
        max: 0,
        tail: false,
        names: Names::None,
        run: go!(commands::vm::kernel::list),
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
    Command {
        paths: &["vm vnc"],
        usage: "[OPTIONS] MACHINE",
        about: "Show a virtual machine's screen to a VNC viewer on this computer",
        flags: r#"    --listen string  Where the viewer connects: address and port, or the path of a socket (default "127.0.0.1:0")"#,
        examples: "berth vm vnc --listen 127.0.0.1:5900 desk\n\
                   berth vm vnc --listen /run/user/1000/desk.sock desk",
        min: 1,
        max: 1,
        tail: false,
        names: Names::Any,
        run: go!(commands::vm::vnc::vnc),
    },
    Command {
        paths: &["vm flatten"],
        usage: "MACHINE [MACHINE...]",
        about: "Make the disks of virtual machines stand on nothing that others have",
        flags: NO_FLAGS,
        examples: "berth vm flatten web1",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Any,
        run: go!(commands::vm::flatten),
    },
    Command {
        paths: &["vm export"],
        usage: "[OPTIONS] MACHINE",
        about: "Write a virtual machine's disk as one file, or all of it as an appliance",
        flags: r#"    --disk string  Which disk, where there are several
    --format string  qcow2, raw or ova (default "qcow2")
-o, --output string  Write to a file, instead of STDOUT"#,
        examples: "berth vm export -o web.qcow2 web\n\
                   berth vm export --format ova -o web.ova web",
        min: 1,
        max: 1,
        tail: false,
        names: Names::Any,
        run: go!(commands::vm::export),
    },
];
