//! Whole networks in private network namespaces: a "host", containers on it, and a machine outside.

mod host;
mod isolation;
mod large;
mod modes;
mod ports;

use super::attach::Wanted;
use super::state::Shared;
use super::types::{AttachRequest, Attachment, NetworkSpec};
use crate::EngineConfig;
use berth_net::netlink::Batch;
use berth_net::route::{self, Route};
use berth_net::slot::{Interface, Namespace};
use berth_types::ContainerId;
use berth_types::spec::{EndpointSpec, HostConfig, PortBinding, PortProto};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(5);
/// For what must not get through.
const SHORT: Duration = Duration::from_millis(300);

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn with_options(name: &str, options: &[(&str, &str)]) -> NetworkSpec {
    let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    NetworkSpec { name: name.to_owned(), enable_ipv6: Some(true), options, ..NetworkSpec::default() }
}

/// Runs `work` on a thread with a network of its own and a scratch folder.
fn in_private_network(work: impl FnOnce(PathBuf) + Send + 'static) {
    if !is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let id = berth_types::digest::hex(&super::state::random_id().unwrap()[..6]);
    let folder = std::env::temp_dir().join(format!("net-test-{id}"));
    let scratch = folder.clone();
    let thread = std::thread::spawn(move || {
        berth_sys::netns::unshare_network().unwrap();
        let mut batch = Batch::default();
        route::set_up(&mut batch, 1);
        Route::open().unwrap().run(batch).unwrap();
        work(scratch);
    });
    let result = thread.join();
    std::fs::remove_dir_all(&folder).ok();
    result.unwrap();
}

fn config(folder: &std::path::Path) -> EngineConfig {
    let mut config = EngineConfig::new(folder, folder, "/nonexistent");
    config.bridge_name = "btest0".to_owned();
    // Names have tests of their own; here are networks only.
    config.dns_program = None;
    config
}

fn engine(folder: &std::path::Path) -> Arc<Shared> {
    let config = config(folder);
    let shared = Shared::open(&config).unwrap();
    shared.recover(Vec::new()).unwrap();
    shared
}

fn id(n: u8) -> ContainerId {
    ContainerId::from_bytes([n; 32])
}

struct Ask {
    network: &'static str,
    spec: EndpointSpec,
    ports: Vec<(&'static str, Option<&'static str>, u16)>,
}

impl Ask {
    fn on(network: &'static str) -> Ask {
        Ask { network, spec: EndpointSpec::default(), ports: Vec::new() }
    }

    fn port(mut self, port: &'static str, host: Option<&'static str>, host_port: u16) -> Ask {
        self.ports.push((port, host, host_port));
        self
    }
}

fn start(shared: &Shared, n: u8, ask: &Ask) -> berth_types::Result<Attachment> {
    let mut host = HostConfig::default();
    for (port, address, host_port) in &ask.ports {
        let host_ip = address.map(|text| text.parse().unwrap());
        let bindings: &mut Vec<_> = host.port_bindings.entry(port.parse::<PortProto>().unwrap()).or_default();
        bindings.push(PortBinding { host_ip, host_port: (*host_port, *host_port) });
    }
    let request = AttachRequest {
        id: &id(n),
        name: &format!("c{n}"),
        endpoints: &BTreeMap::from([(ask.network.to_owned(), ask.spec.clone())]),
        primary: Some(ask.network),
        host: &host,
        exposed_ports: &BTreeSet::new(),
        hostname: "",
    };
    shared.attach(Wanted::from(&request))
}

fn address(attachment: &Attachment, network: &str) -> IpAddr {
    attachment.endpoints[network].ipv4.unwrap().0.into()
}

fn inside(attachment: &Attachment) -> Namespace {
    Namespace::open(&attachment.netns).unwrap()
}

/// Answers each connection with the address that it sees.
fn serve(namespace: &Namespace, port: u16) {
    let listener = namespace.enter(|| Ok(TcpListener::bind(("0.0.0.0", port)).unwrap())).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip().to_string();
            stream.write_all(peer.as_bytes()).ok();
        }
    });
}

fn ask(to: SocketAddr, patience: Duration) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn ask_from(namespace: &Namespace, to: &str, patience: Duration) -> std::io::Result<String> {
    let to = to.parse().unwrap();
    namespace.enter(|| Ok(ask(to, patience))).unwrap()
}

