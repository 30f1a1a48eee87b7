//! Ports in records: many in a row as one line.
//!
//! ```text
//! {"80/tcp": V, "90/tcp": W, "91/tcp": W'}   ⇄   [["80/tcp", V], ["90-91/tcp", W]]      W' follows W
//! ```
//!
//! A container that publishes ten thousand ports has them in its record, in its runtime record and in a file of its start;
//! written one by one they would be most of what its start costs. For `#[serde(with = "...")]`; the form on the
//! left is read as well.

use crate::spec::{PortBinding, PortProto, Protocol};
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::net::IpAddr;

/// What the next port has when this one's is known.
pub trait Follow: Sized {
    /// `None`: nothing follows.
    fn next(&self) -> Option<Self>;
}

impl Follow for () {
    fn next(&self) -> Option<()> {
        Some(())
    }
}

impl Follow for Vec<PortBinding> {
    fn next(&self) -> Option<Self> {
        let next = |binding: &PortBinding| {
            // A port of the engine's choice stays that.
            let host_port = match binding.host_port {
                (0, 0) => (0, 0),
                (first, last) => (first.checked_add(1)?, last.checked_add(1)?),
            };
            Some(PortBinding { host_ip: binding.host_ip, host_port })
        };
        self.iter().map(next).collect()
    }
}

impl Follow for Vec<(IpAddr, u16)> {
    fn next(&self) -> Option<Self> {
        self.iter().map(|&(address, port)| Some((address, port.checked_add(1)?))).collect()
    }
}

struct Run<'a, T> {
    protocol: Protocol,
    first: u16,
    last: u16,
    value: &'a T,
    /// What the port after `last` has to have.
    next: Option<T>,
}

fn runs<'a, T: Follow + PartialEq + 'a>(all: impl Iterator<Item = (PortProto, &'a T)>) -> Vec<Run<'a, T>> {
    let mut runs: Vec<Run<'a, T>> = Vec::new();
    // Ports of several protocols take turns.
    let mut open: BTreeMap<&'static str, usize> = BTreeMap::new();
    for (PortProto { port, protocol }, value) in all {
        let last = open.get(protocol.as_str()).and_then(|&at| runs.get_mut(at));
        match last {
            Some(run) if run.last.checked_add(1) == Some(port) && run.next.as_ref() == Some(value) => {
                run.last = port;
                run.next = value.next();
            }
            _ => {
                open.insert(protocol.as_str(), runs.len());
                runs.push(Run { protocol, first: port, last: port, value, next: value.next() });
            }
        }
    }
    runs
}

/// `80/tcp` or `80-89/tcp`.
fn text(protocol: Protocol, first: u16, last: u16) -> String {
    if first == last { format!("{first}/{protocol}") } else { format!("{first}-{last}/{protocol}") }
}

fn parse(text: &str) -> Option<(Protocol, u16, u16)> {
    let Some((first, rest)) = text.split_once('-') else {
        let PortProto { port, protocol } = text.parse().ok()?;
        return Some((protocol, port, port));
    };
    let PortProto { port: last, protocol } = rest.parse().ok()?;
    let first = first.parse().ok().filter(|first| (1..=last).contains(first))?;
    Some((protocol, first, last))
}

/// What is read, one run after the other.
struct Read<T> {
    all: BTreeMap<PortProto, T>,
}

impl<T: Follow + Clone> Read<T> {
    fn take<E: Error>(&mut self, ports: &str, value: T) -> Result<(), E> {
        let invalid = || E::custom(format!("invalid ports: {ports:?}"));
        let (protocol, first, last) = parse(ports).ok_or_else(invalid)?;
        let mut value = value;
        for port in first..last {
            let next = value.next().ok_or_else(invalid)?;
            self.all.insert(PortProto { port, protocol }, std::mem::replace(&mut value, next));
        }
        self.all.insert(PortProto { port: last, protocol }, value);
        Ok(())
    }
}

struct Entries<T>(PhantomData<T>);

impl<'de, T: Follow + Clone + Deserialize<'de>> Visitor<'de> for Entries<T> {
    type Value = BTreeMap<PortProto, T>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ports")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut read = Read { all: BTreeMap::new() };
        while let Some((ports, value)) = access.next_element::<(String, T)>()? {
            read.take(&ports, value)?;
        }
        Ok(read.all)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut read = Read { all: BTreeMap::new() };
        while let Some((ports, value)) = access.next_entry::<String, T>()? {
            read.take(&ports, value)?;
        }
        Ok(read.all)
    }
}

