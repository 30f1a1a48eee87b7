//! From host to host without a registry: only the layers that the other engine lacks.
//!
//! ```text
//! frame    length (4 bytes, big endian), bytes
//! stream   frame: the offer as JSON
//!          for each layer: frame "sha256:..", frames of its archive packed with zstd, an empty frame
//!          frame "end"
//! mark     four bytes of ones, bytes of the archives that are packed, bytes of all (8 bytes each, big endian)
//! ```
//!
//! Marks come between frames, for whoever passes the stream on and wants to know how far it is; it takes them out.
//!
//! The stream comes from another host: everything is bounded, every layer's digest and the configuration's are checked,
//! and nothing is visible before all of it is there.

use super::config::ImageConfig;
use super::disk::{Layer, Loaded, digest_of};
use super::pipe::{Sink, Source};
use super::shared::Shared;
use super::{Images, blocking};
use crate::containers::{ByteSource, ByteStream};
use crate::events::now_unix_nanos;
use crate::full;
use berth_image::LayerArchive;
use berth_types::{Digest, Error, ErrorKind, ImageName, Result};
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::io::{self, Read, Write};
use tokio::sync::mpsc;

/// Chunks between the disk and a slow client.
const CHUNKS_MAX: usize = 16;
const FRAME_BYTES: usize = 256 << 10;
/// The offer holds a configuration, which is the largest thing that is read whole.
const OFFER_BYTES_MAX: usize = 16 << 20;
/// Between hosts of one house the network is faster than packing well.
const ZSTD_LEVEL: i32 = 1;
const END: &[u8] = b"end";
/// Longer than any frame.
const MARK: [u8; 4] = [0xff; 4];

/// What an image is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// What it is to be called there.
    pub names: Vec<ImageName>,
    /// The configuration, whose digest is the image's id.
    pub config: String,
    /// Digests of the unpacked layers, lowest first.
    pub layers: Vec<Digest>,
}

fn write_frame(to: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    to.write_all(&length.to_be_bytes())?;
    to.write_all(bytes)
}

fn read_frame(from: &mut dyn Read, limit: usize) -> io::Result<Vec<u8>> {
    let cut = |cause: io::Error| match cause.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::new(cause.kind(), "the stream from the other host is cut off"),
        _ => cause,
    };
    let mut length = [0; 4];
    from.read_exact(&mut length).map_err(cut)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes")));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).map_err(cut)?;
    Ok(bytes)
}

/// How much of the archives is packed.
struct Packed {
    done_bytes: Cell<u64>,
    total_bytes: u64,
}

impl Packed {
    fn mark(&self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(&MARK)?;
        to.write_all(&self.done_bytes.get().to_be_bytes())?;
        to.write_all(&self.total_bytes.to_be_bytes())
    }
}

/// An archive on its way into the packer.
struct Counted<'a> {
    archive: LayerArchive,
    packed: Option<&'a Packed>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.archive.read(buffer)?;
        if let Some(packed) = self.packed {
            packed.done_bytes.set(packed.done_bytes.get() + count as u64);
        }
        Ok(count)
    }
}

/// Cuts what is written into frames.
struct Framed<'a> {
    to: &'a mut dyn Write,
    frame: Vec<u8>,
    packed: Option<&'a Packed>,
}

impl Write for Framed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(FRAME_BYTES - self.frame.len());
        self.frame.extend_from_slice(&bytes[..count]);
        if self.frame.len() == FRAME_BYTES {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.frame.is_empty() {
            write_frame(self.to, &self.frame)?;
            self.frame.clear();
            if let Some(packed) = self.packed {
                packed.mark(self.to)?;
            }
        }
        Ok(())
    }
}

