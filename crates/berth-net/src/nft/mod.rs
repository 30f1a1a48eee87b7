//! nf_tables transactions: tables, chains, rules, sets and elements as messages.
//!
//! ```text
//! BATCH_BEGIN | NEWTABLE | NEWSET | NEWCHAIN | NEWRULE | NEWSETELEM ... | BATCH_END
//! ```
//!
//! The kernel takes all of a [`Transaction`] or none of it. Numbers are those of
//! `linux/netfilter/nf_tables.h`; key types of sets are those of the `nft` program, so that
//! `nft list ruleset` shows our table as a person would have written it. Expressions are in [`expr`], what is in
//! the kernel is told by [`look`].

pub mod expr;
pub mod look;

use crate::netlink::{ACK, APPEND, Attributes, Batch, CREATE, NetlinkError, Reply, Socket};
use expr::{Expression, Verdict};

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
pub(crate) const FAMILY_INET: u8 = 1;
pub(crate) const FAMILY_IPV4: u8 = 2;
pub(crate) const FAMILY_BRIDGE: u8 = 7;

const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const DELETE_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const DELETE_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const GET_ELEMENT: u16 = 13;
const DELETE_ELEMENT: u16 = 14;

/// Elements in one message; its attribute's length field has 16 bits, an element at most 100 bytes.
const ELEMENTS_MAX: usize = 500;

/// A set's or map's shape.
#[derive(Debug, Clone, Copy)]
pub struct SetShape<'a> {
    pub name: &'a str,
    pub key: &'a [DataType],
    /// Empty for a plain set.
    pub value: &'a [DataType],
    pub interval: bool,
}

/// What a key or value is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataType {
    Ipv4,
    Ipv6,
    Ether,
    Protocol,
    Service,
    Interface,
    Verdict,
}

impl DataType {
    fn number(self) -> u32 {
        match self {
            DataType::Ipv4 => 7,
            DataType::Ipv6 => 8,
            DataType::Ether => 9,
            DataType::Protocol => 12,
            DataType::Service => 13,
            DataType::Interface => 41,
            DataType::Verdict => 0xffff_ff00,
        }
    }

    fn own_bytes(self) -> u32 {
        match self {
            DataType::Protocol => 1,
            DataType::Service => 2,
            DataType::Ipv4 => 4,
            DataType::Ether => 6,
            DataType::Ipv6 | DataType::Interface => 16,
            DataType::Verdict => 0,
        }
    }

    /// Bytes in a concatenation, where each part fills whole 32-bit registers.
    fn bytes(self) -> u32 {
        self.own_bytes().next_multiple_of(4)
    }
}

/// The type number and length of a concatenation; a single small type keeps its true length.
fn shape(parts: &[DataType]) -> (u32, u32) {
    match parts {
        [small @ (DataType::Protocol | DataType::Service)] => (small.number(), small.own_bytes()),
        [one] => (one.number(), one.bytes()),
        many => many.iter().fold((0, 0), |(number, bytes), part| (number << 6 | part.number(), bytes + part.bytes())),
    }
}

/// One element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    pub key: Vec<u8>,
    pub value: Value,
    pub extent: Extent,
}

/// How far an element of an interval set goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extent {
    /// Its key alone; in a set of one part: to the element that ends it.
    Key,
    /// Ends the interval that the element before it began (sets of one part).
    End,
    /// Every part from the key's to this one's, both included (concatenations).
    To(Vec<u8>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    None,
    Data(Vec<u8>),
    Verdict(Verdict),
}

/// Where a base chain hangs.
#[derive(Debug, Clone, Copy)]
pub struct Hook {
    /// `filter` or `nat`.
    pub kind: &'static str,
    /// NF_INET_PRE_ROUTING 0, LOCAL_IN 1, FORWARD 2, LOCAL_OUT 3, POST_ROUTING 4.
    pub number: u32,
    pub priority: i32,
}

/// Changes to one table, done together or not at all.
#[derive(Debug, Clone)]
pub struct Transaction {
    family: u8,
    table: String,
    batch: Batch,
}

fn nfgen(family: u8, resource: u16) -> [u8; 4] {
    let resource = resource.to_be_bytes();
    [family, 0, resource[0], resource[1]]
}

impl Transaction {
    /// On a table of the family `inet`, as ours is.
    pub fn new(table: &str) -> Transaction {
        Transaction::in_family(FAMILY_INET, table)
    }

