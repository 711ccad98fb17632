//! One image, unpacked by d-unpack, by umoci and, as root, by podman's storage, and compared entry by entry: owners in the
//! namespace, modes, times, contents, links and attributes. They are equal but for the differences that are named here, each
//! with its reason; one that is named and not found is an error, too, so the lists stay true (d-unpack(1), "Other programs").

use std::path::{Path, PathBuf};

use d_tests::image::Image;
use d_tests::listing::{Difference, Listing};
use d_tests::tar::{Entry as E, kind, tar};
use d_tests::{Scratch, fixture, have, skip};

use crate::{image, lacks_owners};

/// Differences that are meant, of one reason: paths, fields, and why.
type Named = (&'static [&'static str], &'static [&'static str], &'static str);

const ROOT_TIME: Named =
    (&[""], &["mtime"], "layer.md, 'File Attributes': the root has its entry's mtime; peers write in it later");
const MISSING_PARENTS: Named = (
    &["dotted", "missing", "missing/parents"],
    &["mtime"],
    "no entry, no time in the specification; ours is that of what needed them, so that two runs give the same tree",
);
const EMPTY_ATTRIBUTE: Named = (
    &["attributes"],
    &["user.none"],
    "layer.md, 'File Attributes': xattrs; Go's archive/tar takes an empty PAX value for one that is taken back",
);
const LINKS_METADATA: Named = (
    &["across", "d/f", "hard"],
    &["mode", "mtime", "owner"],
    "layer.md, 'Hardlinks': the entry makes a name; podman gives the file that entry's metadata, umoci does not",
);
const NEGATIVE_TIME: Named = (&["old"], &["mtime"], "pax(1), 'mtime': may be before 1970; podman takes 0 then");
const TIME_AFTER_WHITEOUTS: Named = (
    &["opaque", "usr/lib"],
    &["mtime"],
    "layer.md, 'Whiteouts': the directory keeps its entry's mtime; podman removes in it and leaves the time of that",
);
const DEVICES: Named =
    (&["null"], &["hash", "type"], "DESIGN: no user namespace can make one, and both ways give one tree");

/// An image of all corners that all three take.
fn corners() -> Image {
    // CAP_NET_RAW, permitted and effective (linux/capability.h, VFS_CAP_REVISION_2).
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let name = "a-long-name".repeat(10);
    let levels: Vec<String> = (1..20).map(|depth| vec![name.as_str(); depth].join("/")).collect();
    let deep = format!("{}/f", levels.last().expect("a level"));
    let mut base = vec![
        E { mtime: 1_000_000_000, ..E::dir("./") },
        E::dir("d").mode(0o700).owner(7, 8),
        E::file("d/f", "content").mode(0o640).owner(33, 44).pax("mtime", "1700000001.123456789"),
        E::file("d/empty", ""),
        E::dir("sticky").mode(0o1777),
        E::dir("setgid").mode(0o2775).owner(0, 50),
        E::file("setgid/inside", "x"),
        E::file("setuid", "x").mode(0o4755).owner(1, 1),
        E::file("setgid-file", "x").mode(0o2755).owner(2, 2),
        E::file("unreadable", "x").mode(0).owner(60_000, 60_001),
        E::dir("locked").mode(0),
        E::file("locked/f", "x").mode(0o400),
        E::file("old", "x").pax("mtime", "-100"),
        E::file("attributes", "x").xattr("user.text", "value").xattr("user.binary", b"\0\xff\n").xattr("user.none", ""),
        E::dir("with-attributes").xattr("user.dir", "1"),
        E::file("ping", "x").mode(0o755).xattr("security.capability", capability),
        E::file("new\nline", "x"),
        E::file("n".repeat(255), "x"),
        E { mtime: 1_600_000_000, ..E::symlink("link", "d/f").owner(5, 6) },
        E::symlink("dangling", "/no/where"),
        E::symlink("usr-lib", "usr/lib"),
        E::hard_link("hard", "d/f"),
        E::of_kind("fifo", kind::FIFO).mode(0o620).owner(3, 4),
        E::dir("usr"),
        E::dir("usr/lib"),
        E::file("usr/lib/gone", "x"),
        E::file("usr/lib/stays", "x"),
        E::dir("opaque"),
        E::file("opaque/hidden", "x"),
        E::file("becomes-directory", "x"),
        E::dir("becomes-file"),
        E::file("becomes-file/f", "x"),
        E::symlink("becomes-real", "d"),
        E::file("missing/parents/f", "x"),
        E::file("/absolute", "x"),
        E::file("./dotted//slashes", "x"),
        E::file(".wh..wh.aufs", ""),
    ];
    let top = vec![
        E::file("usr/lib/.wh.gone", ""),
        E::file("opaque/new", "x"),
        E::file("opaque/.wh..wh..opq", ""),
        E::dir("becomes-directory").mode(0o711),
        E::file("becomes-directory/f", "x"),
        E::file("becomes-file", "now a file"),
        E::dir("becomes-real"),
        E::hard_link("across", "d/f"),
        E::file("usr-lib/through-link", "x"),
        E { mtime: 1_500_000_000, ..E::dir("d").mode(0o750).owner(9, 9) },
    ];
    base.extend(levels.iter().map(E::dir).chain([E::file(deep, "deep")]));
    image([base, top])
}

