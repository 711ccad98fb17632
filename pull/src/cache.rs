//! The cache: an OCI image layout (image-layout.md) that any number of d-pulls write at once.
//!
//! ```text
//! oci-layout  index.json  blobs/ALGORITHM/HEX     the layout
//! .d-pull/lock                                    held for moments: index.json, removals, registrations
//! .d-pull/partial/ALGORITHM-HEX                   blobs that are not whole yet, locked while they are written
//! .d-pull/pulls/PID-N                             what the running pulls need, locked while they run
//! ```
//! A blob gets its final name by rename(2) once it was verified, so that whoever dies leaves the old state or the new one.
//! When a blob was last used is its access time, which reading it may also set; its modification time is left alone, since
//! make(1) may look at it.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Result;
use d_common::digest::{Algorithm, Digest};
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use d_common::image::Descriptor;
use d_common::layout::{Layout, MAX_JSON, open_file, read_bounded, unopened};
use rustix::fs::{AtFlags, CWD, FlockOperation, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, flock};
use rustix::io::Errno;

use crate::index::Index;
use crate::partial::Partial;

/// The content of oci-layout.
pub const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// The cache at a directory.
#[derive(Clone, Debug)]
pub struct Cache {
    /// Its reading side.
    pub layout: Layout,
}

/// The cache's lock, until dropped.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "closing it unlocks")] File);

