//! Many containers on one network, many networks on one host, and networks that are the host's own.

use super::*;
use berth_net::slot::Uplink;

/// A container's end without the rest of it.
fn join(shared: &Shared, network: &str, namespace: &Namespace, n: usize) -> std::net::Ipv4Addr {
    let (endpoint, site) = {
        let mut state = shared.lock();
        let network = state.find(network).unwrap().network.id.clone();
        let (mut endpoint, site) = shared.plan_slot(&mut state, &network).unwrap();
        endpoint.interface = format!("e{n}");
        endpoint.default_route = false;
        (endpoint, site)
    };
    let mut route = Route::open().unwrap();
    super::super::attach::build_endpoint(namespace, &mut route, &endpoint, site).unwrap();
    let host_name = super::super::state::host_name(&endpoint.endpoint_id);
    berth_net::slot::wait_operational(&mut route, &host_name, site.uplink).unwrap();
    endpoint.ipv4.unwrap().0
}

#[test]
fn a_network_holds_more_containers_than_one_bridge_has_ports() {
    in_private_network(|folder| {
        let shared = engine(&folder);
        let block =
            super::super::types::BlockSpec { subnet: Some("10.64.0.0/16".parse().unwrap()), ..Default::default() };
        let spec = NetworkSpec {
            name: "large".to_owned(),
            blocks: vec![block],
            enable_ipv6: Some(false),
            ..NetworkSpec::default()
        };
        let network = shared.create(spec).unwrap();
        // Most of them share a namespace: it is the bridges' ports that are few.
        let crowd = Namespace::create().unwrap();
        let mut namespaces: Vec<(Namespace, std::net::Ipv4Addr)> = Vec::new();
        for n in 0..2500 {
            if [0, 399, 400, 1023, 1024, 2499].contains(&n) {
                let own = Namespace::create().unwrap();
                let address = join(&shared, "large", &own, n);
                namespaces.push((own, address));
            } else {
                join(&shared, "large", &crowd, n);
            }
        }
        assert_eq!(shared.lock().networks[&network.id].shards.len(), 7);
        for (namespace, address) in &namespaces {
            let listener = namespace.enter(|| Ok(TcpListener::bind((*address, 80)).unwrap())).unwrap();
            std::thread::spawn(move || listener.incoming().for_each(|stream| drop(stream.unwrap().write_all(b"here"))));
        }
        for (from, own) in &namespaces {
            for (_, address) in namespaces.iter().filter(|(_, address)| address != own) {
                let answer = ask_from(from, &format!("{address}:80"), DEADLINE);
                assert_eq!(answer.unwrap_or_else(|error| error.to_string()), "here", "{own} to {address}");
            }
        }
        // The host reaches all of them through the one gateway; the next engine finds the bridges again.
        assert_eq!(ask(SocketAddr::new(namespaces[5].1.into(), 80), DEADLINE).unwrap(), "here");
        // It dies: who ends in order takes bridges that nobody uses along.
        shared.lock().closing = true;
        drop(shared);
        let second = engine(&folder);
        assert_eq!(second.lock().networks[&network.id].shards.len(), 7);
        drop((namespaces, crowd));
        let since = Instant::now();
        while let Err(error) = second.remove("large") {
            assert!(since.elapsed() < DEADLINE, "{error}");
        }
        let left: Vec<String> = Route::open().unwrap().links().unwrap().into_iter().map(|link| link.name).collect();
        assert!(
            !left
                .iter()
                .any(|name| name != "btest0" && ["br-", "bs", "bt", "bu"].iter().any(|start| name.starts_with(start))),
            "{left:?}"
        );
        second.close();
    });
}

#[test]
fn a_thousand_networks_fit_on_a_host_beside_its_own_routes() {
    in_private_network(|folder| {
        let machine = outside();
        // The host is on a network that lies in our pool.
        let mut route = Route::open().unwrap();
        let wire = route.link("wire0").unwrap().unwrap().index;
        let mut batch = Batch::default();
        route::add_address(&mut batch, wire, "172.31.5.1".parse().unwrap(), 24);
        route.run(batch).unwrap();
        let shared = engine(&folder);
        let mut blocks = Vec::new();
        for n in 0..1000 {
            let network = shared.create(NetworkSpec { name: format!("n{n}"), ..NetworkSpec::default() }).unwrap();
            blocks.push(network.blocks[0].subnet);
        }
        let busy: berth_net::addresses::Subnet = "172.31.5.0/24".parse().unwrap();
        assert!(blocks.iter().all(|block| block.prefix_len == 26 && !block.overlaps(busy)));
        blocks.sort();
        assert!(blocks.windows(2).all(|pair| !pair[0].overlaps(pair[1])));
        let last = start(&shared, 1, &Ask::on("n999").port("80/tcp", None, 8080)).unwrap();
        serve(&inside(&last), 80);
        assert_eq!(ask_from(&machine, "198.51.100.1:8080", DEADLINE).unwrap(), "198.51.100.2");
        shared.close();
    });
}

#[test]
fn a_macvlan_puts_containers_on_the_parents_wire() {
    in_private_network(|folder| {
        let shared = engine(&folder);
        let machine = outside();
        // A wire of the host's own, with another machine on it.
        let peer = Namespace::create().unwrap();
        let mut route = Route::open().unwrap();
        let mut batch = Batch::default();
        route::add_bridge(&mut batch, "lan0", [2, 0, 0, 0, 1, 1], 1500, "test");
        route.run(batch).unwrap();
        let lan = route.link("lan0").unwrap().unwrap().index;
        let interface = Interface {
            host_name: "lan1",
            uplink: Uplink::Bridge { index: lan, gateway: lan },
            mtu: 1500,
            isolated: false,
            name: "eth0",
            mac: [2, 0, 0, 0, 1, 2],
            addresses: &[("192.0.2.9".parse().unwrap(), 24)],
            local_addresses: &[],
            sysctls: &[],
            gateways: &[],
        };
        peer.add_interface(&mut route, &interface).unwrap();
        serve(&peer, 80);

        let block = super::super::types::BlockSpec {
            subnet: Some("192.0.2.0/24".parse().unwrap()),
            gateway: Some("192.0.2.9".parse().unwrap()),
            ..Default::default()
        };
        let spec = |parent: &str| NetworkSpec {
            name: "wire".to_owned(),
            driver: "macvlan".to_owned(),
            blocks: vec![block.clone()],
            enable_ipv6: Some(false),
            options: BTreeMap::from([("parent".to_owned(), parent.to_owned())]),
            ..NetworkSpec::default()
        };
        let missing = shared.create(spec("nothere")).unwrap_err();
        assert!(missing.message.contains("invalid parent interface nothere"), "{missing}");
        shared.create(spec("lan0")).unwrap();
        let one = start(&shared, 1, &Ask::on("wire")).unwrap();
        let own = address(&one, "wire").to_string();
        assert_eq!(ask_from(&inside(&one), "192.0.2.9:80", DEADLINE).unwrap(), own);
        assert_eq!(shared.counters(&id(1)).unwrap()[0].0, "eth0");
        // The way out is the wire's own gateway, and the host's interface stays when the network goes.
        assert!(one.endpoints["wire"].default_route);
        shared.detach(&id(1)).unwrap();
        shared.remove("wire").unwrap();
        assert!(route.link("lan0").unwrap().is_some());
        drop(machine);
        shared.close();
    });
}
