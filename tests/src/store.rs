//! A registry's content, and the right answer to each request: what a [`crate::badregistry::BadRegistry`] says where it does
//! not misbehave.

use std::collections::HashMap;

use d_common::digest::{Algorithm, Digest};

use crate::badregistry::{Request, Response};
use crate::image::Image;

/// Blobs and manifests of one repository, whatever it is called.
#[derive(Clone, Debug, Default)]
pub struct Store {
    blobs: HashMap<String, Vec<u8>>,
    manifests: HashMap<String, (String, Vec<u8>)>,
}

impl Store {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// One that serves an image under the tag `latest`.
    pub fn of(image: &Image) -> Self {
        Self::new().image("latest", image)
    }

    /// Serves an image under a tag too.
    pub fn image(mut self, tag: &str, image: &Image) -> Self {
        let mut blobs = image.blobs();
        let (_, manifest) = blobs.pop().expect("the manifest");
        for (_, bytes) in blobs {
            self = self.blob(bytes);
        }
        self.manifest(tag, "application/vnd.oci.image.manifest.v1+json", manifest)
    }

    /// Serves a blob under its digests.
    pub fn blob(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            self.blobs.insert(Digest::with(algorithm, &bytes).to_string(), bytes.clone());
        }
        self
    }

    /// Serves a manifest under a tag and its digests.
    pub fn manifest(mut self, tag: &str, media_type: &str, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        let names = [Algorithm::Sha256, Algorithm::Sha512].map(|a| Digest::with(a, &bytes).to_string());
        for name in names.into_iter().chain([tag.to_owned()]) {
            self.manifests.insert(name, (media_type.to_owned(), bytes.clone()));
        }
        self
    }

    /// The right answer, with ranges.
    pub fn answer(&self, request: &Request) -> Response {
        let path = request.path.split('?').next().unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default();
        if path == "/v2/" {
            return Response::ok("{}");
        }
        if path.contains("/manifests/") {
            let Some((media_type, bytes)) = self.manifests.get(name) else { return Response::status(404) };
            let digest = Digest::of(bytes).to_string();
            return Response::ok(bytes.clone())
                .header("Content-Type", media_type)
                .header("Docker-Content-Digest", &digest);
        }
        let Some(bytes) = self.blobs.get(name).filter(|_| path.contains("/blobs/")) else {
            return Response::status(404);
        };
        let from = request.header("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        match from {
            None => Response::ok(bytes.clone()),
            Some(from) if from >= bytes.len() => Response::status(416),
            Some(from) => Response { status: 206, ..Response::ok(&bytes[from..]) }
                .header("Content-Range", &format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len())),
        }
    }
}
