//! A folder for one test, gone at its end, also when it holds files of subordinate ids and folders of mode 0000.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::command::{Cmd, run};

/// A fresh folder; HOME and the cache of the commands that [`Scratch::run`] makes lie in it.
pub struct Scratch {
    // Kept for its unique name and its Drop, which finds nothing left to do.
    dir: tempfile::TempDir,
}

impl Scratch {
    /// Makes one below TMPDIR. Its path is short, since Unix sockets have 108 bytes for theirs.
    #[track_caller]
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("d-tests.").tempdir().expect("a scratch folder");
        // A path with links in it would differ from what the tools print.
        assert_eq!(
            dir.path().canonicalize().ok().as_deref(),
            Some(dir.path()),
            "TMPDIR must be without symbolic links"
        );
        for folder in ["home", "cache"] {
            fs::create_dir(dir.path().join(folder)).expect("a folder in the scratch folder");
        }
        Self { dir }
    }

    /// Its absolute path.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A path in it.
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(path)
    }

    /// The cache that d-pull uses here.
    pub fn cache(&self) -> PathBuf {
        self.join("cache/d-utils")
    }

    /// Writes a file, and the folders that it needs.
    #[track_caller]
    pub fn write(&self, path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(path);
        fs::create_dir_all(path.parent().expect("a file has a folder")).expect("folders for a file");
        fs::write(&path, bytes).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
        path
    }

    /// The names in a folder of it, sorted (`""`: itself).
    #[track_caller]
    pub fn names(&self, folder: impl AsRef<Path>) -> Vec<String> {
        let path = self.join(folder);
        let entries = fs::read_dir(&path).unwrap_or_else(|e| panic!("cannot list {}: {e}", path.display()));
        let mut names: Vec<_> =
            entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// A command that works in this folder and has HOME and XDG_CACHE_HOME in it.
    pub fn run<S: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = S>) -> Cmd {
        run(argv).cwd(self.path()).env("HOME", self.join("home")).env("XDG_CACHE_HOME", self.join("cache"))
    }

    /// A shell script that works as [`Scratch::run`] does; the tools are in its PATH.
    pub fn sh(&self, script: &str) -> Cmd {
        self.run(["sh", "-ec", script])
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if fs::remove_dir_all(self.path()).is_ok() {
            return;
        }
        // Files of subordinate ids, folders that even their owner may not write: root in a user namespace of ours may.
        for map in [&["--map-auto", "--map-root-user"][..], &["--map-root-user"]] {
            let mut rm = Command::new("unshare");
            rm.args(map).args(["rm", "-rf", "--one-file-system"]).arg(self.path()).stderr(Stdio::null());
            if rm.status().is_ok_and(|s| s.success()) {
                return;
            }
        }
        eprintln!("cannot remove {}", self.path().display());
    }
}
