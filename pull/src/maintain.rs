//! Looking after the cache: `--list`, `--forget`, `--expire`, `--gc`, `--fsck`. Removals happen under the cache's lock, and
//! never touch what a running pull has registered; every image that index.json names stays whole.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use d_common::digest::{Digest, Hasher};
use d_common::exit::{Exit, exit_of, failure};
use d_common::image::{Descriptor, Manifest, media};
use d_common::layout::open_file;
use d_common::platform::Platform;
use d_common::report::chain;
use rustix::fs::{FlockOperation, OFlags};

use crate::cache::{Cache, Lock, is_at, lock_file};
use crate::context::Context;
use crate::index::{Entry, Index};
use crate::lockfile::Pin;
use crate::reference::Reference;
use crate::results::Results;

const DAY: Duration = Duration::from_secs(86_400);
/// How deep indexes of other tools may be nested.
const MAX_DEPTH: usize = 4;
/// Bytes that are hashed at once.
const BUFFER: usize = 256 << 10;

/// Prints the named images, in the order of their names.
///
/// # Errors
/// [`Exit::Data`] for a broken index.json, [`Exit::Io`] for stdout.
pub fn list(context: &Context, results: Results) -> Result<()> {
    let mut entries = context.cache.index()?.entries();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    for entry in entries {
        // What other tools wrote may have names of their own, such as `latest`: they are no references in full.
        let parsed = entry.reference().parse::<Reference>().ok();
        let Some(reference) = parsed.filter(|r| r.to_string() == entry.reference()) else { continue };
        let Some(platform) = platform_of(&entry) else { continue };
        if context.plan.only.as_ref().is_some_and(|only| *only != platform) {
            continue;
        }
        results.listed(&Pin { reference, platform, digest: entry.manifest.digest })?;
    }
    Ok(())
}

/// The platform of an image: `None` when what should say so is no platform.
fn platform_of(entry: &Entry) -> Option<Platform> {
    if let Some((_, suffix)) = entry.name.split_once('+') {
        return suffix.parse().ok();
    }
    let named = entry.manifest.platform.clone().filter(|p| !p.architecture.is_empty());
    let platform = named.unwrap_or_else(Platform::host);
    platform.is_plain().then(|| platform.normal())
}

/// Takes an image's names out of index.json: all platforms', unless one was asked for.
///
/// # Errors
/// [`Exit::NotFound`] when there is none.
pub fn forget(context: &Context, reference: &Reference) -> Result<()> {
    let plan = &context.plan;
    let name = reference.to_string();
    if !context.cache.holds("index.json")? {
        return Err(not_cached(&name));
    }
    let mut found = false;
    context.cache.update_index(|index| {
        let gone: HashSet<String> = index
            .entries()
            .into_iter()
            .filter(|e| e.reference() == name && (plan.only.is_none() || platform_of(e) == plan.only))
            .map(|e| e.name)
            .collect();
        found = index.retain(|d| !d.ref_name().is_some_and(|n| gone.contains(n)));
        found
    })?;
    if found { Ok(()) } else { Err(not_cached(&name)) }
}

fn not_cached(name: &str) -> anyhow::Error {
    failure(Exit::NotFound, format!("{name} is not in the cache"))
}

/// Removes blobs that were not used for some days, and the names of the images that they belonged to.
///
/// # Errors
/// [`Exit::CantCreate`] where the cache is not ours to change, [`Exit::NotAllowed`] where it is not ours to read.
pub fn expire(context: &Context, days: u32) -> Result<()> {
    let cache = &context.cache;
    let limit = DAY * days;
    if days == 0 {
        return Ok(());
    }
    let old = || {
        let blobs = cache.blobs_by_age()?.into_iter();
        anyhow::Ok(blobs.filter(|(_, age)| *age > limit).map(|(digest, _)| digest).collect::<Vec<_>>())
    };
    // Nearly always there is nothing to do, and then nobody has to wait.
    if old()?.is_empty() && !cache.partial_files()?.iter().any(|p| is_older(p, limit)) {
        return Ok(());
    }
    let lock = cache.lock()?;
    let needed = cache.registered(&lock)?;
    // Looked at again: a pull may have used them meanwhile.
    let removed = remove(context, old()?.into_iter().filter(|d| !needed.contains(d)));
    remove_partials(cache, |path| is_older(path, limit))?;
    if removed { drop_broken_names(context, &lock, None) } else { Ok(()) }
}

