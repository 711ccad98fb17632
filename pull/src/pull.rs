//! One image into the cache: find it, claim what it needs, fetch what is missing, name it; and on the way, if asked for,
//! into an archive.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Error, Result};
use d_common::digest::Digest;
use d_common::exit::Exit;
use d_common::fail;
use d_common::image::{Descriptor, media};
use d_common::layout::Layout;
use d_common::platform::Platform;

use crate::archive::{Archive, name_of as member_name};
use crate::blob::Fetcher;
use crate::cache::{Cache, Registration};
use crate::context::Context;
use crate::find::Finder;
use crate::growth::Growth;
use crate::index::{Entry, Index, name_of};
use crate::plan::{PullMode, Wanted};
use crate::reference::Reference;
use crate::resolve::{Blob, Image};

/// An image in the cache.
#[derive(Debug)]
pub struct Pulled {
    /// The name it was pulled by.
    pub reference: Reference,
    /// What it runs on.
    pub platform: Platform,
    /// Its manifest's digest.
    pub digest: Digest,
    /// Its manifest in the cache.
    pub path: PathBuf,
}

/// Pulls an image; `archive` takes it as an OCI archive.
///
/// # Errors
/// As the table of exit codes says; whatever was fetched of its blobs stays for the next run.
pub fn pull(context: &Context, wanted: &Wanted, archive: Option<&mut dyn Write>) -> Result<Pulled> {
    let sources = context.sources(wanted)?;
    let image = Finder::new(context, wanted, &sources).find()?;
    context.report.info(format_args!("{} is {} for {}", wanted.reference, image.manifest.digest, image.platform));
    let blobs = image.blobs()?;
    refuse_foreign(context, &blobs)?;

    let cache = &context.cache;
    let entry = entry_of(wanted, &image);
    let claim = claim(cache, &image, &blobs)?;
    if claim.is_some() || archive.is_some() {
        let cancelled = AtomicBool::new(false);
        let fetcher = Fetcher {
            cache,
            sources: &sources,
            at_hand: image.config.as_deref().map(|bytes| (&image.parsed.config.digest, bytes)),
            foreign: context.plan.foreign.then_some(&context.http),
            report: context.report,
            progress: &context.progress,
            cancelled: &cancelled,
        };
        let streamed = archive.is_some();
        fetch_all(&fetcher, context.plan.jobs, &blobs, streamed, |growths| {
            image.documents().try_for_each(|document| cache.put(&document.digest, &document.bytes))?;
            archive.map_or(Ok(()), |out| {
                write_archive(Archive::new(out, context.plan.source_date), &image, &entry, &blobs, growths)
            })
        })?;
    }
    cache.touch(needs(&image, &blobs));
    name(context, &entry)?;
    drop(claim);
    let path = cache.layout.blob_path(&image.manifest.digest);
    Ok(Pulled { reference: wanted.reference.clone(), platform: image.platform, digest: image.manifest.digest, path })
}

/// All that an image consists of.
fn needs<'a>(image: &'a Image, blobs: &[&'a Descriptor]) -> impl Iterator<Item = &'a Digest> {
    image.documents().map(|d| &d.digest).chain(blobs.iter().map(|b| &b.digest))
}

/// Claims what an image needs; `None` if all of it is there already.
fn claim(cache: &Cache, image: &Image, blobs: &[&Descriptor]) -> Result<Option<Registration>> {
    let stored = |document: &Blob| cache.json(&document.digest).is_some();
    let is_layout = Layout::is_at(cache.layout.root());
    if is_layout && image.documents().all(stored) && blobs.iter().all(|b| cache.has(b)) {
        return Ok(None);
    }
    cache.create()?;
    // From here on nobody removes what we count on; what is there is looked at only after this.
    cache.register(needs(image, blobs)).map(Some)
}

/// Layers that their publisher keeps elsewhere are fetched from there only if the user says so: the image would choose the
/// hosts that we talk to.
fn refuse_foreign(context: &Context, blobs: &[&Descriptor]) -> Result<()> {
    let foreign = blobs.iter().find(|b| media::is_foreign(&b.media_type) && !context.cache.has(b));
    match foreign {
        Some(blob) if !context.plan.foreign => fail!(
            Exit::Data,
            "layer {} is a foreign one, kept at {}; --foreign fetches it from there",
            blob.digest,
            blob.urls.first().map_or("no URL", String::as_str)
        ),
        _ => Ok(()),
    }
}

fn entry_of(wanted: &Wanted, image: &Image) -> Entry {
    Entry::new(
        name_of(&wanted.reference, &image.platform),
        &image.manifest.media_type,
        &image.manifest.digest,
        image.manifest.bytes.len() as u64,
        &image.platform,
        &image.tag_digest,
    )
}

/// Puts the image's name into index.json, if it is not there.
fn name(context: &Context, entry: &Entry) -> Result<()> {
    let cache = &context.cache;
    if cache.index().is_ok_and(|index| index.find(&entry.name).as_ref() == Some(entry)) {
        return Ok(());
    }
    let named = cache.update_index(|index| index.set(entry));
    // From a cache that is not ours, an image may be used by its digest without a name.
    if context.plan.mode == PullMode::Never { named.or(Ok(())) } else { named }
}

/// Fetches blobs with some threads, and does `meanwhile` in this one, which can follow their growth where they are
/// `streamed`. The first failure stops all.
fn fetch_all(
    fetcher: &Fetcher<'_>,
    jobs: usize,
    blobs: &[&Descriptor],
    streamed: bool,
    meanwhile: impl FnOnce(&[Growth]) -> Result<()>,
) -> Result<()> {
    let growths: Vec<Growth> = blobs.iter().map(|_| Growth::default()).collect();
    let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
    // The first to fail says why; the others only stop.
    let fail_with = |error: Error| {
        if !fetcher.cancelled.swap(true, Ordering::SeqCst) {
            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
        growths.iter().for_each(|g| g.finish(false));
    };
    let work = || {
        while !fetcher.cancelled.load(Ordering::Relaxed) {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(blob) = blobs.get(i) else { return };
            if let Err(error) = fetcher.fetch(blob, streamed.then_some(&growths[i])) {
                fail_with(error);
            }
        }
    };
    let missing = blobs.iter().filter(|b| !fetcher.cache.has(b)).count();
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(missing.max(usize::from(streamed))) {
            scope.spawn(work);
        }
        if let Err(error) = meanwhile(&growths) {
            fail_with(error);
        }
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

fn write_archive(
    mut archive: Archive<&mut dyn Write>,
    image: &Image,
    entry: &Entry,
    blobs: &[&Descriptor],
    growths: &[Growth],
) -> Result<()> {
    let mut index = Index::default();
    index.set(entry);
    archive.file("oci-layout", crate::cache::OCI_LAYOUT)?;
    archive.file("index.json", index.to_string().as_bytes())?;
    archive.folder("blobs/")?;
    let digests = std::iter::once(&entry.manifest.digest).chain(blobs.iter().map(|b| &b.digest));
    let algorithms: BTreeSet<&str> = digests.map(|d| d.algorithm().name()).collect();
    for algorithm in algorithms {
        archive.folder(&format!("blobs/{algorithm}/"))?;
    }
    archive.file(&member_name(&entry.manifest), &image.manifest.bytes)?;
    for (blob, growth) in blobs.iter().zip(growths) {
        archive.blob(blob, growth)?;
    }
    // A blob may fail when all its bytes are there already.
    if !growths.iter().all(Growth::ended_well) {
        fail!(Exit::Data, "the archive ends early: a blob failed");
    }
    archive.finish()?;
    Ok(())
}
