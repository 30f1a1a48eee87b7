//! Commands that build.

use super::{Command, Names, go};
use crate::commands;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        paths: &["build", "image build", "builder build", "buildx build"],
        usage: "[OPTIONS] PATH | -",
        about: "Build an image from a Dockerfile",
        flags: r#"    --add-host strings  Add a custom host-to-IP mapping (format: "host:ip")
    --allow strings  Allow extra privileged entitlement (e.g., "network.host", "security.insecure")
    --build-arg list  Set build-time variables
    --build-context list  Additional build contexts (e.g., name=path, name=docker-image://image)
    --cache-from list  External cache sources (e.g., "user/app:cache", "type=local,src=path/to/dir")
    --cache-to list  Cache export destinations (e.g., "user/app:cache", "type=local,dest=path/to/dir")
-f, --file string  Name of the Dockerfile (default: "PATH/Dockerfile")
    --force-rm  Always remove intermediate containers
    --iidfile string  Write the image ID to a file
    --label list  Set metadata for an image
    --load  Shorthand for "--output=type=image"
-m, --memory bytes  Memory limit of each step
    --metadata-file string  Write build result metadata to a file
    --network string  Set the networking mode for the "RUN" instructions during build
    --no-cache  Do not use cache when building the image
    --no-cache-filter strings  Do not cache specified stages
-o, --output list  Output destination (format: "type=local,dest=path")
    --parallel int  Steps at the same time
    --platform string  Set target platform for build
    --progress string  Set type of progress output ("auto", "plain", "tty", "json", "quiet") (default "auto")
    --pull  Always attempt to pull all referenced images
-q, --quiet  Suppress the build output and print image ID on success
    --rm  Remove intermediate containers after a successful build (default true)
    --secret list  Secret to expose to the build (format: "id=mysecret[,src=/local/secret][,env=VARIABLE]")
    --shm-size bytes  Shared memory size for build containers
    --ssh list  SSH agent socket to expose to the build (format: "default|<id>[=<socket>]")
-t, --tag list  Image identifier (format: "[registry/]repository[:tag]")
    --target string  Set the target build stage to build"#,
        examples: "berth build -t web:1 .
berth build --secret id=npmrc,src=$HOME/.npmrc -t web:1 .
berth build --target assets -o dist .
SOURCE_DATE_EPOCH=0 berth build -t web:1 .",
        min: 1,
        max: 1,
        tail: false,
        names: Names::None,
        run: go!(commands::build::build),
    },
    Command {
        paths: &["builder prune", "buildx prune"],
        usage: "[OPTIONS]",
        about: "Remove build cache",
        flags: r#"-a, --all  Remove all unused build cache, not just dangling ones
    --filter filter  Provide filter values (e.g., "until=24h")
-f, --force  Do not prompt for confirmation
    --keep-storage bytes  Amount of disk space to keep for cache"#,
        examples: "berth builder prune -f --keep-storage 5GB
berth builder prune -af",
        min: 0,
        max: 0,
        tail: false,
        names: Names::None,
        run: go!(commands::build::prune),
    },
];
