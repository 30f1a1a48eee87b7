//! Frames in and out of byte buffers, for blocking, non-blocking and async sockets alike.

use crate::FRAME_BYTES_MAX;
use serde::{Serialize, de::DeserializeOwned};

const LENGTH_BYTES: usize = 4;

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("message of {0} bytes is larger than the limit of {FRAME_BYTES_MAX}")]
    TooLarge(usize),
    #[error("message is not what this version understands")]
    Malformed(#[source] serde_json::Error),
}

/// Appends `message` as one frame to `out`; leaves `out` as it was on an error.
pub fn encode<T: Serialize>(message: &T, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    let written = serde_json::to_writer(&mut *out, message).map_err(FrameError::Malformed);
    let length = out.len() - start - LENGTH_BYTES;
    let fits = if length <= FRAME_BYTES_MAX { Ok(()) } else { Err(FrameError::TooLarge(length)) };
    if let Err(error) = written.and(fits) {
        out.truncate(start);
        return Err(error);
    }
    out[start..start + LENGTH_BYTES].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(())
}

/// Takes the first whole frame off the front of `buffer`; `None` while it is incomplete.
pub fn decode<T: DeserializeOwned>(buffer: &mut Vec<u8>) -> Result<Option<T>, FrameError> {
    let Some(length) = buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let length = u32::from_le_bytes(*length) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLarge(length));
    }
    let Some(body) = buffer.get(LENGTH_BYTES..LENGTH_BYTES + length) else { return Ok(None) };
    let message = serde_json::from_slice(body).map_err(FrameError::Malformed)?;
    buffer.drain(..LENGTH_BYTES + length);
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Body, Request};

    #[test]
    fn frames_come_out_as_they_went_in_at_any_split() {
        let mut bytes = Vec::new();
        for sequence in 0..3 {
            encode(&Request { sequence, body: Body::State }, &mut bytes).unwrap();
        }
        for split in 0..bytes.len() {
            let (mut buffer, mut seen) = (Vec::new(), Vec::new());
            for part in [&bytes[..split], &bytes[split..]] {
                buffer.extend_from_slice(part);
                while let Some(request) = decode::<Request>(&mut buffer).unwrap() {
                    seen.push(request.sequence);
                }
            }
            assert_eq!(seen, [0, 1, 2]);
        }
    }

    #[test]
    fn a_container_is_made_for_engines_of_either_version_but_not_by_older_shims() {
        let text = serde_json::json!({
            "id": "0".repeat(64), "dir": "/run/x", "rootfs": {"kind": "directory", "path": "/r"}, "cgroup": "/x",
            "tty": false, "console_size": [0, 0], "stdin": false, "stdin_once": false, "init": false, "health": null,
            "log": {"format": "none", "path": "", "bytes_max": 0, "files_max": 0, "compress": false, "attributes": null},
            "seccomp_cache": null,
        });
        let of = |name: &str| serde_json::from_value::<Body>(serde_json::json!({ name: text.clone() }));
        for name in ["make", "create"] {
            let Ok(Body::Create(create)) = of(name) else { panic!("{name}") };
            assert!(create.seccomp_profile.is_none());
            assert!(serde_json::to_value(Body::Create(create)).unwrap().get("make").is_some());
        }
    }

    #[test]
    fn a_lying_length_is_refused_before_it_is_allocated() {
        let mut buffer = u32::MAX.to_le_bytes().to_vec();
        assert!(matches!(decode::<Request>(&mut buffer), Err(FrameError::TooLarge(_))));
    }
}
