//! Finding an image: from a layout's or archive's index to the manifest for this platform, its config and its layers.
//!
//! The same steps serve what lies on disk and what is still coming in: a [`Store`] says `None` for what it does not have (yet).

use anyhow::Result;
use d_common::digest::Digest;
use d_common::exit::{Exit, OrExit, failure};
use d_common::fail;
use d_common::image::{Descriptor, ImageConfig, Index, Manifest, media};
use d_common::layout::Layout;
use d_common::platform::Platform;
use serde::Deserialize;
use serde_json::error::Category;

use crate::archive::Archive;
use crate::layer::{Content, Promise, missing};
use crate::source::Wanted;

/// Indexes within indexes.
const MAX_NESTING: u32 = 4;

/// Layers of one image; overlayfs takes 500.
const MAX_LAYERS: usize = 1000;

/// Where blobs come from.
pub trait Store {
    /// The index of all images.
    ///
    /// # Errors
    /// [`Exit::Data`] when it does not read.
    fn index(&self) -> Result<Option<Index>>;

    /// The whole of a small blob, its digest checked.
    ///
    /// # Errors
    /// [`Exit::Data`] when it is damaged.
    fn json(&self, digest: &Digest, size: Option<u64>) -> Result<Option<Vec<u8>>>;

    /// A blob of any size.
    fn content(&self, digest: &Digest) -> Option<Content>;
}

impl Store for Layout {
    fn index(&self) -> Result<Option<Index>> {
        Layout::index(self).map(Some)
    }

    fn json(&self, digest: &Digest, size: Option<u64>) -> Result<Option<Vec<u8>>> {
        let path = self.blob_path(digest);
        if !path.exists() {
            return Err(missing(&path));
        }
        self.json_blob(digest, size).map(Some)
    }

    fn content(&self, digest: &Digest) -> Option<Content> {
        Some(Content::Path(self.blob_path(digest)))
    }
}

/// An image, but for the content of its layers.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its name, where one is known.
    pub reference: Option<String>,
    /// The manifest's digest; the config's, for `docker save` of old, which has no manifest.
    pub digest: Digest,
    /// What it runs on.
    pub platform: Platform,
    /// The config object, as it came.
    pub config: Vec<u8>,
    /// The layers, lowest first.
    pub layers: Vec<LayerRef>,
}

/// A layer, by what the image says of it.
#[derive(Clone, Debug)]
pub struct LayerRef {
    /// Where an archive has it.
    pub path: Vec<u8>,
    /// What it must be.
    pub promise: Promise,
}

/// Finds the image that is `wanted`, for `platform` (by default the host's; a manifest that is named by its digest is what it
/// is). `None`: the store lacks something on the way.
///
/// # Errors
/// [`Exit::NotFound`] when there is no such image, [`Exit::Data`] when what is there is no image.
pub fn find(store: &impl Store, wanted: &Wanted, platform: Option<&Platform>) -> Result<Option<Image>> {
    let Some(index) = store.index()? else { return Ok(None) };
    let by_digest = |digest: &str| index.manifests.iter().find(|d| d.digest.to_string() == digest).cloned();
    let (mut descriptor, mut is_sized) = match wanted {
        Wanted::Digest(digest) => match by_digest(&digest.to_string()) {
            Some(known) => (known, true),
            None => (bare(digest.clone()), false),
        },
        Wanted::Named(name) => match by_digest(name) {
            Some(known) => (known, true),
            None => (choose(&index, wanted, platform)?.clone(), true),
        },
        Wanted::Any => (choose(&index, wanted, platform)?.clone(), true),
    };
    let reference = name_of(&descriptor).map(str::to_owned);
    for _ in 0..MAX_NESTING {
        let size = is_sized.then_some(descriptor.size);
        let Some(bytes) = store.json(&descriptor.digest, size)? else { return Ok(None) };
        match read_manifest(&bytes, &descriptor)? {
            Found::Index(index) => {
                (descriptor, is_sized) = (choose(&index, &Wanted::Any, platform)?.clone(), true);
            }
            Found::Manifest(manifest) => {
                let Some(config) = store.json(&manifest.config.digest, Some(manifest.config.size))? else {
                    return Ok(None);
                };
                let layers = manifest.layers.iter().map(|layer| LayerRef {
                    path: layer.digest.blob_path().into_os_string().into_encoded_bytes(),
                    promise: Promise { blob: Some(layer.digest.clone()), size: Some(layer.size), ..Promise::default() },
                });
                return image(reference, descriptor.digest, config, layers.collect(), platform).map(Some);
            }
        }
    }
    fail!(Exit::Data, "indexes are nested more than {MAX_NESTING} deep")
}

