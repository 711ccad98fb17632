//! What the layers of tests/hostile.rs do not try: zip files with the same tricks, bombs, endless streams, depth; and that no path
//! of the tree is used but by handle.

use std::fs;

use d_tests::image::Compression::{Gzip, Xz, Zstd, ZstdLong};
use d_tests::image::{Image, noise};
use d_tests::tar::{Entry as E, tar};
use d_tests::{Scratch, have, skip};

use crate::image;

#[test]
fn the_tree_is_touched_by_handle_alone() {
    if !have("strace") {
        return skip("no strace");
    }
    let scratch = Scratch::new();
    let base = vec![
        E::dir("needle-d"),
        E::file("needle-d/needle-f", "1"),
        E::symlink("needle-l", "/needle-d"),
        E::dir("needle-x"),
        E::file("needle-x/needle-y", ""),
        E::hard_link("needle-h", "needle-l/needle-f"),
        E::file("needle-l/needle-g", "2"),
    ];
    let top =
        vec![E::file(".wh.needle-x", ""), E::file("needle-d/needle-f", "3"), E::symlink("needle-d/needle-g", "x")];
    let manifest = image([base, top]).write(&scratch.join("image"));
    let calls =
        "trace=%file,openat2,fchown,fchmod,linkat,symlinkat,mkdirat,mknodat,unlinkat,renameat,renameat2,utimensat";
    scratch
        .run(["strace", "-f", "-s", "200", "-o", "trace", "-e", calls, "d-unpack", "-q"])
        .arg(manifest)
        .arg("c")
        .ok();
    scratch.run(["strace", "-f", "-s", "200", "-o", "gone", "-e", calls, "d-unpack", "--remove", "c"]).ok();
    for file in ["trace", "gone"] {
        let trace = fs::read_to_string(scratch.join(file)).unwrap();
        let lines: Vec<&str> =
            trace.lines().filter(|line| line.contains("needle") || line.contains("rootfs")).collect();
        assert!(file == "gone" || lines.len() > 10, "{lines:#?}");
        for line in lines {
            let call = line.split_once(' ').unwrap().1.trim_start();
            let by_handle = call.split_once('(').is_some_and(|(name, args)| {
                let args = if name == "symlinkat" { args.split_once(", ").unwrap().1 } else { args };
                (name.ends_with("at") || name.ends_with("at2")) && args.starts_with(|c: char| c.is_ascii_digit())
            });
            // d-unpack looks whether DIR is a container directory by its own path.
            let is_outer = call.contains("/c/rootfs\"") || call.contains("readlink") && !call.contains("needle");
            assert!(by_handle && !call.contains("AT_FDCWD") || is_outer, "{line}");
        }
    }
}

#[test]
fn zip_files_stay_inside() {
    let scratch = Scratch::new();
    if !have("python3") {
        return skip("no python3 to write odd zip files");
    }
    scratch.write("canary", "stays");
    let write = r#"
import sys, zipfile
z = zipfile.ZipFile('t.zip', 'w')
def add(name, data, mode=0o100644):
    info = zipfile.ZipInfo(name); info.create_system = 3; info.external_attr = mode << 16; z.writestr(info, data)
exec(sys.argv[1])
z.close()
"#;
    for entries in [
        "add('../../canary', 'evil')",
        "add('/canary', 'evil')",
        "add('l', '../..', 0o120777); add('l/canary', 'evil')",
        "add('l', '/', 0o120777); add('l/canary', 'evil')",
        "add('.', '/', 0o120777)",
        "add('d/', ''); add('d', '..', 0o120777); add('d/canary', 'evil')",
        "add('.wh.canary', ''); add('../.wh..wh..opq', '')",
    ] {
        scratch.run(["python3", "-c", write, entries]).ok();
        let done = scratch.run(["d-unpack", "-q", "--map=single", "t.zip", "c"]).done();
        done.expect(matches!(done.code(), 0 | 65), "done, or bad data");
        assert_eq!(fs::read_to_string(scratch.join("canary")).unwrap(), "stays", "{entries}");
        let _ = scratch.run(["d-unpack", "--remove", "c"]).done();
        assert_eq!(scratch.names(""), ["cache", "canary", "home", "t.zip"], "{entries}");
    }
}

