//! DNS messages (RFC 1035, 6891): queries read, local answers written, foreign answers aged.
//!
//! Everything here takes bytes of strangers: bounded, no recursion, no panic.

use std::net::IpAddr;

pub const HEADER_BYTES: usize = 12;
/// RFC 1035, 2.3.4.
pub const NAME_BYTES_MAX: usize = 255;
const LABEL_BYTES_MAX: usize = 63;
/// What every resolver takes over UDP (RFC 1035, 2.3.4).
pub const UDP_BYTES_MIN: usize = 512;
/// The largest answer we send over UDP, whatever the client says: past it packets are split on common paths.
pub const UDP_BYTES_MAX: usize = 1232;
/// Records that we look at in a message; RFC limits none, and nobody's answer has more.
const RECORDS_MAX: usize = 4096;

pub const TYPE_A: u16 = 1;
pub const TYPE_PTR: u16 = 12;
pub const TYPE_SOA: u16 = 6;
pub const TYPE_AAAA: u16 = 28;
pub const TYPE_OPT: u16 = 41;
pub const TYPE_ANY: u16 = 255;
pub const CLASS_IN: u16 = 1;

pub const RCODE_OK: u8 = 0;
pub const RCODE_FORMAT: u8 = 1;
pub const RCODE_FAILURE: u8 = 2;
pub const RCODE_NO_NAME: u8 = 3;
pub const RCODE_NOT_IMPLEMENTED: u8 = 4;

/// Seconds that a local answer may be kept: short, since containers come and go.
const LOCAL_TTL_SECONDS: u32 = 5;

/// A question, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    pub id: u16,
    pub flags: u16,
    /// The question's bytes as they came.
    pub question: Vec<u8>,
    /// In lower case, without the final dot. `None`: bytes that no name of ours has.
    pub name: Option<String>,
    pub kind: u16,
    pub class: u16,
    /// How much the client takes over UDP.
    pub udp_bytes: usize,
    pub has_opt: bool,
    pub dnssec: bool,
}

/// What to do with bytes that are no question for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// No answer: not a query, or too short to answer.
    Ignore,
    /// An answer with this code and nothing else.
    Refuse(u8),
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

impl Query {
    pub fn parse(bytes: &[u8]) -> Result<Query, Unreadable> {
        let (Some(id), Some(flags)) = (u16_at(bytes, 0), u16_at(bytes, 2)) else { return Err(Unreadable::Ignore) };
        // An answer, and never one to an answer: two servers would talk for ever.
        if bytes.len() < HEADER_BYTES || flags & 0x8000 != 0 {
            return Err(Unreadable::Ignore);
        }
        if flags & 0x7800 != 0 {
            return Err(Unreadable::Refuse(RCODE_NOT_IMPLEMENTED));
        }
        let malformed = Unreadable::Refuse(RCODE_FORMAT);
        if u16_at(bytes, 4) != Some(1) {
            return Err(malformed);
        }
        let (name, name_end) = question_name(bytes).ok_or(malformed)?;
        let kind = u16_at(bytes, name_end).ok_or(malformed)?;
        let class = u16_at(bytes, name_end + 2).ok_or(malformed)?;
        let question_end = name_end + 4;
        let mut query = Query {
            id,
            flags,
            question: bytes[HEADER_BYTES..question_end].to_vec(),
            name,
            kind,
            class,
            udp_bytes: UDP_BYTES_MIN,
            has_opt: false,
            dnssec: false,
        };
        for record in Records::after_question(bytes, question_end) {
            let record = record.ok_or(malformed)?;
            if record.kind == TYPE_OPT {
                query.has_opt = true;
                query.udp_bytes = usize::from(record.class).clamp(UDP_BYTES_MIN, UDP_BYTES_MAX);
                query.dnssec = record.ttl & 0x8000 != 0;
            }
        }
        Ok(query)
    }

