//! Many ports, ports of other engines, and SCTP.

use super::*;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket, sockopt};

fn with_ports(range: std::ops::RangeInclusive<u16>, protocol: &'static str, first_outside: u16) -> HostConfig {
    let mut host = HostConfig::default();
    for port in range.clone() {
        let outside = first_outside + (port - range.start());
        let binding = PortBinding { host_ip: None, host_port: (outside, outside) };
        host.port_bindings.insert(format!("{port}/{protocol}").parse().unwrap(), vec![binding]);
    }
    host
}

fn start_with(shared: &Shared, n: u8, host: &HostConfig) -> berth_types::Result<Attachment> {
    let request = AttachRequest {
        id: &id(n),
        name: &format!("c{n}"),
        endpoints: &BTreeMap::from([("bridge".to_owned(), EndpointSpec::default())]),
        primary: Some("bridge"),
        host,
        exposed_ports: &BTreeSet::new(),
        hostname: "",
    };
    shared.attach(Wanted::from(&request))
}

fn elements(set: &str) -> usize {
    let mut socket = berth_net::netlink::Socket::netfilter().unwrap();
    berth_net::nft::look::elements(&mut socket, "berth_btest0", set).unwrap()
}

#[test]
fn ten_thousand_ports_are_one_element_and_each_leads_to_its_own() {
    in_private_network(|folder| {
        let shared = engine(&folder);
        let machine = outside();
        let since = Instant::now();
        let many = start_with(&shared, 1, &with_ports(10_000..=19_999, "tcp", 10_000)).unwrap();
        eprintln!("10,000 ports: {:?}", since.elapsed());
        assert_eq!((elements("any4_runs"), elements("any4")), (1, 0));
        let inside_many = inside(&many);
        for port in [10_000, 15_000, 19_999] {
            serve(&inside_many, port);
        }
        serve(&inside_many, 20_000);
        let answers = |when: &str| {
            for port in [10_000, 15_000, 19_999] {
                let at = format!("198.51.100.1:{port}");
                assert_eq!(ask_from(&machine, &at, DEADLINE).unwrap(), "198.51.100.2", "{when}: {port}");
                let gateway = many.host_gateway.unwrap().to_string();
                let local = format!("127.0.0.1:{port}");
                assert_eq!(ask(local.parse().unwrap(), DEADLINE).unwrap(), gateway, "{when}: {port}");
                assert_eq!(ask_from(&inside_many, &at, DEADLINE).unwrap(), gateway, "{when}: {port}, hairpin");
            }
            assert!(ask_from(&machine, "198.51.100.1:20000", SHORT).is_err(), "{when}");
        };
        answers("published");
        // A program of the host that has one of them is named, and nothing of the rest is left.
        let listener = TcpListener::bind("0.0.0.0:30500").unwrap();
        let error = start_with(&shared, 2, &with_ports(30_000..=30_999, "tcp", 30_000)).unwrap_err();
        assert!(error.to_string().ends_with("Bind for 0.0.0.0:30500 failed: port is already allocated"), "{error}");
        assert!(error.hint.unwrap().contains(&format!("pid {}", std::process::id())));
        drop(listener);
        TcpListener::bind("0.0.0.0:30000").unwrap();
        // One of the many is refused by name, and a run beside them is another one.
        let error = start_with(&shared, 2, &with_ports(19_999..=19_999, "tcp", 19_999)).unwrap_err();
        assert!(error.hint.unwrap().contains("c1"));
        let beside = start_with(&shared, 2, &with_ports(20_000..=20_099, "tcp", 20_000)).unwrap();
        serve(&inside(&beside), 20_050);
        assert_eq!(ask_from(&machine, "198.51.100.1:20050", DEADLINE).unwrap(), "198.51.100.2");
        assert_eq!(elements("any4_runs"), 2);
        shared.detach(&id(2)).unwrap();
        answers("beside another");

        // Another engine takes over.
        drop(shared);
        let shared = Shared::open(&config(&folder)).unwrap();
        shared.recover(vec![(id(1), many.clone())]).unwrap();
        answers("after a restart");
        let since = Instant::now();
        shared.detach(&id(1)).unwrap();
        eprintln!("withdrawn: {:?}", since.elapsed());
        assert!(ask_from(&machine, "198.51.100.1:15000", SHORT).is_err());
        assert_eq!(elements("any4_runs"), 0);
        TcpListener::bind("0.0.0.0:15000").unwrap();
        shared.close();
    });
}

