//! Docker's `json-file` record: `{"log":"text\n","stream":"stdout","attrs":{},"time":"..."}` and a newline.
//!
//! Bytes that are not UTF-8 become one `\ufffd` each, and `<`, `>`, `&` are escaped, as Go's encoder does.

use crate::{Record, Stream, time};
use serde::Deserialize;
use std::io::Write as _;

pub(crate) fn encode(time: i64, stream: Stream, text: &[u8], attributes: Option<&str>, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"log":""#);
    for chunk in text.utf8_chunks() {
        chunk.valid().chars().for_each(|c| escape(c, out));
        chunk.invalid().iter().for_each(|_| out.extend_from_slice(br"\ufffd"));
    }
    out.extend_from_slice(match stream {
        Stream::Stdout => br#"","stream":"stdout""#,
        Stream::Stderr => br#"","stream":"stderr""#,
    });
    if let Some(attributes) = attributes {
        out.extend_from_slice(br#","attrs":"#);
        out.extend_from_slice(attributes.as_bytes());
    }
    out.extend_from_slice(br#","time":""#);
    out.extend_from_slice(time::rfc3339_nanos(time).as_bytes());
    out.extend_from_slice(b"\"}\n");
}

fn escape(c: char, out: &mut Vec<u8>) {
    match c {
        '"' => out.extend_from_slice(br#"\""#),
        '\\' => out.extend_from_slice(br"\\"),
        '\n' => out.extend_from_slice(br"\n"),
        '\r' => out.extend_from_slice(br"\r"),
        '\0'..='\u{1f}' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
            write!(out, "\\u{:04x}", u32::from(c)).expect("a vector takes every write");
        }
        c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    log: String,
    #[serde(default)]
    stream: String,
    attrs: Option<serde_json::Value>,
    time: String,
}

/// `None` for a damaged line.
pub(crate) fn decode(line: &[u8]) -> Option<Record> {
    let line: Line = serde_json::from_slice(line).ok()?;
    Some(Record {
        unix_nanos: time::parse(&line.time)?,
        stream: if line.stream == "stderr" { Stream::Stderr } else { Stream::Stdout },
        text: line.log.into_bytes(),
        attributes: line.attrs,
    })
}
