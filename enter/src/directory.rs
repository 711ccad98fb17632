//! The directory that is entered: a container directory, an overlay of shared layers, or a bare root filesystem.
//!
//! All that has to be read before anything is decided is read here, once: config.json, and the image's passwd and group.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Result;
use d_common::beneath::{Link, Root};
use d_common::container;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use d_common::idmap::MapChoice;
use d_common::layout::{MAX_JSON, read_bounded};
use rustix::fs::{Access, Mode, OFlags};
use serde::Serialize;

use crate::config::Config;
use crate::env::DEFAULT_PATH;

/// The largest passwd or group file that is read, in bytes.
const MAX_PASSWD: u64 = 16 << 20;
/// How much of an entrypoint is looked at, in bytes.
const MAX_SCRIPT: u64 = 64 << 10;

/// Where the root filesystem is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Filesystem {
    /// A plain folder.
    Folder(PathBuf),
    /// Unpacked layers, lowest first, with a writable directory over them.
    Overlay {
        /// The layers.
        layers: Vec<PathBuf>,
        /// What the container wrote.
        upper: PathBuf,
        /// The overlay's work directory.
        work: PathBuf,
    },
}

/// A directory that can be entered.
#[derive(Debug)]
pub struct Directory {
    /// Its name, as it was called: a link's own, unless that is `.` or ends with `..`.
    pub name: OsString,
    /// Its absolute path.
    pub path: PathBuf,
    /// Its root filesystem.
    pub filesystem: Filesystem,
    /// Its config.json; empty for a bare root filesystem.
    pub config: Config,
    /// Whether it belongs to the caller.
    pub is_mine: bool,
    /// The text of the image's /etc/passwd, empty without.
    pub passwd: String,
    /// The text of the image's /etc/group, empty without.
    pub group: String,
    /// Whether something can be made beside it.
    pub room_beside: bool,
    /// Whether apt is there, which needs help under fakeroot.
    pub has_apt: bool,
    /// Whether the image's entrypoint changes its user, as far as its text tells.
    pub changes_user: bool,
}

impl Directory {
    /// Reads what `path` is.
    ///
    /// # Errors
    /// [`Exit::Enter`] when it is nothing that can be entered.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        let absolute = fs::canonicalize(path).or_exit(Exit::Enter, || {
            format!("cannot enter {shown} (d-unpack makes it: d-unpack \"$(d-pull IMAGE)\" {shown})")
        })?;
        let meta = fs::metadata(&absolute).or_exit(Exit::Enter, || format!("cannot enter {shown}"))?;
        if !meta.is_dir() {
            fail!(Exit::Enter, "cannot enter {shown}: not a directory; unpack it first: d-unpack {shown} DIR");
        }
        // O_NONBLOCK: a FIFO there must not hold us up.
        let mut options = File::options();
        options.read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        let config = match options.open(absolute.join(container::CONFIG)) {
            Ok(file) if !file.metadata().is_ok_and(|meta| meta.is_file()) => {
                fail!(Exit::Enter, "cannot use {shown}: its config.json is no file")
            }
            Ok(file) => {
                let text =
                    read_bounded(file, MAX_JSON).or_exit(Exit::Enter, || format!("cannot read {shown}/config.json"))?;
                Some(Config::parse(&text).or_exit(Exit::Enter, || format!("cannot use {shown}"))?)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => Err(e).or_exit(Exit::Enter, || format!("cannot open {shown}/config.json"))?,
        };
        let is_root = |dir: &Path| ["bin", "usr"].iter().any(|d| dir.join(d).symlink_metadata().is_ok());
        let filesystem = match &config {
            Some(Config { bundle: Some(bundle), .. }) => Filesystem::Folder(absolute.join(&bundle.root)),
            Some(_) => filesystem(&absolute)?,
            None if is_root(&absolute) => Filesystem::Folder(absolute.clone()),
            None => fail!(Exit::Enter, "cannot enter {shown}: it has neither a config.json nor bin or usr"),
        };
        let roots = roots(&filesystem);
        Ok(Self {
            is_mine: meta.uid() == rustix::process::geteuid().as_raw(),
            passwd: read_inside(&roots, "etc/passwd", MAX_PASSWD),
            group: read_inside(&roots, "etc/group", MAX_PASSWD),
            name: path.file_name().or(absolute.file_name()).unwrap_or_default().to_owned(),
            room_beside: absolute.parent().is_some_and(|p| rustix::fs::access(p, Access::WRITE_OK).is_ok()),
            has_apt: find(&roots, "etc/apt").is_some(),
            changes_user: config.as_ref().is_some_and(|config| changes_user(config, &roots)),
            config: config.unwrap_or_default(),
            filesystem,
            path: absolute,
        })
    }

    /// Where its volumes without a host path lie.
    pub fn volumes(&self) -> PathBuf {
        self.path.join(container::VOLUMES)
    }
}

