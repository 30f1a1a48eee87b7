//! Messages, by BuildKit's field numbers. A `oneof` is a number of optional fields here: on the wire it is the same.

pub mod control;
pub mod errdefs;
pub mod fsutil;
pub mod gateway;
pub mod session;

/// `google.protobuf.Timestamp`
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Timestamp {
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl Timestamp {
    pub fn from_unix_nanos(nanos: i64) -> Timestamp {
        let part = nanos.rem_euclid(1_000_000_000);
        Timestamp { seconds: nanos.div_euclid(1_000_000_000), nanos: i32::try_from(part).unwrap_or(0) }
    }
}

/// `google.protobuf.Any`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Any {
    #[prost(string, tag = "1")]
    pub type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// `google.rpc.Status`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RpcStatus {
    #[prost(int32, tag = "1")]
    pub code: i32,
    #[prost(string, tag = "2")]
    pub message: String,
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<Any>,
}

/// Nothing: the answer of calls that only say that they are done.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Empty {}

/// `grpc.health.v1.HealthCheckResponse`
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct HealthResponse {
    #[prost(int32, tag = "1")]
    pub status: i32,
}

impl HealthResponse {
    pub const SERVING: i32 = 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch_count_forwards_in_their_second() {
        assert_eq!(Timestamp::from_unix_nanos(-1), Timestamp { seconds: -1, nanos: 999_999_999 });
        assert_eq!(Timestamp::from_unix_nanos(1_500_000_000), Timestamp { seconds: 1, nanos: 500_000_000 });
    }
}
