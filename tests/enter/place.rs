//! A container directory of busybox, entered under one map.

use std::path::PathBuf;

use d_tests::{Cmd, Scratch, busybox_rootfs};
use serde_json::{Value, json};

/// Both maps that an ordinary user has.
pub const MAPS: [&str; 2] = ["subid", "single"];

/// The container directory `box` in a scratch folder of its own.
pub struct Place {
    pub scratch: Scratch,
    pub map: &'static str,
}

/// Runs a test in two places, one for each map.
#[track_caller]
pub fn under_both_maps(test: impl Fn(&Place)) {
    for map in MAPS {
        test(&Place::new(map));
    }
}

impl Place {
    #[track_caller]
    pub fn new(map: &'static str) -> Self {
        let place = Self { scratch: Scratch::new(), map };
        busybox_rootfs(&place.rootfs(""));
        place.config(json!({}));
        place
    }

    /// The container directory.
    pub fn dir(&self) -> PathBuf {
        self.scratch.join("box")
    }

    /// A path in the root filesystem, given without its first slash.
    pub fn rootfs(&self, path: &str) -> PathBuf {
        self.dir().join("rootfs").join(path)
    }

    /// Writes a file of the root filesystem.
    #[track_caller]
    pub fn write(&self, path: &str, text: &str) {
        self.scratch.write(self.rootfs(path), text);
    }

    /// Replaces config.json.
    #[track_caller]
    pub fn config(&self, keys: Value) {
        self.scratch.write("box/config.json", keys.to_string());
    }

    /// `d-enter --map MAP OPTIONS DIR COMMAND`.
    pub fn enter(&self, options: &[&str], command: &[&str]) -> Cmd {
        self.scratch.run(["d-enter", "--map", self.map]).args(options).arg("box").args(command)
    }

    /// The same with options that hold no blanks, for a script inside.
    pub fn sh(&self, options: &str, script: &str) -> Cmd {
        let options: Vec<&str> = options.split_whitespace().collect();
        self.enter(&options, &["sh", "-c", script])
    }

    /// A script outside, which finds the map in `$MAP`.
    pub fn outside(&self, script: &str) -> Cmd {
        self.scratch.sh(script).env("MAP", self.map)
    }

    /// The plan of `--dry-run`.
    #[track_caller]
    pub fn plan(&self, options: &str) -> Value {
        let options: Vec<&str> = options.split_whitespace().chain(["--dry-run"]).collect();
        serde_json::from_slice(&self.enter(&options, &[]).ok().stdout).expect("--dry-run prints JSON")
    }
}