/// A machine at 198.51.100.2, next to the host at 198.51.100.1.
fn outside() -> Namespace {
    let mut route = Route::open().unwrap();
    let mut batch = Batch::default();
    route::add_bridge(&mut batch, "wire0", [2, 0, 0, 0, 0, 1], 1500, "test");
    route.run(batch).unwrap();
    let index = route.link("wire0").unwrap().unwrap().index;
    let mut batch = Batch::default();
    route::add_address(&mut batch, index, "198.51.100.1".parse().unwrap(), 24);
    route.run(batch).unwrap();
    let machine = Namespace::create().unwrap();
    let interface = Interface {
        host_name: "wire1",
        uplink: berth_net::slot::Uplink::Bridge { index, gateway: index },
        isolated: false,
        mtu: 1500,
        name: "eth0",
        mac: [2, 0, 0, 0, 0, 2],
        addresses: &[("198.51.100.2".parse().unwrap(), 24)],
        local_addresses: &[],
        sysctls: &[],
        gateways: &["198.51.100.1".parse().unwrap()],
    };
    machine.add_interface(&mut route, &interface).unwrap();
    berth_net::slot::wait_operational(&mut route, interface.host_name, interface.uplink).unwrap();
    machine
}

#[test]
fn a_published_port_answers_from_outside_from_the_host_from_loopback_and_from_containers() {
    in_private_network(|folder| {
        let shared = engine(&folder);
        let machine = outside();
        let web = start(&shared, 1, &Ask::on("bridge").port("80/tcp", None, 8080)).unwrap();
        serve(&inside(&web), 80);
        let own = address(&web, "bridge");
        assert_eq!(ask_from(&machine, "198.51.100.1:8080", DEADLINE).unwrap(), "198.51.100.2");
        assert_eq!(ask("198.51.100.1:8080".parse().unwrap(), DEADLINE).unwrap(), "198.51.100.1");
        let gateway = web.host_gateway.unwrap().to_string();
        assert_eq!(ask("127.0.0.1:8080".parse().unwrap(), DEADLINE).unwrap(), gateway);
        // From another container, and from itself.
        let other = start(&shared, 2, &Ask::on("bridge")).unwrap();
        assert_eq!(ask_from(&inside(&other), "198.51.100.1:8080", DEADLINE).unwrap(), gateway);
        assert_eq!(ask_from(&inside(&web), "198.51.100.1:8080", DEADLINE).unwrap(), gateway);
        // Directly, on the network that they share.
        let other_address = address(&other, "bridge").to_string();
        assert_eq!(ask_from(&inside(&other), &format!("{own}:80"), DEADLINE).unwrap(), other_address);
        // Out: under the host's address.
        serve(&machine, 7000);
        assert_eq!(ask_from(&inside(&web), "198.51.100.2:7000", DEADLINE).unwrap(), "198.51.100.1");

        shared.detach(&id(1)).unwrap();
        assert!(ask_from(&machine, "198.51.100.1:8080", SHORT).is_err());
        // The port is free again for whoever wants it.
        TcpListener::bind("0.0.0.0:8080").unwrap();
        shared.close();
    });
}