#[test]
fn ports_in_a_row_that_lead_to_others_keep_their_distance() {
    in_private_network(|folder| {
        let shared = engine(&folder);
        let moved = start_with(&shared, 1, &with_ports(100..=299, "tcp", 8_100)).unwrap();
        serve(&inside(&moved), 100);
        serve(&inside(&moved), 299);
        assert_eq!((elements("any4_runs"), elements("any4")), (0, 200));
        for port in [8_100, 8_299] {
            ask(SocketAddr::from(([127, 0, 0, 1], port)), DEADLINE).unwrap();
        }
        shared.close();
    });
}

#[test]
fn a_run_on_loopback_is_for_this_host_only() {
    in_private_network(|folder| {
        let shared = engine(&folder);
        let machine = outside();
        let mut host = with_ports(9_000..=9_099, "tcp", 9_000);
        for binding in host.port_bindings.values_mut().flatten() {
            binding.host_ip = Some("127.0.0.1".parse().unwrap());
        }
        let local = start_with(&shared, 1, &host).unwrap();
        serve(&inside(&local), 9_050);
        assert_eq!(elements("at4_runs"), 1);
        ask("127.0.0.1:9050".parse().unwrap(), DEADLINE).unwrap();
        assert!(ask("198.51.100.1:9050".parse().unwrap(), SHORT).is_err());
        // A neighbour that sends packets for 127.0.0.1 to us.
        machine
            .enter(|| {
                let mut route = Route::open().unwrap();
                let index = route.link("eth0").unwrap().unwrap().index;
                std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
                let mut batch = Batch::default();
                route::delete_address(&mut batch, 1, "127.0.0.1".parse().unwrap(), 8);
                route::set_default_route(&mut batch, "198.51.100.1".parse().unwrap(), index);
                route.run(batch).unwrap();
                Ok(())
            })
            .unwrap();
        assert!(ask_from(&machine, "127.0.0.1:9050", SHORT).is_err());
        shared.close();
    });
}

#[test]
fn a_port_of_an_engine_that_is_down_is_not_handed_out_again() {
    in_private_network(|folder| {
        let other = folder.join("other");
        let mut config = EngineConfig::new(&other, &other, "/nonexistent");
        config.bridge_name = "btest1".to_owned();
        let down = Shared::open(&config).unwrap();
        down.recover(Vec::new()).unwrap();
        let web = start(&down, 1, &Ask::on("bridge").port("80/tcp", None, 8080)).unwrap();
        serve(&inside(&web), 80);
        let mut runs = start_with(&down, 2, &with_ports(9_000..=9_099, "udp", 9_000)).unwrap();
        runs.names = false;
        // Its memory goes, as with kill -9: sockets close, the table and the containers stay.
        down.lock().held.values_mut().for_each(|held| held.reservations.clear());
        assert!(TcpListener::bind("0.0.0.0:8080").is_ok());

        let up = engine(&folder);
        let refused = |ask: &Ask, address: &str| {
            let error = start(&up, 3, ask).unwrap_err();
            let words = format!("Bind for {address} failed: port is already allocated");
            assert!(error.to_string().ends_with(&words), "{error}");
            assert!(error.hint.unwrap().contains("berth_btest1"));
        };
        refused(&Ask::on("bridge").port("80/tcp", None, 8080), "0.0.0.0:8080");
        refused(&Ask::on("bridge").port("80/tcp", Some("127.0.0.1"), 8080), "127.0.0.1:8080");
        refused(&Ask::on("bridge").port("80/udp", Some("127.0.0.1"), 9050), "127.0.0.1:9050");
        // The other protocol's is free.
        start(&up, 3, &Ask::on("bridge").port("80/tcp", None, 9050)).unwrap();
        assert!(ask("127.0.0.1:8080".parse().unwrap(), DEADLINE).is_ok());
        down.detach(&id(1)).unwrap();
        start(&up, 4, &Ask::on("bridge").port("80/tcp", None, 8080)).unwrap();
        up.close();
        down.detach(&id(2)).unwrap();
        down.close();
    });
}