/// What a running pull needs, so that nobody removes it, until dropped.
#[derive(Debug)]
pub struct Registration {
    path: PathBuf,
    #[allow(dead_code, reason = "closing it unlocks")]
    file: File,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Cache {
    /// The cache at `root`, not looked at yet.
    pub fn new(root: &Path) -> Self {
        Self { layout: Layout::new(root) }
    }

    /// Makes it a layout, if it is none.
    ///
    /// # Errors
    /// [`Exit::CantCreate`] where that is impossible.
    pub fn create(&self) -> Result<()> {
        let root = self.layout.root();
        let step = || format!("cannot create the cache {}", root.display());
        // It may hold private images: a new one is its user's alone.
        let mut private = fs::DirBuilder::new();
        private.recursive(true).mode(0o700).create(root).or_exit(Exit::CantCreate, step)?;
        fs::create_dir_all(self.blobs(Algorithm::Sha256)).or_exit(Exit::CantCreate, step)?;
        self.create_own().or_exit(Exit::CantCreate, step)?;
        if Layout::is_at(root) && root.join("index.json").exists() {
            return Ok(());
        }
        let _lock = self.lock()?;
        if !root.join("index.json").exists() {
            self.replace("index.json", Index::default().to_string().as_bytes()).or_exit(Exit::CantCreate, step)?;
        }
        self.replace("oci-layout", OCI_LAYOUT).or_exit(Exit::CantCreate, step)
    }

    /// Makes the folder for what is no part of the layout; one that another tool made has none yet.
    fn create_own(&self) -> io::Result<()> {
        [self.partials(), self.pulls()].iter().try_for_each(fs::create_dir_all)
    }

    /// Whether something of that name is there.
    ///
    /// # Errors
    /// [`Exit::NotAllowed`] where we may not look.
    pub fn holds(&self, name: &str) -> Result<bool> {
        let path = self.layout.root().join(name);
        path.try_exists().map_err(|e| unopened(e, &path))
    }

    /// Looks whether the layout that is there, if any, is one of version 1.
    ///
    /// # Errors
    /// [`Exit::Data`] when it is not.
    pub fn check_version(&self) -> Result<()> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Marker {
            image_layout_version: String,
        }
        let path = self.layout.root().join("oci-layout");
        let unread = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory, io::ErrorKind::PermissionDenied];
        let file = match open_file(&path, OFlags::empty()) {
            // Whoever needs the cache says what is wrong with it.
            Err(e) if unread.contains(&e.kind()) => return Ok(()),
            file => file,
        };
        let marker =
            file.and_then(|f| read_bounded(f, MAX_JSON)).ok().and_then(|b| serde_json::from_slice::<Marker>(&b).ok());
        match marker.map(|m| m.image_layout_version) {
            Some(version) if version.starts_with("1.") => Ok(()),
            Some(version) => fail!(Exit::Data, "{}: version {version:?} of the layout is unknown", path.display()),
            None => fail!(Exit::Data, "{} is broken; remove it, and the next pull writes it anew", path.display()),
        }
    }

    /// Waits for the cache's lock. Nobody holds it for long.
    ///
    /// # Errors
    /// [`Exit::CantCreate`] where the cache is not ours to write.
    pub fn lock(&self) -> Result<Lock> {
        let path = self.own("lock");
        let step = || format!("cannot lock {}", path.display());
        self.create_own().or_exit(Exit::CantCreate, step)?;
        let file = OpenOptions::new().create(true).append(true).open(&path).or_exit(Exit::CantCreate, step)?;
        lock_file(&file, FlockOperation::LockExclusive).or_exit(Exit::CantCreate, step)?;
        Ok(Lock(file))
    }

    /// Whether a blob is there, whole. Its content is not looked at: it was when it got its name.
    pub fn has(&self, blob: &Descriptor) -> bool {
        fs::metadata(self.layout.blob_path(&blob.digest)).is_ok_and(|m| m.is_file() && m.len() == blob.size)
    }

    /// A small blob, if it is there and undamaged.
    pub fn json(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.layout.json_blob(digest, None).ok()
    }

    /// Stores a small blob whose digest the caller has checked.
    ///
    /// # Errors
    /// [`Exit::CantCreate`] and [`Exit::Io`].
    pub fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        let size = bytes.len() as u64;
        // A damaged blob of the right size is replaced too.
        if self.json(digest).is_some() {
            return Ok(());
        }
        let _ = fs::remove_file(self.layout.blob_path(digest));
        let Some(mut partial) = Partial::open(self, digest, size, || ())? else { return Ok(()) };
        partial.restart()?;
        partial.append(bytes)?;
        partial.commit()
    }

    /// Records that blobs were used now. What belongs to someone else, or is read-only, keeps its time.
    pub fn touch<'a>(&self, blobs: impl IntoIterator<Item = &'a Digest>) {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let same = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let times = Timestamps { last_access: now, last_modification: same };
        for digest in blobs {
            let _ = rustix::fs::utimensat(CWD, self.layout.blob_path(digest), &times, AtFlags::empty());
        }
    }

    /// Index.json; an empty one where there is none, since to remove it is to forget all names.
    ///
    /// # Errors
    /// [`Exit::Data`] if it is broken, [`Exit::NotAllowed`] if it is someone else's.
    pub fn index(&self) -> Result<Index> {
        let path = self.layout.root().join("index.json");
        let file = match open_file(&path, OFlags::empty()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Index::default()),
            file => file.map_err(|e| unopened(e, &path))?,
        };
        let bytes = read_bounded(file, MAX_JSON).or_exit(Exit::Data, || format!("cannot read {}", path.display()))?;
        Index::parse(&bytes).or_exit(Exit::Data, || format!("{} is no image index; try d-pull --fsck", path.display()))
    }

    /// Replaces index.json, after the names of the blobs that it counts on are safe. A crash may bring the old one back.
    ///
    /// # Errors
    /// [`Exit::CantCreate`].
    pub fn write_index(&self, _: &Lock, index: &Index) -> Result<()> {
        let folders = [Algorithm::Sha256, Algorithm::Sha512].map(|a| self.blobs(a));
        let safe = folders.iter().filter(|f| f.is_dir()).try_for_each(|f| File::open(f)?.sync_all());
        safe.and_then(|()| self.replace("index.json", index.to_string().as_bytes()))
            .or_exit(Exit::CantCreate, || format!("cannot write {}/index.json", self.layout.root().display()))
    }

    /// Changes index.json, if `change` says that it changed something.
    ///
    /// # Errors
    /// As [`Cache::index`] and [`Cache::write_index`].
    pub fn update_index(&self, change: impl FnOnce(&mut Index) -> bool) -> Result<()> {
        let lock = self.lock()?;
        let mut index = self.index()?;
        if change(&mut index) { self.write_index(&lock, &index) } else { Ok(()) }
    }

    /// Replaces a file of the layout's top; only under the lock, since the temporary name is the same for all.
    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let (temporary, path) = (self.own("new"), self.layout.root().join(name));
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    }

    /// Registers what a pull is going to need, before it looks what is there.
    ///
    /// # Errors
    /// [`Exit::CantCreate`].
    pub fn register<'a>(&self, blobs: impl IntoIterator<Item = &'a Digest>) -> Result<Registration> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let text: String = blobs.into_iter().map(|d| format!("{d}\n")).collect();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = self.pulls().join(format!("{}-{count}", std::process::id()));
        let step = || format!("cannot write {}", path.display());
        // Without the lock it could be taken for that of a dead pull, before it is locked itself.
        let lock = self.lock()?;
        self.registered(&lock)?;
        let mut file = File::create(&path).or_exit(Exit::CantCreate, step)?;
        lock_file(&file, FlockOperation::LockExclusive).or_exit(Exit::CantCreate, step)?;
        file.write_all(text.as_bytes()).or_exit(Exit::CantCreate, step)?;
        Ok(Registration { path, file })
    }

    /// What the running pulls need; what dead ones left is removed.
    ///
    /// # Errors
    /// [`Exit::NotAllowed`] where we may not look.
    pub fn registered(&self, _: &Lock) -> Result<HashSet<Digest>> {
        let mut needed = HashSet::new();
        for path in entries(&self.pulls())? {
            let Ok(file) = open_file(&path, OFlags::empty()) else { continue };
            if lock_file(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                let _ = fs::remove_file(&path);
            } else if let Ok(text) = read_bounded(file, MAX_JSON) {
                needed.extend(String::from_utf8_lossy(&text).lines().filter_map(|l| l.parse().ok()));
            }
        }
        Ok(needed)
    }

    /// All blobs, with the time since their last use.
    ///
    /// # Errors
    /// [`Exit::NotAllowed`] where we may not look.
    pub fn blobs_by_age(&self) -> Result<Vec<(Digest, Duration)>> {
        let now = std::time::SystemTime::now();
        let mut found = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for path in entries(&self.blobs(algorithm))? {
                let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
                let Ok(digest) = format!("{}:{name}", algorithm.name()).parse() else { continue };
                let accessed = match fs::metadata(&path).and_then(|m| m.accessed()) {
                    Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Err(unopened(e, &path)),
                    // Gone meanwhile.
                    Err(_) => continue,
                    Ok(accessed) => accessed,
                };
                found.push((digest, now.duration_since(accessed).unwrap_or_default()));
            }
        }
        Ok(found)
    }

    /// The files of partial blobs.
    ///
    /// # Errors
    /// [`Exit::NotAllowed`] where we may not look.
    pub fn partial_files(&self) -> Result<Vec<PathBuf>> {
        entries(&self.partials())
    }

    /// Where a partial blob is kept.
    pub fn partial_path(&self, digest: &Digest) -> PathBuf {
        self.partials().join(format!("{}-{}", digest.algorithm().name(), digest.hex()))
    }

    fn blobs(&self, algorithm: Algorithm) -> PathBuf {
        self.layout.root().join("blobs").join(algorithm.name())
    }

    fn own(&self, name: &str) -> PathBuf {
        self.layout.root().join(".d-pull").join(name)
    }

    fn partials(&self) -> PathBuf {
        self.own("partial")
    }

    fn pulls(&self) -> PathBuf {
        self.own("pulls")
    }
}

