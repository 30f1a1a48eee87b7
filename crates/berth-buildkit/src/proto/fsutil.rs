//! A folder as packets.
//!
//! ```text
//!  sender                                     receiver
//!  STAT a file or folder, in order of names
//!  ...                                        REQ n: the content of the n-th STAT
//!  STAT without a file: no more of them       ...
//!  DATA n bytes, DATA n "": its end
//!                                             FIN: no more requests
//!  FIN
//! ```
//! `ERR` with a text, from either, ends it.

use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum PacketType {
    Stat = 0,
    Req = 1,
    Data = 2,
    Fin = 3,
    Err = 4,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Packet {
    #[prost(enumeration = "PacketType", tag = "1")]
    pub kind: i32,
    #[prost(message, optional, tag = "2")]
    pub stat: Option<Stat>,
    #[prost(uint32, tag = "3")]
    pub id: u32,
    #[prost(bytes = "bytes", tag = "4")]
    pub data: bytes::Bytes,
}

impl Packet {
    pub fn new(kind: PacketType) -> Packet {
        Packet { kind: kind.into(), ..Packet::default() }
    }

    pub fn request(id: u32) -> Packet {
        Packet { id, ..Packet::new(PacketType::Req) }
    }

    pub fn data(id: u32, data: bytes::Bytes) -> Packet {
        Packet { id, data, ..Packet::new(PacketType::Data) }
    }
}

/// `mode` has Go's bits: see [`crate::stat`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Stat {
    #[prost(string, tag = "1")]
    pub path: String,
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    #[prost(uint32, tag = "3")]
    pub uid: u32,
    #[prost(uint32, tag = "4")]
    pub gid: u32,
    #[prost(int64, tag = "5")]
    pub size: i64,
    #[prost(int64, tag = "6")]
    pub mtime_nanos: i64,
    /// Where a symbolic link points; of a file: the earlier file that it is too (a hard link).
    #[prost(string, tag = "7")]
    pub linkname: String,
    #[prost(int64, tag = "8")]
    pub devmajor: i64,
    #[prost(int64, tag = "9")]
    pub devminor: i64,
    #[prost(btree_map = "string, bytes", tag = "10")]
    pub xattrs: BTreeMap<String, Vec<u8>>,
}
