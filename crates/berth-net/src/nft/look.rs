//! What the kernel has: for whoever looks for what an engine left.

use super::{FAMILY_INET, GET_ELEMENT, GET_TABLE, SUBSYSTEM, Transaction, nfgen};
use crate::netlink::{Batch, DUMP, NetlinkError, Socket, attributes, text};
use rustix::io::Errno;

/// What the names of engines' tables begin with.
pub(crate) const ENGINES: &str = "berth_";

/// Families and names of all tables.
pub fn all_tables(socket: &mut Socket) -> Result<Vec<(u8, String)>, NetlinkError> {
    let mut batch = Batch::default();
    batch.message(SUBSYSTEM | GET_TABLE, DUMP, &nfgen(0, 0), |_| ());
    let named = |payload: &[u8]| {
        let name = attributes(payload.get(4..)?).find(|a| a.0 == 1).map(|a| text(a.1))?;
        Some((*payload.first()?, name))
    };
    Ok(socket.query(batch)?.iter().filter_map(|reply| named(&reply.payload)).collect())
}

/// Families in which there is a table called `name`; pass each to [`delete_table`].
pub fn tables(socket: &mut Socket, name: &str) -> Result<Vec<u8>, NetlinkError> {
    Ok(all_tables(socket)?.into_iter().filter(|(_, table)| table == name).map(|(family, _)| family).collect())
}

/// How many elements the set or map has; 0 where there is no such table.
pub fn elements(socket: &mut Socket, table: &str, set: &str) -> Result<usize, NetlinkError> {
    Ok(extents(socket, table, set)?.len())
}

/// First and last key of an element.
pub type KeyExtent = (Vec<u8>, Vec<u8>);

/// Those of all elements of a set or map; none where there is no such table or set.
pub fn extents(socket: &mut Socket, table: &str, set: &str) -> Result<Vec<KeyExtent>, NetlinkError> {
    let mut batch = Batch::default();
    batch.message(SUBSYSTEM | GET_ELEMENT, DUMP, &nfgen(FAMILY_INET, 0), |a| {
        a.text(1, table);
        a.text(2, set);
    });
    let replies = match socket.query(batch) {
        Err(error) if error.errno() == Some(Errno::NOENT) => return Ok(Vec::new()),
        replies => replies?,
    };
    let key = |element: &[u8], kind| {
        let data = attributes(element).find(|a| a.0 == kind)?.1;
        attributes(data).find(|a| a.0 == 1).map(|a| a.1.to_vec())
    };
    let mut all = Vec::new();
    for reply in &replies {
        let lists = attributes(reply.payload.get(4..).unwrap_or_default()).filter(|a| a.0 == 3);
        for (_, element) in lists.flat_map(|(_, list)| attributes(list)) {
            if let Some(first) = key(element, 1) {
                let last = key(element, 10).unwrap_or_else(|| first.clone());
                all.push((first, last));
            }
        }
    }
    Ok(all)
}

/// Removes a table of any family with all that it holds.
pub fn delete_table(socket: &mut Socket, family: u8, name: &str) -> Result<(), NetlinkError> {
    let mut transaction = Transaction::in_family(family, name);
    transaction.delete_table();
    transaction.commit(socket)
}
