//! Owners, modes, times, attributes and sparse files, as the container's root sees them.

use std::fs;
use std::os::unix::fs::MetadataExt;

use d_tests::tar::Entry as E;
use d_tests::{Scratch, skip};

use crate::{find, image, lacks_owners, maps};

/// Unpacks one layer under `map`, with `options`; where it is.
#[track_caller]
fn unpack(scratch: &Scratch, map: &str, options: &[&str], layers: Vec<E>) -> std::path::PathBuf {
    let manifest = image([layers]).write(&scratch.join("image"));
    let name = format!("c-{map}");
    scratch.run(["d-unpack", "-q", "--map", map]).args(options).arg(manifest).arg(&name).ok();
    scratch.join(name).join("rootfs")
}

#[test]
fn owners_are_those_of_the_layer_inside() {
    if lacks_owners(&[]) {
        return;
    }
    let scratch = Scratch::new();
    let layer = || vec![E::dir("d").owner(7, 8), E::file("d/f", "").owner(33, 44), E::symlink("l", "x").owner(5, 6)];
    let root = unpack(&scratch, "subid", &[], layer());
    assert_eq!(find(&scratch, &root, "%P %U %G"), ["d 7 8", "d/f 33 44", "l 5 6"]);
    let fifo = E { mode: 0o6710, ..E::of_kind("p", d_tests::tar::kind::FIFO).owner(5, 6) };
    let other = Scratch::new();
    let fifo = unpack(&other, "subid", &[], vec![fifo]);
    assert_eq!(find(&other, fifo, "%P %m %U %G"), ["p 6710 5 6"]);
    assert_eq!(fs::symlink_metadata(root.parent().unwrap()).unwrap().uid(), rustix::process::geteuid().as_raw());
    let root = unpack(&scratch, "single", &[], layer());
    let me = rustix::process::geteuid().as_raw();
    for path in ["d", "d/f", "l"] {
        assert_eq!(fs::symlink_metadata(root.join(path)).unwrap().uid(), me, "{path}");
    }
    // My own id inside is mine outside, and root is a subordinate one.
    let (uid, gid) = (u64::from(me), u64::from(rustix::process::getegid().as_raw()));
    let root = unpack(&scratch, "keep-id", &[], vec![E::file("mine", "").owner(uid, gid), E::file("p/roots", "")]);
    assert_eq!(fs::metadata(root.join("mine")).unwrap().uid(), me);
    for path in ["p/roots", "p", ""] {
        assert_ne!(fs::metadata(root.join(path)).unwrap().uid(), me, "{path}");
    }
}

#[test]
fn ids_that_are_not_mapped_are_refused_with_a_hint() {
    if lacks_owners(&[]) {
        return;
    }
    let scratch = Scratch::new();
    let manifest = image([vec![E::file("f", "").owner(3_000_000, 0)]]).write(&scratch.join("image"));
    let run = |map: &str| scratch.run(["d-unpack", "--map", map]).arg(&manifest).arg(map);
    run("subid").fails(65).err_has("not enough subordinate ids").err_has("f:");
    run("single").ok();
}

#[test]
fn modes_survive_everything() {
    let entries = || {
        vec![
            E::file("suid", "x").mode(0o4755).owner(1, 1),
            E::file("sgid", "x").mode(0o2755),
            E::dir("sticky").mode(0o1777),
            E::dir("setgid").mode(0o2775).owner(0, 9),
            E::file("setgid/in", "x").mode(0o640),
            E::dir("setgid/sub"),
            E::file("none", "x").mode(0o000),
            E::dir("locked").mode(0o000),
            E::file("locked/in", "x").mode(0o400),
            E::dir("readonly").mode(0o555),
            E::dir("readonly/sub").mode(0o500),
            E::file("readonly/sub/in", "x").mode(0o444),
        ]
    };
    for map in maps() {
        let scratch = Scratch::new();
        let root = unpack(&scratch, map, &[], entries());
        let expected = [
            "locked 0",
            "locked/in 400",
            "none 0",
            "readonly 555",
            "readonly/sub 500",
            "readonly/sub/in 444",
            "setgid 2775",
            "setgid/in 640",
            "setgid/sub 755",
            "sgid 2755",
            "sticky 1777",
            "suid 4755",
        ];
        assert_eq!(find(&scratch, &root, "%P %m"), expected, "--map={map}");
        if map != "single" && !d_tests::is_root() {
            let groups = find(&scratch, root.join("setgid"), "%P %G");
            assert!(map != "subid" || groups == ["in 0", "sub 0"], "{groups:?}");
        }
        scratch.run(["d-unpack", "-q", "--remove"]).arg(root.parent().unwrap()).ok();
    }
}

