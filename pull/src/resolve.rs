//! From a reference to the one manifest that it means on a platform: tag -> index -> (nested index ->) manifest.
//!
//! The walk itself does not care where documents come from: the cache, or a registry and the cache.

use anyhow::Result;
use d_common::digest::Digest;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use d_common::image::{Descriptor, Index, Manifest};
use d_common::platform::Platform;

use crate::blob::check;
use crate::manifest::{Document, candidates, platforms};
use crate::registry::MAX_MANIFEST;

/// How deep indexes may be nested, and how many documents may be fetched to find one image.
const MAX_DEPTH: usize = 4;
const MAX_DOCUMENTS: usize = 32;

/// Bytes with their digest and type.
#[derive(Clone, Debug)]
pub struct Blob {
    /// The digest of `bytes`.
    pub digest: Digest,
    /// What they are, as the registry or a descriptor said; then, what they really are.
    pub media_type: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// An image that was found.
#[derive(Clone, Debug)]
pub struct Image {
    /// The digest of what the reference names: an index or the manifest itself.
    pub tag_digest: Digest,
    /// The index, if it was one.
    pub index: Option<Blob>,
    /// The manifest.
    pub manifest: Blob,
    /// The same, understood.
    pub parsed: Manifest,
    /// What it runs on.
    pub platform: Platform,
    /// The config, where the platform had to be read from it.
    pub config: Option<Vec<u8>>,
}

impl Image {
    /// The manifest, and the index that led to it.
    pub fn documents(&self) -> impl Iterator<Item = &Blob> {
        std::iter::once(&self.manifest).chain(&self.index)
    }

    /// Config and layers, each once, in the order in which a reader wants them.
    ///
    /// # Errors
    /// [`Exit::Data`] when one digest has two sizes.
    pub fn blobs(&self) -> Result<Vec<&Descriptor>> {
        let mut blobs: Vec<&Descriptor> = Vec::new();
        let mut seen = std::collections::HashMap::new();
        for blob in std::iter::once(&self.parsed.config).chain(&self.parsed.layers) {
            match seen.insert(&blob.digest, blob.size) {
                None => blobs.push(blob),
                Some(size) if size != blob.size => fail!(Exit::Data, "blob {} has two sizes", blob.digest),
                Some(_) => {}
            }
        }
        Ok(blobs)
    }
}

/// What is looked for.
pub struct Want<'a> {
    /// The platform.
    pub platform: &'a Platform,
    /// Whether a manifest for another one will do: it was asked for by its digest, and no platform was.
    pub any: bool,
    /// The reference, for messages.
    pub name: &'a str,
}

/// What a descriptor leads to: registries keep them in different places.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A manifest or an index.
    Manifest,
    /// A config.
    Config,
}

/// Fetches what a descriptor leads to.
pub type Get<'a> = dyn FnMut(Kind, &Descriptor) -> Result<Vec<u8>> + 'a;

/// Finds the image that `root` leads to; `get` fetches a manifest or config.
///
/// # Errors
/// [`Exit::NotFound`] with the platforms that there are; [`Exit::Data`]; those of `get`.
pub fn walk(root: Blob, want: &Want<'_>, get: &mut Get<'_>) -> Result<Image> {
    let mut walk = Walk { want, get, offered: Vec::new(), documents: 0 };
    let found = walk.enter(root.clone(), None, 0)?;
    let (manifest, parsed, platform, config) = found.or_exit(Exit::NotFound, || walk.lacking())?;
    let tag_digest = root.digest.clone();
    let index = (root.digest != manifest.digest).then_some(root);
    Ok(Image { tag_digest, index, manifest, parsed, platform, config })
}

type Found = (Blob, Manifest, Platform, Option<Vec<u8>>);

struct Walk<'a, 'b> {
    want: &'a Want<'a>,
    get: &'a mut Get<'b>,
    offered: Vec<Platform>,
    documents: usize,
}

impl Walk<'_, '_> {
    /// Looks at one document; `named` is the platform that an index gave it.
    fn enter(&mut self, blob: Blob, named: Option<&Platform>, depth: usize) -> Result<Option<Found>> {
        let (document, media_type) = Document::parse(&blob.bytes, &blob.media_type, self.want.name)?;
        let blob = Blob { media_type, ..blob };
        match document {
            Document::Index(index) => self.choose(&index, depth),
            Document::Image(manifest) => self.accept(blob, *manifest, named),
        }
    }