    /// The same question in any letters, and what else changes the answer.
    pub fn key(&self) -> Vec<u8> {
        let mut key = self.question.to_ascii_lowercase();
        // Checking disabled (RFC 4035), DNSSEC wanted, EDNS spoken.
        key.push((self.flags & 0x10) as u8 | u8::from(self.dnssec) | u8::from(self.has_opt) << 1);
        key
    }

    fn header(&self, code: u8, authoritative: bool, truncated: bool, counts: [u16; 4]) -> Vec<u8> {
        let mut flags = 0x8080 | self.flags & 0x0110 | u16::from(code);
        if authoritative {
            flags |= 0x0400;
        }
        if truncated {
            flags |= 0x0200;
        }
        let mut bytes = Vec::with_capacity(UDP_BYTES_MIN);
        bytes.extend_from_slice(&self.id.to_be_bytes());
        bytes.extend_from_slice(&flags.to_be_bytes());
        for count in counts {
            bytes.extend_from_slice(&count.to_be_bytes());
        }
        bytes.extend_from_slice(&self.question);
        bytes
    }

    fn opt(&self, bytes: &mut Vec<u8>) {
        if self.has_opt {
            // Root name, type, our UDP size, no extended code, version 0, no flags, no options.
            bytes.extend_from_slice(&[0, 0, TYPE_OPT as u8]);
            bytes.extend_from_slice(&(UDP_BYTES_MAX as u16).to_be_bytes());
            bytes.extend_from_slice(&[0, 0, 0, 0, 0, 0]);
        }
    }

    /// A code and no records.
    pub fn failure(&self, code: u8) -> Vec<u8> {
        let mut bytes = self.header(code, false, false, [1, 0, 0, u16::from(self.has_opt)]);
        self.opt(&mut bytes);
        bytes
    }

    /// Addresses of the asked kind, as many as fit into `limit` bytes.
    pub fn addresses(&self, addresses: &[IpAddr], limit: usize) -> Vec<u8> {
        let wanted = addresses.iter().filter(|address| match address {
            IpAddr::V4(_) => matches!(self.kind, TYPE_A | TYPE_ANY),
            IpAddr::V6(_) => matches!(self.kind, TYPE_AAAA | TYPE_ANY),
        });
        let records: Vec<(u16, Vec<u8>)> = wanted
            .map(|address| match address {
                IpAddr::V4(address) => (TYPE_A, address.octets().to_vec()),
                IpAddr::V6(address) => (TYPE_AAAA, address.octets().to_vec()),
            })
            .collect();
        self.local(&records, limit)
    }

    /// Names for an address.
    pub fn names(&self, names: &[String], limit: usize) -> Vec<u8> {
        let records: Vec<(u16, Vec<u8>)> =
            names.iter().filter_map(|name| encode_name(name)).map(|name| (TYPE_PTR, name)).collect();
        self.local(&records, limit)
    }

    fn local(&self, records: &[(u16, Vec<u8>)], limit: usize) -> Vec<u8> {
        let opt_bytes = if self.has_opt { 11 } else { 0 };
        let mut room = limit.saturating_sub(HEADER_BYTES + self.question.len() + opt_bytes);
        let fits = records.iter().take(usize::from(u16::MAX)).take_while(|(_, data)| {
            let bytes = 12 + data.len();
            let fits = bytes <= room;
            room = room.saturating_sub(bytes);
            fits
        });
        let count = fits.count();
        let counts = [1, count as u16, 0, u16::from(self.has_opt)];
        let mut bytes = self.header(RCODE_OK, true, count < records.len(), counts);
        for (kind, data) in &records[..count] {
            // The name is the question's: a pointer to right behind the header.
            bytes.extend_from_slice(&[0xc0, HEADER_BYTES as u8]);
            bytes.extend_from_slice(&kind.to_be_bytes());
            bytes.extend_from_slice(&CLASS_IN.to_be_bytes());
            bytes.extend_from_slice(&LOCAL_TTL_SECONDS.to_be_bytes());
            bytes.extend_from_slice(&(data.len() as u16).to_be_bytes());
            bytes.extend_from_slice(data);
        }
        self.opt(&mut bytes);
        bytes
    }