/// RFC 9260, appendix A: reflected, as the kernel checks it.
fn crc32c(bytes: &[u8]) -> u32 {
    let byte = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    };
    !bytes.iter().fold(u32::MAX, byte)
}

/// INIT (1) or INIT ACK (2) with nothing but the fixed part.
fn sctp(from: u16, to: u16, tag: u32, chunk: u8, own_tag: u32) -> Vec<u8> {
    let mut packet = [from.to_be_bytes(), to.to_be_bytes()].concat();
    packet.extend_from_slice(&tag.to_be_bytes());
    packet.extend_from_slice(&[0; 4]);
    packet.extend_from_slice(&[chunk, 0, 0, 20]);
    packet.extend_from_slice(&own_tag.to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0, 1]);
    let sum = crc32c(&packet);
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
    packet
}

/// Addresses and ports of an IPv4 packet with SCTP inside, its first chunk's type, and whether its sum is right.
fn read_sctp(packet: &[u8]) -> (String, String, u8, bool) {
    let part = &packet[usize::from(packet[0] & 15) * 4..];
    let end = |at: usize, port: usize| {
        let address = std::net::Ipv4Addr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
        format!("{address}:{}", u16::from_be_bytes([part[port], part[port + 1]]))
    };
    let mut zeroed = part.to_vec();
    zeroed[8..12].fill(0);
    (end(12, 0), end(16, 2), part[12], part[8..12] == crc32c(&zeroed).to_le_bytes())
}

/// The kernel needs no SCTP of its own to lead packets on: both ends are raw sockets here.
#[test]
fn sctp_goes_through_a_published_port_and_back() {
    in_private_network(|folder| {
        let shared = engine(&folder);
        let machine = outside();
        let diameter = start(&shared, 1, &Ask::on("bridge").port("5000/sctp", None, 5001)).unwrap();
        let own = address(&diameter, "bridge");
        let raw = |namespace: &Namespace| {
            let open = || {
                let socket = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::SCTP)).unwrap();
                sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(DEADLINE)).unwrap();
                Ok(socket)
            };
            namespace.enter(open).unwrap()
        };
        let (client, server) = (raw(&machine), raw(&inside(&diameter)));
        let mut buffer = [0; 256];
        let to: SocketAddr = "198.51.100.1:0".parse().unwrap();
        sendto(&client, &sctp(4000, 5001, 0, 1, 77), SendFlags::empty(), &to).unwrap();
        let (length, _) = recv(&server, &mut buffer[..], RecvFlags::empty()).unwrap();
        let expected = ("198.51.100.2:4000".to_owned(), format!("{own}:5000"), 1, true);
        assert_eq!(read_sctp(&buffer[..length]), expected);
        let to: SocketAddr = "198.51.100.2:0".parse().unwrap();
        sendto(&server, &sctp(5000, 4000, 77, 2, 78), SendFlags::empty(), &to).unwrap();
        let (length, _) = recv(&client, &mut buffer[..], RecvFlags::empty()).unwrap();
        let expected = ("198.51.100.1:5001".to_owned(), "198.51.100.2:4000".to_owned(), 2, true);
        assert_eq!(read_sctp(&buffer[..length]), expected);
        // It is kept within the engine also where the host has no sockets that could keep it.
        let error = start(&shared, 2, &Ask::on("bridge").port("1/sctp", None, 5001)).unwrap_err();
        assert!(error.to_string().ends_with("Bind for 0.0.0.0:5001 failed: port is already allocated"), "{error}");
        assert!(error.hint.unwrap().contains("c1"));
        shared.close();
    });
}