    fn choose(&mut self, index: &Index, depth: usize) -> Result<Option<Found>> {
        if depth == MAX_DEPTH {
            fail!(Exit::Data, "{}: indexes are nested more than {MAX_DEPTH} deep", self.want.name);
        }
        self.offered.extend(platforms(index));
        for entry in candidates(index, self.want.platform) {
            let bytes = self.fetch(Kind::Manifest, entry)?;
            let blob = Blob { digest: entry.digest.clone(), media_type: entry.media_type.clone(), bytes };
            let named = entry.platform.as_ref().filter(|p| !p.architecture.is_empty());
            if let Some(found) = self.enter(blob, named, depth + 1)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn accept(&mut self, blob: Blob, manifest: Manifest, named: Option<&Platform>) -> Result<Option<Found>> {
        if named.is_some() {
            return Ok(Some((blob, manifest, self.want.platform.clone(), None)));
        }
        let config = self.fetch(Kind::Config, &manifest.config)?;
        let offered: Platform = serde_json::from_slice(&config)
            .or_exit(Exit::Data, || format!("the config of {} is broken", self.want.name))?;
        let unsaid = offered.architecture.is_empty();
        // It goes into lock files and onto terminals.
        if !unsaid && !offered.is_plain() {
            fail!(
                Exit::Data,
                "the config of {} is for {:?}, which is no platform",
                self.want.name,
                offered.to_string()
            );
        }
        if unsaid || self.want.platform.fit(&offered).is_some() {
            return Ok(Some((blob, manifest, self.want.platform.clone(), Some(config))));
        }
        if self.want.any {
            return Ok(Some((blob, manifest, offered.normal(), Some(config))));
        }
        self.offered.push(offered);
        Ok(None)
    }

    fn fetch(&mut self, kind: Kind, descriptor: &Descriptor) -> Result<Vec<u8>> {
        self.documents += 1;
        if self.documents > MAX_DOCUMENTS {
            fail!(Exit::Data, "{}: more than {MAX_DOCUMENTS} manifests without a platform", self.want.name);
        }
        if descriptor.size > MAX_MANIFEST {
            let (name, size) = (self.want.name, descriptor.size);
            fail!(Exit::Data, "{name}: a {kind:?} of {size} bytes, the limit is {MAX_MANIFEST}");
        }
        let bytes = (self.get)(kind, descriptor)?;
        check(descriptor, &bytes)?;
        Ok(bytes)
    }

    fn lacking(&self) -> String {
        let Want { platform, name, .. } = self.want;
        let mut offered: Vec<String> = self.offered.iter().map(Platform::to_string).collect();
        offered.dedup();
        match offered.as_slice() {
            [] => format!("{name} has no image for {platform}, and none for any other platform"),
            [one] => format!("{name} has no image for {platform}, only for {one}"),
            many => format!("{name} has no image for {platform}; there are {}", many.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use d_common::image::media;
    use std::collections::HashMap;

    /// A store of documents, and the descriptor of each.
    #[derive(Default)]
    struct Store(HashMap<Digest, Vec<u8>>);

    impl Store {
        fn add(&mut self, media_type: &str, json: &str) -> String {
            let digest = Digest::of(json.as_bytes());
            self.0.insert(digest.clone(), json.as_bytes().to_vec());
            format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{}}}"#, json.len())
        }

        fn image(&mut self, arch: &str, mark: &str) -> String {
            let config = self.add(media::CONFIG, &format!(r#"{{"os":"linux","architecture":"{arch}","x":"{mark}"}}"#));
            self.add(media::MANIFEST, &format!(r#"{{"schemaVersion":2,"config":{config},"layers":[]}}"#))
        }

        fn index(&mut self, entries: &[String]) -> String {
            self.add(media::INDEX, &format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(",")))
        }

        fn walk(&self, root: &str, platform: &str, any: bool) -> Result<Image> {
            let root: Descriptor = serde_json::from_str(root).unwrap();
            let blob = Blob { bytes: self.0[&root.digest].clone(), digest: root.digest, media_type: root.media_type };
            let want = Want { platform: &platform.parse().unwrap(), any, name: "x" };
            walk(blob, &want, &mut |_, d| Ok(self.0[&d.digest].clone()))
        }
    }

    fn on(descriptor: &str, arch: &str) -> String {
        descriptor.replacen('{', &format!(r#"{{"platform":{{"os":"linux","architecture":"{arch}"}},"#), 1)
    }

    #[test]
    fn an_index_leads_to_the_platform() {
        let mut store = Store::default();
        let (amd, arm) = (store.image("amd64", "1"), store.image("arm64", "2"));
        let inner = store.index(&[on(&arm, "arm64")]);
        let root = store.index(&[on(&amd, "amd64"), inner]);
        for (platform, wanted) in [("linux/amd64", &amd), ("linux/arm64", &arm)] {
            let image = store.walk(&root, platform, false).unwrap();
            assert!(wanted.contains(&image.manifest.digest.to_string()), "{platform}");
            assert_eq!(image.platform.to_string(), platform);
        }
        let error = store.walk(&root, "linux/s390x", false).unwrap_err().to_string();
        assert_eq!(error, "x has no image for linux/s390x; there are linux/amd64, linux/arm64");
    }

    #[test]
    fn a_single_image_is_for_its_own_platform() {
        let mut store = Store::default();
        let arm = store.image("arm64", "");
        let index = store.index(std::slice::from_ref(&arm));
        for root in [&arm, &index] {
            assert!(store.walk(root, "linux/arm64", false).is_ok());
            let error = store.walk(root, "linux/amd64", false).unwrap_err().to_string();
            assert_eq!(error, "x has no image for linux/amd64, only for linux/arm64");
            assert_eq!(store.walk(root, "linux/amd64", true).unwrap().platform.to_string(), "linux/arm64");
        }
        let unsaid = store.image("", "");
        assert!(store.walk(&unsaid, "linux/amd64", false).is_ok());
        let forged = store.image(r"arm64 sha256:0\n", "");
        assert!(store.walk(&forged, "linux/amd64", true).unwrap_err().to_string().contains("no platform"));
    }

    #[test]
    fn nesting_and_sizes_are_bounded() {
        let mut store = Store::default();
        let mut root = store.image("amd64", "");
        let lie = on(&root, "amd64").replace(r#""size":"#, r#""size":1"#);
        for _ in 0..=MAX_DEPTH {
            root = store.index(&[root]);
        }
        assert!(store.walk(&root, "linux/amd64", false).unwrap_err().to_string().contains("nested"));
        let root = store.index(&[lie]);
        assert!(store.walk(&root, "linux/amd64", false).unwrap_err().to_string().contains("its descriptor says"));
    }
}
