//! d-unpack(1): sources, layers, maps, containers made, replaced and removed.

#[path = "unpack/config.rs"]
mod config;
#[path = "unpack/directory.rs"]
mod directory;
#[path = "unpack/filesystems.rs"]
mod filesystems;
#[path = "unpack/hostile.rs"]
mod hostile;
#[path = "unpack/layers.rs"]
mod layers;
#[path = "unpack/metadata.rs"]
mod metadata;
#[path = "unpack/peers.rs"]
mod peers;
#[path = "unpack/property.rs"]
mod property;
#[path = "unpack/rules.rs"]
mod rules;
#[path = "unpack/sources.rs"]
mod sources;
#[path = "unpack/windows.rs"]
mod windows;

use std::path::Path;

use d_tests::image::Image;
use d_tests::tar::{Entry, tar};
use d_tests::{Done, Scratch, have, is_root, skip};

/// An image of these layers.
fn image<const N: usize>(layers: [Vec<Entry>; N]) -> Image {
    layers.into_iter().fold(Image::new(), |image, layer| image.layer(tar(layer)))
}

/// The maps that this machine and user can have.
fn maps() -> Vec<&'static str> {
    let subid = is_root() || (have("newuidmap") && std::fs::read_to_string("/etc/subuid").is_ok_and(|t| !t.is_empty()));
    if subid { vec!["subid", "single", "keep-id"] } else { vec!["single"] }
}

/// Whether a test of owners inside cannot run here, and why not. Root is no reason to fail: it has tests of its own (as_root_).
#[track_caller]
fn lacks_owners(programs: &[&str]) -> bool {
    if is_root() {
        eprintln!("skipped: about ordinary users");
        return true;
    }
    let missing = programs.iter().find(|program| !have(program));
    match missing {
        Some(program) => skip(&format!("no {program}")),
        None if maps().len() == 1 => skip("no subordinate ids"),
        None => return false,
    }
    true
}

/// Fails if anything was said; root without subordinate ids is told what that means.
#[track_caller]
fn is_silent(done: &Done) {
    let is_told = is_root() && done.err().lines().count() == 1 && done.err().contains("no subordinate ids for root");
    done.expect(done.stderr.is_empty() || is_told, "an empty stderr");
}

/// What find(1) prints of a tree as the container's root sees it, sorted, a line an entry.
#[track_caller]
fn find(scratch: &Scratch, dir: impl AsRef<Path>, format: &str) -> Vec<String> {
    let dir = dir.as_ref().to_str().expect("a plain path");
    let enter: &[&str] = if is_root() {
        &[]
    } else if maps().len() > 1 {
        &["unshare", "--map-auto", "--map-root-user"]
    } else {
        &["unshare", "--map-root-user"]
    };
    let format = format!("{format}\n");
    let argv = [enter, &["find", dir, "-mindepth", "1", "-printf", &format]].concat();
    let mut lines: Vec<String> = scratch.run(argv).ok().out().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Paths, types and, behind `=`, the content of small files: `a/ a/f=text l->target`.
#[track_caller]
fn tree(scratch: &Scratch, dir: impl AsRef<Path>) -> String {
    let root = dir.as_ref().join("rootfs");
    let root = if root.is_absolute() { root } else { scratch.join(root) };
    let line = |line: String| {
        let (kind, rest) = line.split_at(1);
        let (path, link) = rest.split_once('\t').expect("a tab");
        match kind {
            "d" => format!("{path}/"),
            "l" => format!("{path}->{link}"),
            "f" => {
                let read = std::fs::read_to_string(root.join(path));
                format!("{path}={}", read.unwrap_or_else(|_| "?".to_owned()))
            }
            other => format!("{path}:{other}"),
        }
    };
    let mut lines: Vec<String> = find(scratch, &root, "%y%P\t%l").into_iter().map(line).collect();
    lines.sort();
    lines.join(" ")
}