/// Fails unless `found` is what is `named`, no more and no less.
#[track_caller]
fn check(what: &str, found: &[Difference], named: &[Named]) {
    let is_named = |d: &&Difference| {
        named.iter().any(|(paths, fields, _)| paths.contains(&&*d.path) && fields.contains(&&*d.field))
    };
    let list = |differences: Vec<&Difference>| differences.iter().map(|d| format!("\n  {d}")).collect::<String>();
    let unknown: Vec<&Difference> = found.iter().filter(|d| !is_named(d)).collect();
    assert!(unknown.is_empty(), "{what}: {} differences without a name:{}", unknown.len(), list(unknown));
    for (paths, fields, reason) in named {
        for (path, field) in paths.iter().flat_map(|path| fields.iter().map(move |field| (path, field))) {
            let is_there = found.iter().any(|d| d.path == *path && d.field == *field);
            assert!(is_there, "{what}: no difference any more: {path} {field} ({reason})");
        }
    }
}

const AS_ROOT_INSIDE: [&str; 3] = ["unshare", "--map-auto", "--map-root-user"];

/// The layout at `image`, by d-unpack and by umoci as root of the same user namespace.
#[track_caller]
fn against_umoci(scratch: &Scratch, image: &Path, named: &[Named]) {
    let layout = image.to_str().expect("a plain path");
    scratch.run(["d-unpack", "-q", "--map=subid", layout, "ours"]).ok();
    scratch.run(AS_ROOT_INSIDE).args(["umoci", "unpack", "--image", &format!("{layout}:latest"), "theirs"]).ok();
    let ours = Listing::of(scratch, &AS_ROOT_INSIDE, &scratch.join("ours/rootfs"));
    let theirs = Listing::of(scratch, &AS_ROOT_INSIDE, &scratch.join("theirs/rootfs"));
    assert!(ours.len() > 20);
    check("umoci", &ours.differences(&theirs), named);
}

#[test]
fn debian_is_the_same_as_by_umoci() {
    if lacks_owners(&["umoci", "getfattr"]) {
        return;
    }
    against_umoci(&Scratch::new(), &fixture("debian"), &[]);
}

#[test]
fn all_corners_are_the_same_as_by_umoci() {
    if lacks_owners(&["umoci", "getfattr"]) {
        return;
    }
    let scratch = Scratch::new();
    corners().write(&scratch.join("image"));
    against_umoci(&scratch, &scratch.join("image"), &[ROOT_TIME, MISSING_PARENTS, EMPTY_ATTRIBUTE]);
}

/// The layout at `image`, by podman's storage; where its files are.
#[track_caller]
fn by_podman(scratch: &Scratch, image: &Path) -> PathBuf {
    let (storage, run) = (scratch.join("storage").display().to_string(), scratch.join("run").display().to_string());
    let name = format!("containers-storage:[vfs@{storage}+{run}]localhost/image:latest");
    let policy = "--insecure-policy";
    scratch.run(["skopeo", policy, "copy", "-q", &format!("oci:{}:latest", image.display()), &name]).ok();
    let podman = ["podman", "--root", &storage, "--runroot", &run, "--storage-driver", "vfs"];
    scratch.run(podman).args(["image", "mount", "localhost/image:latest"]).ok().out().into()
}

#[track_caller]
fn against_podman(scratch: &Scratch, image: &Path, named: &[Named]) {
    scratch.run(["d-unpack", "-q"]).arg(image).arg("ours").ok();
    let ours = Listing::of(scratch, &[], &scratch.join("ours/rootfs"));
    let theirs = Listing::of(scratch, &[], &by_podman(scratch, image));
    // Root's subordinate ids, where it has some.
    let ranges = std::fs::read_to_string("/etc/subuid").unwrap_or_default();
    let base: u32 = ranges.lines().find_map(|l| l.strip_prefix("root:")?.split(':').next()?.parse().ok()).unwrap_or(0);
    let inside = |owner: &str| {
        let ids = owner.split(':').map(|id| (id.parse::<u32>().expect("an id") - base).to_string());
        ids.collect::<Vec<_>>().join(":")
    };
    check("podman", &ours.owned(inside).differences(&theirs), named);
}

#[test]
fn as_root_debian_is_the_same_as_by_podman() {
    if !have("podman") || !have("getfattr") {
        return skip("needs podman and getfattr");
    }
    against_podman(&Scratch::new(), &fixture("debian"), &[ROOT_TIME]);
}

#[test]
fn as_root_all_corners_are_the_same_as_by_podman() {
    if !have("podman") || !have("getfattr") {
        return skip("needs podman and getfattr");
    }
    let scratch = Scratch::new();
    corners().layer(tar([E::of_kind("null", kind::CHAR)])).write(&scratch.join("image"));
    let alike = [ROOT_TIME, MISSING_PARENTS, EMPTY_ATTRIBUTE, LINKS_METADATA, NEGATIVE_TIME];
    against_podman(&scratch, &scratch.join("image"), &[&alike[..], &[TIME_AFTER_WHITEOUTS, DEVICES]].concat());
}