    pub(crate) fn in_family(family: u8, table: &str) -> Transaction {
        let mut batch = Batch::default();
        batch.message(BATCH_BEGIN, 0, &nfgen(0, SUBSYSTEM >> 8), |_| ());
        Transaction { family, table: table.to_owned(), batch }
    }

    pub fn is_empty(&self) -> bool {
        self.batch.len() == 1
    }

    /// What follows is for the table of the same name in another family; all of it is still one transaction.
    pub(crate) fn turn_to(&mut self, family: u8) {
        self.family = family;
    }

    fn message(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        let table = self.table.clone();
        self.batch.message(SUBSYSTEM | kind, flags, &nfgen(self.family, 0), |a| {
            a.text(1, &table);
            fill(a);
        });
    }

    /// Makes the table, or leaves it as it is.
    pub fn table(&mut self) {
        self.message(NEW_TABLE, CREATE, |a| a.be32(2, 0));
    }

    /// The table must exist; [`Transaction::table`] before it in the same transaction sees to that.
    pub fn delete_table(&mut self) {
        self.message(DELETE_TABLE, 0, |_| ());
    }

    pub fn chain(&mut self, name: &str, hook: Option<Hook>) {
        self.message(NEW_CHAIN, CREATE, |a| {
            a.text(3, name);
            if let Some(hook) = hook {
                a.nest(4, |a| {
                    a.be32(1, hook.number);
                    a.be32(2, hook.priority as u32);
                });
                a.be32(5, 1); // accept what no rule decides
                a.text(7, hook.kind);
            }
        });
    }

    /// A forward chain that drops what no rule decides, as a host's firewall may have; for tests.
    #[doc(hidden)]
    pub fn dropping_forward_chain(&mut self, name: &str) {
        self.message(NEW_CHAIN, CREATE, |a| {
            a.text(3, name);
            a.nest(4, |a| {
                a.be32(1, 2);
                a.be32(2, 0);
            });
            a.be32(5, 0);
            a.text(7, "filter");
        });
    }

    /// Removes all rules of a chain.
    pub fn flush_chain(&mut self, name: &str) {
        self.message(DELETE_RULE, 0, |a| a.text(2, name));
    }

    /// Nothing may refer to the chain any more.
    pub fn delete_chain(&mut self, name: &str) {
        self.message(DELETE_CHAIN, 0, |a| a.text(3, name));
    }

    pub fn rule(&mut self, chain: &str, expressions: &[Expression]) {
        self.message(NEW_RULE, CREATE | APPEND, |a| {
            a.text(2, chain);
            a.nest(4, |a| {
                for expression in expressions {
                    a.nest(1, |a| expression.write(a));
                }
            });
        });
    }

    /// In front of the chain's rules, with `user_data` to know it by.
    pub(crate) fn insert_rule(&mut self, chain: &str, expressions: &[Expression], user_data: &[u8]) {
        self.message(NEW_RULE, CREATE, |a| {
            a.text(2, chain);
            a.nest(4, |a| {
                for expression in expressions {
                    a.nest(1, |a| expression.write(a));
                }
            });
            a.bytes(7, user_data);
        });
    }

    pub(crate) fn delete_rule(&mut self, chain: &str, handle: u64) {
        self.message(DELETE_RULE, 0, |a| {
            a.text(2, chain);
            a.bytes(3, &handle.to_be_bytes());
        });
    }

    pub fn set(&mut self, id: u32, set: SetShape<'_>) {
        let (key_type, key_bytes) = shape(set.key);
        let (value_type, value_bytes) = shape(set.value);
        let is_map = !set.value.is_empty();
        self.message(NEW_SET, CREATE, |a| {
            a.text(2, set.name);
            let by_parts = set.interval && set.key.len() > 1;
            let flag = |wanted, bit| if wanted { bit } else { 0 };
            a.be32(3, flag(is_map, 0x08) | flag(set.interval, 0x04) | flag(by_parts, 0x80));
            a.be32(4, key_type);
            a.be32(5, key_bytes);
            if is_map {
                a.be32(6, value_type);
                a.be32(7, if value_type == DataType::Verdict.number() { 16 } else { value_bytes });
            }
            if by_parts {
                // Each part's true length: an interval is one of every part.
                a.nest(9, |a| {
                    a.nest(2, |a| set.key.iter().for_each(|part| a.nest(1, |a| a.be32(1, part.own_bytes()))))
                });
            }
            a.be32(10, id);
            if set.key == [DataType::Interface] {
                // For the `nft` program, which otherwise reads names backwards: type 0 (key byte order),
                // four bytes, 1 (the host's order).
                let mut order = vec![0, 4];
                order.extend_from_slice(&1_u32.to_ne_bytes());
                a.bytes(13, &order);
            }
        });
    }