/// An entry of `manifest.json`, as `docker save` writes it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Finds an image in what `docker save` wrote before it wrote OCI layouts.
///
/// # Errors
/// As [`find`].
pub fn find_saved(archive: &Archive, wanted: &Wanted, platform: Option<&Platform>) -> Result<Option<Image>> {
    let Some(bytes) = archive.small(b"manifest.json")? else { return Ok(None) };
    let all: Vec<Saved> = serde_json::from_slice(&bytes)
        .or_exit(Exit::Data, || "the archive's manifest.json is not what docker save writes")?;
    let tags = |saved: &Saved| saved.repo_tags.clone().unwrap_or_default();
    let mut chosen = all.iter().filter(|saved| match wanted {
        Wanted::Named(name) => tags(saved).iter().any(|tag| matches(tag, name)),
        _ => true,
    });
    let names = || all.iter().flat_map(tags).collect::<Vec<_>>().join(", ");
    let (saved, reference) = match (chosen.next(), chosen.next(), wanted) {
        (Some(saved), None, Wanted::Named(name)) => (saved, tags(saved).into_iter().find(|tag| matches(tag, name))),
        (Some(saved), None, _) => (saved, tags(saved).into_iter().next()),
        (Some(_), Some(_), _) => {
            fail!(Exit::NotFound, "the archive has several images: {}; name one behind a colon", names())
        }
        (None, _, Wanted::Named(name)) => fail!(Exit::NotFound, "{}", no_image(name, &names())),
        (None, ..) => fail!(Exit::NotFound, "it lists no image at all"),
    };
    let config = archive.small(&crate::entry::normal(saved.config.as_bytes())?)?;
    let config = config.or_exit(Exit::Data, || format!("the archive lacks the config {}", saved.config))?;
    let layers = saved
        .layers
        .iter()
        .map(|path| Ok(LayerRef { path: crate::entry::normal(path.as_bytes())?, promise: Promise::default() }));
    let digest = Digest::of(&config);
    image(reference, digest, config, layers.collect::<Result<_>>()?, platform).map(Some)
}

fn image(
    reference: Option<String>,
    digest: Digest,
    config: Vec<u8>,
    mut layers: Vec<LayerRef>,
    platform: Option<&Platform>,
) -> Result<Image> {
    let parsed: ImageConfig =
        serde_json::from_slice(&config).map_err(|e| unreadable("the image's config", &config, &e))?;
    let built_for = parsed.platform();
    let diff_ids = parsed.rootfs.diff_ids;
    if diff_ids.len() != layers.len() {
        fail!(Exit::Data, "the image has {} layers and {} diff_ids", layers.len(), diff_ids.len());
    }
    if layers.len() > MAX_LAYERS {
        fail!(Exit::Data, "the image has {} layers, more than {MAX_LAYERS}", layers.len());
    }
    if let Some(wanted) = platform
        && wanted.fit(&built_for).is_none()
        && !built_for.architecture.is_empty()
    {
        fail!(Exit::NotFound, "the image is for {built_for}, not for {wanted}");
    }
    for (layer, diff_id) in layers.iter_mut().zip(diff_ids) {
        layer.promise.diff_id = Some(diff_id);
    }
    Ok(Image { reference, digest, platform: built_for, config, layers })
}

enum Found {
    Index(Index),
    Manifest(Box<Manifest>),
}

fn read_manifest(bytes: &[u8], descriptor: &Descriptor) -> Result<Found> {
    /// What tells the kinds apart.
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        #[serde(default)]
        schema_version: u32,
        manifests: Option<serde::de::IgnoredAny>,
    }
    let digest = &descriptor.digest;
    let no_image = |e: serde_json::Error| unreadable(&format!("the manifest {digest}"), bytes, &e);
    let shape: Shape = serde_json::from_slice(bytes).map_err(no_image)?;
    if shape.schema_version == 1 {
        fail!(Exit::Data, "{digest} is a manifest of Docker's schema 1, which has no diff_ids to check; convert it");
    }
    if shape.manifests.is_some() || media::is_index(&descriptor.media_type) {
        return serde_json::from_slice(bytes).map_err(no_image).map(Found::Index);
    }
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(no_image)?;
    let config_type = &manifest.config.media_type;
    if !config_type.is_empty() && !media::is_config(config_type) {
        let kind = manifest.artifact_type.as_ref().unwrap_or(config_type);
        fail!(Exit::Data, "{digest} is an artifact ({kind}), not an image");
    }
    Ok(Found::Manifest(Box::new(manifest)))
}

