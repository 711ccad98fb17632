//! What a manifest's bytes are (image-spec manifest.md, image-index.md), and which entry of an index suits a platform.
//!
//! Pure: bytes in, a decision out. What is no image is refused by the name of what it is.

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use d_common::image::{Descriptor, Index, Manifest, media};
use d_common::platform::Platform;
use serde_json::Value;

/// Docker's first format, which has neither digests of its layers' contents nor a config.
const SCHEMA1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];
/// Config types that say nothing; old registries give them to Docker's images.
const UNSAID: [&str; 2] = ["", "application/octet-stream"];
/// The config of artifacts that have none (image-spec 1.1).
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// Most layers of an image, most entries of an index.
const MAX_LAYERS: usize = 10_000;

/// A manifest or an index.
#[derive(Debug)]
pub enum Document {
    /// A choice of images.
    Index(Index),
    /// One image.
    Image(Box<Manifest>),
}

impl Document {
    /// Reads the bytes that `what` names; `said` is the type that the registry or a descriptor gave them, which may be empty
    /// or a generic one, but must not contradict the bytes (CVE-2021-41190).
    ///
    /// # Errors
    /// [`Exit::Data`] for anything but an image or an index of images.
    pub fn parse(bytes: &[u8], said: &str, what: &str) -> Result<(Self, String)> {
        let json: Value = match serde_json::from_slice(bytes) {
            Ok(json) => json,
            Err(_) if said == "text/html" => fail!(Exit::Protocol, "{what}: the answer is a web page, not a manifest"),
            Err(e) => return Err(e).or_exit(Exit::Data, || format!("the manifest of {what} is no JSON")),
        };
        let inside = json["mediaType"].as_str().unwrap_or_default();
        let has = |key: &str| json.get(key).is_some_and(|v| !v.is_null());
        if SCHEMA1.contains(&inside) || SCHEMA1.contains(&said) || json["schemaVersion"] == 1 || has("fsLayers") {
            fail!(
                Exit::Data,
                "{what} is a schema 1 image, a format of before 2016: pull and push it again with docker"
            );
        }
        let index = has("manifests");
        if index && (has("config") || has("layers")) {
            fail!(Exit::Data, "{what} is an index and a manifest at once");
        }
        for t in [inside, said] {
            if index && media::is_manifest(t) || !index && media::is_index(t) {
                fail!(Exit::Data, "the manifest of {what} contradicts its type {t}");
            }
        }
        let known = |t: &&str| media::is_index(t) || media::is_manifest(t);
        let default = if index { media::INDEX } else { media::MANIFEST };
        let media_type = [inside, said].into_iter().find(known).unwrap_or(default).to_owned();
        if index {
            let index: Index =
                serde_json::from_value(json).or_exit(Exit::Data, || format!("the index of {what} is broken"))?;
            bounded(index.manifests.len(), what)?;
            return Ok((Self::Index(index), media_type));
        }
        if let Some(kind) = artifact(&json) {
            fail!(Exit::Data, "{what} is no image but an artifact of type {kind}");
        }
        let manifest: Manifest =
            serde_json::from_value(json).or_exit(Exit::Data, || format!("the manifest of {what} is broken"))?;
        bounded(manifest.layers.len(), what)?;
        // Signatures and attestations have an image's config and layers of their own kinds.
        if let Some(layer) = manifest.layers.iter().find(|l| !media::is_layer(&l.media_type)) {
            let kind = manifest.artifact_type.as_ref().filter(|t| !t.is_empty()).unwrap_or(&layer.media_type);
            fail!(Exit::Data, "{what} is no image but an artifact of type {kind}");
        }
        Ok((Self::Image(Box::new(manifest)), media_type))
    }
}

fn bounded(count: usize, what: &str) -> Result<()> {
    if count > MAX_LAYERS {
        fail!(Exit::Data, "the manifest of {what} has {count} entries, the limit is {MAX_LAYERS}");
    }
    Ok(())
}

/// The type of an artifact that is no image.
fn artifact(manifest: &Value) -> Option<String> {
    let text = |v: &Value| v.as_str().filter(|s| !s.is_empty()).map(str::to_owned);
    let config = manifest["config"]["mediaType"].as_str().unwrap_or_default();
    if media::is_config(config) || UNSAID.contains(&config) && manifest["config"].is_object() {
        return None;
    }
    let own = text(&manifest["artifactType"]);
    // ORAS's artifact manifests have no config at all.
    let unknown = || text(&manifest["mediaType"]).filter(|t| !media::is_manifest(t) || !manifest["config"].is_object());
    if config.is_empty() || config == EMPTY {
        own.or_else(unknown)
    } else {
        Some(own.unwrap_or_else(|| config.to_owned()))
    }
    .or_else(|| Some(config.to_owned()).filter(|c| !c.is_empty()))
}

