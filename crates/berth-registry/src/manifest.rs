//! Manifests and indexes, OCI's and Docker's schema 2: bytes from outside until they are checked.

use crate::{Platform, RegistryError};
use berth_types::Digest;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use std::collections::BTreeMap;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// What registries must accept at least, and more than any real manifest has.
pub const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// Layers that an overlay can hold are fewer; an index has one entry for each platform.
const LAYERS_MAX: usize = 512;
const ENTRIES_MAX: usize = 1024;
/// Of one blob: no disk that we meet holds more.
const BLOB_BYTES_MAX: u64 = 1 << 42;
/// An image's configuration (the engine's own bound is the same).
pub const CONFIG_BYTES_MAX: u64 = 8 << 20;

/// A pointer to content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Descriptor {
        Descriptor {
            media_type: media_type.to_owned(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
            artifact_type: None,
        }
    }
}

/// A manifest or index as it came, its digest checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub digest: Digest,
    pub media_type: String,
    pub bytes: Vec<u8>,
}

/// What is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    Image {
        config: Box<Descriptor>,
        layers: Vec<Descriptor>,
    },
    /// One image for each platform.
    Index(Vec<Descriptor>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    schema_version: u64,
    #[serde(default)]
    media_type: String,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_bytes(sha2::Sha256::digest(bytes).into())
}

impl Manifest {
    /// `content_type` is what the registry called it.
    pub fn new(content_type: &str, bytes: Vec<u8>) -> Manifest {
        let named = content_type.split(';').next().unwrap_or_default().trim();
        let known = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST].contains(&named);
        let inside = || serde_json::from_slice::<Raw>(&bytes).map(|raw| raw.media_type).unwrap_or_default();
        let media_type = if known { named.to_owned() } else { inside() };
        // A manifest of OCI's need not say what it is.
        let media_type = if media_type.is_empty() { named.to_owned() } else { media_type };
        Manifest { digest: digest_of(&bytes), media_type, bytes }
    }

    pub fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(&self.media_type, self.digest, self.size_bytes())
    }

    /// Reads it, with every bound checked.
    pub fn parse(&self) -> Result<Document, RegistryError> {
        let refuse = |why: String| RegistryError::Unsupported(format!("invalid manifest {}: {why}", self.digest));
        let raw: Raw = serde_json::from_slice(&self.bytes).map_err(|cause| refuse(cause.to_string()))?;
        if raw.schema_version == 1 {
            return Err(RegistryError::Unsupported(
                "the image has a manifest of schema version 1, which no engine supports any more: build and push it again".to_owned(),
            ));
        }
        if raw.schema_version != 2 {
            return Err(refuse(format!("schema version {}", raw.schema_version)));
        }
        let (image, index) = (raw.config.is_some() || raw.layers.is_some(), raw.manifests.is_some());
        // The same bytes must not be an image to us and an index to somebody else (CVE-2021-41190).
        let says_index = [OCI_INDEX, DOCKER_LIST].contains(&self.media_type.as_str());
        let says_image = [OCI_MANIFEST, DOCKER_MANIFEST].contains(&self.media_type.as_str());
        if image && (index || says_index) || index && says_image {
            return Err(refuse("it is both an image and an index of images".to_owned()));
        }
        if !raw.media_type.is_empty() && !self.media_type.is_empty() && raw.media_type != self.media_type {
            return Err(refuse(format!(
                "it calls itself {:?}, and the registry {:?}",
                raw.media_type, self.media_type
            )));
        }
        match (raw.config, raw.layers, raw.manifests) {
            (Some(config), Some(layers), None) => {
                if layers.len() > LAYERS_MAX {
                    return Err(refuse(format!("{} layers, at most {LAYERS_MAX} are possible", layers.len())));
                }
                if config.size > CONFIG_BYTES_MAX {
                    return Err(refuse(format!("a configuration of {} bytes", config.size)));
                }
                if let Some(layer) = layers.iter().find(|layer| layer.size > BLOB_BYTES_MAX) {
                    return Err(refuse(format!("layer {} of {} bytes", layer.digest.short(), layer.size)));
                }
                Ok(Document::Image { config: Box::new(config), layers })
            }
            (None, None, Some(manifests)) => {
                if manifests.len() > ENTRIES_MAX {
                    return Err(refuse(format!("{} entries, at most {ENTRIES_MAX} are possible", manifests.len())));
                }
                Ok(Document::Index(manifests))
            }
            _ => Err(refuse("neither an image nor an index of images".to_owned())),
        }
    }
}

