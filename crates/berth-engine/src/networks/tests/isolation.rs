//! What containers may not pretend, and what they cannot reach.

use super::*;
use berth_net::slot::SlotError;

/// Sends as `address`, which the interface gets on top of its own; answers whether the datagram arrives at `to`.
fn arrives_as(from: &Namespace, address: &str, to: &Namespace, to_address: IpAddr) -> bool {
    let listener = to.enter(|| Ok(UdpSocket::bind((to_address, 4000)).unwrap())).unwrap();
    let address: IpAddr = address.parse().unwrap();
    let whole = if address.is_ipv4() { 32 } else { 128 };
    from.enter(|| {
        let mut route = Route::open().unwrap();
        let index = route.link("eth0").unwrap().unwrap().index;
        let change = |route: &mut Route, work: fn(&mut Batch, u32, IpAddr, u8)| {
            let mut batch = Batch::default();
            work(&mut batch, index, address, whole);
            route.run(batch).unwrap();
        };
        let has_it = route.ranges().unwrap().iter().any(|range| range.address == address && range.prefix_len != whole);
        if !has_it {
            change(&mut route, route::add_address);
        }
        let socket = UdpSocket::bind((address, 0)).unwrap();
        socket.send_to(b"x", (to_address, 4000)).unwrap();
        if !has_it {
            change(&mut route, route::delete_address);
        }
        Ok(())
    })
    .unwrap();
    listener.set_read_timeout(Some(SHORT)).unwrap();
    listener.recv(&mut [0; 8]).is_ok()
}

fn set_mac(namespace: &Namespace, mac: [u8; 6]) {
    let set = || -> Result<(), SlotError> {
        let mut route = Route::open().unwrap();
        let index = route.link("eth0").unwrap().unwrap().index;
        let mut batch = Batch::default();
        route::set_mac(&mut batch, index, mac);
        route.run(batch).unwrap();
        Ok(())
    };
    namespace.enter(set).unwrap();
}

#[test]
fn a_container_cannot_send_as_its_neighbour_the_gateway_or_under_another_hardware_address() {
    in_private_network(|folder| {
        let shared = engine(&folder);
        let net = NetworkSpec { name: "n".to_owned(), enable_ipv6: Some(true), ..NetworkSpec::default() };
        shared.create(net).unwrap();
        let attached: Vec<Attachment> = (1..=3).map(|n| start(&shared, n, &Ask::on("n")).unwrap()).collect();
        let [one, two, three] = [0, 1, 2].map(|n| inside(&attached[n]));
        let at: Vec<IpAddr> = attached.iter().map(|a| address(a, "n")).collect();
        let at6: Vec<IpAddr> = attached.iter().map(|a| a.endpoints["n"].ipv6.unwrap().0.into()).collect();
        let gateway = attached[0].endpoints["n"].gateway.unwrap().to_string();

        // The check itself: an address that nobody has arrives.
        assert!(arrives_as(&one, &at[0].to_string(), &two, at[1]));
        assert!(arrives_as(&one, "203.0.113.9", &two, at[1]), "nested networks bring addresses of their own");
        assert!(!arrives_as(&one, &at[2].to_string(), &two, at[1]), "the neighbour's");
        assert!(!arrives_as(&one, &gateway, &two, at[1]), "the gateway's");
        assert!(arrives_as(&one, &at6[0].to_string(), &two, at6[1]));
        assert!(!arrives_as(&one, &at6[2].to_string(), &two, at6[1]), "the neighbour's, IPv6");

        set_mac(&one, [2, 9, 9, 9, 9, 9]);
        assert!(!arrives_as(&one, &at[0].to_string(), &two, at[1]), "another hardware address");
        let mac = berth_net::addresses::parse_mac(&attached[0].endpoints["n"].mac_address).unwrap();
        set_mac(&one, mac);
        assert!(arrives_as(&one, &at[0].to_string(), &two, at[1]));

        // What is given back may be had by the next.
        shared.detach(&id(3)).unwrap();
        drop(three);
        let since = Instant::now();
        while !arrives_as(&one, &at[2].to_string(), &two, at[1]) {
            assert!(since.elapsed() < DEADLINE, "still guarded");
        }
        shared.close();
    });
}

