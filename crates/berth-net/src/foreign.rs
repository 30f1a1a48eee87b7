//! Other people's forward chains.
//!
//! A verdict of ours lets no packet pass a chain that somebody else hung into the same hook: where a host's firewall
//! or another engine made `drop` the policy of forwarding (`iptables -P FORWARD DROP`, as Docker does), nothing
//! would reach a container. [`open`] puts two rules for each of our bridges in front of such chains, and nothing
//! else; what may pass is still decided in our own table. Each carries a comment that says whose it
//! is, so that it is found again, never doubled, and removed with its bridge. Chains with policy
//! `accept` are left alone, and so is every other rule.
//!
//! Rules of `iptables-legacy` cannot be reached this way.

use crate::netlink::{DUMP, NetlinkError, Reply, Socket, attributes, text};
use crate::nft::expr::{self, Expression, MetaKey, Verdict};
use crate::nft::{self, Transaction, look};
use std::collections::BTreeSet;

/// A base chain of somebody else that drops what it does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chain {
    family: u8,
    table: String,
    name: String,
}

const HOOK_FORWARD: u32 = 2;
const POLICY_DROP: u32 = 0;
/// ip, ip6, inet.
const FAMILIES: [u8; 3] = [2, 10, 1];

/// Lets packets from and to `bridges` pass every such chain; `owner` marks our rules. Rules of `owner` for
/// other bridges go. Nothing is sent when all is as it should be. Answers whether something was changed.
pub(crate) fn open(socket: &mut Socket, owner: &str, bridges: &BTreeSet<String>) -> Result<bool, NetlinkError> {
    let mut changed = false;
    for chain in dropping_chains(socket)? {
        let there = own_rules(socket, &chain, owner)?;
        let mut change = Transaction::in_family(chain.family, &chain.table);
        for (handle, mark) in &there {
            if !wanted(owner, bridges).any(|(_, _, wanted)| wanted == *mark) {
                change.delete_rule(&chain.name, *handle);
            }
        }
        for (key, bridge, mark) in wanted(owner, bridges) {
            if !there.iter().any(|(_, have)| *have == mark) {
                let mut rule = expr::interface_is(key, bridge).to_vec();
                rule.push(Expression::Verdict(Verdict::Accept));
                change.insert_rule(&chain.name, &rule, &comment(&mark));
            }
        }
        if !change.is_empty() {
            change.commit(socket)?;
            changed = true;
        }
    }
    Ok(changed)
}

fn wanted<'a>(owner: &'a str, bridges: &'a BTreeSet<String>) -> impl Iterator<Item = (MetaKey, &'a str, String)> {
    bridges.iter().flat_map(move |bridge| {
        [(MetaKey::InputInterface, "from"), (MetaKey::OutputInterface, "to")]
            .map(|(key, word)| (key, bridge.as_str(), format!("{owner} {word} {bridge}")))
    })
}

/// A rule's comment as the `nft` program stores it: type 0, length, text with its zero.
fn comment(mark: &str) -> Vec<u8> {
    let mut bytes = vec![0, u8::try_from(mark.len() + 1).unwrap_or(u8::MAX)];
    bytes.extend_from_slice(mark.as_bytes());
    bytes.push(0);
    bytes
}

fn be32(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

fn dropping_chains(socket: &mut Socket) -> Result<Vec<Chain>, NetlinkError> {
    // Only of families in which somebody else has a table: engines' own hold a few chains for each of a thousand networks.
    let others: BTreeSet<u8> = look::all_tables(socket)?
        .into_iter()
        .filter(|(_, table)| !table.starts_with(look::ENGINES))
        .map(|(family, _)| family)
        .collect();
    let mut chains = Vec::new();
    for family in FAMILIES.into_iter().filter(|family| others.contains(family)) {
        chains.extend(nft::dump_chains(socket, DUMP, family)?.iter().filter_map(parse_chain));
    }
    Ok(chains)
}

fn parse_chain(reply: &Reply) -> Option<Chain> {
    let family = *reply.payload.first()?;
    let find = |wanted| attributes(reply.payload.get(4..)?).find(|a| a.0 == wanted).map(|a| a.1);
    let hook = attributes(find(4)?).find(|a| a.0 == 1).and_then(|a| be32(a.1))?;
    let policy = be32(find(5)?)?;
    let filters = find(7).is_some_and(|kind| text(kind) == "filter");
    (FAMILIES.contains(&family) && hook == HOOK_FORWARD && policy == POLICY_DROP && filters).then_some(Chain {
        family,
        table: text(find(1)?),
        name: text(find(3)?),
    })
}

/// Handles and marks of our rules in a chain.
fn own_rules(socket: &mut Socket, chain: &Chain, owner: &str) -> Result<Vec<(u64, String)>, NetlinkError> {
    let replies = nft::dump_rules(socket, DUMP, chain.family, &chain.table, &chain.name)?;
    let parse = |reply: &Reply| {
        let find = |wanted| attributes(reply.payload.get(4..)?).find(|a| a.0 == wanted).map(|a| a.1);
        let handle = u64::from_be_bytes(find(3)?.try_into().ok()?);
        let mark = text(find(7)?.get(2..)?);
        (text(find(2)?) == chain.name && mark.starts_with(&format!("{owner} "))).then_some((handle, mark))
    };
    Ok(replies.iter().filter_map(parse).collect())
}
