//! Commands on containers.

use super::{Command, MANY, Names, go};
use crate::commands;

pub(super) const EXEC_FLAGS: &str = r#"-d, --detach  Detached mode: run command in the background
    --detach-keys string  Override the key sequence for detaching a container
-e, --env list  Set environment variables
    --env-file list  Read in a file of environment variables
-i, --interactive  Keep STDIN open even if not attached
    --privileged  Give extended privileges to the command
-t, --tty  Allocate a pseudo-TTY
-u, --user string  Username or UID (format: "<name|uid>[:<group|gid>]")
-w, --workdir string  Working directory inside the container"#;
pub(super) const CP_FLAGS: &str = "-a, --archive  Archive mode (copy all uid/gid information)
-L, --follow-link  Always follow symbol link in SRC_PATH
-q, --quiet  Suppress progress output during copy. Progress output is automatically suppressed if no terminal is attached";

pub(super) const COMMANDS: &[Command] = &[
    Command {
        paths: &["run", "container run"],
        usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
        about: "Create and run a new container from an image",
        flags: r#"    --add-host list  Add a custom host-to-IP mapping (host:ip)
    --annotation map  Add an annotation to the container (passed through to the OCI runtime)
-a, --attach list  Attach to STDIN, STDOUT or STDERR
    --blkio-weight uint16  Block IO (relative weight), between 10 and 1000, or 0 to disable
    --blkio-weight-device list  Block IO weight (relative device weight)
    --cap-add list  Add Linux capabilities
    --cap-drop list  Drop Linux capabilities
    --cgroup-parent string  Optional parent cgroup for the container
    --cgroupns string  Cgroup namespace to use (host|private); empty: the engine's default
    --cidfile string  Write the container ID to the file
    --cpu-count int  CPU count (Windows only)
    --cpu-percent int  CPU percent (Windows only)
    --cpu-period int  Limit CPU CFS (Completely Fair Scheduler) period
    --cpu-quota int  Limit CPU CFS (Completely Fair Scheduler) quota
    --cpu-rt-period int  Limit CPU real-time period in microseconds
    --cpu-rt-runtime int  Limit CPU real-time runtime in microseconds
-c, --cpu-shares int  CPU shares (relative weight)
    --cpus decimal  Number of CPUs
    --cpuset-cpus string  CPUs in which to allow execution (0-3, 0,1)
    --cpuset-mems string  MEMs in which to allow execution (0-3, 0,1)
-d, --detach  Run container in background and print container ID
    --detach-keys string  Override the key sequence for detaching a container
    --device list  Add a host device to the container
    --device-cgroup-rule list  Add a rule to the cgroup allowed devices list
    --device-read-bps list  Limit read rate (bytes per second) from a device
    --device-read-iops list  Limit read rate (IO per second) from a device
    --device-write-bps list  Limit write rate (bytes per second) to a device
    --device-write-iops list  Limit write rate (IO per second) to a device
    --disable-content-trust  Skip image verification (default true)
    --dns list  Set custom DNS servers
    --dns-option list  Set DNS options
    --dns-search list  Set custom DNS search domains
    --domainname string  Container NIS domain name
    --entrypoint string  Overwrite the default ENTRYPOINT of the image
-e, --env list  Set environment variables
    --env-file list  Read in a file of environment variables
    --expose list  Expose a port or a range of ports
    --gpus gpu-request  GPU devices to add to the container ('all' to pass all GPUs)
    --group-add list  Add additional groups to join
    --health-cmd string  Command to run to check health
    --health-interval duration  Time between running the check (ms|s|m|h)
    --health-retries int  Consecutive failures needed to report unhealthy
    --health-start-interval duration  Time between running the check during the start period (ms|s|m|h)
    --health-start-period duration  Start period for the container to initialize before starting health-retries countdown (ms|s|m|h)
    --health-timeout duration  Maximum time to allow one check to run (ms|s|m|h)
-h, --hostname string  Container host name
    --init  Run an init inside the container that forwards signals and reaps processes
-i, --interactive  Keep STDIN open even if not attached
    --io-maxbandwidth bytes  Maximum IO bandwidth limit for the system drive (Windows only)
    --io-maxiops uint  Maximum IOps limit for the system drive (Windows only)
    --ip string  IPv4 address (e.g., 172.30.100.104)
    --ip6 string  IPv6 address (e.g., 2001:db8::33)
    --ipc string  IPC mode to use
    --isolation string  Container isolation technology
    --kernel-memory bytes  Kernel memory limit
-l, --label list  Set meta data on a container
    --label-file list  Read in a line delimited file of labels
    --link list  Add link to another container
    --link-local-ip list  Container IPv4/IPv6 link-local addresses
    --log-driver string  Logging driver for the container
    --log-opt list  Log driver options
    --mac-address string  Container MAC address (e.g., 92:d0:c6:0a:29:33)
-m, --memory bytes  Memory limit
    --memory-reservation bytes  Memory soft limit
    --memory-swap bytes  Swap limit equal to memory plus swap: '-1' to enable unlimited swap
    --memory-swappiness int  Tune container memory swappiness (0 to 100) (default -1)
    --mount mount  Attach a filesystem mount to the container
    --name string  Assign a name to the container
    --network network  Connect a container to a network
    --network-alias list  Add network-scoped alias for the container
    --no-healthcheck  Disable any container-specified HEALTHCHECK
    --oom-kill-disable  Disable OOM Killer
    --oom-score-adj int  Tune host's OOM preferences (-1000 to 1000)
    --pid string  PID namespace to use
    --pids-limit int  Tune container pids limit (set -1 for unlimited)
    --platform string  Set platform if server is multi-platform capable
    --privileged  Give extended privileges to this container
-p, --publish list  Publish a container's port(s) to the host
-P, --publish-all  Publish all exposed ports to random ports
    --pull string  Pull image before running ("always", "missing", "never") (default "missing")
-q, --quiet  Suppress the pull output
    --read-only  Mount the container's root filesystem as read only
    --restart string  Restart policy to apply when a container exits (default "no")
    --rm  Automatically remove the container and its associated anonymous volumes when it exits
    --runtime string  Runtime to use for this container
    --security-opt list  Security Options
    --shm-size bytes  Size of /dev/shm
    --sig-proxy  Proxy received signals to the process (default true)
    --stop-signal string  Signal to stop the container
    --stop-timeout int  Timeout (in seconds) to stop a container
    --storage-opt list  Storage driver options for the container
    --sysctl map  Sysctl options
    --tmpfs list  Mount a tmpfs directory
-t, --tty  Allocate a pseudo-TTY
    --ulimit ulimit  Ulimit options
    --use-api-socket  Bind mount engine API socket and required auth
-u, --user string  Username or UID (format: <name|uid>[:<group|gid>])
    --userns string  User namespace to use
    --uts string  UTS namespace to use
-v, --volume list  Bind mount a volume
    --volume-driver string  Optional volume driver for the container
    --volumes-from list  Mount volumes from the specified container(s)
-w, --workdir string  Working directory inside the container"#,
        examples: "berth run -it --rm debian:bookworm
berth run -d --name web -p 8080:80 --memory 512m -v data:/srv web:1
berth run -i img cat < file",
        min: 1,
        max: MANY,
        tail: true,
        names: Names::Images,
        run: go!(commands::run::run),
    },
    Command {
        paths: &["create", "container create"],
        usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
        about: "Create a new container",
        flags: r#"    --add-host list  Add a custom host-to-IP mapping (host:ip)
    --annotation map  Add an annotation to the container (passed through to the OCI runtime)
-a, --attach list  Attach to STDIN, STDOUT or STDERR
    --blkio-weight uint16  Block IO (relative weight), between 10 and 1000, or 0 to disable
    --blkio-weight-device list  Block IO weight (relative device weight)
    --cap-add list  Add Linux capabilities
    --cap-drop list  Drop Linux capabilities
    --cgroup-parent string  Optional parent cgroup for the container
    --cgroupns string  Cgroup namespace to use (host|private); empty: the engine's default
    --cidfile string  Write the container ID to the file
    --cpu-count int  CPU count (Windows only)
    --cpu-percent int  CPU percent (Windows only)
    --cpu-period int  Limit CPU CFS (Completely Fair Scheduler) period
    --cpu-quota int  Limit CPU CFS (Completely Fair Scheduler) quota
    --cpu-rt-period int  Limit CPU real-time period in microseconds
    --cpu-rt-runtime int  Limit CPU real-time runtime in microseconds
-c, --cpu-shares int  CPU shares (relative weight)
    --cpus decimal  Number of CPUs
    --cpuset-cpus string  CPUs in which to allow execution (0-3, 0,1)
    --cpuset-mems string  MEMs in which to allow execution (0-3, 0,1)
    --device list  Add a host device to the container
    --device-cgroup-rule list  Add a rule to the cgroup allowed devices list
    --device-read-bps list  Limit read rate (bytes per second) from a device
    --device-read-iops list  Limit read rate (IO per second) from a device
    --device-write-bps list  Limit write rate (bytes per second) to a device
    --device-write-iops list  Limit write rate (IO per second) to a device
    --disable-content-trust  Skip image verification (default true)
    --dns list  Set custom DNS servers
    --dns-option list  Set DNS options
    --dns-search list  Set custom DNS search domains
    --domainname string  Container NIS domain name
    --entrypoint string  Overwrite the default ENTRYPOINT of the image
-e, --env list  Set environment variables
    --env-file list  Read in a file of environment variables
    --expose list  Expose a port or a range of ports
    --gpus gpu-request  GPU devices to add to the container ('all' to pass all GPUs)
    --group-add list  Add additional groups to join
    --health-cmd string  Command to run to check health
    --health-interval duration  Time between running the check (ms|s|m|h)
    --health-retries int  Consecutive failures needed to report unhealthy
    --health-start-interval duration  Time between running the check during the start period (ms|s|m|h)
    --health-start-period duration  Start period for the container to initialize before starting health-retries countdown (ms|s|m|h)
    --health-timeout duration  Maximum time to allow one check to run (ms|s|m|h)
-h, --hostname string  Container host name
    --init  Run an init inside the container that forwards signals and reaps processes
-i, --interactive  Keep STDIN open even if not attached
    --io-maxbandwidth bytes  Maximum IO bandwidth limit for the system drive (Windows only)
    --io-maxiops uint  Maximum IOps limit for the system drive (Windows only)
    --ip string  IPv4 address (e.g., 172.30.100.104)
    --ip6 string  IPv6 address (e.g., 2001:db8::33)
    --ipc string  IPC mode to use
    --isolation string  Container isolation technology
    --kernel-memory bytes  Kernel memory limit
-l, --label list  Set meta data on a container
    --label-file list  Read in a line delimited file of labels
    --link list  Add link to another container
    --link-local-ip list  Container IPv4/IPv6 link-local addresses
    --log-driver string  Logging driver for the container
    --log-opt list  Log driver options
    --mac-address string  Container MAC address (e.g., 92:d0:c6:0a:29:33)
-m, --memory bytes  Memory limit
    --memory-reservation bytes  Memory soft limit
    --memory-swap bytes  Swap limit equal to memory plus swap: '-1' to enable unlimited swap
    --memory-swappiness int  Tune container memory swappiness (0 to 100) (default -1)
    --mount mount  Attach a filesystem mount to the container
    --name string  Assign a name to the container
    --network network  Connect a container to a network
    --network-alias list  Add network-scoped alias for the container
    --no-healthcheck  Disable any container-specified HEALTHCHECK
    --oom-kill-disable  Disable OOM Killer
    --oom-score-adj int  Tune host's OOM preferences (-1000 to 1000)
    --pid string  PID namespace to use
    --pids-limit int  Tune container pids limit (set -1 for unlimited)
    --platform string  Set platform if server is multi-platform capable
    --privileged  Give extended privileges to this container
-p, --publish list  Publish a container's port(s) to the host
-P, --publish-all  Publish all exposed ports to random ports
    --pull string  Pull image before creating ("always", "|missing", "never") (default "missing")
-q, --quiet  Suppress the pull output
    --read-only  Mount the container's root filesystem as read only
    --restart string  Restart policy to apply when a container exits (default "no")
    --rm  Automatically remove the container and its associated anonymous volumes when it exits
    --runtime string  Runtime to use for this container
    --security-opt list  Security Options
    --shm-size bytes  Size of /dev/shm
    --stop-signal string  Signal to stop the container
    --stop-timeout int  Timeout (in seconds) to stop a container
    --storage-opt list  Storage driver options for the container
    --sysctl map  Sysctl options
    --tmpfs list  Mount a tmpfs directory
-t, --tty  Allocate a pseudo-TTY
    --ulimit ulimit  Ulimit options
    --use-api-socket  Bind mount engine API socket and required auth
-u, --user string  Username or UID (format: <name|uid>[:<group|gid>])
    --userns string  User namespace to use
    --uts string  UTS namespace to use
-v, --volume list  Bind mount a volume
    --volume-driver string  Optional volume driver for the container
    --volumes-from list  Mount volumes from the specified container(s)
-w, --workdir string  Working directory inside the container"#,
        examples: "berth create --name db -e PASSWORD mariadb
berth start db",
        min: 1,
        max: MANY,
        tail: true,
        names: Names::Images,
        run: go!(commands::run::create),
    },
    Command {
        paths: &["start", "container start"],
        usage: "[OPTIONS] CONTAINER [CONTAINER...]",
        about: "Start one or more stopped containers",
        flags: "-a, --attach  Attach STDOUT/STDERR and forward signals
    --checkpoint string  Restore from this checkpoint
    --checkpoint-dir string  Use a custom checkpoint storage directory
    --detach-keys string  Override the key sequence for detaching a container
-i, --interactive  Attach container's STDIN",
        examples: "berth start web db
berth start -ai shell",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Containers,
        run: go!(commands::start::start),
    },
    Command {
        paths: &["stop", "container stop"],
        usage: "[OPTIONS] CONTAINER [CONTAINER...]",
        about: "Stop one or more running containers",
        flags: "-s, --signal string  Signal to send to the container
-t, --timeout int  Seconds to wait before killing the container",
        examples: "berth stop web
berth stop -t 30 db",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Running,
        run: go!(commands::lifecycle::stop),
    },
    Command {
        paths: &["restart", "container restart"],
        usage: "[OPTIONS] CONTAINER [CONTAINER...]",
        about: "Restart one or more containers",
        flags: "-s, --signal string  Signal to send to the container
-t, --timeout int  Seconds to wait before killing the container",
        examples: "berth restart web",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Containers,
        run: go!(commands::lifecycle::restart),
    },
    Command {
        paths: &["kill", "container kill"],
        usage: "[OPTIONS] CONTAINER [CONTAINER...]",
        about: "Kill one or more running containers",
        flags: "-s, --signal string  Signal to send to the container",
        examples: "berth kill web
berth kill -s HUP nginx",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Running,
        run: go!(commands::lifecycle::kill),
    },
    Command {
        paths: &["pause", "container pause"],
        usage: "CONTAINER [CONTAINER...]",
        about: "Pause all processes within one or more containers",
        flags: "",
        examples: "berth pause web",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Running,
        run: go!(commands::lifecycle::pause),
    },
    Command {
        paths: &["unpause", "container unpause"],
        usage: "CONTAINER [CONTAINER...]",
        about: "Unpause all processes within one or more containers",
        flags: "",
        examples: "berth unpause web",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Running,
        run: go!(commands::lifecycle::unpause),
    },
    Command {
        paths: &["wait", "container wait"],
        usage: "CONTAINER [CONTAINER...]",
        about: "Block until one or more containers stop, then print their exit codes",
        flags: "",
        examples: "berth wait job",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Running,
        run: go!(commands::lifecycle::wait),
    },
    Command {
        paths: &["rm", "container rm", "container remove"],
        usage: "[OPTIONS] CONTAINER [CONTAINER...]",
        about: "Remove one or more containers",
        flags: "-f, --force  Force the removal of a running container (uses SIGKILL)
-l, --link  Remove the specified link
-v, --volumes  Remove anonymous volumes associated with the container",
        examples: "berth rm job
berth rm -fv web
berth rm -f @last",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Containers,
        run: go!(commands::lifecycle::remove),
    },
    Command {
        paths: &["rename", "container rename"],
        usage: "CONTAINER NEW_NAME",
        about: "Rename a container",
        flags: "",
        examples: "berth rename web web-old",
        min: 2,
        max: 2,
        tail: false,
        names: Names::Containers,
        run: go!(commands::lifecycle::rename),
    },
    Command {
        paths: &["update", "container update"],
        usage: "[OPTIONS] CONTAINER [CONTAINER...]",
        about: "Update configuration of one or more containers",
        flags: "    --blkio-weight uint16  Block IO (relative weight), between 10 and 1000, or 0 to disable
    --cpu-period int  Limit CPU CFS (Completely Fair Scheduler) period
    --cpu-quota int  Limit CPU CFS (Completely Fair Scheduler) quota
    --cpu-rt-period int  Limit the CPU real-time period in microseconds
    --cpu-rt-runtime int  Limit the CPU real-time runtime in microseconds
-c, --cpu-shares int  CPU shares (relative weight)
    --cpus decimal  Number of CPUs
    --cpuset-cpus string  CPUs in which to allow execution (0-3, 0,1)
    --cpuset-mems string  MEMs in which to allow execution (0-3, 0,1)
    --health-cmd string  Command to run to check health
    --health-interval duration  Time between running the check (ms|s|m|h)
    --health-retries int  Consecutive failures needed to report unhealthy
    --health-start-interval duration  Time between running the check during the start period (ms|s|m|h)
    --health-start-period duration  Start period for the container to initialize before starting health-retries countdown (ms|s|m|h)
    --health-timeout duration  Maximum time to allow one check to run (ms|s|m|h)
    --log-opt list  Log driver options
-m, --memory bytes  Memory limit
    --memory-reservation bytes  Memory soft limit
    --memory-swap bytes  Swap limit equal to memory plus swap: -1 to enable unlimited swap
    --no-healthcheck  Stop checking its health
    --pids-limit int  Tune container pids limit (set -1 for unlimited)
    --publish-add list  Publish a port to the host, too, now if it runs (as --publish of run)
    --publish-rm list  Publish a port no more: 80, 53/udp for all of that port, or what was said to --publish
    --restart string  Restart policy to apply when a container exits",
        examples: "berth update --memory 1g --memory-swap 1g web
berth update --publish-rm 8080:80 --publish-add 127.0.0.1:9090:80 web
berth update --restart unless-stopped web
berth update --health-cmd 'wget -qO- 127.0.0.1/health' --health-interval 5s web
berth update --log-opt max-size=50m web",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Containers,
        run: go!(commands::update::update),
    },
    Command {
        paths: &["ps", "container ls", "container list", "container ps"],
        usage: "[OPTIONS]",
        about: "List containers",
        flags: "-a, --all  Show all containers (default shows just running)
-f, --filter filter  Filter output based on conditions provided
    --format string  Print 'table', 'table TEMPLATE', 'json', or a Go template for each line
-n, --last int  Show n last created containers (includes all states) (default -1)
-l, --latest  Show the latest created container (includes all states)
    --no-trunc  Don't truncate output
-q, --quiet  Only display container IDs
-s, --size  Display total file sizes",
        examples: "berth ps -a
berth ps -q --filter status=exited
berth ps --format 'table {{.Names}}\\t{{.Status}}\\t{{.Ports}}'",
        min: 0,
        max: 0,
        tail: false,
        names: Names::None,
        run: go!(commands::ps::ps),
    },
    Command {
        paths: &["logs", "container logs"],
        usage: "[OPTIONS] CONTAINER",
        about: "Fetch the logs of a container",
        flags: super::LOGS_FLAGS,
        examples: "berth logs -f --tail 100 web
berth logs --since 10m web",
        min: 1,
        max: 1,
        tail: false,
        names: Names::Containers,
        run: go!(commands::logs::logs),
    },
    Command {
        paths: &["attach", "container attach"],
        usage: "[OPTIONS] CONTAINER",
        about: "Attach local standard input, output, and error streams to a running container",
        flags: "    --detach-keys string  Override the key sequence for detaching a container
    --no-stdin  Do not attach STDIN
    --sig-proxy  Proxy all received signals to the process (default true)",
        examples: "berth attach shell
berth attach --no-stdin web",
        min: 1,
        max: 1,
        tail: false,
        names: Names::Running,
        run: go!(commands::attach::attach),
    },
    Command {
        paths: &["exec", "container exec"],
        usage: "[OPTIONS] CONTAINER COMMAND [ARG...]",
        about: "Execute a command in a running container",
        flags: EXEC_FLAGS,
        examples: "berth exec -it web sh
berth exec -u postgres db psql -c 'select 1'",
        min: 2,
        max: MANY,
        tail: true,
        names: Names::Running,
        run: go!(commands::exec::exec),
    },
    Command {
        paths: &["top", "container top"],
        usage: "CONTAINER [ps OPTIONS]",
        about: "Display the running processes of a container",
        flags: "",
        examples: "berth top web
berth top web -o pid,rss,args",
        min: 1,
        max: MANY,
        tail: true,
        names: Names::Running,
        run: go!(commands::top::top),
    },
    Command {
        paths: &["stats", "container stats"],
        usage: "[OPTIONS] [CONTAINER...]",
        about: "Display a live stream of container(s) resource usage statistics",
        flags: "-a, --all  Show all containers (default shows just running)
    --format string  Print 'table', 'table TEMPLATE', 'json', or a Go template for each line
    --no-stream  Disable streaming stats and only pull the first result
    --no-trunc  Do not truncate output",
        examples: "berth stats
berth stats --no-stream --format json web",
        min: 0,
        max: MANY,
        tail: false,
        names: Names::Running,
        run: go!(commands::stats::stats),
    },
    Command {
        paths: &["port", "container port"],
        usage: "CONTAINER [PRIVATE_PORT[/PROTO]]",
        about: "List port mappings or a specific mapping for the container",
        flags: "",
        examples: "berth port web
berth port web 80/tcp",
        min: 1,
        max: 2,
        tail: false,
        names: Names::Running,
        run: go!(commands::port::port),
    },
    Command {
        paths: &["cp", "container cp"],
        usage: "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-
[OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
        about: "Copy files/folders between a container and the local filesystem

Use '-' as the source to read a tar archive from stdin and extract it to a
directory of the container; '-' as the destination writes one to stdout.",
        flags: CP_FLAGS,
        examples: "berth cp web:/etc/nginx ./nginx
berth cp site/. web:/srv/
berth cp web:/var/log - | tar t",
        min: 2,
        max: 2,
        tail: false,
        names: Names::Containers,
        run: go!(commands::cp::cp),
    },
    Command {
        paths: &["diff", "container diff"],
        usage: "CONTAINER",
        about: "Inspect changes to files or directories on a container's filesystem",
        flags: "",
        examples: "berth diff web",
        min: 1,
        max: 1,
        tail: false,
        names: Names::Containers,
        run: go!(commands::diff::diff),
    },
    Command {
        paths: &["export", "container export"],
        usage: "[OPTIONS] CONTAINER",
        about: "Export a container's filesystem as a tar archive",
        flags: "-o, --output string  Write to a file, instead of STDOUT",
        examples: "berth export web -o web.tar",
        min: 1,
        max: 1,
        tail: false,
        names: Names::Containers,
        run: go!(commands::archive::export),
    },
    Command {
        paths: &["commit", "container commit"],
        usage: "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
        about: "Create a new image from a container's changes",
        flags: r#"-a, --author string  Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")
-c, --change list  Apply Dockerfile instruction to the created image
-m, --message string  Commit message
-p, --pause  Pause container during commit (default true)"#,
        examples: r#"berth commit -c 'CMD ["nginx"]' web web:2"#,
        min: 1,
        max: 2,
        tail: false,
        names: Names::Containers,
        run: go!(commands::commit::commit),
    },
    Command {
        paths: &["template", "container template"],
        usage: "CONTAINER [CONTAINER...]",
        about: "Make a stopped container a template: only there to be cloned",
        flags: "",
        examples: "berth stop golden && berth template golden\n\
                   berth clone --start golden web1 web2 web3",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Containers,
        run: go!(commands::clone::template),
    },
    Command {
        paths: &["clone", "container clone"],
        usage: "[OPTIONS] CONTAINER [NAME...]",
        about: "Create containers that begin with another one's files as they are now",
        flags: "    --start  Start them at once",
        examples: "berth clone web web-copy\n\
                   berth clone --start golden web1 web2 web3",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Containers,
        run: go!(commands::clone::clone),
    },
    Command {
        paths: &["container inspect"],
        usage: "[OPTIONS] CONTAINER [CONTAINER...]",
        about: "Display detailed information on one or more containers",
        flags: "-f, --format string  Print 'json' or a Go template
-s, --size  Display total file sizes",
        examples: "berth container inspect web",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Containers,
        run: go!(commands::inspect::container),
    },
    Command {
        paths: &["container prune"],
        usage: "[OPTIONS]",
        about: "Remove all stopped containers",
        flags: r#"    --filter filter  Provide filter values (e.g. "until=<timestamp>")
-f, --force  Do not prompt for confirmation"#,
        examples: "berth container prune -f",
        min: 0,
        max: 0,
        tail: false,
        names: Names::None,
        run: go!(commands::prune::containers),
    },
    Command {
        paths: &["why"],
        usage: "[OPTIONS] CONTAINER",
        about: "Say why a container exited, was killed, or does not start",
        flags: "    --format string  Print 'json' or a Go template",
        examples: "berth why web
berth why @last",
        min: 1,
        max: 1,
        tail: false,
        names: Names::Containers,
        run: go!(commands::why::why),
    },
];
