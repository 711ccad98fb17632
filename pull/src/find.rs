//! Which image a reference means now: what the cache says, what the registry says, and which of them is asked (`--pull`).

use anyhow::Result;
use d_common::digest::Digest;
use d_common::exit::{Exit, OrExit, caused, exit_of, failure};
use d_common::fail;
use d_common::image::Descriptor;
use d_common::report::chain;

use crate::blob::embedded;
use crate::context::Context;
use crate::index::name_of;
use crate::plan::{PullMode, Wanted};
use crate::reference::Version;
use crate::registry::Repository;
use crate::resolve::{Blob, Get, Image, Kind, Want, walk};

/// Finds one image.
pub struct Finder<'a> {
    context: &'a Context,
    wanted: &'a Wanted,
    /// Where it may be fetched from.
    pub sources: &'a [Repository<'a>],
}

impl<'a> Finder<'a> {
    /// Nothing is asked yet.
    pub fn new(context: &'a Context, wanted: &'a Wanted, sources: &'a [Repository<'a>]) -> Self {
        Self { context, wanted, sources }
    }

    /// The image as the chosen mode wants it to be found.
    ///
    /// # Errors
    /// [`Exit::NotFound`] where it is neither cached nor to be asked for; those of the registry and of [`walk`].
    pub fn find(&self) -> Result<Image> {
        let mode = self.context.plan.mode;
        let cached = self.cached();
        let pinned = matches!(self.wanted.version, Version::Digest(_));
        match (cached, mode) {
            // What has a digest cannot be newer elsewhere.
            (Ok(image), _) if pinned => Ok(image),
            (Ok(image), PullMode::Never | PullMode::Missing) => Ok(image),
            (Err(error), PullMode::Never) => {
                let message = format!("{} is not in the cache (--offline)", self.wanted.reference);
                Err(match exit_of(&error) {
                    Exit::NotAllowed => error,
                    Exit::NotFound => failure(Exit::NotFound, message),
                    // It is there, but damaged.
                    _ => caused(Exit::NotFound, message, error),
                })
            }
            (Ok(image), PullMode::Newer) => self.ask(Some(&image)).or_else(|error| {
                if exit_of(&error) != Exit::TryAgain {
                    return Err(error);
                }
                self.context.report.warn(format_args!("{}; using the cached {}", chain(&error), self.wanted.reference));
                Ok(image)
            }),
            (cached, _) => self.ask(cached.ok().as_ref()),
        }
    }

    /// The image as it is in the cache, if it is there with all its blobs.
    fn cached(&self) -> Result<Image> {
        let cache = &self.context.cache;
        let (digest, tag_digest) = match &self.wanted.version {
            Version::Digest(digest) => (digest.clone(), digest.clone()),
            Version::Tag(_) => {
                let name = name_of(&self.wanted.reference, &self.wanted.platform);
                let entry = cache.index()?.find(&name).or_exit(Exit::NotFound, || format!("{name} is not cached"))?;
                (entry.manifest.digest, entry.tag_digest)
            }
        };
        let json = |digest: &Digest| cache.layout.json_blob(digest, None);
        let root = Blob { bytes: json(&digest)?, digest, media_type: String::new() };
        let image = self.walk(root, &mut |_, blob| json(&blob.digest))?;
        match image.blobs()?.into_iter().find(|blob| !cache.has(blob)) {
            Some(missing) => Err(failure(Exit::NotFound, format!("{} is not cached", missing.digest))),
            None => Ok(Image { tag_digest, ..image }),
        }
    }

    /// Asks the registry, and fetches of the manifests only what the cache has not.
    fn ask(&self, cached: Option<&Image>) -> Result<Image> {
        let root = match &self.wanted.version {
            Version::Digest(digest) => self.document(digest)?,
            tag @ Version::Tag(_) => {
                // Only worth a request if there is something to compare with.
                let digest = |source: &'a Repository<'a>| Some((source, source.tag_digest(tag)?));
                let said = cached.and_then(|_| self.sources.iter().find_map(digest));
                match (cached, said) {
                    (Some(image), Some((_, digest))) if image.tag_digest == digest => return Ok(image.clone()),
                    (_, Some((source, digest))) => self.document(&digest).or_else(|error| match exit_of(&error) {
                        Exit::NotFound => self.document_instead(tag, source, &digest),
                        _ => Err(error),
                    })?,
                    (_, None) => self.document_of(tag)?,
                }
            }
        };
        self.walk(root, &mut |kind, descriptor| self.get(kind, descriptor))
    }

    fn document(&self, digest: &Digest) -> Result<Blob> {
        match self.context.cache.json(digest) {
            Some(bytes) => Ok(Blob { digest: digest.clone(), media_type: String::new(), bytes }),
            None => self.document_of(&Version::Digest(digest.clone())),
        }
    }

    /// What a tag names, whose digest `source` has said and then does not know: it may know manifests by tag only, or be
    /// wrong.
    fn document_instead(&self, tag: &Version, source: &Repository<'_>, said: &Digest) -> Result<Blob> {
        let root = self.document_of(tag)?;
        let found = Digest::with(said.algorithm(), &root.bytes);
        // Who was given up for another source is not believed anyway.
        if found != *said && !source.is_given_up() {
            let name = source.source.name();
            fail!(
                Exit::Data,
                "{name}:{tag} is {said} by the answer to HEAD, which is not found, and {found} by that to GET"
            );
        }
        Ok(root)
    }

    fn document_of(&self, version: &Version) -> Result<Blob> {
        let answer = self.first(|source| source.manifest(version))?;
        let digest = match version {
            Version::Digest(digest) => digest.clone(),
            // The registry's own, which was checked: it may know the manifest by no other.
            Version::Tag(_) => answer.digest.unwrap_or_else(|| Digest::of(&answer.bytes)),
        };
        Ok(Blob { digest, media_type: answer.media_type, bytes: answer.bytes })
    }

    fn get(&self, kind: Kind, descriptor: &Descriptor) -> Result<Vec<u8>> {
        if let Some(bytes) = self.context.cache.json(&descriptor.digest) {
            return Ok(bytes);
        }
        if let Some(bytes) = embedded(descriptor)? {
            return Ok(bytes);
        }
        self.first(|source| match kind {
            Kind::Manifest => Ok(source.manifest(&Version::Digest(descriptor.digest.clone()))?.bytes),
            Kind::Config => source.small_blob(&descriptor.digest, descriptor.size),
        })
    }

    /// The config, wherever it is.
    ///
    /// # Errors
    /// The registry's; [`Exit::Data`] when it is not what the manifest says.
    pub fn config(&self, image: &Image) -> Result<Vec<u8>> {
        if let Some(bytes) = &image.config {
            return Ok(bytes.clone());
        }
        let bytes = self.get(Kind::Config, &image.parsed.config)?;
        crate::blob::check(&image.parsed.config, &bytes)?;
        Ok(bytes)
    }

    fn walk(&self, root: Blob, get: &mut Get<'_>) -> Result<Image> {
        let name = self.wanted.reference.to_string();
        let want = Want { platform: &self.wanted.platform, any: self.wanted.any_platform, name: &name };
        walk(root, &want, get)
    }

    /// The answer of the first source that has one; the last one's error is the image's own registry's.
    fn first<T>(&self, ask: impl Fn(&Repository<'_>) -> Result<T>) -> Result<T> {
        let mut last = failure(Exit::NotFound, format!("{} has no source", self.wanted.reference));
        for (i, source) in self.sources.iter().enumerate().filter(|(_, source)| !source.is_given_up()) {
            match ask(source) {
                Ok(answer) => return Ok(answer),
                Err(error) => last = error,
            }
            if i + 1 < self.sources.len() {
                // Not once more for each blob, nor a warning for each.
                source.give_up();
                self.context.report.warn(format_args!("{}; trying the next source", chain(&last)));
            }
        }
        Err(last)
    }
}