#[test]
fn bombs_and_endless_streams_end() {
    let scratch = Scratch::new();
    let before = scratch.names("");
    // A terabyte of zeroes that is a few bytes, an endless file, endless entries, endless padding.
    for (script, code) in [
        ("(printf 'x\\0%0122d' 0; cat /dev/zero) | head -c 70000000 | d-unpack - c", 65),
        ("head -c 100000000 /dev/zero | d-unpack - c", 65),
        ("yes | d-unpack - c", 65),
        ("yes | gzip -c | d-unpack - c", 65),
        ("head -c 2000000 /dev/urandom | d-unpack - c", 65),
    ] {
        scratch.sh(script).code(code);
        assert_eq!(scratch.names(""), before, "{script}");
    }
    let bomb = "truncate -s 400M big; tar -cf - big | gzip -1 > bomb.tgz; rm big";
    scratch.sh(bomb).ok();
    scratch.run(["d-unpack", "--max-size=100M", "bomb.tgz", "c"]).fails(65).err_has("--max-size");
    assert!(!scratch.join("c").exists());
}

/// The most that d-unpack may ever have resident, in KiB: 64 MB.
pub(crate) const MOST: u64 = 62_500;

/// The peak of d-unpack's memory in KiB, unpacking `image`.
#[track_caller]
fn peak(scratch: &Scratch, image: &Image) -> u64 {
    peak_with(scratch, image, "-q")
}

#[track_caller]
fn peak_with(scratch: &Scratch, image: &Image, option: &str) -> u64 {
    let manifest = image.write(&scratch.join("image"));
    let run = scratch.run(["/usr/bin/time", "-f", "%M", "d-unpack", "-q", option]).arg(manifest).arg("c");
    let done = run.ok();
    scratch.run(["d-unpack", "--remove", "c"]).ok();
    done.err().lines().last().unwrap().parse().unwrap()
}

#[test]
fn memory_is_bounded() {
    if !have("time") {
        return skip("no /usr/bin/time");
    }
    let scratch = Scratch::new();
    let many = |data: &str| tar((0..20_000).map(|n| E::file(format!("d{}/f{n}", n % 300), data)));
    let flat = |data: &str| tar((0..120_000).map(|n| E::file(format!("f{n}"), data)));
    let big = || tar([E::file("big", vec![7; 132 << 20])]);
    // The second half is pieces from all over a large window.
    let far = |mib: usize| {
        let first = noise(mib << 20, 1);
        let pieces: Vec<&[u8]> = first.chunks(3000).collect();
        let again: Vec<u8> = (0..pieces.len()).flat_map(|n| pieces[n * 7919 % pieces.len()]).copied().collect();
        tar([E::file("first", &first), E::file("again", again)])
    };
    let of = |layers: Vec<Vec<u8>>, compression| {
        layers.into_iter().fold(Image::new(), |image, layer| image.layer_as(layer, compression))
    };
    for (what, image) in [
        ("gzip", of(vec![big(), many(""), many("x")], Gzip)),
        ("zstd", of(vec![big(), many(""), many("x")], Zstd)),
        ("names", of(vec![many(""), flat(""), flat("")], Zstd)),
        // Windows of 128 and of 64 MiB, which lie in a file.
        ("zstd --long", of(vec![big(), far(64)], ZstdLong)),
        ("xz -9", of(vec![far(33), far(1)], Xz)),
    ] {
        let peak = peak(&scratch, &image);
        assert!(peak <= MOST, "{what}: {peak} KiB");
    }
    let excluded = tar((0..130_000).map(|n| E::file(format!("a/file/of/some/{n}"), "")));
    let peak = peak_with(&scratch, &of(vec![excluded], Gzip), "--exclude=a");
    assert!(peak <= MOST, "--exclude: {peak} KiB");
}