#[test]
fn a_network_can_do_without_the_guard() {
    in_private_network(|folder| {
        let shared = engine(&folder);
        let options = BTreeMap::from([(super::super::state::OPTION_ANTISPOOF.to_owned(), "false".to_owned())]);
        shared.create(NetworkSpec { name: "free".to_owned(), options, ..NetworkSpec::default() }).unwrap();
        let attached: Vec<Attachment> = (1..=3).map(|n| start(&shared, n, &Ask::on("free")).unwrap()).collect();
        let third = address(&attached[2], "free").to_string();
        assert!(arrives_as(&inside(&attached[0]), &third, &inside(&attached[1]), address(&attached[1], "free")));
        shared.close();
    });
}

#[test]
fn nothing_leaves_a_network_under_a_foreign_source() {
    in_private_network(|folder| {
        let shared = engine(&folder);
        let machine = outside();
        let one = start(&shared, 1, &Ask::on("bridge")).unwrap();
        let listener = machine.enter(|| Ok(UdpSocket::bind("198.51.100.2:4000").unwrap())).unwrap();
        listener.set_read_timeout(Some(SHORT)).unwrap();
        let send_as = |address: Option<&str>| {
            inside(&one)
                .enter(|| {
                    let own = address.unwrap_or("0.0.0.0");
                    if address.is_some() {
                        let mut route = Route::open().unwrap();
                        let index = route.link("eth0").unwrap().unwrap().index;
                        let mut batch = Batch::default();
                        route::add_address(&mut batch, index, own.parse().unwrap(), 32);
                        route.run(batch).unwrap();
                    }
                    UdpSocket::bind((own, 0)).unwrap().send_to(b"x", "198.51.100.2:4000").unwrap();
                    Ok(())
                })
                .unwrap();
            listener.recv(&mut [0; 8]).is_ok()
        };
        assert!(send_as(None));
        assert!(!send_as(Some("203.0.113.9")));
        shared.close();
    });
}

#[test]
fn containers_of_a_network_without_talk_reach_the_world_and_not_each_other() {
    in_private_network(|folder| {
        let shared = engine(&folder);
        let machine = outside();
        let options = BTreeMap::from([(super::super::bridge_options::ICC.to_owned(), "false".to_owned())]);
        shared.create(NetworkSpec { name: "quiet".to_owned(), options, ..NetworkSpec::default() }).unwrap();
        let one = start(&shared, 1, &Ask::on("quiet")).unwrap();
        let two = start(&shared, 2, &Ask::on("quiet")).unwrap();
        serve(&inside(&two), 80);
        serve(&machine, 7000);
        assert!(ask_from(&inside(&one), &format!("{}:80", address(&two, "quiet")), SHORT).is_err());
        assert_eq!(ask_from(&inside(&one), "198.51.100.2:7000", DEADLINE).unwrap(), "198.51.100.1");
        shared.close();
    });
}

#[test]
fn a_door_of_the_engine_is_closed_to_containers_only() {
    in_private_network(|folder| {
        let mut config = config(&folder);
        config.closed_ports = vec![2375];
        let shared = Shared::open(&config).unwrap();
        shared.recover(Vec::new()).unwrap();
        let machine = outside();
        let host = |port: u16| {
            let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
            std::thread::spawn(move || listener.incoming().for_each(|stream| drop(stream.unwrap().write_all(b"host"))));
        };
        host(2375);
        host(8000);
        let one = start(&shared, 1, &Ask::on("bridge")).unwrap();
        let gateway = one.host_gateway.unwrap();
        for at in [gateway.to_string(), "198.51.100.1".to_owned()] {
            assert!(ask_from(&inside(&one), &format!("{at}:2375"), SHORT).is_err(), "CVE-2025-9074: {at}");
            assert_eq!(ask_from(&inside(&one), &format!("{at}:8000"), DEADLINE).unwrap(), "host");
        }
        assert_eq!(ask_from(&machine, "198.51.100.1:2375", DEADLINE).unwrap(), "host");
        shared.close();
    });
}