fn filesystem(dir: &Path) -> Result<Filesystem> {
    if dir.join(container::NEXT).join(container::IMAGE_TXT).exists() {
        let shown = dir.display();
        fail!(Exit::Enter, "{shown} is half replaced: a d-unpack --replace was killed; run the same again");
    }
    let list = match fs::read_to_string(dir.join(container::LAYERS)) {
        Ok(list) => list,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Filesystem::Folder(dir.join(container::ROOTFS))),
        Err(e) => return Err(e).or_exit(Exit::Enter, || format!("cannot read {}/layers", dir.display())),
    };
    let layers: Vec<PathBuf> = list.lines().filter(|l| !l.is_empty()).map(PathBuf::from).collect();
    if let Some(gone) = layers.iter().find(|l| !l.is_dir()) {
        fail!(
            Exit::Enter,
            "layer {} of {} is gone; unpack it again with d-unpack --layers --replace",
            gone.display(),
            dir.display()
        );
    }
    Ok(Filesystem::Overlay { layers, upper: dir.join(container::UPPER), work: dir.join(container::WORK) })
}

/// The directories that make the filesystem, the topmost first.
fn roots(filesystem: &Filesystem) -> Vec<Root> {
    let dirs: Vec<&PathBuf> = match filesystem {
        Filesystem::Folder(folder) => vec![folder],
        Filesystem::Overlay { layers, upper, .. } => [upper].into_iter().chain(layers.iter().rev()).collect(),
    };
    dirs.into_iter().filter_map(|dir| Root::open(dir).ok()).collect()
}

/// The topmost directory that has `path`.
fn find<'a>(roots: &'a [Root], path: &str) -> Option<&'a Root> {
    roots.iter().find(|root| root.handle(Path::new(path), Link::Follow).is_ok())
}

/// The text of a file of the image, or its first `limit` bytes; empty where there is none or it is not for us to read.
fn read_inside(roots: &[Root], path: &str, limit: u64) -> String {
    // O_NONBLOCK: the image may have put a FIFO there.
    let open = |root: &Root| root.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty(), Link::Follow);
    let mut bytes = Vec::new();
    if let Some(Ok(fd)) = find(roots, path).map(open) {
        let file = File::from(fd);
        if file.metadata().is_ok_and(|m| m.is_file()) {
            let _ = file.take(limit).read_to_end(&mut bytes);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether the entrypoint is, or as a script calls, one of the programs by which images become another user.
fn changes_user(config: &Config, roots: &[Root]) -> bool {
    const PROGRAMS: [&str; 7] = ["gosu", "su-exec", "su", "runuser", "setpriv", "chpst", "s6-setuidgid"];
    // With many ids it may.
    if matches!(config.options.map, Some(MapChoice::Subid | MapChoice::KeepId)) {
        return false;
    }
    let Some(program) = config.docker.entrypoint.first() else { return false };
    let dirs = match config.docker.env.iter().find_map(|variable| variable.strip_prefix("PATH=")) {
        _ if program.contains('/') => "",
        path => path.unwrap_or(DEFAULT_PATH),
    };
    let found = dirs
        .split(':')
        .map(|dir| read_inside(roots, &format!("{dir}/{program}"), MAX_SCRIPT))
        .find(|text| !text.is_empty());
    let script = found.filter(|text| text.starts_with("#!")).unwrap_or_default();
    let words = script.split(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)));
    let name = program.rsplit('/').next().unwrap_or_default();
    words.chain([name]).any(|word| PROGRAMS.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_entered() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path();
        assert!(Directory::open(&dir.join("missing")).is_err());
        assert!(Directory::open(dir).unwrap_err().to_string().contains("neither"));
        fs::create_dir_all(dir.join("bare/usr")).unwrap();
        fs::create_dir_all(dir.join("bare/etc")).unwrap();
        fs::write(dir.join("bare/etc/passwd"), "root:x:0:0::/root:\n").unwrap();
        let bare = Directory::open(&dir.join("bare")).unwrap();
        assert_eq!(bare.passwd, "root:x:0:0::/root:\n");
        assert_eq!(bare.filesystem, Filesystem::Folder(fs::canonicalize(dir.join("bare")).unwrap()));
        fs::create_dir_all(dir.join("full/rootfs")).unwrap();
        fs::write(dir.join("full/config.json"), "{}").unwrap();
        assert!(Directory::open(&dir.join("full")).is_ok());
        fs::write(dir.join("full/layers"), "/nowhere/at/all\n").unwrap();
        assert!(Directory::open(&dir.join("full")).unwrap_err().to_string().contains("gone"));
    }
}