/// Removes blobs that no image in index.json and no running pull refers to, and all partial blobs that nobody writes.
///
/// # Errors
/// As [`expire`]; [`Exit::Data`] for a broken index.json.
pub fn gc(context: &Context) -> Result<()> {
    let cache = &context.cache;
    if !cache.holds("index.json")? {
        return Ok(());
    }
    let lock = cache.lock()?;
    let mut needed = cache.registered(&lock)?;
    let index = cache.index()?;
    for entry in index.entries() {
        needed.insert(entry.tag_digest);
    }
    for root in index.roots() {
        // What is broken or gone refers to nothing; what we may not read ends this: who knows what it needs.
        mark(cache, &root, &mut needed, 0)?;
    }
    remove(context, cache.blobs_by_age()?.into_iter().map(|(digest, _)| digest).filter(|d| !needed.contains(d)));
    remove_partials(cache, |_| true)
}

/// Reads every blob, prints and removes the broken ones, and drops the names of images that are not whole.
///
/// # Errors
/// [`Exit::Data`] when anything was broken or could not be read.
pub fn fsck(context: &Context, results: Results) -> Result<()> {
    let cache = &context.cache;
    if !cache.holds("blobs")? && !cache.holds("index.json")? {
        return Ok(());
    }
    let mut broken = 0;
    for (digest, _) in cache.blobs_by_age()? {
        if let Some(what) = examine(cache, &digest) {
            broken += 1;
            results.broken(&digest.to_string(), &what)?;
        }
    }
    cache.create()?;
    let lock = cache.lock()?;
    match cache.index() {
        Ok(_) => {}
        // It may be whole: its owner can tell.
        Err(error) if exit_of(&error) == Exit::NotAllowed => return Err(error),
        Err(_) => {
            broken += 1;
            results.broken("index.json", "cannot be read: replaced by an empty one")?;
            cache.write_index(&lock, &Index::default())?;
        }
    }
    let mut names = Vec::new();
    drop_broken_names(context, &lock, Some(&mut names))?;
    for name in &names {
        results.broken(name, "is not whole any more: forgotten")?;
    }
    if broken + names.len() > 0 {
        return Err(failure(Exit::Data, format!("{}: {} broken", cache.layout.root().display(), broken + names.len())));
    }
    Ok(())
}

/// Reads one blob and removes it if it is broken; says what is wrong with it and what was done.
fn examine(cache: &Cache, digest: &Digest) -> Option<String> {
    let path = cache.layout.blob_path(digest);
    let removed = |outcome: Result<()>| match outcome {
        Ok(()) => "removed".to_owned(),
        Err(error) => format!("cannot be removed: {}", chain(&error)),
    };
    let unread = |error: io::Error| Some(format!("cannot be read: {}", chain(&error.into())));
    let file = match open_unnoticed(&path) {
        Ok(file) => file,
        // Gone meanwhile: not ours to complain about.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
        Err(_) if fs::metadata(&path).is_ok_and(|m| !m.is_file()) => {
            // A folder only if it is empty: what else may be in it is none of our doing.
            let remove = || Ok(fs::remove_file(&path).or_else(|_| fs::remove_dir(&path))?);
            return Some(format!("is no file: {}", removed(cache.lock().and_then(|_lock| remove()))));
        }
        Err(error) => return unread(error),
    };
    let found = match hash(&file, digest) {
        Ok(found) => found,
        Err(error) => return unread(error),
    };
    if found == *digest {
        return None;
    }
    let lock = cache.lock();
    // A pull may have replaced it since.
    let same = is_at(&file, &path);
    same.then(|| format!("is in truth {found}: {}", removed(lock.and_then(|_lock| Ok(fs::remove_file(&path)?)))))
}