pub fn serialize<T: Follow + PartialEq + Serialize, S: Serializer>(
    all: &BTreeMap<PortProto, T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let runs = runs(all.iter().map(|(port, value)| (*port, value)));
    serializer.collect_seq(runs.iter().map(|run| (text(run.protocol, run.first, run.last), run.value)))
}

pub fn deserialize<'de, T: Follow + Clone + Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<PortProto, T>, D::Error> {
    deserializer.deserialize_any(Entries(PhantomData))
}

/// The same for ports that have nothing.
pub mod set {
    use super::*;

    pub fn serialize<S: Serializer>(all: &BTreeSet<PortProto>, serializer: S) -> Result<S::Ok, S::Error> {
        let runs = runs(all.iter().map(|port| (*port, &())));
        let mut list = serializer.serialize_seq(Some(runs.len()))?;
        for run in &runs {
            list.serialize_element(&text(run.protocol, run.first, run.last))?;
        }
        list.end()
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<PortProto>, D::Error> {
        let mut read = Read { all: BTreeMap::new() };
        for ports in Vec::<String>::deserialize(deserializer)? {
            read.take(&ports, ())?;
        }
        Ok(read.all.into_keys().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Holder {
        #[serde(with = "super")]
        bindings: BTreeMap<PortProto, Vec<PortBinding>>,
        #[serde(with = "super")]
        listeners: BTreeMap<PortProto, Vec<(IpAddr, u16)>>,
        #[serde(with = "super::set")]
        exposed: BTreeSet<PortProto>,
    }

    fn port(text: &str) -> PortProto {
        text.parse().unwrap()
    }

    fn binding(port: u16) -> PortBinding {
        PortBinding { host_ip: None, host_port: (port, port) }
    }

    fn holder() -> Holder {
        let any = IpAddr::from([0, 0, 0, 0]);
        let bindings = (80..90).map(|n| (PortProto { port: n, protocol: Protocol::Tcp }, vec![binding(n + 8000)]));
        let listeners = (65530..=65535).map(|n| (PortProto { port: n, protocol: Protocol::Udp }, vec![(any, n)]));
        Holder {
            bindings: bindings.chain([(port("85/udp"), vec![]), (port("91/tcp"), vec![binding(8091)])]).collect(),
            listeners: listeners.collect(),
            exposed: (1..=65535).map(|n| PortProto { port: n, protocol: Protocol::Sctp }).collect(),
        }
    }

    #[test]
    fn ports_in_a_row_are_one_line_and_come_back_as_they_were() {
        let written = serde_json::to_value(holder()).unwrap();
        assert_eq!(written["exposed"], json!(["1-65535/sctp"]));
        assert_eq!(written["listeners"], json!([["65530-65535/udp", [["0.0.0.0", 65530]]]]));
        let first = json!({"host_ip": null, "host_port": [8080, 8080]});
        let other = json!({"host_ip": null, "host_port": [8091, 8091]});
        assert_eq!(written["bindings"], json!([["80-89/tcp", [first]], ["85/udp", []], ["91/tcp", [other]]]));
        assert_eq!(serde_json::from_value::<Holder>(written).unwrap(), holder());
    }

    #[test]
    fn records_with_a_line_for_each_port_are_read_too() {
        let old = json!({
            "bindings": {"80/tcp": [{"host_ip": "127.0.0.1", "host_port": [0, 0]}]}, "listeners": {"80/tcp": [["::", 7]]},
            "exposed": ["80/tcp", "81/tcp"],
        });
        let read: Holder = serde_json::from_value(old).unwrap();
        assert_eq!(read.bindings[&port("80/tcp")][0].host_port, (0, 0));
        assert_eq!(read.listeners[&port("80/tcp")], [("::".parse().unwrap(), 7)]);
        assert_eq!(read.exposed.len(), 2);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for ports in ["9-8/tcp", "0-8/tcp", "1-65536/tcp", "1-2-3/tcp", "-/tcp", "1-2/quic"] {
            let bad = json!({"bindings": [], "listeners": [], "exposed": [ports]});
            assert!(serde_json::from_value::<Holder>(bad).is_err(), "{ports}");
        }
        let beyond = json!({"bindings": [], "listeners": [["1-3/tcp", [["::", 65534]]]], "exposed": []});
        assert!(serde_json::from_value::<Holder>(beyond).is_err());
    }
}
