//! A blob as it arrives, resumed where the connection broke.
//!
//! ```text
//! GET ────── bytes 0..n ── cut ── GET Range: bytes=n- ── 206: go on          never a byte twice
//!                                                     ── 200: skip n bytes   the registry knows no ranges
//! ```
//!
//! Never more bytes than the descriptor says are passed on, and the end comes exactly there. Whether they are the right
//! ones is for whoever stores them: they hash them anyway.

use crate::client::{Repository, Sources};
use crate::http::{Answer, Call};
use crate::retry::Tries;
use crate::{Descriptor, RegistryError};
use bytes::Bytes;
use hyper::header;
use hyper::{Method, StatusCode};
use std::time::Duration;

/// A connection that brings fewer bytes than this made no progress.
const PROGRESS_BYTES: u64 = 32 << 10;
/// Before going on after a cut that came with progress.
const SHORT_PAUSE: Duration = Duration::from_millis(50);

/// The bytes of one blob in their order.
pub struct BlobReader {
    repository: Repository,
    descriptor: Descriptor,
    /// Bytes passed on, those that the caller had already counted.
    position: u64,
    answer: Option<Answer>,
    /// Bytes to drop of an answer that began at 0.
    skip: u64,
    endpoint: usize,
    sources: Sources,
    tries: Tries,
    began_at: u64,
}

impl Repository {
    /// Reads a blob from `offset` on.
    pub fn blob(&self, descriptor: &Descriptor, offset: u64) -> BlobReader {
        BlobReader {
            repository: self.clone(),
            descriptor: descriptor.clone(),
            position: offset.min(descriptor.size),
            answer: None,
            skip: 0,
            endpoint: 0,
            sources: Sources::default(),
            tries: self.tries(),
            began_at: offset,
        }
    }
}

impl BlobReader {
    /// Where the next bytes belong.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// How many are still to come.
    pub fn left(&self) -> u64 {
        self.descriptor.size - self.position
    }

    /// Where its bytes came from so far.
    pub fn sources(&self) -> Sources {
        self.sources.clone()
    }

    /// Whether a mirror gave some of them, so that they may be better elsewhere.
    pub fn is_of_mirror(&self) -> bool {
        self.sources.0.iter().any(|&endpoint| self.repository.endpoints[endpoint].mirror)
    }

    /// The next bytes, never empty; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            if self.position == self.descriptor.size && self.answer.is_none() {
                return Ok(None);
            }
            match self.step().await {
                Ok(Some(bytes)) if bytes.is_empty() => {}
                Ok(other) => return Ok(other),
                Err(cause) => {
                    self.answer = None;
                    self.recover(cause).await?;
                }
            }
        }
    }

    async fn step(&mut self) -> Result<Option<Bytes>, RegistryError> {
        if self.answer.is_none() {
            self.open().await?;
        }
        let Some(answer) = &mut self.answer else { return Ok(None) };
        match answer.chunk().await? {
            Some(mut chunk) => {
                let dropped = self.skip.min(chunk.len() as u64);
                self.skip -= dropped;
                drop(chunk.split_to(usize::try_from(dropped).expect("at most the chunk's length")));
                if chunk.len() as u64 > self.descriptor.size - self.position {
                    return Err(self.damaged(format!("more than the {} bytes of its descriptor", self.descriptor.size)));
                }
                self.position += chunk.len() as u64;
                if !chunk.is_empty() && self.sources.0.last() != Some(&self.endpoint) {
                    self.sources.0.push(self.endpoint);
                }
                Ok(Some(chunk))
            }
            None if self.position == self.descriptor.size => {
                self.answer = None;
                Ok(None)
            }
            None => {
                let why = format!("it ended after {} of {} bytes", self.position, self.descriptor.size);
                let cause = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, why);
                Err(RegistryError::Broken { host: self.host(), cause })
            }
        }
    }

    fn host(&self) -> String {
        self.repository.endpoints[self.endpoint].host().to_owned()
    }

    fn damaged(&self, why: String) -> RegistryError {
        RegistryError::Damaged { host: self.host(), what: format!("blob {}", self.descriptor.digest.short()), why }
    }

    async fn open(&mut self) -> Result<(), RegistryError> {
        let last = self.repository.endpoints.len() - 1;
        while self.endpoint < last && self.repository.skips(self.endpoint) {
            self.endpoint += 1;
        }
        let (repository, digest, position) = (&self.repository, self.descriptor.digest, self.position);
        let answer = repository
            .once(&repository.endpoints[self.endpoint], &|base| {
                let call = Call::new(Method::GET, repository.uri(base, &format!("/blobs/{digest}"))?)
                    // What a proxy in between would compress is not what the digest is of.
                    .with(header::ACCEPT_ENCODING, "identity");
                Ok(if position > 0 { call.with(header::RANGE, &format!("bytes={position}-")) } else { call })
            })
            .await?;
        let size = self.descriptor.size;
        let rest = match (answer.status, position) {
            (StatusCode::PARTIAL_CONTENT, 1..) => {
                let range = answer.header(&header::CONTENT_RANGE).unwrap_or_default().to_owned();
                let Some((from, of)) = content_range(&range) else {
                    return Err(self.damaged(format!("an answer with the range {range:?}")));
                };
                if from != position || of.is_some_and(|of| of != size) {
                    return Err(self.damaged(format!("bytes {range} instead of {position}-{}/{size}", size.max(1) - 1)));
                }
                self.skip = 0;
                size - position
            }
            (StatusCode::OK, _) => {
                self.skip = position;
                size
            }
            (status, _) => return Err(self.damaged(format!("an answer with status {status}"))),
        };
        if let Some(length) = answer.length()
            && length != rest
        {
            return Err(self.damaged(format!("{length} bytes where its descriptor says {rest}")));
        }
        self.answer = Some(answer);
        Ok(())
    }

    /// Waits, or goes on to the next endpoint, or gives up.
    async fn recover(&mut self, cause: RegistryError) -> Result<(), RegistryError> {
        let last = self.repository.endpoints.len() - 1;
        let progress = self.position - self.began_at;
        self.began_at = self.position;
        if cause.is_transient() && progress >= PROGRESS_BYTES {
            tracing::debug!(digest = %self.descriptor.digest, position = self.position, %cause, "a blob is resumed");
            self.tries.refill();
            tokio::time::sleep(SHORT_PAUSE).await;
            return Ok(());
        }
        if self.endpoint < last {
            self.repository.skip(self.endpoint, &cause);
            self.endpoint += 1;
            self.tries.refill();
            return Ok(());
        }
        let BlobReader { repository, tries, .. } = self;
        repository.again(tries, cause).await
    }
}

/// `bytes 5-9/10` -> (5, Some(10))
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, of) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (from, _) = range.split_once('-')?;
    let of = if of == "*" { None } else { Some(of.trim().parse().ok()?) };
    Some((from.trim().parse().ok()?, of))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for bad in ["", "bytes", "bytes 5/10", "items 1-2/3", "bytes -1-2/x"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