#[test]
fn unpublished_ports_loopback_services_and_other_networks_are_out_of_reach() {
    in_private_network(|folder| {
        let shared = engine(&folder);
        let machine = outside();
        let net = NetworkSpec { name: "back".to_owned(), ..NetworkSpec::default() };
        shared.create(net).unwrap();
        let inner = NetworkSpec { name: "inner".to_owned(), internal: true, ..NetworkSpec::default() };
        shared.create(inner).unwrap();
        let ask_local = Ask::on("bridge").port("80/tcp", Some("127.0.0.1"), 8081).port("81/tcp", None, 8082);
        let web = start(&shared, 1, &ask_local).unwrap();
        let back = start(&shared, 2, &Ask::on("back")).unwrap();
        let inner = start(&shared, 3, &Ask::on("inner")).unwrap();
        for one in [&web, &back, &inner] {
            serve(&inside(one), 80);
        }
        serve(&inside(&web), 81);
        let (web_at, back_at) = (address(&web, "bridge"), address(&back, "back"));
        let inner_at = address(&inner, "inner");

        assert!(ask("127.0.0.1:8081".parse().unwrap(), DEADLINE).is_ok());
        assert!(ask_from(&machine, "198.51.100.1:8081", SHORT).is_err(), "published on loopback only");
        for target in
            [format!("{web_at}:80"), format!("{web_at}:81"), format!("{back_at}:80"), format!("{inner_at}:80")]
        {
            assert!(ask_from(&machine, &target, SHORT).is_err(), "{target} from a neighbour of the host");
        }
        assert!(ask_from(&inside(&web), &format!("{back_at}:80"), SHORT).is_err(), "another network");
        assert!(ask_from(&inside(&back), &format!("{web_at}:80"), SHORT).is_err(), "another network");
        assert!(ask_from(&inside(&back), &format!("{inner_at}:80"), SHORT).is_err(), "into an internal network");
        // Through the front door it may.
        assert_eq!(ask_from(&inside(&back), "198.51.100.1:8082", DEADLINE).unwrap(), back_at.to_string());
        // Internal: no way out.
        serve(&machine, 7000);
        assert!(ask_from(&inside(&back), "198.51.100.2:7000", DEADLINE).is_ok());
        assert!(ask_from(&inside(&inner), "198.51.100.2:7000", SHORT).is_err());

        // What the host binds to loopback stays the host's, even for one who routes 127/8 to it.
        let secret = TcpListener::bind("127.0.0.1:9000").unwrap();
        secret.set_nonblocking(true).unwrap();
        let sneaky = inside(&web);
        sneaky
            .enter(|| {
                std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
                std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
                let mut route = Route::open().unwrap();
                let mut batch = Batch::default();
                // Without its own loopback address, 127.0.0.1 goes by the default route.
                route::delete_address(&mut batch, 1, "127.0.0.1".parse().unwrap(), 8);
                route.run(batch).unwrap();
                Ok(())
            })
            .unwrap();
        assert!(ask_from(&sneaky, "127.0.0.1:9000", SHORT).is_err());
        assert_eq!(secret.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        shared.close();
    });
}

#[test]
fn a_port_that_is_taken_is_refused_with_dockers_words_and_leaves_nothing() {
    in_private_network(|folder| {
        let shared = engine(&folder);
        start(&shared, 1, &Ask::on("bridge").port("80/tcp", None, 8080)).unwrap();
        let error = start(&shared, 2, &Ask::on("bridge").port("80/tcp", None, 8080)).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("driver failed programming external connectivity on endpoint c2 ("), "{text}");
        assert!(text.ends_with("Bind for 0.0.0.0:8080 failed: port is already allocated"), "{text}");
        assert!(error.hint.unwrap().contains("c1"));
        let _listener = TcpListener::bind("0.0.0.0:8090").unwrap();
        let ask = Ask::on("bridge").port("79/tcp", None, 8089).port("80/tcp", None, 8090);
        let error = start(&shared, 2, &ask).unwrap_err();
        assert!(error.hint.unwrap().contains(&format!("pid {}", std::process::id())));
        // The first of the two ports was given back.
        TcpListener::bind("0.0.0.0:8089").unwrap();
        shared.close();
    });
}

#[test]
fn two_engines_on_one_host_take_different_subnets_and_leave_each_other_alone() {
    in_private_network(|folder| {
        let first = engine(&folder);
        let other = folder.join("other");
        let mut config = EngineConfig::new(&other, &other, "/nonexistent");
        config.bridge_name = "btest1".to_owned();
        let second = Shared::open(&config).unwrap();
        let one = start(&first, 1, &Ask::on("bridge").port("80/tcp", None, 8080)).unwrap();
        let two = start(&second, 1, &Ask::on("bridge").port("80/tcp", None, 8081)).unwrap();
        assert_ne!(one.host_gateway, two.host_gateway);
        serve(&inside(&one), 80);
        serve(&inside(&two), 80);
        // The other's port is taken, and said so without a word of a container that we do not know.
        let error = start(&second, 2, &Ask::on("bridge").port("80/tcp", None, 8080)).unwrap_err();
        assert!(error.to_string().ends_with("port is already allocated"), "{error}");
        second.detach(&id(1)).unwrap();
        second.close();
        drop(second);
        let third = Shared::open(&config).unwrap();
        third.recover(Vec::new()).unwrap();
        assert!(ask("127.0.0.1:8080".parse().unwrap(), DEADLINE).is_ok());
        assert!(ask_from(&inside(&one), &format!("{}:80", address(&one, "bridge")), DEADLINE).is_ok());
        first.close();
        third.close();
    });
}