    pub fn add_elements(&mut self, set: &str, elements: &[Element]) {
        self.elements(NEW_ELEMENT, CREATE, set, elements);
    }

    /// Each must be there.
    pub fn delete_elements(&mut self, set: &str, elements: &[Element]) {
        self.elements(DELETE_ELEMENT, 0, set, elements);
    }

    fn elements(&mut self, kind: u16, flags: u16, set: &str, elements: &[Element]) {
        for some in elements.chunks(ELEMENTS_MAX) {
            self.message(kind, flags, |a| {
                a.text(2, set);
                a.nest(3, |a| {
                    for element in some {
                        a.nest(1, |a| element.write(a, kind == NEW_ELEMENT));
                    }
                });
            });
        }
    }

    /// Hands it to the kernel.
    pub fn commit(mut self, socket: &mut Socket) -> Result<(), NetlinkError> {
        if self.is_empty() {
            return Ok(());
        }
        // Answers to a batch come when all of it is done, in order: one acknowledgement, for the last
        // message, tells that there is no more to come.
        self.batch.acknowledge_last(ACK);
        self.batch.message(BATCH_END, 0, &nfgen(0, SUBSYSTEM >> 8), |_| ());
        socket.run_transaction(self.batch)
    }
}

/// Whether the table is there.
pub(crate) fn table_exists(socket: &mut Socket, family: u8, table: &str) -> Result<bool, NetlinkError> {
    let mut batch = Batch::default();
    batch.message(SUBSYSTEM | GET_TABLE, ACK, &nfgen(family, 0), |a| a.text(1, table));
    match socket.query(batch) {
        Ok(_) => Ok(true),
        Err(error) if error.errno() == Some(rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// All chains of all families.
pub(crate) fn dump_chains(socket: &mut Socket, flags: u16, family: u8) -> Result<Vec<Reply>, NetlinkError> {
    let mut batch = Batch::default();
    batch.message(SUBSYSTEM | GET_CHAIN, flags, &nfgen(family, 0), |_| ());
    socket.query(batch)
}

/// The rules of one chain.
pub(crate) fn dump_rules(
    socket: &mut Socket,
    flags: u16,
    family: u8,
    table: &str,
    chain: &str,
) -> Result<Vec<Reply>, NetlinkError> {
    let mut batch = Batch::default();
    batch.message(SUBSYSTEM | GET_RULE, flags, &nfgen(family, 0), |a| {
        a.text(1, table);
        a.text(2, chain);
    });
    socket.query(batch)
}

/// Whether a notice tells of a chain that came or changed, or of a rule that went.
pub(crate) fn tells_foreign_change(reply: &Reply) -> bool {
    reply.kind == SUBSYSTEM | NEW_CHAIN || reply.kind == SUBSYSTEM | DELETE_RULE
}

/// Whether a notice from the nf_tables group tells that `table` was deleted.
pub(crate) fn tells_deletion(reply: &Reply, table: &str) -> bool {
    let name = || crate::netlink::attributes(reply.payload.get(4..).unwrap_or_default()).find(|a| a.0 == 1);
    reply.kind == SUBSYSTEM | DELETE_TABLE
        && matches!(reply.payload.first(), Some(&FAMILY_INET | &FAMILY_BRIDGE))
        && name().is_some_and(|(_, value)| crate::netlink::text(value) == table)
}

impl Element {
    pub fn key(key: Vec<u8>) -> Element {
        Element { key, value: Value::None, extent: Extent::Key }
    }

    pub fn mapped(key: Vec<u8>, value: Value) -> Element {
        Element { key, value, extent: Extent::Key }
    }

    fn write(&self, a: &mut Attributes<'_>, with_value: bool) {
        a.nest(1, |a| a.bytes(1, &self.key));
        match &self.value {
            Value::Data(bytes) if with_value => a.nest(2, |a| a.bytes(1, bytes)),
            Value::Verdict(verdict) if with_value => a.nest(2, |a| verdict.write(a)),
            _ => (),
        }
        match &self.extent {
            Extent::Key => (),
            Extent::End => a.be32(3, 1),
            Extent::To(last) => a.nest(10, |a| a.bytes(1, last)),
        }
    }
}
