//! How a call ended.

use crate::proto::{Any, RpcStatus};
use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use hyper::HeaderMap;
use hyper::header::HeaderValue;
use prost::Message;

/// Longer texts are cut: they travel in a header.
const TEXT_BYTES_MAX: usize = 32 << 10;

/// Binary headers come with padding or without it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_encode_padding(false).with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// gRPC's codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    const ALL: [Code; 17] = [
        Code::Ok,
        Code::Cancelled,
        Code::Unknown,
        Code::InvalidArgument,
        Code::DeadlineExceeded,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::Aborted,
        Code::OutOfRange,
        Code::Unimplemented,
        Code::Internal,
        Code::Unavailable,
        Code::DataLoss,
        Code::Unauthenticated,
    ];

    pub fn from_number(number: i32) -> Code {
        usize::try_from(number).ok().and_then(|at| Code::ALL.get(at).copied()).unwrap_or(Code::Unknown)
    }
}

/// A call that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub code: Code,
    pub message: String,
    pub details: Vec<Any>,
}

impl Status {
    pub fn new(code: Code, message: impl Into<String>) -> Status {
        Status { code, message: message.into(), details: Vec::new() }
    }

    pub fn internal(message: impl Into<String>) -> Status {
        Status::new(Code::Internal, message)
    }

    /// As a client hands it back to us.
    pub fn from_rpc(status: RpcStatus) -> Status {
        Status { code: Code::from_number(status.code), message: status.message, details: status.details }
    }

    pub(super) fn trailers(outcome: Result<(), Status>) -> HeaderMap {
        let mut map = HeaderMap::new();
        let Err(mut status) = outcome else {
            map.insert("grpc-status", HeaderValue::from_static("0"));
            return map;
        };
        if status.message.len() > TEXT_BYTES_MAX {
            let end = (0..=TEXT_BYTES_MAX).rev().find(|at| status.message.is_char_boundary(*at)).unwrap_or(0);
            status.message.truncate(end);
        }
        map.insert("grpc-status", HeaderValue::from(status.code as i32));
        if let Ok(text) = HeaderValue::from_str(&escaped(&status.message)) {
            map.insert("grpc-message", text);
        }
        if !status.details.is_empty() {
            let whole = RpcStatus { code: status.code as i32, message: status.message, details: status.details };
            if let Ok(text) = HeaderValue::from_str(&BASE64.encode(whole.encode_to_vec())) {
                map.insert("grpc-status-details-bin", text);
            }
        }
        map
    }

    /// What trailers, or the head of an answer without a body, say.
    pub(super) fn read(map: &HeaderMap) -> Result<(), Status> {
        let text = |name| map.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let Some(code) = text("grpc-status") else {
            return Err(Status::new(Code::Unavailable, "the other side left without an answer"));
        };
        let code = code.parse().map_or(Code::Unknown, Code::from_number);
        if code == Code::Ok {
            return Ok(());
        }
        let details = text("grpc-status-details-bin").and_then(|text| BASE64.decode(text).ok());
        let whole = details.and_then(|bytes| RpcStatus::decode(bytes.as_slice()).ok()).unwrap_or_default();
        Err(Status { code, message: unescaped(text("grpc-message").unwrap_or_default()), details: whole.details })
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' => out.push_str("%25"),
            0x20..=0x7e => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

fn unescaped(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match (first, code.and_then(|two| u8::from_str_radix(two, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                rest = &after[2..];
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_comes_back_with_its_details() {
        let details = vec![Any { type_url: "a/b".to_owned(), value: vec![1, 2, 3] }];
        let status = Status { code: Code::Unknown, message: "100% ö\nb".to_owned(), details };
        assert_eq!(Status::read(&Status::trailers(Err(status.clone()))), Err(status));
        assert_eq!(Status::read(&Status::trailers(Ok(()))), Ok(()));
        assert_eq!(Status::read(&HeaderMap::new()).unwrap_err().code, Code::Unavailable);
    }

    #[test]
    fn broken_escapes_are_kept_and_long_texts_cut() {
        assert_eq!(unescaped("a%zz%4"), "a%zz%4");
        let long = Status::new(Code::Unknown, "ä".repeat(TEXT_BYTES_MAX));
        let read = Status::read(&Status::trailers(Err(long))).unwrap_err();
        assert!(read.message.len() <= TEXT_BYTES_MAX && read.message.ends_with('ä'));
    }
}