/// Puts frames together again, up to the empty one.
struct Unframed<'a> {
    from: &'a mut dyn Read,
    frame: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Read for Unframed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.frame.len() && !self.ended {
            self.frame = read_frame(self.from, FRAME_BYTES)?;
            self.at = 0;
            self.ended = self.frame.is_empty();
        }
        let count = buffer.len().min(self.frame.len() - self.at);
        buffer[..count].copy_from_slice(&self.frame[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

fn cut_off(cause: &io::Error) -> Error {
    Error::because(ErrorKind::DataLoss, "the image from the other host is damaged", cause)
}

impl Images {
    /// What `reference` is made of. An image that was named by its id has no names there either.
    pub fn offer(&self, reference: &str) -> Result<Offer> {
        let shared = self.shared();
        let record = shared.find(reference)?;
        let name = reference.parse::<ImageName>().ok().filter(|name| name.digest().is_none()).map(ImageName::or_latest);
        let names = name.filter(|name| shared.catalog().names.get(name) == Some(&record.id)).into_iter().collect();
        Ok(Offer { names, config: shared.config_bytes(&record.id)?, layers: record.layers.clone() })
    }

    /// Which of these layers are not here.
    pub async fn missing_layers(&self, layers: Vec<Digest>) -> Result<Vec<Digest>> {
        let shared = self.shared();
        blocking(move || {
            let mut missing: Vec<Digest> = Vec::new();
            for layer in layers {
                if !missing.contains(&layer) && shared.disk.layer_bytes(&layer)?.is_none() {
                    missing.push(layer);
                }
            }
            Ok(missing)
        })
        .await
    }

    /// The offer of `reference` and these of its layers, for [`Images::receive`] of another engine; with marks in between
    /// for whoever takes them out.
    pub fn send(&self, reference: &str, layers: Vec<Digest>, marked: bool) -> Result<ByteStream> {
        let offer = self.offer(reference)?;
        if let Some(other) = layers.iter().find(|layer| !offer.layers.contains(layer)) {
            return Err(Error::invalid(format!("image {reference} has no layer {other}")));
        }
        let shared = self.shared();
        let (sender, chunks) = mpsc::channel(CHUNKS_MAX);
        tokio::task::spawn_blocking(move || {
            let _at_work = shared.at_work();
            let mut sink = Sink::new(sender);
            let outcome = send_now(&shared, &offer, &layers, marked, &mut sink);
            sink.finish(outcome);
        });
        Ok(ByteStream { chunks })
    }

    /// Takes an image from another engine; its id.
    pub async fn receive(&self, stream: ByteSource) -> Result<Digest> {
        let images = self.clone();
        blocking(move || {
            let mut source = Source::new(stream);
            let received = images.receive_now(&mut source);
            received.map_err(|error| source.failed.take().unwrap_or(error))
        })
        .await
    }

    fn receive_now(&self, source: &mut dyn Read) -> Result<Digest> {
        let offer = read_frame(source, OFFER_BYTES_MAX).map_err(|cause| cut_off(&cause))?;
        let offer: Offer = serde_json::from_slice(&offer)
            .map_err(|cause| Error::because(ErrorKind::DataLoss, "invalid offer of an image", &cause))?;
        let config = ImageConfig::parse(offer.config.as_bytes())?;
        if config.rootfs.diff_ids != offer.layers {
            return Err(Error::new(
                ErrorKind::DataLoss,
                "the offered layers are not those of the image's configuration",
            ));
        }
        let shared = self.shared();
        let pins = Shared::pin(&shared, offer.layers.clone());
        let mut staged = Vec::new();
        loop {
            let head = read_frame(source, 128).map_err(|cause| cut_off(&cause))?;
            if head == END {
                break;
            }
            let layer = std::str::from_utf8(&head).ok().and_then(|text| text.parse::<Digest>().ok());
            let Some(layer) = layer.filter(|layer| offer.layers.contains(layer)) else {
                return Err(Error::new(ErrorKind::DataLoss, "the other host sends a layer that it has not offered"));
            };
            let mut archive = Unframed { from: &mut *source, frame: Vec::new(), at: 0, ended: false };
            let unpacked =
                berth_image::unpack(shared.disk.snapshots(), &mut archive, Some(&layer)).map_err(|cause| {
                    full::or_here(ErrorKind::DataLoss, format!("cannot unpack layer {}", layer.short()), &cause)
                })?;
            // What packing put behind the archive.
            io::copy(&mut archive, &mut io::sink()).map_err(|cause| cut_off(&cause))?;
            staged.push(unpacked.layer);
        }
        shared.disk.commit_layers(staged)?;
        let mut layers = Vec::new();
        for diff_id in offer.layers {
            let bytes = shared.disk.layer_bytes(&diff_id)?.ok_or_else(|| {
                Error::new(ErrorKind::DataLoss, format!("layer {} was neither here nor sent", diff_id.short()))
            })?;
            layers.push(Layer { diff_id, bytes });
        }
        let id = digest_of(offer.config.as_bytes());
        let names: Vec<ImageName> = offer.names.into_iter().filter(|name| name.digest().is_none()).collect();
        self.add(Loaded { config: offer.config.into_bytes(), layers, names, parent: None }, now_unix_nanos())?;
        self.event("load", &id, &id.to_string());
        drop(pins);
        shared.sweep_if_due();
        Ok(id)
    }
}

fn send_now(shared: &Shared, offer: &Offer, layers: &[Digest], marked: bool, to: &mut dyn Write) -> Result<()> {
    let gone = |cause: io::Error| Error::because(ErrorKind::Cancelled, "cannot send the image", &cause);
    let failed = |layer: &Digest, cause: &(dyn std::error::Error + 'static)| {
        Error::because(ErrorKind::DataLoss, format!("cannot read layer {}", layer.short()), cause)
    };
    let open = |layer: &Digest| {
        let reader = shared.disk.snapshots().open_layer(layer).map_err(|cause| failed(layer, &cause))?;
        LayerArchive::open(layer, reader).map_err(|cause| failed(layer, &cause))
    };
    let packed = match marked {
        true => {
            let total_bytes = layers.iter().map(|layer| Ok(open(layer)?.length())).sum::<Result<u64>>()?;
            Some(Packed { done_bytes: Cell::new(0), total_bytes })
        }
        false => None,
    };
    let packed = packed.as_ref();
    let text = serde_json::to_vec(offer).expect("an offer always serialises");
    write_frame(to, &text).map_err(gone)?;
    for layer in layers {
        let mut archive = Counted { archive: open(layer)?, packed };
        write_frame(to, layer.to_string().as_bytes()).map_err(gone)?;
        let framed = Framed { to: &mut *to, frame: Vec::with_capacity(FRAME_BYTES), packed };
        let packing = zstd::stream::write::Encoder::new(framed, ZSTD_LEVEL);
        let mut packing = packing.map_err(|cause| failed(layer, &cause))?;
        io::copy(&mut archive, &mut packing).map_err(|cause| failed(layer, &cause))?;
        let mut framed = packing.finish().map_err(|cause| failed(layer, &cause))?;
        framed.flush().map_err(gone)?;
        write_frame(to, &[]).map_err(gone)?;
    }
    write_frame(to, END).map_err(gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_put_together_again_and_bounded() {
        let mut stream = Vec::new();
        let bytes: Vec<u8> = (0..FRAME_BYTES * 2 + 5).map(|n| n as u8).collect();
        let mut framed = Framed { to: &mut stream, frame: Vec::new(), packed: None };
        framed.write_all(&bytes).unwrap();
        framed.flush().unwrap();
        write_frame(&mut stream, &[]).unwrap();
        write_frame(&mut stream, END).unwrap();
        let mut from = &stream[..];
        let mut back = Vec::new();
        Unframed { from: &mut from, frame: Vec::new(), at: 0, ended: false }.read_to_end(&mut back).unwrap();
        assert!(back == bytes);
        assert_eq!(read_frame(&mut from, 128).unwrap(), END);
        let mut cut = &stream[..100];
        assert!(Unframed { from: &mut cut, frame: Vec::new(), at: 0, ended: false }.read_to_end(&mut back).is_err());
        assert!(read_frame(&mut &[0xff, 0xff, 0xff, 0xff][..], 128).is_err());
    }
}