#[test]
fn setid_bits_go_where_that_was_asked() {
    for option in ["--strip-setid", "--shared"] {
        let scratch = Scratch::new();
        let root =
            unpack(&scratch, "single", &[option], vec![E::file("s", "x").mode(0o6755), E::dir("d").mode(0o3775)]);
        assert_eq!(find(&scratch, &root, "%P %m"), ["d 1775", "s 755"], "{option}");
        let mode = fs::metadata(root.parent().unwrap()).unwrap().mode() & 0o7777;
        assert_eq!(mode, if option == "--shared" { 0o755 } else { 0o700 });
    }
}

#[test]
fn times_to_the_nanosecond_before_1970_and_far_ahead() {
    let scratch = Scratch::new();
    let entries = vec![
        E::dir("d"),
        E::file("d/ns", "x").pax("mtime", "1700000001.123456789"),
        E::file("d/old", "x").pax("mtime", "-1.5"),
        E::file("d/far", "x").pax("mtime", "4000000000"),
        E { mtime: 5, ..E::symlink("d/link", "x") },
    ];
    let root = unpack(&scratch, "single", &[], entries);
    let expected =
        ["d 1700000000.0000000000", "d/far 4000000000.0000000000", "d/link 5.0000000000", "d/ns 1700000001.1234567890"];
    let times = find(&scratch, &root, "%P %T@");
    assert_eq!(times[..4], expected);
    let old = fs::metadata(root.join("d/old")).unwrap();
    assert_eq!((old.mtime(), old.mtime_nsec()), (-2, 500_000_000));
}

#[test]
fn directories_keep_their_time_whatever_happens_in_them() {
    let scratch = Scratch::new();
    let time = |seconds, entry: E| E { mtime: seconds, ..entry };
    let base =
        vec![time(100, E::dir("a")), time(200, E::file("a/x", "1")), time(300, E::dir("a/b")), time(1, E::dir("./"))];
    let top = vec![time(400, E::file("a/b/y", "2")), time(500, E::file("a/.wh.x", "")), time(600, E::file("n/p", ""))];
    let manifest = image([base, top]).write(&scratch.join("image"));
    scratch.run(["d-unpack", "-q"]).arg(manifest).arg("c").ok();
    let expected = ["a 100", "a/b 300", "a/b/y 400", "n 600", "n/p 600"];
    let lines: Vec<String> = find(&scratch, scratch.join("c/rootfs"), "%P %Ts");
    assert_eq!(lines, expected);
    assert_eq!(fs::metadata(scratch.join("c/rootfs")).unwrap().mtime(), 1);
}

#[test]
fn clamped_times() {
    let scratch = Scratch::new();
    let manifest = image([vec![E { mtime: 50, ..E::file("old", "") }, E { mtime: 5000, ..E::file("new", "") }]]);
    let manifest = manifest.write(&scratch.join("image"));
    let run = scratch.run(["d-unpack", "-q", "--clamp-mtime"]).arg(&manifest).arg("c");
    run.env("SOURCE_DATE_EPOCH", "1000").ok();
    assert_eq!(find(&scratch, scratch.join("c/rootfs"), "%P %Ts"), ["new 1000", "old 50"]);
    scratch.run(["d-unpack", "--clamp-mtime"]).arg(&manifest).arg("d").fails(64).err_has("SOURCE_DATE_EPOCH");
}

