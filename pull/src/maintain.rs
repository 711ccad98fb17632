//! Looking after the cache: `--list`, `--forget`, `--expire`, `--gc`, `--fsck`. Removals happen under the cache's lock, and
//! never touch what a running pull has registered; every image that index.json names stays whole.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use d_common::digest::{Digest, Hasher};
use d_common::exit::{Exit, OrExit, failure};
use d_common::image::{Descriptor, Manifest, media};
use d_common::platform::Platform;
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
        if context.plan.platform_given && platform != context.plan.platform {
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
    if !context.cache.layout.root().join("index.json").exists() {
        return Err(not_cached(&name));
    }
    let mut found = false;
    context.cache.update_index(|index| {
        let gone: HashSet<String> = index
            .entries()
            .into_iter()
            .filter(|e| {
                e.reference() == name && (!plan.platform_given || platform_of(e).as_ref() == Some(&plan.platform))
            })
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
/// [`Exit::CantCreate`] where the cache is not ours to change.
pub fn expire(context: &Context, days: u32) -> Result<()> {
    let cache = &context.cache;
    let limit = DAY * days;
    let old = |cache: &Cache| cache.blobs_by_age().into_iter().filter(|(_, age)| *age > limit).map(|(d, _)| d);
    // Nearly always there is nothing to do, and then nobody has to wait.
    if days == 0 || old(cache).next().is_none() && !cache.partial_files().iter().any(|p| is_older(p, limit)) {
        return Ok(());
    }
    let lock = cache.lock()?;
    let needed = cache.registered(&lock);
    // Looked at again: a pull may have used them meanwhile.
    let removed = remove(context, old(cache).filter(|d| !needed.contains(d)));
    remove_partials(cache, |path| is_older(path, limit));
    if removed { drop_broken_names(context, &lock, None) } else { Ok(()) }
}

/// Removes blobs that no image in index.json and no running pull refers to, and all partial blobs that nobody writes.
///
/// # Errors
/// As [`expire`]; [`Exit::Data`] for a broken index.json.
pub fn gc(context: &Context) -> Result<()> {
    let cache = &context.cache;
    if !cache.layout.root().join("index.json").exists() {
        return Ok(());
    }
    let lock = cache.lock()?;
    let mut needed = cache.registered(&lock);
    let index = cache.index()?;
    for entry in index.entries() {
        needed.insert(entry.tag_digest);
    }
    for root in index.roots() {
        // What cannot be read any more refers to nothing.
        let _ = mark(cache, &root, &mut needed, 0);
    }
    remove(context, cache.blobs_by_age().into_iter().map(|(digest, _)| digest).filter(|d| !needed.contains(d)));
    remove_partials(cache, |_| true);
    Ok(())
}

/// Reads every blob, prints and removes the broken ones, and drops the names of images that are not whole.
///
/// # Errors
/// [`Exit::Data`] when anything was broken.
pub fn fsck(context: &Context, results: Results) -> Result<()> {
    let cache = &context.cache;
    if !cache.layout.root().join("blobs").exists() {
        return Ok(());
    }
    let mut broken = 0;
    for (digest, _) in cache.blobs_by_age() {
        let path = cache.layout.blob_path(&digest);
        // Gone meanwhile: not ours to complain about.
        let Ok(file) = open_unnoticed(&path) else { continue };
        let found = hash(&file, &digest).or_exit(Exit::Io, || format!("cannot read {}", path.display()))?;
        if found == digest {
            continue;
        }
        let _lock = cache.lock()?;
        // A pull may have replaced it since.
        if is_at(&file, &path) {
            fs::remove_file(&path).or_exit(Exit::CantCreate, || format!("cannot remove {}", path.display()))?;
            broken += 1;
            results.broken(&digest.to_string(), &format!("is in truth {found}: removed"))?;
        }
    }
    cache.create()?;
    let lock = cache.lock()?;
    if cache.index().is_err() {
        broken += 1;
        results.broken("index.json", "cannot be read: replaced by an empty one")?;
        cache.write_index(&lock, &Index::default())?;
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

/// Opened for reading without that counting as use; only the owner may do so (open(2), `O_NOATIME`).
fn open_unnoticed(path: &Path) -> std::io::Result<File> {
    let flags = i32::try_from(OFlags::NOATIME.bits()).unwrap_or(0);
    OpenOptions::new().read(true).custom_flags(flags).open(path).or_else(|_| File::open(path))
}

fn hash(mut file: &File, digest: &Digest) -> std::io::Result<Digest> {
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

fn remove_partials(cache: &Cache, unwanted: impl Fn(&Path) -> bool) {
    for path in cache.partial_files().iter().filter(|p| unwanted(p)) {
        let Ok(file) = File::open(path) else { continue };
        // One that is locked is being written.
        if lock_file(&file, FlockOperation::NonBlockingLockExclusive).is_ok() && is_at(&file, path) {
            let _ = fs::remove_file(path);
        }
    }
}

fn is_older(path: &Path, limit: Duration) -> bool {
    let modified = fs::metadata(path).and_then(|m| m.modified());
    modified.is_ok_and(|m| m.elapsed().is_ok_and(|age| age > limit))
}

fn drop_broken_names(context: &Context, lock: &Lock, mut names: Option<&mut Vec<String>>) -> Result<()> {
    let cache = &context.cache;
    let mut index = cache.index()?;
    let whole = |root: &Descriptor| mark(cache, root, &mut HashSet::new(), 0).is_some();
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

/// Adds what a manifest or index refers to; `None` if something of an image is missing.
fn mark(cache: &Cache, root: &Descriptor, needed: &mut HashSet<Digest>, depth: usize) -> Option<()> {
    if depth == MAX_DEPTH {
        return None;
    }
    needed.insert(root.digest.clone());
    let bytes = cache.json(&root.digest)?;
    let json: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    if json.get("manifests").is_some() {
        // Another tool's index: of its images those that are here count.
        let index: d_common::image::Index = serde_json::from_value(json).ok()?;
        for entry in index.manifests.iter().filter(|e| cache.has(e)) {
            mark(cache, entry, needed, depth + 1)?;
        }
        return Some(());
    }
    let Ok(manifest) = serde_json::from_value::<Manifest>(json) else { return Some(()) };
    let mut whole = true;
    for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
        needed.insert(blob.digest.clone());
        whole &= cache.has(blob) || media::is_foreign(&blob.media_type);
    }
    whole.then_some(())
}