/// Opened for reading without that counting as use; only the owner may do so (open(2), `O_NOATIME`).
fn open_unnoticed(path: &Path) -> io::Result<File> {
    open_file(path, OFlags::NOATIME).or_else(|_| open_file(path, OFlags::empty()))
}

fn hash(mut file: &File, digest: &Digest) -> io::Result<Digest> {
    let mut hasher = Hasher::new(digest.algorithm());
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

fn remove(context: &Context, blobs: impl Iterator<Item = Digest>) -> bool {
    let mut any = false;
    for digest in blobs {
        if fs::remove_file(context.cache.layout.blob_path(&digest)).is_ok() {
            context.report.info(format_args!("removed {digest}"));
            any = true;
        }
    }
    any
}

fn remove_partials(cache: &Cache, unwanted: impl Fn(&Path) -> bool) -> Result<()> {
    for path in cache.partial_files()?.iter().filter(|p| unwanted(p)) {
        let Ok(file) = open_file(path, OFlags::empty()) else { continue };
        // One that is locked is being written.
        if lock_file(&file, FlockOperation::NonBlockingLockExclusive).is_ok() && is_at(&file, path) {
            let _ = fs::remove_file(path);
        }
    }
    Ok(())
}

fn is_older(path: &Path, limit: Duration) -> bool {
    let modified = fs::metadata(path).and_then(|m| m.modified());
    modified.is_ok_and(|m| m.elapsed().is_ok_and(|age| age > limit))
}

fn drop_broken_names(context: &Context, lock: &Lock, mut names: Option<&mut Vec<String>>) -> Result<()> {
    let cache = &context.cache;
    let mut index = cache.index()?;
    // One that we may not read may be whole.
    let whole = |root: &Descriptor| mark(cache, root, &mut HashSet::new(), 0).unwrap_or(true);
    let gone: Vec<Descriptor> = index.roots().into_iter().filter(|root| !whole(root)).collect();
    if gone.is_empty() {
        return Ok(());
    }
    for root in &gone {
        let name = root.ref_name().map_or_else(|| root.digest.to_string(), str::to_owned);
        context.report.info(format_args!("forgot {name}, which is not whole any more"));
        if let Some(names) = names.as_mut() {
            names.push(name);
        }
    }
    index.retain(|d| !gone.contains(d));
    cache.write_index(lock, &index)
}

/// Adds what a manifest or index refers to; says whether nothing of an image is missing.
///
/// # Errors
/// [`Exit::NotAllowed`] where we may not look.
fn mark(cache: &Cache, root: &Descriptor, needed: &mut HashSet<Digest>, depth: usize) -> Result<bool> {
    if depth == MAX_DEPTH {
        return Ok(false);
    }
    needed.insert(root.digest.clone());
    let bytes = match cache.layout.json_blob(&root.digest, None) {
        Err(error) if exit_of(&error) == Exit::NotAllowed => return Err(error),
        bytes => bytes.unwrap_or_default(),
    };
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(&bytes) else { return Ok(false) };
    let mut whole = true;
    if json.get("manifests").is_some() {
        // Another tool's index: of its images those that are here count.
        let Ok(index) = serde_json::from_value::<d_common::image::Index>(json) else { return Ok(false) };
        for entry in index.manifests.iter().filter(|e| cache.has(e)) {
            whole &= mark(cache, entry, needed, depth + 1)?;
        }
        return Ok(whole);
    }
    let Ok(manifest) = serde_json::from_value::<Manifest>(json) else { return Ok(true) };
    for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
        needed.insert(blob.digest.clone());
        whole &= cache.has(blob) || media::is_foreign(&blob.media_type);
    }
    Ok(whole)
}
