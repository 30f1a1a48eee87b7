//! gRPC over HTTP/2 on a connection that is there already.
//!
//! A message is five bytes (compressed or not, length) and itself; a call ends with trailers that carry a [`Status`].
//! Compression is never offered and refused. Dropping a call resets its stream: the other side sees it cancelled.

mod client;
mod server;
mod status;

pub use client::{Channel, Replies, Sending};
pub use hyper::HeaderMap;
pub use server::{Answers, Call, Reply, reply, serve, stream};
pub use status::{Code, Status};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;

/// Longer messages are refused, as BuildKit does.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// How often a connection is asked whether it is still there, and how long it may take to say so.
const PING_SECONDS: u64 = 20;
const PONG_SECONDS: u64 = 30;
/// Messages that wait for a slow reader.
const WAITING_MAX: usize = 16;

/// A message as it goes over the wire.
fn framed<M: prost::Message>(message: &M) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(5 + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    bytes.put(message.encode_to_vec().as_slice());
    bytes.freeze()
}

/// Messages out of a body, and the trailers at its end.
struct Messages<B> {
    body: B,
    buffer: BytesMut,
    trailers: Option<HeaderMap>,
}

impl<B> Messages<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    fn new(body: B) -> Messages<B> {
        Messages { body, buffer: BytesMut::new(), trailers: None }
    }

    /// The next message; `None` at the end.
    async fn next<M: prost::Message + Default>(&mut self) -> Result<Option<M>, Status> {
        loop {
            if let Some(message) = take(&mut self.buffer)? {
                let decoded = M::decode(message);
                return decoded.map(Some).map_err(|cause| Status::internal(format!("a message is damaged: {cause}")));
            }
            match self.body.frame().await {
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Status::internal("a message is cut off")),
                Some(Err(cause)) => {
                    return Err(Status::new(Code::Unavailable, format!("the other side left: {cause}")));
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
            }
        }
    }
}

/// The first message of `buffer`, where it is whole.
fn take(buffer: &mut BytesMut) -> Result<Option<Bytes>, Status> {
    let Some((head, _)) = buffer.split_first_chunk::<5>() else { return Ok(None) };
    if head[0] != 0 {
        return Err(Status::new(Code::Unimplemented, "a message is compressed, which was not agreed on"));
    }
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if length > MESSAGE_BYTES_MAX {
        let text = format!("a message of {length} bytes is larger than {MESSAGE_BYTES_MAX}");
        return Err(Status::new(Code::ResourceExhausted, text));
    }
    if buffer.len() < 5 + length {
        return Ok(None);
    }
    buffer.advance(5);
    Ok(Some(buffer.split_to(length).freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::session::BytesMessage;
    use prost::Message;
    use std::sync::Arc;

    #[test]
    fn messages_come_whole_however_they_are_cut() {
        let wire = framed(&BytesMessage { data: Bytes::from_static(b"hello") });
        let mut buffer = BytesMut::new();
        for byte in &wire[..wire.len() - 1] {
            buffer.put_u8(*byte);
            assert!(take(&mut buffer).unwrap().is_none());
        }
        buffer.put_u8(wire[wire.len() - 1]);
        buffer.put_u8(0);
        let message = BytesMessage::decode(take(&mut buffer).unwrap().unwrap()).unwrap();
        assert_eq!((&message.data[..], buffer.len()), (&b"hello"[..], 1));
    }

    #[test]
    fn a_message_that_is_too_long_or_compressed_is_refused_by_its_head() {
        let mut long = BytesMut::from(&[0, 0xff, 0, 0, 0][..]);
        assert_eq!(take(&mut long).unwrap_err().code, Code::ResourceExhausted);
        let mut packed = BytesMut::from(&[1, 0, 0, 0, 0][..]);
        assert_eq!(take(&mut packed).unwrap_err().code, Code::Unimplemented);
    }

    /// Answers a message with itself; `/fail` with a status.
    async fn echo(mut call: Call) -> Reply {
        match call.path() {
            "/fail" => reply::<BytesMessage>(Err(Status::new(Code::NotFound, "no 50% of ä\nhere"))),
            "/each" => stream(|sender| async move {
                while let Some(message) = call.next::<BytesMessage>().await? {
                    if sender.send(message).await.is_err() {
                        break;
                    }
                }
                Ok(())
            }),
            _ => reply(call.only::<BytesMessage>().await),
        }
    }

    async fn channel() -> Channel {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        tokio::spawn(serve(ours, Arc::new(echo)));
        let (channel, ended) = Channel::open(theirs).await.unwrap();
        tokio::spawn(ended);
        channel
    }

    #[tokio::test]
    async fn a_call_is_answered_or_fails_with_its_status() {
        let channel = channel().await;
        let asked = BytesMessage { data: Bytes::from(vec![7; 3 << 20]) };
        let answer: BytesMessage = channel.call("/x", HeaderMap::new(), &asked).await.unwrap();
        assert!(answer == asked);
        let failed = channel.call::<_, BytesMessage>("/fail", HeaderMap::new(), &asked).await.unwrap_err();
        assert_eq!((failed.code, failed.message.as_str()), (Code::NotFound, "no 50% of ä\nhere"));
    }

    #[tokio::test]
    async fn a_conversation_goes_both_ways_at_once() {
        let (sending, mut replies) = channel().await.converse("/each", HeaderMap::new());
        for number in 0..100u8 {
            sending.send(&BytesMessage { data: Bytes::from(vec![number]) }).await.unwrap();
            let answer: BytesMessage = replies.next().await.unwrap().unwrap();
            assert_eq!(answer.data[0], number);
        }
        drop(sending);
        assert!(replies.next::<BytesMessage>().await.unwrap().is_none());
    }
}