#[test]
fn fixed_addresses_are_kept_and_clashes_are_refused() {
    in_private_network(|folder| {
        let shared = engine(&folder);
        let block = super::types::BlockSpec { subnet: Some("10.99.0.0/24".parse().unwrap()), ..Default::default() };
        let spec = NetworkSpec { name: "fix".to_owned(), blocks: vec![block.clone()], ..NetworkSpec::default() };
        shared.create(spec.clone()).unwrap();
        let overlap = shared.create(NetworkSpec { name: "fix2".to_owned(), ..spec }).unwrap_err();
        assert_eq!(overlap.message, "invalid pool request: Pool overlaps with other one on this address space");
        let mut ask = Ask::on("fix");
        ask.spec.ipv4_address = Some("10.99.0.77".parse().unwrap());
        ask.spec.mac_address = "02:00:00:00:00:77".to_owned();
        let one = start(&shared, 1, &ask).unwrap();
        assert_eq!(address(&one, "fix").to_string(), "10.99.0.77");
        let link = inside(&one).links().unwrap().into_iter().find(|link| link.name == "eth0").unwrap();
        assert_eq!(link.mac, [2, 0, 0, 0, 0, 0x77]);
        assert_eq!(start(&shared, 2, &ask).unwrap_err().message, "Address already in use");
        ask.spec.ipv4_address = Some("10.98.0.1".parse().unwrap());
        assert!(start(&shared, 2, &ask).unwrap_err().to_string().contains("no configured subnet"));
        let error = shared.remove("fix").unwrap_err();
        assert!(error.message.contains("has active endpoints"), "{error}");
        // Joining and leaving while running.
        let more = shared.connect(&id(1), "bridge", EndpointSpec::default(), "").unwrap();
        assert_eq!(more.endpoints["bridge"].interface, "eth1");
        assert!(inside(&one).links().unwrap().iter().any(|link| link.name == "eth1"));
        shared.disconnect(&id(1), "fix").unwrap();
        assert!(!inside(&one).links().unwrap().iter().any(|link| link.name == "eth0"));
        shared.remove("fix").unwrap();
        assert!(Route::open().unwrap().links().unwrap().iter().filter(|l| l.kind == "bridge").count() == 1);
        shared.close();
    });
}

#[test]
fn a_network_with_ipv6_is_published_on_both_families_and_goes_out() {
    in_private_network(|folder| {
        // The kernel's answer to ::1 passes a bridge only where the packet filter of the host does not see it there.
        let filter = "/proc/sys/net/bridge/bridge-nf-call-ip6tables";
        let filtered = |on: &str| std::fs::write(filter, on).is_ok();
        filtered("0");
        let shared = engine(&folder);
        let machine = outside();
        // The wire speaks IPv6 too.
        let mut route = Route::open().unwrap();
        let wire = route.link("wire0").unwrap().unwrap().index;
        let mut batch = Batch::default();
        route::add_address(&mut batch, wire, "2001:db8::1".parse().unwrap(), 64);
        route.run(batch).unwrap();
        machine
            .enter(|| {
                std::fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "0").unwrap();
                let mut route = Route::open().unwrap();
                let eth0 = route.link("eth0").unwrap().unwrap().index;
                let mut batch = Batch::default();
                route::add_address(&mut batch, eth0, "2001:db8::2".parse().unwrap(), 64);
                route::set_default_route(&mut batch, "2001:db8::1".parse().unwrap(), eth0);
                route.run(batch).unwrap();
                Ok(())
            })
            .unwrap();
        let spec = NetworkSpec { name: "six".to_owned(), enable_ipv6: Some(true), ..NetworkSpec::default() };
        let network = shared.create(spec).unwrap();
        assert!(network.enable_ipv6 && network.blocks.len() == 2);
        let web = start(&shared, 1, &Ask::on("six").port("80/tcp", None, 8080)).unwrap();
        assert_eq!(web.ports.values().next().unwrap().len(), 2);
        let own = web.endpoints["six"].ipv6.unwrap().0;
        let serve6 = |namespace: &Namespace, port: u16| {
            let listener = namespace.enter(|| Ok(TcpListener::bind(("::", port)).unwrap())).unwrap();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    let peer = stream.peer_addr().unwrap().ip().to_canonical().to_string();
                    stream.write_all(peer.as_bytes()).ok();
                }
            });
        };
        serve6(&inside(&web), 80);
        assert_eq!(ask_from(&machine, "[2001:db8::1]:8080", DEADLINE).unwrap(), "2001:db8::2");
        assert_eq!(ask_from(&machine, "198.51.100.1:8080", DEADLINE).unwrap(), "198.51.100.2");
        assert!(ask_from(&machine, &format!("[{own}]:80"), SHORT).is_err(), "unpublished, directly");
        serve6(&machine, 7000);
        assert_eq!(ask_from(&inside(&web), "[2001:db8::2]:7000", DEADLINE).unwrap(), "2001:db8::1");
        let gateway = web.endpoints["six"].ipv6_gateway.unwrap().to_string();
        assert_eq!(ask("[::1]:8080".parse().unwrap(), DEADLINE).unwrap(), gateway);
        shared.close();
        if filtered("1") {
            let attached = vec![(id(1), Attachment { netns: inside(&web).path(), ..web })];
            let second = Shared::open(&config(&folder)).unwrap();
            second.recover(attached).unwrap();
            // The kernel would drop the answers: the client is led to the container before there is a packet.
            match berth_cgroup::v2_mount() {
                Some(_) => assert_eq!(ask("[::1]:8080".parse().unwrap(), DEADLINE).unwrap(), gateway),
                // At once, so that whoever asks for `localhost` goes on to 127.0.0.1.
                None => {
                    let refused = ask("[::1]:8080".parse().unwrap(), DEADLINE).unwrap_err();
                    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
                }
            }
            let v4 = second.lock().held[&id(1)].attachment.endpoints["six"].gateway.unwrap().to_string();
            assert_eq!(ask("127.0.0.1:8080".parse().unwrap(), DEADLINE).unwrap(), v4);
            second.close();
        }
    });
}