#[test]
fn attributes_with_empty_and_binary_values() {
    let scratch = Scratch::new();
    let probe = scratch.write("probe", "");
    if rustix::fs::setxattr(&probe, "user.x", b"", rustix::fs::XattrFlags::empty()).is_err() {
        return skip("no user attributes here");
    }
    let entries = vec![
        E::file("f", "x").mode(0o444).xattr("user.empty", "").xattr("user.binary", b"\0\xff\n").xattr("user.eq", "a=b"),
        E::dir("d").xattr("user.dir", "1"),
        E::file("foreign", "x")
            .xattr("user.overlay.redirect", "/etc")
            .xattr("trusted.x", "1")
            .xattr("security.selinux", "l"),
        E::file("lib", "x").pax("LIBARCHIVE.xattr.user.b%20c", "AP8="),
    ];
    let root = unpack(&scratch, "single", &[], entries);
    let get = |path: &str, name: &str| {
        let mut value = vec![0; 100];
        let len = rustix::fs::getxattr(root.join(path), name, &mut value).ok()?;
        value.truncate(len);
        Some(value)
    };
    assert_eq!(get("f", "user.empty"), Some(vec![]));
    assert_eq!(get("f", "user.binary"), Some(b"\0\xff\n".to_vec()));
    assert_eq!(get("f", "user.eq"), Some(b"a=b".to_vec()));
    assert_eq!(get("d", "user.dir"), Some(b"1".to_vec()));
    assert_eq!(get("lib", "user.b c"), Some(b"\0\xff".to_vec()));
    assert_eq!(get("foreign", "user.overlay.redirect"), None);
}

#[test]
fn file_capabilities_are_those_of_the_containers_root() {
    if lacks_owners(&["getcap"]) {
        return;
    }
    // CAP_NET_RAW, effective: version 2, and version 3 with somebody else's root.
    let sets = [0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let v2 = [&0x0200_0001u32.to_le_bytes()[..], &sets].concat();
    let v3 = [&0x0300_0001u32.to_le_bytes()[..], &sets, &4711u32.to_le_bytes()].concat();
    for map in ["subid", "single"] {
        let scratch = Scratch::new();
        let capability = |name: &str, value: &[u8]| E::file(name, "x").mode(0o755).xattr("security.capability", value);
        let root = unpack(&scratch, map, &[], vec![capability("two", &v2), capability("three", &v3)]);
        let getcap = scratch.run(["getcap", "-n", "-r"]).arg(&root).ok().out();
        let me = format!("rootid={}", rustix::process::geteuid().as_raw());
        let lines: Vec<&str> = getcap.lines().collect();
        assert_eq!(lines.len(), 2, "{getcap}");
        assert!(lines.iter().all(|l| l.contains("cap_net_raw=ep") && l.contains(&me)), "{getcap}");
    }
}

#[test]
fn sparse_files_in_every_format() {
    let scratch = Scratch::new();
    let data = "data".repeat(1024);
    fs::write(scratch.join("real"), "").unwrap();
    scratch.sh("truncate -s 1M real; printf start | dd of=real conv=notrunc status=none; printf end | dd of=real bs=1 seek=600000 conv=notrunc status=none").ok();
    let real = fs::read(scratch.join("real")).unwrap();
    for format in [
        "--format=gnu",
        "--format=posix --sparse-version=0.0",
        "--format=posix --sparse-version=0.1",
        "--format=posix --sparse-version=1.0",
    ] {
        scratch.write("more", &data);
        scratch.sh(&format!("tar -S {format} -cf t.tar real more; rm -rf c; d-unpack -q --map=single t.tar c")).ok();
        assert!(fs::read(scratch.join("c/rootfs/real")).unwrap() == real, "{format}");
        assert!(fs::read(scratch.join("c/rootfs/more")).unwrap() == data.as_bytes(), "{format}");
        let blocks = fs::metadata(scratch.join("c/rootfs/real")).unwrap().blocks();
        assert!(blocks * 512 < 600_000, "{format}: {blocks} blocks are no sparse file");
    }
}

#[test]
fn as_root_owners_are_the_ranges_or_what_exists() {
    let scratch = Scratch::new();
    let root = unpack(&scratch, "auto", &[], vec![E::file("f", "").owner(33, 34), E::dir("d"), E::file("p/q", "")]);
    let ranges = fs::read_to_string("/etc/subuid").unwrap_or_default();
    let base: u32 = ranges.lines().find_map(|l| l.strip_prefix("root:")?.split(':').next()?.parse().ok()).unwrap_or(0);
    assert_eq!(fs::metadata(root.join("f")).unwrap().uid(), base + 33);
    for path in ["d", "p", ""] {
        assert_eq!(fs::metadata(root.join(path)).unwrap().uid(), base, "{path}");
    }
}