#[test]
fn what_a_layer_made_is_known_however_much_it_is() {
    // More names than are remembered in memory; hard links, which are quick to make.
    const NAMES: usize = 600_000;
    let scratch = Scratch::new();
    let lower = tar([E::dir("d"), E::file("d/lower", "1"), E::dir("e"), E::file("e/lower", "2")]);
    let link = |n: usize| E::hard_link(format!("{}/{n}", ["e", "d"][n % 2]), format!("f{}", n / 50_000));
    let files = (0..NAMES.div_ceil(50_000)).map(|n| E::file(format!("f{n}"), ""));
    let whiteouts = ["d/.wh..wh..opq", "e/.wh.0", "e/.wh.599998", "e/.wh.lower"].map(|name| E::file(name, ""));
    let upper = tar(files.chain((0..NAMES).map(link)).chain(whiteouts));
    let image = Image::new().layer(lower).layer_as(upper, Zstd);
    let manifest = image.write(&scratch.join("image"));
    scratch.run(["d-unpack", "-q"]).arg(manifest).arg("c").ok();
    for (dir, names) in [("d", NAMES / 2), ("e", NAMES / 2)] {
        let there = fs::read_dir(scratch.join("c/rootfs").join(dir)).unwrap();
        let lower = scratch.join("c/rootfs").join(dir).join("lower").exists();
        assert_eq!((there.count(), lower), (names, false), "{dir}");
    }
    scratch.run(["d-unpack", "--remove", "c"]).ok();
}

#[test]
fn what_is_said_at_length_is_no_memory() {
    if !have("time") {
        return skip("no /usr/bin/time");
    }
    let scratch = Scratch::new();
    // As much of small values as a config may hold.
    let mut values = Image::new();
    values.config["x"] = serde_json::json!(vec![[0]; 800_000]);
    values = values.config("Env", serde_json::json!(vec![[0]; 200_000]));
    let told = peak(&scratch, &values);
    assert!(told <= MOST, "{told} KiB");
    let name = |n: usize| format!("trusted.{n}{}", "a".repeat(1_000_000));
    let attributes = tar((0..64).map(|n| E::file(format!("f{n}"), "").xattr(&name(n), "")));
    let peak = peak(&scratch, &Image::new().layer(attributes));
    assert!(peak <= MOST, "{peak} KiB");
    // A name from outside does not fill the terminal, either.
    let long = tar([E::file("p".repeat(900_000), "")]);
    let manifest = Image::new().layer(long).write(&scratch.join("image"));
    let done = scratch.run(["d-unpack", "-q"]).arg(manifest).arg("c").fails(65);
    done.expect(done.stderr.len() < 10_000, "a line that can be read");
}

#[test]
fn trees_deeper_than_paths_are_long() {
    // Each entry goes a little deeper through a symlink to the end of the last.
    let scratch = Scratch::new();
    let step = vec!["d"; 200].join("/");
    let mut entries = vec![E::dir("d")];
    let mut at = String::new();
    for n in 0..12 {
        entries.push(E::dir(format!("{at}{step}")));
        let target = if n == 0 { format!("/{step}") } else { format!("/l{}/{step}", n - 1) };
        entries.push(E::symlink(format!("l{n}"), target));
        at = format!("l{n}/");
    }
    let manifest = image([entries, vec![E::file(".wh.d", "")]]).write(&scratch.join("image"));
    let done = scratch.run(["d-unpack", "-q"]).arg(manifest).arg("c").done();
    done.expect(matches!(done.code(), 0 | 65), "done, or bad data");
    if done.code() == 0 {
        scratch.run(["d-unpack", "--remove", "c"]).ok();
    }
    assert_eq!(scratch.names(""), ["cache", "home", "image"]);
}
