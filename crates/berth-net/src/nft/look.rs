//! What the kernel has: for whoever looks for what an engine left.

use super::{FAMILY_INET, GET_ELEMENT, GET_TABLE, SUBSYSTEM, Transaction, nfgen};
use crate::netlink::{Batch, DUMP, NetlinkError, Socket, attributes, text};
use rustix::io::Errno;

/// Families in which there is a table called `name`; pass each to [`delete_table`].
pub fn tables(socket: &mut Socket, name: &str) -> Result<Vec<u8>, NetlinkError> {
    let mut batch = Batch::default();
    batch.message(SUBSYSTEM | GET_TABLE, DUMP, &nfgen(0, 0), |_| ());
    let replies = socket.query(batch)?;
    let called = |payload: &[u8]| attributes(payload.get(4..)?).find(|a| a.0 == 1).map(|a| text(a.1));
    let ours = replies.iter().filter(|reply| called(&reply.payload).as_deref() == Some(name));
    Ok(ours.filter_map(|reply| reply.payload.first().copied()).collect())
}

/// How many elements the set or map has; 0 where there is no such table.
pub fn elements(socket: &mut Socket, table: &str, set: &str) -> Result<usize, NetlinkError> {
    let mut batch = Batch::default();
    batch.message(SUBSYSTEM | GET_ELEMENT, DUMP, &nfgen(FAMILY_INET, 0), |a| {
        a.text(1, table);
        a.text(2, set);
    });
    let replies = match socket.query(batch) {
        Err(error) if error.errno() == Some(Errno::NOENT) => return Ok(0),
        replies => replies?,
    };
    let list = |payload| attributes(payload).find(|a| a.0 == 3).map_or(0, |a| attributes(a.1).count());
    Ok(replies.iter().map(|reply| list(reply.payload.get(4..).unwrap_or_default())).sum())
}

/// Removes a table of any family with all that it holds.
pub fn delete_table(socket: &mut Socket, family: u8, name: &str) -> Result<(), NetlinkError> {
    let mut transaction = Transaction::in_family(family, name);
    transaction.delete_table();
    transaction.commit(socket)
}