/// The entries of an index to look at for `platform`, the best first: those that name a suitable one, then nested indexes
/// and manifests that name none. Attestations and things that are no images never are.
pub fn candidates<'a>(index: &'a Index, platform: &Platform) -> Vec<&'a Descriptor> {
    let mut found: Vec<(u32, &Descriptor)> = images(index)
        .filter_map(|entry| {
            let named = entry.platform.as_ref().filter(|p| !p.architecture.is_empty());
            let rank = match named {
                Some(offered) => platform.fit(offered)?,
                None if media::is_index(&entry.media_type) => u32::MAX - 1,
                None => u32::MAX,
            };
            Some((rank, entry))
        })
        .collect();
    found.sort_by_key(|(rank, _)| *rank);
    found.into_iter().map(|(_, entry)| entry).collect()
}

/// The platforms that an index names.
pub fn platforms(index: &Index) -> Vec<Platform> {
    images(index).filter_map(|e| e.platform.clone()).filter(Platform::is_plain).collect()
}

fn images(index: &Index) -> impl Iterator<Item = &Descriptor> {
    index.manifests.iter().filter(|entry| {
        let t = entry.media_type.as_str();
        let image = media::is_manifest(t) || media::is_index(t) || t.is_empty();
        image && entry.artifact_type.is_none() && !entry.is_attestation()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use d_common::digest::Digest;

    fn parse(json: &str, said: &str) -> Result<Document> {
        Document::parse(json.as_bytes(), said, "x").map(|(document, _)| document)
    }

    fn descriptor(media_type: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"{}","size":0}}"#, Digest::of(b""))
    }

    fn image(config: &str, more: &str) -> String {
        format!(r#"{{"schemaVersion":2{more},"config":{},"layers":[]}}"#, descriptor(config))
    }

    #[test]
    fn types_are_seen_from_the_bytes() {
        for said in ["", "application/json", "text/plain", media::MANIFEST, media::DOCKER_MANIFEST] {
            assert!(matches!(parse(&image(media::CONFIG, ""), said), Ok(Document::Image(_))), "{said}");
        }
        assert!(matches!(parse(r#"{"manifests":[]}"#, "application/json"), Ok(Document::Index(_))));
        assert!(matches!(parse(&image("application/octet-stream", ""), ""), Ok(Document::Image(_))));
        assert!(matches!(parse(&image("", ""), ""), Ok(Document::Image(_))));
    }

    #[test]
    fn what_is_no_image_is_refused_by_name() {
        let helm = "application/vnd.cncf.helm.config.v1+json";
        let layers =
            |t: &str| image(media::CONFIG, "").replace(r#""layers":[]"#, &format!(r#""layers":[{}]"#, descriptor(t)));
        let sbom = format!(r#","artifactType":"application/spdx+json","mediaType":"{}""#, media::MANIFEST);
        for (json, said, want) in [
            (image(helm, ""), "", helm),
            (image(EMPTY, &sbom), "", "application/spdx+json"),
            (image(EMPTY, ""), "", EMPTY),
            (layers("application/vnd.in-toto+json"), "", "application/vnd.in-toto+json"),
            (r#"{"mediaType":"application/vnd.cncf.oras.artifact.manifest.v1+json"}"#.into(), "", "oras.artifact"),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#.into(), "", "schema 1"),
            (r#"{"schemaVersion":2}"#.into(), SCHEMA1[1], "schema 1"),
            (image(media::CONFIG, r#","manifests":[]"#), "", "at once"),
            (image(media::CONFIG, ""), media::INDEX, "contradicts"),
            (r#"{"manifests":[]}"#.into(), media::MANIFEST, "contradicts"),
            (r#"{"schemaVersion":2}"#.into(), "", "broken"),
            ("<html>".into(), "text/html", "web page"),
            ("<html>".into(), "", "no JSON"),
        ] {
            let error = parse(&json, said).expect_err(&json).to_string();
            assert!(error.contains(want), "{json}: {error}");
        }
    }

    #[test]
    fn the_best_platform_is_first_and_attestations_are_none() {
        let entry = |arch: &str, variant: &str, size: u64| Descriptor {
            media_type: media::MANIFEST.into(),
            digest: Digest::of(b""),
            size,
            urls: Vec::new(),
            annotations: std::collections::BTreeMap::new(),
            data: None,
            platform: (!arch.is_empty()).then(|| Platform {
                os: if arch == "unknown" { "unknown" } else { "linux" }.into(),
                architecture: arch.into(),
                variant: (!variant.is_empty()).then(|| variant.into()),
            }),
            artifact_type: None,
        };
        let index = Index {
            schema_version: 2,
            media_type: None,
            manifests: vec![
                entry("unknown", "", 0),
                entry("", "", 1),
                entry("arm", "v5", 2),
                entry("arm", "v7", 3),
                entry("amd64", "", 4),
                Descriptor { media_type: media::INDEX.into(), ..entry("", "", 5) },
                Descriptor { media_type: "application/vnd.example".into(), ..entry("arm", "v7", 6) },
            ],
        };
        let chosen = |platform: &str| -> Vec<u64> {
            candidates(&index, &platform.parse().unwrap()).iter().map(|d| d.size).collect()
        };
        assert_eq!(chosen("linux/arm/v7"), [3, 2, 5, 1]);
        assert_eq!(chosen("linux/arm/v6"), [2, 5, 1]);
        assert_eq!(chosen("linux/amd64"), [4, 5, 1]);
        assert_eq!(platforms(&index).len(), 3);
    }
}
