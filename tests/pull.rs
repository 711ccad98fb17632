//! d-pull(1): references, tokens, credentials, retries, the cache; against docker-registry and misbehaving servers.

#[path = "pull/auth.rs"]
mod auth;
#[path = "pull/cache.rs"]
mod cache;
#[path = "pull/content.rs"]
mod content;
#[path = "pull/damage.rs"]
mod damage;
#[path = "pull/memory.rs"]
mod memory;
#[path = "pull/options.rs"]
mod options;
#[path = "pull/real.rs"]
mod real;
#[path = "pull/transport.rs"]
mod transport;

use std::path::PathBuf;

use d_common::digest::Digest;
use d_tests::image::{Image, noise};

/// An image with one layer of noise for each length; d-pull does not look into layers.
fn image(layers: &[usize]) -> Image {
    layers.iter().zip(1..).fold(Image::new(), |image, (len, seed)| image.layer(noise(*len, seed)))
}

/// The digest of an image's manifest.
fn manifest_of(image: &Image) -> Digest {
    image.blobs().pop().expect("the manifest").0
}

/// Where a scratch folder's cache keeps a blob.
fn blob(scratch: &d_tests::Scratch, digest: &Digest) -> PathBuf {
    scratch.cache().join(digest.blob_path())
}