    /// A foreign answer made this query's: its id, its letters, `age_seconds` taken off what may be kept. Past
    /// `limit` only the head goes out, marked as cut.
    pub fn adapt(&self, answer: &[u8], age_seconds: u32, limit: usize) -> Vec<u8> {
        let question_end = HEADER_BYTES + self.question.len();
        if answer.len() > limit || answer.len() < question_end {
            let code = answer.get(3).map_or(RCODE_FAILURE, |byte| byte & 0x0f);
            let mut bytes = self.header(code, false, true, [1, 0, 0, u16::from(self.has_opt)]);
            self.opt(&mut bytes);
            return bytes;
        }
        let mut bytes = answer.to_vec();
        bytes[..2].copy_from_slice(&self.id.to_be_bytes());
        bytes[HEADER_BYTES..question_end].copy_from_slice(&self.question);
        if age_seconds > 0 {
            let times: Vec<(usize, u32)> = Records::after_question(answer, question_end)
                .map_while(|record| record)
                .filter(|record| record.kind != TYPE_OPT)
                .map(|record| (record.ttl_at, record.ttl))
                .collect();
            for (at, ttl) in times {
                bytes[at..at + 4].copy_from_slice(&ttl.saturating_sub(age_seconds).to_be_bytes());
            }
        }
        bytes
    }
}

/// A refusal of something that could not be read: its id and this code.
pub fn bare_refusal(bytes: &[u8], code: u8) -> Option<Vec<u8>> {
    let mut answer = vec![0; HEADER_BYTES];
    answer[..2].copy_from_slice(bytes.get(..2)?);
    answer[2] = 0x80 | bytes.get(2)? & 0x79;
    answer[3] = 0x80 | code;
    Some(answer)
}

/// The question's name and where it ends. Questions hold no pointers: there is nothing before them.
fn question_name(bytes: &[u8]) -> Option<(Option<String>, usize)> {
    let mut name = String::new();
    let (mut at, mut readable) = (HEADER_BYTES, true);
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        let label = bytes.get(at..at + length).filter(|_| length <= LABEL_BYTES_MAX)?;
        at += length;
        if at - HEADER_BYTES >= NAME_BYTES_MAX {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        for &byte in label {
            readable &= byte.is_ascii_graphic() && byte != b'.';
            name.push(char::from(byte.to_ascii_lowercase()));
        }
    }
    Some((readable.then_some(name), at))
}

/// A name as labels; `None` where a label would be empty or too long.
fn encode_name(name: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        if label.is_empty() || label.len() > LABEL_BYTES_MAX {
            return None;
        }
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    (bytes.len() <= NAME_BYTES_MAX).then_some(bytes)
}

/// The address that a reverse name asks for.
pub fn reverse_address(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = [0_u8; 4];
        let mut parts = digits.split('.').rev();
        for octet in &mut octets {
            *octet = parts.next()?.parse().ok()?;
        }
        return parts.next().is_none().then_some(IpAddr::from(octets));
    }
    let digits = name.strip_suffix(".ip6.arpa")?;
    let mut octets = [0_u8; 16];
    let mut parts = digits.split('.').rev();
    for octet in &mut octets {
        for _ in 0..2 {
            let part = parts.next().filter(|part| part.len() == 1)?;
            *octet = *octet << 4 | u8::from_str_radix(part, 16).ok()?;
        }
    }
    parts.next().is_none().then_some(IpAddr::from(octets))
}

/// A record's fixed part.
#[derive(Debug, Clone, Copy)]
struct Record {
    kind: u16,
    class: u16,
    ttl: u32,
    ttl_at: usize,
    data_at: usize,
    data_bytes: usize,
}

/// The records behind the question; `None` once, where they are damaged.
struct Records<'a> {
    bytes: &'a [u8],
    at: usize,
    left: usize,
}

