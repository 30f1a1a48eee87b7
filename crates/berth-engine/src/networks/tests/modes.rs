//! What Docker's options of a bridge network do: who reaches it from outside, under which address it is seen, what the host
//! has on its bridge.

use super::super::bridge_options::{
    BRIDGE_NAME, DEFAULT_BRIDGE, HOST_BINDING, INHIBIT_IPV4, MODES, PREFIX, SOURCES, TRUSTED,
};
use super::*;

#[test]
fn a_network_may_be_open_to_whoever_routes_to_it() {
    in_private_network(|folder| {
        let shared = engine(&folder);
        let machine = outside();
        shared.create(with_options("open", &[(MODES[0], "nat-unprotected")])).unwrap();
        shared.create(with_options("closed", &[(MODES[0], "nat")])).unwrap();
        for (n, network) in [(1, "open"), (2, "closed")] {
            let web = start(&shared, n, &Ask::on(network)).unwrap();
            serve(&inside(&web), 80);
            let at = format!("{}:80", address(&web, network));
            let patience = if network == "open" { DEADLINE } else { SHORT };
            assert_eq!(ask_from(&machine, &at, patience).is_ok(), network == "open", "{network}");
        }
        shared.close();
    });
}

#[test]
fn a_routed_network_opens_published_ports_under_the_containers_own_address_and_translates_nothing() {
    in_private_network(|folder| {
        let first = engine(&folder);
        let machine = outside();
        first.create(with_options("routed", &[(MODES[0], "routed")])).unwrap();
        let web = start(&first, 1, &Ask::on("routed").port("80/tcp", None, 8080)).unwrap();
        for port in [80, 81] {
            serve(&inside(&web), port);
        }
        let own = address(&web, "routed");
        // By IPv6 it is translated as ever.
        let (v4, v6) = (IpAddr::from([0, 0, 0, 0]), "::".parse::<IpAddr>().unwrap());
        assert_eq!(web.ports.values().next().unwrap(), &[(v4, 0), (v6, 8080)]);
        let reached = |shared: &str| {
            let seen = ask_from(&machine, &format!("{own}:80"), DEADLINE);
            assert_eq!(seen.unwrap(), "198.51.100.2", "{shared}");
            assert!(ask_from(&machine, &format!("{own}:81"), SHORT).is_err(), "{shared}: a port that is not published");
            assert!(ask_from(&machine, "198.51.100.1:8080", SHORT).is_err(), "{shared}: a port of the host");
        };
        reached("at first");
        // Another network's container comes in the same way, and not to what is not published.
        let other = inside(&start(&first, 2, &Ask::on("bridge")).unwrap());
        ask_from(&other, &format!("{own}:80"), DEADLINE).unwrap();
        assert!(ask_from(&other, &format!("{own}:81"), SHORT).is_err());
        // Out: under its own address.
        serve(&machine, 7000);
        assert_eq!(ask_from(&inside(&web), "198.51.100.2:7000", DEADLINE).unwrap(), own.to_string());

        // The table is put back with it, and the next engine has it too.
        let mut flush = berth_net::netlink::Socket::netfilter().unwrap();
        berth_net::nft::look::delete_table(&mut flush, 1, "berth_btest0").unwrap();
        let mut count = || berth_net::nft::look::elements(&mut flush, "berth_btest0", "open4").unwrap();
        let since = Instant::now();
        while count() != 1 {
            assert!(since.elapsed() < DEADLINE, "the table did not come back");
            std::thread::sleep(Duration::from_millis(1));
        }
        reached("after a flush");
        first.lock().closing = true;
        drop(first);
        let second = Shared::open(&config(&folder)).unwrap();
        second.recover(vec![(id(1), web.clone())]).unwrap();
        reached("after the engine's end");
        second.detach(&id(1)).unwrap();
        assert_eq!(count(), 0);
        second.close();
    });
}

#[test]
fn ports_follow_a_container_into_a_routed_network() {
    in_private_network(|folder| {
        let shared = engine(&folder);
        let machine = outside();
        shared.create(with_options("routed", &[(MODES[0], "routed")])).unwrap();
        start(&shared, 1, &Ask::on("bridge").port("80/tcp", None, 8080)).unwrap();
        let first = EndpointSpec { gateway_priority: 1, ..EndpointSpec::default() };
        let joined = shared.connect(&id(1), "routed", first, "").unwrap();
        serve(&inside(&joined), 80);
        let own = format!("{}:80", address(&joined, "routed"));
        assert_eq!(ask_from(&machine, &own, DEADLINE).unwrap(), "198.51.100.2");
        shared.disconnect(&id(1), "routed").unwrap();
        assert!(shared.lock().held[&id(1)].openings.is_empty());
        assert!(ask_from(&machine, &own, SHORT).is_err());
        assert_eq!(ask_from(&machine, "198.51.100.1:8080", DEADLINE).unwrap(), "198.51.100.2");
        shared.close();
    });
}