/// Whether a configuration's media type is an image's; others are artifacts (charts, signatures, models).
pub fn is_image_config(media_type: &str) -> bool {
    matches!(media_type, OCI_CONFIG | DOCKER_CONFIG | "" | "application/octet-stream")
}

/// Whether a layer is a tar archive, compressed or not.
pub fn is_layer(media_type: &str) -> bool {
    let docker = media_type.strip_prefix("application/vnd.docker.image.rootfs.");
    let oci = media_type.strip_prefix("application/vnd.oci.image.layer.");
    let kind = docker.map(|rest| rest.trim_start_matches("foreign."));
    let oci_kind = oci.map(|rest| rest.trim_start_matches("nondistributable."));
    kind.is_some_and(|kind| kind.starts_with("diff.tar")) || oci_kind.is_some_and(|kind| kind.starts_with("v1.tar"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest() -> String {
        Digest::from_bytes([7; 32]).to_string()
    }

    fn parse(content_type: &str, text: &str) -> Result<Document, RegistryError> {
        Manifest::new(content_type, text.replace("DIGEST", &digest()).into_bytes()).parse()
    }

    #[test]
    fn images_and_indexes_are_told_apart() {
        let image =
            r#"{"schemaVersion":2,"config":{"digest":"DIGEST","size":1},"layers":[{"digest":"DIGEST","size":2}]}"#;
        assert!(matches!(parse(OCI_MANIFEST, image), Ok(Document::Image { layers, .. }) if layers.len() == 1));
        assert!(matches!(parse("text/plain; x", image), Ok(Document::Image { .. })));
        let index = r#"{"schemaVersion":2,"manifests":[{"digest":"DIGEST","size":1,"platform":{"os":"linux","architecture":"arm64"}}]}"#;
        assert!(matches!(parse(OCI_INDEX, index), Ok(Document::Index(all)) if all.len() == 1));
    }

    #[test]
    fn hostile_manifests_are_refused() {
        let layer = r#"{"digest":"DIGEST","size":1}"#;
        let many = format!(r#"{{"schemaVersion":2,"config":{layer},"layers":[{}]}}"#, vec![layer; 513].join(","));
        let entries = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, vec![layer; 1025].join(","));
        for (kind, text) in [
            (OCI_MANIFEST, "{"),
            (OCI_MANIFEST, "[]"),
            (OCI_MANIFEST, r#"{"schemaVersion":1,"fsLayers":[]}"#),
            (OCI_MANIFEST, r#"{"schemaVersion":2}"#),
            (OCI_MANIFEST, r#"{"schemaVersion":2,"config":{"digest":"DIGEST","size":1},"layers":[],"manifests":[]}"#),
            (OCI_INDEX, r#"{"schemaVersion":2,"config":{"digest":"DIGEST","size":1},"layers":[]}"#),
            (OCI_MANIFEST, r#"{"schemaVersion":2,"manifests":[]}"#),
            (OCI_MANIFEST, r#"{"schemaVersion":2,"mediaType":"x","config":{"digest":"DIGEST","size":1},"layers":[]}"#),
            (OCI_MANIFEST, r#"{"schemaVersion":2,"config":{"digest":"DIGEST","size":-1},"layers":[]}"#),
            (OCI_MANIFEST, r#"{"schemaVersion":2,"config":{"digest":"DIGEST","size":99999999999},"layers":[]}"#),
            (OCI_MANIFEST, r#"{"schemaVersion":2,"config":{"digest":"sha256:../../x","size":1},"layers":[]}"#),
            (
                OCI_MANIFEST,
                r#"{"schemaVersion":2,"config":{"digest":"DIGEST","size":1},"layers":[{"digest":"DIGEST","size":9223372036854775807}]}"#,
            ),
            (OCI_MANIFEST, &many),
            (OCI_INDEX, &entries),
        ] {
            assert!(parse(kind, text).is_err(), "{kind} {text:.80}");
        }
    }

    #[test]
    fn layers_are_known_by_their_types() {
        for layer in [
            DOCKER_LAYER_GZIP,
            OCI_LAYER_ZSTD,
            OCI_LAYER_GZIP,
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ] {
            assert!(is_layer(layer), "{layer}");
        }
        assert!(!is_layer("application/vnd.cncf.helm.chart.content.v1.tar+gzip") && !is_layer(""));
    }
}
