//! Commands on networks.

use super::{Command, MANY, Names, go};
use crate::commands;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        paths: &["network ls", "network list"],
        usage: "[OPTIONS]",
        about: "List networks",
        flags: r#"-f, --filter filter  Provide filter values (e.g. "driver=bridge")
    --format string  Print 'table', 'table TEMPLATE', 'json', or a Go template for each line
    --no-trunc  Do not truncate the output
-q, --quiet  Only display network IDs"#,
        examples: "berth network ls",
        min: 0,
        max: 0,
        tail: false,
        names: Names::None,
        run: go!(commands::network::list),
    },
    Command {
        paths: &["network create"],
        usage: "[OPTIONS] NETWORK",
        about: "Create a network",
        flags: r#"    --config-from string  The network from which to copy the configuration
    --config-only  Create a configuration only network
    --ingress  Create swarm routing-mesh network
    --attachable  Enable manual container attachment
    --aux-address map  Auxiliary IPv4 or IPv6 addresses used by Network driver
-d, --driver string  Driver to manage the Network (default "bridge")
    --gateway strings  IPv4 or IPv6 Gateway for the master subnet
    --internal  Restrict external access to the network
    --ip-range strings  Allocate container ip from a sub-range
    --ipam-driver string  IP Address Management Driver (default "default")
    --ipam-opt map  Set IPAM driver specific options
    --ipv4  Enable or disable IPv4 address assignment (default true)
    --ipv6  Enable or disable IPv6 address assignment
    --label list  Set metadata on a network
-o, --opt map  Set driver specific options
    --scope string  Control the network's scope
    --subnet strings  Subnet in CIDR format that represents a network segment"#,
        examples: "berth network create --subnet 10.20.0.0/24 back",
        min: 1,
        max: 1,
        tail: false,
        names: Names::None,
        run: go!(commands::network::create),
    },
    Command {
        paths: &["network inspect"],
        usage: "[OPTIONS] NETWORK [NETWORK...]",
        about: "Display detailed information on one or more networks",
        flags: "-f, --format string  Print 'json' or a Go template
-v, --verbose  Verbose output for diagnostics",
        examples: "berth network inspect bridge",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Networks,
        run: go!(commands::inspect::network),
    },
    Command {
        paths: &["network rm", "network remove"],
        usage: "NETWORK [NETWORK...]",
        about: "Remove one or more networks",
        flags: "-f, --force  Do not error if the network does not exist",
        examples: "berth network rm back",
        min: 1,
        max: MANY,
        tail: false,
        names: Names::Networks,
        run: go!(commands::network::remove),
    },
    Command {
        paths: &["network prune"],
        usage: "[OPTIONS]",
        about: "Remove all unused networks",
        flags: r#"    --filter filter  Provide filter values (e.g. "until=<timestamp>")
-f, --force  Do not prompt for confirmation"#,
        examples: "berth network prune -f",
        min: 0,
        max: 0,
        tail: false,
        names: Names::None,
        run: go!(commands::prune::networks),
    },
    Command {
        paths: &["network connect"],
        usage: "[OPTIONS] NETWORK CONTAINER",
        about: "Connect a container to a network",
        flags: r#"    --alias strings  Add network-scoped alias for the container
    --driver-opt strings  driver options for the network
    --gw-priority int  Highest gw-priority provides the default gateway. Accepts positive and negative values.
    --ip string  IPv4 address (e.g., "172.30.100.104")
    --ip6 string  IPv6 address (e.g., "2001:db8::33")
    --link list  Add link to another container
    --link-local-ip strings  Add a link-local address for the container"#,
        examples: "berth network connect --alias db back mariadb",
        min: 2,
        max: 2,
        tail: false,
        names: Names::NetworkThenContainer,
        run: go!(commands::network::connect),
    },
    Command {
        paths: &["network disconnect"],
        usage: "[OPTIONS] NETWORK CONTAINER",
        about: "Disconnect a container from a network",
        flags: "-f, --force  Force the container to disconnect from a network",
        examples: "berth network disconnect back mariadb",
        min: 2,
        max: 2,
        tail: false,
        names: Names::NetworkThenContainer,
        run: go!(commands::network::disconnect),
    },
];
