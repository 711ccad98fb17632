//! The JSON of images: descriptors, indexes, manifests, configs (image-spec v1.1; Docker's v2 schema 2 has the same shape).
//!
//! Only what the tools use, and tolerant where real registries are: unknown members are ignored and Docker's `null` lists are
//! empty ones. Nothing here is ever written back: a manifest's digest is of its bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::Digest;
use crate::platform::Platform;

/// The annotation that names an image inside a layout's index.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Media types by what they are.
pub mod media {
    /// An OCI index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// An OCI manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An OCI image config.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// Docker's index.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker's manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker's image config.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

    /// Whether `t` is an index or a list.
    pub fn is_index(t: &str) -> bool {
        t == INDEX || t == DOCKER_LIST
    }

    /// Whether `t` is an image manifest.
    pub fn is_manifest(t: &str) -> bool {
        t == MANIFEST || t == DOCKER_MANIFEST
    }

    /// Whether `t` is the config of an image (and not of some other artifact).
    pub fn is_config(t: &str) -> bool {
        t == CONFIG || t == DOCKER_CONFIG
    }

    /// Whether `t` is a layer of an image's file system; a type that says nothing may be one.
    pub fn is_layer(t: &str) -> bool {
        const LAYERS: [&str; 3] = [
            "application/vnd.oci.image.layer.",
            "application/vnd.docker.image.rootfs.",
            "application/vnd.docker.container.image.rootfs.",
        ];
        let said_nothing =
            ["", "application/octet-stream", "application/x-tar", "application/x-gtar", "application/gzip"];
        LAYERS.iter().any(|prefix| t.starts_with(prefix)) || said_nothing.contains(&t)
    }

    /// Whether `t` is a layer that its publisher keeps elsewhere (`urls`).
    pub fn is_foreign(t: &str) -> bool {
        t.contains(".nondistributable.") || t.contains(".foreign.")
    }
}

/// A pointer to content (descriptor.md).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is; empty where a layout leaves it out.
    #[serde(default)]
    pub media_type: String,
    /// The digest of its bytes.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Where else it may be fetched from.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Free-form properties; [`REF_NAME`] among them.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The content itself, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// What the image runs on; in indexes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// The type of an artifact that is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// Its name in a layout's index.
    pub fn ref_name(&self) -> Option<&str> {
        self.annotations.get(REF_NAME).map(String::as_str)
    }

    /// Whether this entry of an index is a build attestation (BuildKit) and no image.
    pub fn is_attestation(&self) -> bool {
        self.annotations.get("vnd.docker.reference.type").is_some_and(|t| t == "attestation-manifest")
            || self.platform.as_ref().is_some_and(|p| p.os == "unknown" && p.architecture == "unknown")
    }
}

/// An index or manifest list (image-index.md).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    #[serde(default)]
    pub schema_version: u32,
    /// Its own type, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The images.
    #[serde(default, deserialize_with = "nullable")]
    pub manifests: Vec<Descriptor>,
}

/// An image manifest (manifest.md).
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    #[serde(default)]
    pub schema_version: u32,
    /// Its own type, where it says so.
    #[serde(default)]
    pub media_type: Option<String>,
    /// The type of an artifact that is no image.
    #[serde(default)]
    pub artifact_type: Option<String>,
    /// The image config.
    pub config: Descriptor,
    /// The layers, lowest first.
    #[serde(default, deserialize_with = "nullable")]
    pub layers: Vec<Descriptor>,
}

/// An image config (config.md), but for its `config` member: d-unpack takes that apart by itself. (No `flatten` here: serde would
/// keep all that is in it.)
#[derive(Clone, Debug, Deserialize)]
pub struct ImageConfig {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
    /// The layers' contents.
    pub rootfs: RootFs,
}

impl ImageConfig {
    /// What it was built for.
    pub fn platform(&self) -> Platform {
        Platform { os: self.os.clone(), architecture: self.architecture.clone(), variant: self.variant.clone() }
    }
}

/// The `rootfs` of an image config.
#[derive(Clone, Debug, Deserialize)]
pub struct RootFs {
    /// The digest of each layer's uncompressed tar, lowest first.
    #[serde(default, deserialize_with = "nullable")]
    pub diff_ids: Vec<Digest>,
}

/// `null` as the empty value, which Go programs write for empty lists and maps.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_nulls_are_empty() {
        let d = Digest::of(b"");
        let json = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"x","digest":"{d}","size":0,"urls":null,"annotations":null}},"layers":null,"zzz":1}}"#
        );
        let manifest: Manifest = serde_json::from_str(&json).unwrap();
        assert!(manifest.layers.is_empty() && manifest.config.urls.is_empty());
    }

    #[test]
    fn attestations_are_no_images() {
        let d = Digest::of(b"");
        let json = format!(
            r#"{{"mediaType":"{}","digest":"{d}","size":0,"platform":{{"os":"unknown","architecture":"unknown"}}}}"#,
            media::MANIFEST
        );
        assert!(serde_json::from_str::<Descriptor>(&json).unwrap().is_attestation());
    }
}
