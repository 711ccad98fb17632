//! index.json as d-pull edits it: what other tools wrote there stays as it is.

use std::fmt;

use d_common::digest::Digest;
use d_common::image::{Descriptor, REF_NAME};
use d_common::platform::Platform;
use serde_json::{Value, json};

use crate::reference::Reference;

/// The annotation with the digest that the tag had, where that is an index's and not the manifest's.
const TAG_DIGEST: &str = "d-utils.tag-digest";

/// The top of a layout.
#[derive(Clone, Debug)]
pub struct Index(Value);

/// A named image of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// `docker.io/library/alpine:latest`, and `+linux/arm64` for a platform that is not the host's.
    pub name: String,
    /// Its manifest.
    pub manifest: Descriptor,
    /// What the tag named when it was pulled.
    pub tag_digest: Digest,
}

impl Default for Index {
    fn default() -> Self {
        Self(json!({"schemaVersion": 2, "mediaType": d_common::image::media::INDEX, "manifests": []}))
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Entry {
    /// An entry for the image `manifest`, which the tag's `tag_digest` led to.
    pub fn new(
        name: String,
        media_type: &str,
        manifest: &Digest,
        size: u64,
        platform: &Platform,
        tag: &Digest,
    ) -> Self {
        let mut annotations = std::collections::BTreeMap::from([(REF_NAME.to_owned(), name.clone())]);
        if tag != manifest {
            annotations.insert(TAG_DIGEST.to_owned(), tag.to_string());
        }
        let manifest = Descriptor {
            media_type: media_type.to_owned(),
            digest: manifest.clone(),
            size,
            urls: Vec::new(),
            annotations,
            data: None,
            platform: Some(platform.clone()),
            artifact_type: None,
        };
        Self { name, manifest, tag_digest: tag.clone() }
    }

    fn of(manifest: Descriptor) -> Option<Self> {
        let name = manifest.ref_name()?.to_owned();
        let tag = manifest.annotations.get(TAG_DIGEST).and_then(|d| d.parse().ok());
        Some(Self { name, tag_digest: tag.unwrap_or_else(|| manifest.digest.clone()), manifest })
    }

    /// Its name without the platform.
    pub fn reference(&self) -> &str {
        self.name.split_once('+').map_or(&self.name, |(name, _)| name)
    }
}

/// The name of an image in the cache.
pub fn name_of(reference: &Reference, platform: &Platform) -> String {
    if *platform == Platform::host().normal() { reference.to_string() } else { format!("{reference}+{platform}") }
}

impl Index {
    /// Reads index.json; `None` if it is none.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut value: Value = serde_json::from_slice(bytes).ok()?;
        let object = value.as_object_mut()?;
        // Go writes an empty list as null.
        if object.get("manifests").is_none_or(Value::is_null) {
            object.insert("manifests".into(), json!([]));
        }
        object["manifests"].is_array().then_some(Self(value))
    }

    fn manifests(&self) -> impl Iterator<Item = Descriptor> {
        self.0["manifests"].as_array().into_iter().flatten().filter_map(|v| serde_json::from_value(v.clone()).ok())
    }

    /// All manifests and indexes, named or not.
    pub fn roots(&self) -> Vec<Descriptor> {
        self.manifests().collect()
    }

    /// All named ones.
    pub fn entries(&self) -> Vec<Entry> {
        self.manifests().filter_map(Entry::of).collect()
    }

    /// The one of that name.
    pub fn find(&self, name: &str) -> Option<Entry> {
        self.manifests().filter_map(Entry::of).find(|e| e.name == name)
    }

    /// Adds an entry, in the place of one with its name; says whether that changed anything.
    pub fn set(&mut self, entry: &Entry) -> bool {
        if self.find(&entry.name).as_ref() == Some(entry) {
            return false;
        }
        self.retain(|d| d.ref_name() != Some(&entry.name));
        if let (Some(list), Ok(value)) = (self.0["manifests"].as_array_mut(), serde_json::to_value(&entry.manifest)) {
            list.push(value);
        }
        true
    }

    /// Drops the entries that `keep` does not want, and says whether there were any. What is no descriptor stays.
    pub fn retain(&mut self, keep: impl Fn(&Descriptor) -> bool) -> bool {
        let Some(list) = self.0["manifests"].as_array_mut() else { return false };
        let before = list.len();
        list.retain(|v| serde_json::from_value(v.clone()).map_or(true, |d| keep(&d)));
        list.len() != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, content: &[u8]) -> Entry {
        let platform = Platform::host();
        Entry::new(name.into(), "m", &Digest::of(content), 1, &platform, &Digest::of(b"tag"))
    }

    #[test]
    fn entries_are_replaced_by_name_and_strangers_stay() {
        let mut index =
            Index::parse(br#"{"schemaVersion":2,"manifests":[{"odd":1}],"annotations":{"a":"b"}}"#).unwrap();
        assert!(index.set(&entry("x:1", b"1")));
        assert!(!index.set(&entry("x:1", b"1")));
        assert!(index.set(&entry("x:1", b"2")));
        assert!(index.set(&entry("x:1+linux/s390x", b"3")));
        assert_eq!(index.find("x:1").unwrap(), entry("x:1", b"2"));
        assert_eq!(index.entries().iter().map(Entry::reference).collect::<Vec<_>>(), ["x:1", "x:1"]);
        assert!(index.retain(|d| d.ref_name() != Some("x:1")));
        assert!(!index.retain(|_| true));
        let text = index.to_string();
        assert!(text.contains(r#"{"odd":1}"#) && text.contains(r#""annotations":{"a":"b"}"#), "{text}");
    }

    #[test]
    fn what_go_writes_and_what_nobody_writes() {
        assert!(Index::parse(br#"{"manifests":null}"#).unwrap().entries().is_empty());
        for bad in ["", "[]", "{", r#"{"manifests":{}}"#] {
            assert!(Index::parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn another_platform_is_part_of_the_name() {
        let reference: Reference = "alpine".parse().unwrap();
        assert_eq!(name_of(&reference, &Platform::host().normal()), "docker.io/library/alpine:latest");
        assert_eq!(name_of(&reference, &"linux/s390x".parse().unwrap()), "docker.io/library/alpine:latest+linux/s390x");
    }
}