#[test]
fn udp_works_and_a_flushed_table_is_back_by_itself() {
    in_private_network(|folder| {
        let shared = engine(&folder);
        let machine = outside();
        let ask = Ask::on("bridge").port("53/udp", None, 5353).port("80/tcp", None, 8080);
        let dns = start(&shared, 1, &ask).unwrap();
        serve(&inside(&dns), 80);
        let server = inside(&dns).enter(|| Ok(UdpSocket::bind("0.0.0.0:53").unwrap())).unwrap();
        server.set_read_timeout(Some(DEADLINE)).unwrap();
        let client = machine.enter(|| Ok(UdpSocket::bind("0.0.0.0:0").unwrap())).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut buffer = [0; 16];
        client.send_to(b"hello", "198.51.100.1:5353").unwrap();
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from.ip().to_string().as_str()), (&b"hello"[..], "198.51.100.2"));
        server.send_to(b"answer", from).unwrap();
        let (length, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from.to_string().as_str()), (&b"answer"[..], "198.51.100.1:5353"));

        // The same client goes on; another container takes the port over.
        shared.detach(&id(1)).unwrap();
        client.send_to(b"nobody", "198.51.100.1:5353").unwrap();
        let dns = start(&shared, 2, &ask).unwrap();
        serve(&inside(&dns), 80);
        let server = inside(&dns).enter(|| Ok(UdpSocket::bind("0.0.0.0:53").unwrap())).unwrap();
        server.set_read_timeout(Some(DEADLINE)).unwrap();
        client.send_to(b"again", "198.51.100.1:5353").unwrap();
        let (length, _) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"again");

        berth_net::firewall::Firewall::open("berth_btest0").unwrap().remove().unwrap();
        let since = Instant::now();
        while ask_from(&machine, "198.51.100.1:8080", SHORT).is_err() {
            assert!(since.elapsed() < DEADLINE, "the table did not come back");
        }
        eprintln!("table deleted to first answer: {:?}", since.elapsed());
        shared.close();
    });
}

