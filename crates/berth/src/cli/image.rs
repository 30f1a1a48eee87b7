//! Commands on images.

use super::{Command, MANY, Names, go};
use crate::commands;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        paths: &["images", "image ls", "image list"],
        usage: "[OPTIONS] [REPOSITORY[:TAG]]",
        about: "List images",
        flags: "-a, --all  Show all images (default hides intermediate images)
    --digests  Show digests
-f, --filter filter  Filter output based on conditions provided
    --format string  Print 'table', 'table TEMPLATE', 'json', or a Go template for each line
    --no-trunc  Don't truncate output
-q, --quiet  Only show image IDs
    --tree  List multi-platform images as a tree (EXPERIMENTAL)",
        examples: "berth images
berth images -q --filter dangling=true
berth images --format '{{.Repository}}:{{.Tag}} {{.Size}}'",
        min: 0,
        max: 1,
        tail: false,
        names: Names::Images,
        run: go!(commands::images::images),
    },
    Command {
        paths: &["import", "image import"],
        usage: "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
        about: "Import the contents from a tarball to create a filesystem image",
        flags: "-c, --change list  Apply Dockerfile instruction to the created image
-m, --message string  Set commit message for imported image
    --platform string  Set platform if server is multi-platform capable",
        examples: "berth import rootfs.tar.gz mine:1
tar c . | berth import - mine:1",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::None,
        run: go!(commands::archive::import),
    },
    Command {
        paths: &["load", "image load"],
        usage: "[OPTIONS]",
        about: "Load an image from a tar archive or STDIN",
        flags: r#"-i, --input string  Read from tar archive file, instead of STDIN
    --platform string  Load only the given platform variant. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")
-q, --quiet  Suppress the load output"#,
        examples: "berth load -i image.tar.zst
berth load < image.tar",
        min: 0,
        max: 0,
        tail: false,
        names: Names::None,
        run: go!(commands::archive::load),
    },
    Command {
        paths: &["save", "image save"],
        usage: "[OPTIONS] IMAGE [IMAGE...]",
        about: "Save one or more images to a tar archive (streamed to STDOUT by default)",
        flags: r#"-o, --output string  Write to a file, instead of STDOUT
    --platform string  Save only the given platform variant. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")"#,
        examples: "berth save -o web.tar web:1
berth save web:1 | ssh host berth load",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Images,
        run: go!(commands::archive::save),
    },
    Command {
        paths: &["tag", "image tag"],
        usage: "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
        about: "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
        flags: "",
        examples: "berth tag web:1 web:latest",
        min: 2,
        max: 2,
        tail: false,
        names: Names::Images,
        run: go!(commands::images::tag),
    },
    Command {
        paths: &["rmi", "image rm", "image remove"],
        usage: "[OPTIONS] IMAGE [IMAGE...]",
        about: "Remove one or more images",
        flags: r#"-f, --force  Force removal of the image
    --no-prune  Do not delete untagged parents
    --platform strings  Remove only the given platform variant. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")"#,
        examples: "berth rmi web:1",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Images,
        run: go!(commands::images::remove),
    },
    Command {
        paths: &["history", "image history"],
        usage: "[OPTIONS] IMAGE",
        about: "Show the history of an image",
        flags: r#"    --format string  Print 'table', 'table TEMPLATE', 'json', or a Go template for each line
-H, --human  Print sizes and dates in human readable format (default true)
    --no-trunc  Don't truncate output
    --platform string  Show history for the given platform. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")
-q, --quiet  Only show image IDs"#,
        examples: "berth history --no-trunc web:1",
        min: 1,
        max: 1,
        tail: false,
        names: Names::Images,
        run: go!(commands::history::history),
    },
    Command {
        paths: &["image inspect"],
        usage: "[OPTIONS] IMAGE [IMAGE...]",
        about: "Display detailed information on one or more images",
        flags: "-f, --format string  Print 'json' or a Go template
    --platform string  Inspect a specific platform of the multi-platform image.",
        examples: "berth image inspect web:1 --format '{{json .Config.Cmd}}'",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Images,
        run: go!(commands::inspect::image),
    },
    Command {
        paths: &["image prune"],
        usage: "[OPTIONS]",
        about: "Remove unused images",
        flags: r#"-a, --all  Remove all unused images, not just dangling ones
    --filter filter  Provide filter values (e.g. "until=<timestamp>")
-f, --force  Do not prompt for confirmation"#,
        examples: "berth image prune -a -f",
        min: 0,
        max: 0,
        tail: false,
        names: Names::None,
        run: go!(commands::prune::images),
    },
    Command {
        paths: &["image bootstrap"],
        usage: "[OPTIONS] SUITE",
        about: "Make a base image from a Debian or Ubuntu suite's own signed packages",
        flags: "    --bootable  With a kernel, an init and a network, for berth vm create --from-image
    --name string  Name of the image (default: the suite, as debian:bookworm)
    --package list  Install this package too; can be given several times
    --mirror string  Take packages from this mirror
    --variant string  Package selection: minbase, essential, apt
-q, --quiet  Print the image id only",
        examples: "berth image bootstrap debian:bookworm
berth image bootstrap bookworm --name db:1 --package mariadb-server
berth image bootstrap bookworm --bootable --name base:1 && berth vm create --from-image base:1 -m 1g --start box",
        min: 1,
        max: 1,
        tail: false,
        names: Names::None,
        run: go!(commands::bootstrap::bootstrap),
    },
    Command {
        paths: &["image send"],
        usage: "[OPTIONS] IMAGE HOST",
        about: "Send an image to another host over ssh, only the layers that are missing there",
        flags: "-q, --quiet  Print the image id only",
        examples: "berth image send web:1 root@server2",
        min: 2,
        max: 2,
        tail: false,
        names: Names::Images,
        run: go!(commands::send::send),
    },
    Command {
        paths: &["image receive"],
        usage: "",
        about: "Take an image from standard input, the other end of image send",
        flags: "",
        examples: "ssh root@server2 berth image receive",
        min: 0,
        max: 0,
        tail: false,
        names: Names::None,
        run: go!(commands::send::receive),
    },
    Command {
        paths: &["pull", "image pull"],
        usage: "[OPTIONS] NAME[:TAG|@DIGEST]",
        about: "Download an image from a registry",
        flags: "-a, --all-tags  Download all tagged images in the repository
    --disable-content-trust  Skip image verification (default true)
    --platform string  Set platform if server is multi-platform capable
-q, --quiet  Suppress verbose output",
        examples: "berth pull registry.example:5000/web:1",
        min: 1,
        max: 1,
        tail: false,
        names: Names::Images,
        run: go!(commands::registry::pull),
    },
    Command {
        paths: &["push", "image push"],
        usage: "[OPTIONS] NAME[:TAG]",
        about: "Upload an image to a registry",
        flags: "-a, --all-tags  Push all tags of an image to the repository
    --disable-content-trust  Skip image signing (default true)
    --platform string  Push a platform-specific manifest as a single-platform image to the registry.
-q, --quiet  Suppress verbose output",
        examples: "berth push registry.example:5000/web:1",
        min: 1,
        max: 1,
        tail: false,
        names: Names::Images,
        run: go!(commands::registry::push),
    },
    Command {
        paths: &["manifest inspect"],
        usage: "[OPTIONS] NAME[:TAG|@DIGEST]",
        about: "Display the manifest or manifest list that a registry has under a name",
        flags: "    --insecure  Allow communication with an insecure registry (the engine's own settings decide)
-v, --verbose  Output additional info including digest and media type",
        examples: "berth manifest inspect debian:bookworm",
        min: 1,
        max: 1,
        tail: false,
        names: Names::Images,
        run: go!(commands::registry::manifest),
    },
    Command {
        paths: &["login"],
        usage: "[OPTIONS] [SERVER]",
        about: "Authenticate to a registry",
        flags: "-p, --password string  Password or Personal Access Token (PAT)
    --password-stdin  Take the Password or Personal Access Token (PAT) from stdin
-u, --username string  Username",
        examples: "berth login -u me --password-stdin registry.example < token",
        min: 0,
        max: 1,
        tail: false,
        names: Names::None,
        run: go!(commands::registry::login),
    },
    Command {
        paths: &["logout"],
        usage: "[SERVER]",
        about: "Log out from a registry",
        flags: "",
        examples: "berth logout registry.example",
        min: 0,
        max: 1,
        tail: false,
        names: Names::None,
        run: go!(commands::registry::logout),
    },
    Command {
        paths: &["search"],
        usage: "[OPTIONS] TERM",
        about: "Search a registry for images",
        flags: "-f, --filter filter  Filter output based on conditions provided
    --format string  Print 'json' or a Go template
    --limit int  Max number of search results
    --no-trunc  Don't truncate output",
        examples: "berth search nginx",
        min: 1,
        max: 1,
        tail: false,
        names: Names::None,
        run: go!(commands::registry::search),
    },
];