#[test]
fn trusted_interfaces_reach_published_ports_under_the_containers_own_address() {
    in_private_network(|folder| {
        let shared = engine(&folder);
        let machine = outside();
        shared.create(with_options("trusting", &[(TRUSTED, "none0:wire0")])).unwrap();
        shared.create(with_options("other", &[(TRUSTED, "none0")])).unwrap();
        for (n, network) in [(1, "trusting"), (2, "other")] {
            let host_port = 8080 + u16::from(n);
            let web = start(&shared, n, &Ask::on(network).port("80/tcp", None, host_port)).unwrap();
            for port in [80, 81] {
                serve(&inside(&web), port);
            }
            let own = address(&web, network);
            let patience = if network == "trusting" { DEADLINE } else { SHORT };
            assert_eq!(ask_from(&machine, &format!("{own}:80"), patience).is_ok(), network == "trusting", "{network}");
            assert!(ask_from(&machine, &format!("{own}:81"), SHORT).is_err(), "{network}");
            // Its ports of the host are there as ever.
            ask_from(&machine, &format!("198.51.100.1:{host_port}"), DEADLINE).unwrap();
        }
        shared.close();
    });
}

#[test]
fn a_network_may_leave_under_an_address_of_its_own() {
    in_private_network(|folder| {
        let shared = engine(&folder);
        let machine = outside();
        let mut route = Route::open().unwrap();
        let wire = route.link("wire0").unwrap().unwrap().index;
        let mut batch = Batch::default();
        route::add_address(&mut batch, wire, "198.51.100.7".parse().unwrap(), 24);
        route.run(batch).unwrap();
        shared.create(with_options("seven", &[(SOURCES[0], "198.51.100.7")])).unwrap();
        serve(&machine, 7000);
        for (n, network, seen) in [(1, "seven", "198.51.100.7"), (2, "bridge", "198.51.100.1")] {
            let client = inside(&start(&shared, n, &Ask::on(network)).unwrap());
            assert_eq!(ask_from(&client, "198.51.100.2:7000", DEADLINE).unwrap(), seen, "{network}");
        }
        shared.close();
    });
}

#[test]
fn an_isolated_network_has_neither_a_gateway_nor_the_host_on_it() {
    in_private_network(|folder| {
        let shared = engine(&folder);
        let both = [(MODES[0], "isolated"), (MODES[1], "isolated"), (BRIDGE_NAME, "alone0")];
        let open = shared.create(with_options("alone", &both)).unwrap_err();
        assert!(open.message.contains("can only be used for an internal network"), "{open}");
        let network = shared.create(NetworkSpec { internal: true, ..with_options("alone", &both) }).unwrap();
        assert!(network.blocks.iter().all(|block| block.gateway.is_none()), "{:?}", network.blocks);
        let index = Route::open().unwrap().link("alone0").unwrap().unwrap().index;
        let on_bridge = |range: &&berth_net::route::Range| range.index == index;
        let ranges = Route::open().unwrap().ranges().unwrap();
        let subnets = || network.blocks.iter().map(|block| block.subnet);
        let of_ours =
            ranges.iter().filter(on_bridge).find(|range| subnets().any(|subnet| subnet.contains(range.address)));
        assert_eq!(of_ours, None);
        let web = start(&shared, 1, &Ask::on("alone").port("80/tcp", None, 8080)).unwrap();
        let endpoint = &web.endpoints["alone"];
        assert!(endpoint.gateway.is_none() && endpoint.ipv6_gateway.is_none() && !endpoint.default_route);
        serve(&inside(&web), 80);
        let other = inside(&start(&shared, 2, &Ask::on("alone")).unwrap());
        ask_from(&other, &format!("{}:80", address(&web, "alone")), DEADLINE).unwrap();
        assert!(ask(SocketAddr::new(address(&web, "alone"), 80), SHORT).is_err(), "the host");
        // Nor the other way, whatever route a container makes itself. An internal network that is not isolated shows
        // that the question is a good one.
        shared.create(NetworkSpec { internal: true, ..with_options("near", &[(BRIDGE_NAME, "near0")]) }).unwrap();
        let near = inside(&start(&shared, 3, &Ask::on("near")).unwrap());
        let host = UdpSocket::bind("0.0.0.0:7000").unwrap();
        let gateway = shared.lock().find("bridge").unwrap().network.blocks[0].gateway.unwrap();
        for (from, bridge, network) in [(&near, "near0", "near"), (&other, "alone0", "alone")] {
            let mac = Route::open().unwrap().link(bridge).unwrap().unwrap().mac;
            let router = shared.lock().find(network).unwrap().network.blocks[0].subnet.nth(60).unwrap();
            let work = || {
                let mut route = Route::open().unwrap();
                let index = route.link("eth0").unwrap().unwrap().index;
                let mut batch = Batch::default();
                route::set_neighbour(&mut batch, index, router, mac);
                route::set_default_route(&mut batch, router, index);
                route.run(batch).unwrap();
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                for _ in 0..3 {
                    socket.send_to(network.as_bytes(), (gateway, 7000)).unwrap();
                }
                Ok(())
            };
            from.enter(work).unwrap();
            host.set_read_timeout(Some(if network == "near" { DEADLINE } else { SHORT })).unwrap();
            let mut buffer = [0; 16];
            let heard = loop {
                match host.recv_from(&mut buffer) {
                    Ok((length, _)) if &buffer[..length] == network.as_bytes() => break true,
                    Ok(_) => (),
                    Err(_) => break false,
                }
            };
            assert_eq!(heard, network == "near", "{network}");
        }
        shared.close();
    });
}