#[test]
fn a_host_that_drops_what_it_forwards_lets_our_bridges_pass_early_or_late() {
    in_private_network(|folder| {
        let drop_forwarded = || {
            let mut change = berth_net::nft::Transaction::new("host_filter");
            change.table();
            change.dropping_forward_chain("FORWARD");
            change.commit(&mut berth_net::netlink::Socket::netfilter().unwrap()).unwrap();
        };
        let shared = engine(&folder);
        let machine = outside();
        let web = start(&shared, 1, &Ask::on("bridge").port("80/tcp", None, 8080)).unwrap();
        serve(&inside(&web), 80);
        serve(&machine, 7000);
        // Somebody's firewall comes up after us.
        drop_forwarded();
        let since = Instant::now();
        while ask_from(&machine, "198.51.100.1:8080", SHORT).is_err() {
            assert!(since.elapsed() < DEADLINE, "published ports are blocked by the host's policy");
        }
        assert!(ask_from(&inside(&web), "198.51.100.2:7000", DEADLINE).is_ok());
        // What is not ours it still drops, and what our table forbids stays forbidden.
        let direct = format!("{}:80", address(&web, "bridge"));
        assert!(ask_from(&machine, &direct, SHORT).is_err());
        // And with a network that comes after it.
        shared.create(NetworkSpec { name: "later".to_owned(), ..NetworkSpec::default() }).unwrap();
        let later = start(&shared, 2, &Ask::on("later")).unwrap();
        assert!(ask_from(&inside(&later), "198.51.100.2:7000", DEADLINE).is_ok());
        shared.close();
    });
}

#[test]
fn after_a_crash_running_containers_keep_their_ports_and_leftovers_go() {
    in_private_network(|folder| {
        let first = engine(&folder);
        let machine = outside();
        let web = start(&first, 1, &Ask::on("bridge").port("80/tcp", None, 8080)).unwrap();
        start(&first, 2, &Ask::on("bridge")).unwrap();
        let (kept, lost) = (inside(&web), inside(&first.lock().held[&id(2)].attachment.clone()));
        serve(&kept, 80);
        first.close();
        // The engine dies: its reservations go, its memory goes, the kernel's things stay.
        let attached = vec![(id(1), Attachment { netns: kept.path(), ..web.clone() })];
        first.lock().held.clear();
        drop(first);
        assert_eq!(ask_from(&machine, "198.51.100.1:8080", DEADLINE).unwrap(), "198.51.100.2");

        let config = config(&folder);
        let second = Shared::open(&config).unwrap();
        second.recover(attached).unwrap();
        assert_eq!(ask_from(&machine, "198.51.100.1:8080", DEADLINE).unwrap(), "198.51.100.2");
        assert_eq!(kept.links().unwrap().len(), 2);
        assert_eq!(lost.links().unwrap().len(), 1, "the interface of a container that nobody knows is gone");
        // Its port is still its own.
        assert!(start(&second, 3, &Ask::on("bridge").port("80/tcp", None, 8080)).is_err());
        let third = start(&second, 3, &Ask::on("bridge")).unwrap();
        assert_ne!(address(&third, "bridge"), address(&web, "bridge"));
        assert_eq!(second.counters(&id(1)).unwrap()[0].0, "eth0");
        assert!(second.counters(&id(1)).unwrap()[0].1.rx_packets > 0);
        second.detach(&id(1)).unwrap();
        assert!(ask_from(&machine, "198.51.100.1:8080", SHORT).is_err());
        second.close();
    });
}

#[test]
fn joining_is_quick_and_a_thousand_ports_are_one_transaction() {
    in_private_network(|folder| {
        let shared = engine(&folder);
        let mut ready: Vec<Duration> = Vec::new();
        for n in 1..=20 {
            let since = Instant::now();
            while shared.lock().slots.is_empty() {
                assert!(since.elapsed() < DEADLINE, "no slot");
                std::thread::yield_now();
            }
            let since = Instant::now();
            start(&shared, n, &Ask::on("bridge").port("80/tcp", None, 9000 + u16::from(n))).unwrap();
            ready.push(since.elapsed());
        }
        shared.create(NetworkSpec { name: "cold".to_owned(), ..NetworkSpec::default() }).unwrap();
        let mut cold: Vec<Duration> = Vec::new();
        for n in 21..=40 {
            let since = Instant::now();
            start(&shared, n, &Ask::on("cold")).unwrap();
            cold.push(since.elapsed());
        }
        ready.sort();
        cold.sort();
        let since = Instant::now();
        let mut many = Ask::on("bridge");
        for port in 10_000..11_000 {
            many = many.port("80/tcp", None, port);
        }
        start(&shared, 50, &many).unwrap();
        let thousand = since.elapsed();
        eprintln!("attach with a port: from a slot {:?}, cold {:?}; 1,000 ports {thousand:?}", ready[10], cold[10]);
        let since = Instant::now();
        for n in 1..=50 {
            shared.detach(&id(n)).unwrap();
        }
        eprintln!("41 detached in {:?}", since.elapsed());
        shared.close();
    });
}