/// Why the JSON of `what` cannot be used, in words that do not come from this program.
pub fn unreadable(what: &str, bytes: &[u8], error: &serde_json::Error) -> anyhow::Error {
    let at = format!("line {}, column {}", error.line(), error.column());
    failure(
        Exit::Data,
        match error.classify() {
            Category::Data if bytes.trim_ascii_start().first() != Some(&b'{') => format!("{what} is no JSON object"),
            Category::Data => format!("{what} lacks a member, or has one of a wrong type, before {at}"),
            Category::Eof => format!("{what} ends early"),
            Category::Syntax | Category::Io => format!("{what} is no JSON at {at}"),
        },
    )
}

/// The entry of an index that is wanted and fits the platform best.
fn choose<'a>(index: &'a Index, wanted: &Wanted, platform: Option<&Platform>) -> Result<&'a Descriptor> {
    let images: Vec<&Descriptor> = index.manifests.iter().filter(|d| !d.is_attestation()).collect();
    let mut asked_for = platform.cloned();
    let mut named: Vec<&Descriptor> = match wanted {
        Wanted::Named(name) => {
            let (name, of_name) = split_platform(name);
            asked_for = asked_for.or(of_name);
            let called = |fits: &dyn Fn(&str) -> bool| {
                let fits = |d: &&Descriptor| name_of(d).is_some_and(|n| fits(split_platform(n).0));
                images.iter().copied().filter(fits).collect::<Vec<_>>()
            };
            let exact = called(&|full| full == name);
            if exact.is_empty() { called(&|full| matches(full, name)) } else { exact }
        }
        _ => {
            // d-pull was asked for that platform: `d-pull --platform linux/arm64 -o - X | d-unpack - DIR`.
            if let [only] = images.as_slice() {
                asked_for = asked_for.or_else(|| split_platform(name_of(only)?).1);
            }
            images.clone()
        }
    };
    let list = |images: &[&Descriptor]| {
        let what = |d: &&Descriptor| match (name_of(d), platform_of(d)) {
            (Some(name), _) => name.to_owned(),
            (None, Some(platform)) => platform.to_string(),
            (None, None) => d.digest.to_string(),
        };
        images.iter().map(what).collect::<Vec<_>>().join(", ")
    };
    match wanted {
        _ if !named.is_empty() => {}
        Wanted::Named(name) => fail!(Exit::NotFound, "{}", no_image(name, &list(&images))),
        _ => fail!(Exit::NotFound, "it lists no image at all"),
    }
    let for_host = if asked_for.is_none() { "; --platform takes another" } else { "" };
    let wanted = asked_for.unwrap_or_else(Platform::host);
    // An entry that does not say what it is for comes after all that fit.
    let fit = |d: &Descriptor| platform_of(d).map_or(Some(u32::MAX), |p| wanted.fit(&p));
    let Some(best) = named.iter().filter_map(|d| fit(d)).min() else {
        fail!(Exit::NotFound, "no image for {wanted}; there is {}{for_host}", platforms(&named));
    };
    named.retain(|d| fit(d) == Some(best));
    // One image under several names is one.
    named.dedup_by(|a, b| a.digest == b.digest);
    match named.as_slice() {
        [one] => Ok(one),
        several => fail!(Exit::NotFound, "several images: {}; name one behind a colon", list(several)),
    }
}

/// What to say where no image is called `name`.
fn no_image(name: &str, names: &str) -> String {
    let there = if names.is_empty() { "there is none with a name".to_owned() } else { format!("there is {names}") };
    format!("no image is called {name:?}; {there}")
}

fn platforms(images: &[&Descriptor]) -> String {
    images.iter().filter_map(|d| platform_of(d)).map(|p| p.to_string()).collect::<Vec<_>>().join(", ")
}

/// What an image in an index runs on, as it says or as d-pull has it in the name.
fn platform_of(descriptor: &Descriptor) -> Option<Platform> {
    descriptor.platform.clone().or_else(|| split_platform(name_of(descriptor)?).1)
}