impl<'a> Records<'a> {
    fn after_question(bytes: &'a [u8], question_end: usize) -> Records<'a> {
        let count = |at| usize::from(u16_at(bytes, at).unwrap_or(0));
        Records { bytes, at: question_end, left: (count(6) + count(8) + count(10)).min(RECORDS_MAX) }
    }

    fn read(&mut self) -> Option<Record> {
        let fixed = skip_name(self.bytes, self.at)?;
        let data_at = fixed + 10;
        let data_bytes = usize::from(u16_at(self.bytes, fixed + 8)?);
        self.at = data_at + data_bytes;
        (self.at <= self.bytes.len()).then_some(())?;
        Some(Record {
            kind: u16_at(self.bytes, fixed)?,
            class: u16_at(self.bytes, fixed + 2)?,
            ttl: u32_at(self.bytes, fixed + 4)?,
            ttl_at: fixed + 4,
            data_at,
            data_bytes,
        })
    }
}

impl Iterator for Records<'_> {
    type Item = Option<Record>;

    fn next(&mut self) -> Option<Option<Record>> {
        self.left = self.left.checked_sub(1)?;
        let record = self.read();
        if record.is_none() {
            self.left = 0;
        }
        Some(record)
    }
}

/// Where the name at `at` ends: labels, then a zero or a pointer.
fn skip_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    for _ in 0..NAME_BYTES_MAX {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            length if length >= 0xc0 => return Some(at + 2),
            length if usize::from(length) <= LABEL_BYTES_MAX => at += 1 + usize::from(length),
            _ => return None,
        }
    }
    None
}

/// What matters of an answer from upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    pub code: u8,
    pub truncated: bool,
    /// How long it may be kept; 0: not at all.
    pub ttl_seconds: u32,
}

/// Names that are not there are asked for again after so long at most (RFC 2308, 5).
const NEGATIVE_SECONDS_MAX: u32 = 300;
const TTL_SECONDS_MAX: u32 = 3600;

/// Reads an answer to `query` that was sent under `id`; `None` when it is none.
pub fn read_answer(query: &Query, id: u16, bytes: &[u8]) -> Option<Answer> {
    let flags = u16_at(bytes, 2)?;
    if u16_at(bytes, 0)? != id || flags & 0x8000 == 0 {
        return None;
    }
    let code = (flags & 0x0f) as u8;
    let question_end = HEADER_BYTES + query.question.len();
    let question = bytes.get(HEADER_BYTES..question_end);
    if question.is_none() && matches!(code, RCODE_FORMAT | RCODE_NOT_IMPLEMENTED | RCODE_FAILURE) {
        // Such servers send the header alone.
        return Some(Answer { code: RCODE_FAILURE, truncated: false, ttl_seconds: 0 });
    }
    if u16_at(bytes, 4)? != 1 || !question?.eq_ignore_ascii_case(&query.question) {
        return None;
    }
    let (mut least, mut negative) = (TTL_SECONDS_MAX, None);
    for record in Records::after_question(bytes, question_end) {
        let record = record?;
        match record.kind {
            TYPE_OPT => continue,
            // The last of its five numbers is how long names that are not there stay so.
            TYPE_SOA if record.data_bytes >= 20 => {
                let minimum = u32_at(bytes, record.data_at + record.data_bytes - 4)?;
                negative = Some(record.ttl.min(minimum).min(NEGATIVE_SECONDS_MAX));
            }
            _ => least = least.min(record.ttl),
        }
    }
    let has_answers = u16_at(bytes, 6)? > 0;
    let ttl_seconds = match code {
        RCODE_OK if has_answers => least,
        RCODE_OK | RCODE_NO_NAME => negative.unwrap_or(0),
        _ => 0,
    };
    let truncated = flags & 0x0200 != 0;
    Some(Answer { code, truncated, ttl_seconds: if truncated { 0 } else { ttl_seconds } })
}

/// `query`'s bytes with another id.
pub fn with_id(query: &[u8], id: u16) -> Vec<u8> {
    let mut bytes = query.to_vec();
    if let Some(place) = bytes.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests;