/// The paths in a folder, sorted; none if it is not there.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = fs::read_dir(folder).and_then(|found| found.map(|e| Ok(e?.path())).collect::<io::Result<Vec<_>>>());
    let mut paths = match read {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        paths => paths.map_err(|e| unopened(e, folder))?,
    };
    paths.sort();
    Ok(paths)
}

/// flock(2), which some network file systems do not have: there, only one d-pull at a time is safe.
///
/// # Errors
/// `WouldBlock` when someone else has it.
pub fn lock_file(file: &File, operation: FlockOperation) -> io::Result<()> {
    match flock(file, operation) {
        Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOLCK) => Ok(()),
        outcome => Ok(outcome?),
    }
}

/// Whether `path` still leads to the open `file`.
pub fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(&dir.path().join("new/cache"));
        cache.create().unwrap();
        (dir, cache)
    }

    #[test]
    fn a_new_cache_is_an_empty_layout() {
        let (_dir, cache) = cache();
        assert!(Layout::is_at(cache.layout.root()));
        assert!(cache.layout.index().unwrap().manifests.is_empty());
        cache.create().unwrap();
    }

    #[test]
    fn small_blobs_are_stored_and_damaged_ones_replaced() {
        let (_dir, cache) = cache();
        let digest = Digest::of(b"{}");
        cache.put(&digest, b"{}").unwrap();
        assert_eq!(cache.json(&digest).unwrap(), b"{}");
        fs::write(cache.layout.blob_path(&digest), b"[]").unwrap();
        assert_eq!(cache.json(&digest), None);
        cache.put(&digest, b"{}").unwrap();
        assert_eq!(cache.json(&digest).unwrap(), b"{}");
        assert!(cache.partial_files().unwrap().is_empty());
    }

    #[test]
    fn use_is_recorded_without_the_modification_time() {
        let (_dir, cache) = cache();
        let digest = Digest::of(b"x");
        cache.put(&digest, b"x").unwrap();
        let path = cache.layout.blob_path(&digest);
        let old = std::time::SystemTime::now() - Duration::from_secs(90 * 86_400);
        let times = fs::FileTimes::new().set_accessed(old).set_modified(old);
        File::options().append(true).open(&path).unwrap().set_times(times).unwrap();
        assert!(cache.blobs_by_age().unwrap()[0].1 > Duration::from_secs(89 * 86_400));
        cache.touch([&digest]);
        assert!(cache.blobs_by_age().unwrap()[0].1 < Duration::from_secs(60));
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), old);
    }

    #[test]
    fn running_pulls_are_known_and_dead_ones_forgotten() {
        let (_dir, cache) = cache();
        let digest = Digest::of(b"x");
        let registration = cache.register([&digest]).unwrap();
        assert!(cache.registered(&cache.lock().unwrap()).unwrap().contains(&digest));
        drop(registration);
        fs::write(cache.pulls().join("1-1"), format!("{digest}\n")).unwrap();
        assert!(cache.registered(&cache.lock().unwrap()).unwrap().is_empty());
        assert!(entries(&cache.pulls()).unwrap().is_empty());
    }
}