/// A name, and the platform that d-pull adds to that of an image for another one (`alpine:3+linux/arm64`).
fn split_platform(name: &str) -> (&str, Option<Platform>) {
    let split = name.rsplit_once('+').and_then(|(name, platform)| Some((name, platform.parse().ok()?)));
    split.map_or((name, None), |(name, platform)| (name, Some(platform)))
}

/// The name of an image in an index: containerd's and new Docker's full one, else the specification's.
fn name_of(descriptor: &Descriptor) -> Option<&str> {
    let full = descriptor.annotations.get("io.containerd.image.name").map(String::as_str);
    full.or_else(|| descriptor.ref_name())
}

/// Whether `name` means the image `full`: the whole name, its tag, its end behind a slash, each also without `:latest`.
fn matches(full: &str, name: &str) -> bool {
    let ends = |full: &str| full == name || full.strip_suffix(name).is_some_and(|rest| rest.ends_with(['/', ':']));
    ends(full) || full.strip_suffix(":latest").is_some_and(ends)
}

fn bare(digest: Digest) -> Descriptor {
    Descriptor {
        media_type: String::new(),
        digest,
        size: 0,
        urls: Vec::new(),
        annotations: Default::default(),
        data: None,
        platform: None,
        artifact_type: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use d_common::image::REF_NAME;

    #[test]
    fn names_match_as_people_write_them() {
        let full = "docker.io/library/alpine:latest";
        for name in [full, "alpine", "library/alpine", "alpine:latest", "latest", "docker.io/library/alpine"] {
            assert!(matches(full, name), "{name}");
        }
        for name in ["pine", "alpine:3", "docker.io"] {
            assert!(!matches(full, name), "{name}");
        }
        assert_eq!(split_platform("a:3+linux/arm64"), ("a:3", Some("linux/arm64".parse().unwrap())));
        assert_eq!(split_platform("a:3+build"), ("a:3+build", None));
    }

    fn index(entries: &[(&str, Option<&str>)]) -> Index {
        let entry = |(i, (name, platform)): (usize, &(&str, Option<&str>))| Descriptor {
            annotations: [(REF_NAME.to_owned(), (*name).to_owned())].into_iter().filter(|a| !a.1.is_empty()).collect(),
            platform: platform.map(|p| p.parse().unwrap()),
            ..bare(Digest::of(&[u8::try_from(i).unwrap()]))
        };
        Index { schema_version: 2, media_type: None, manifests: entries.iter().enumerate().map(entry).collect() }
    }

    #[test]
    fn the_best_fit_is_chosen_and_nothing_in_silence() {
        let index = index(&[("a", None), ("b", Some("linux/arm64")), ("", Some("linux/arm/v6"))]);
        let at = |wanted: &Wanted, platform: Option<&str>| {
            let platform = platform.map(|p| p.parse().unwrap());
            choose(&index, wanted, platform.as_ref()).map(|d| index.manifests.iter().position(|m| m == d).unwrap())
        };
        let error = at(&Wanted::Named("b".into()), None).unwrap_err().to_string();
        assert!(error.contains("linux/arm64"), "{error}");
        assert_eq!(at(&Wanted::Named("b".into()), Some("linux/arm64")).unwrap(), 1);
        assert_eq!(at(&Wanted::Named("b+linux/arm64".into()), None).unwrap(), 1);
        assert_eq!(at(&Wanted::Any, Some("linux/arm64")).unwrap(), 1);
        assert_eq!(at(&Wanted::Any, Some("linux/arm/v7")).unwrap(), 2);
        let error = at(&Wanted::Named("b".into()), Some("linux/s390x")).unwrap_err().to_string();
        assert!(error.contains("linux/arm64"), "{error}");
        assert!(at(&Wanted::Named("c".into()), None).unwrap_err().to_string().contains("a, b"));
    }

    #[test]
    fn d_pulls_names_tell_platforms_apart() {
        let index = index(&[("h:5/a:latest", None), ("h:5/a:latest+linux/arm64", None)]);
        for name in ["h:5/a:latest", "a", "a:latest"] {
            for (platform, expected) in [(None, 0), (Some("linux/arm64".parse().unwrap()), 1)] {
                let found = choose(&index, &Wanted::Named(name.into()), platform.as_ref()).unwrap();
                assert_eq!(*found, index.manifests[expected], "{name} {platform:?}");
            }
        }
    }
}