#[test]
fn a_bridge_may_be_left_to_another_router() {
    in_private_network(|folder| {
        let shared = engine(&folder);
        let network =
            shared.create(with_options("routers", &[(INHIBIT_IPV4, "true"), (BRIDGE_NAME, "router0")])).unwrap();
        let gateway = network.blocks[0].gateway.unwrap();
        let index = Route::open().unwrap().link("router0").unwrap().unwrap().index;
        let ranges = Route::open().unwrap().ranges().unwrap();
        assert!(!ranges.iter().any(|range| range.index == index && range.address.is_ipv4()));
        // The router hangs on the bridge, and whoever is on the network goes out through it.
        let router = Namespace::create().unwrap();
        let mut route = Route::open().unwrap();
        let interface = Interface {
            host_name: "router1",
            uplink: berth_net::slot::Uplink::Bridge { index, gateway: index },
            isolated: false,
            mtu: 1500,
            name: "eth0",
            mac: [2, 0, 0, 0, 0, 9],
            addresses: &[(gateway, network.blocks[0].subnet.prefix_len), ("203.0.113.1".parse().unwrap(), 32)],
            local_addresses: &[],
            sysctls: &[],
            gateways: &[],
        };
        router.add_interface(&mut route, &interface).unwrap();
        berth_net::slot::wait_operational(&mut route, interface.host_name, interface.uplink).unwrap();
        serve(&router, 7000);
        let client = start(&shared, 1, &Ask::on("routers")).unwrap();
        let seen = ask_from(&inside(&client), "203.0.113.1:7000", DEADLINE).unwrap();
        assert_eq!(seen, address(&client, "routers").to_string());
        shared.close();
    });
}

#[test]
fn a_network_may_do_without_ipv4() {
    in_private_network(|folder| {
        let shared = engine(&folder);
        let spec = NetworkSpec { enable_ipv4: Some(false), ..with_options("six", &[]) };
        let network = shared.create(spec).unwrap();
        assert!(network.blocks.len() == 1 && network.enable_ipv6);
        let web = start(&shared, 1, &Ask::on("six").port("80/tcp", None, 8080)).unwrap();
        let other = start(&shared, 2, &Ask::on("six")).unwrap();
        assert!(web.endpoints["six"].ipv4.is_none() && web.ports.values().next().unwrap().len() == 1);
        assert_ne!(web.endpoints["six"].mac_address, other.endpoints["six"].mac_address);
        let work = || {
            let listener = TcpListener::bind("[::]:80").unwrap();
            std::thread::spawn(move || listener.incoming().for_each(|s| drop(s.unwrap().write_all(b"six"))));
            Ok(())
        };
        inside(&web).enter(work).unwrap();
        let own = web.endpoints["six"].ipv6.unwrap().0;
        assert_eq!(ask_from(&inside(&other), &format!("[{own}]:80"), DEADLINE).unwrap(), "six");
        let neither = NetworkSpec { enable_ipv4: Some(false), enable_ipv6: Some(false), ..with_options("none", &[]) };
        assert!(shared.create(NetworkSpec { name: "neither".to_owned(), ..neither }).is_err());
        shared.close();
    });
}

#[test]
fn interfaces_are_called_as_their_network_wants() {
    in_private_network(|folder| {
        let shared = engine(&folder);
        shared.create(with_options("lan", &[(PREFIX, "lan")])).unwrap();
        let one = start(&shared, 1, &Ask::on("lan")).unwrap();
        assert_eq!(one.endpoints["lan"].interface, "lan0");
        assert!(inside(&one).links().unwrap().iter().any(|link| link.name == "lan0"));
        for bad in ["", "lo", "a/b", "fourteen-chars"] {
            assert!(shared.create(with_options("bad", &[(PREFIX, bad)])).is_err(), "{bad}");
        }
        shared.close();
    });
}

#[test]
fn ports_that_name_no_address_are_published_where_their_network_says() {
    in_private_network(|folder| {
        let shared = engine(&folder);
        let machine = outside();
        shared.create(with_options("local", &[(HOST_BINDING, "127.0.0.1"), (DEFAULT_BRIDGE, "false")])).unwrap();
        let web = start(&shared, 1, &Ask::on("local").port("80/tcp", None, 8080)).unwrap();
        serve(&inside(&web), 80);
        ask("127.0.0.1:8080".parse().unwrap(), DEADLINE).unwrap();
        assert!(ask_from(&machine, "198.51.100.1:8080", SHORT).is_err());
        shared.close();
    });
}
