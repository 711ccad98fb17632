//! A cache that others made, damaged or closed to us: it is used, mended, or the reason is given.

use std::fs;
use std::path::Path;

use d_common::digest::Digest;
use d_tests::badregistry::BadRegistry;
use d_tests::store::Store;
use d_tests::{Scratch, run};

use crate::{blob, image, manifest_of, noise};

/// A cache with an image, and the image's name.
fn pulled() -> (Scratch, BadRegistry, String) {
    let store = Store::of(&image(&[1000, 200])).image("b", &image(&[300]));
    let (scratch, bad) = (Scratch::new(), BadRegistry::start(move |r| store.answer(r)));
    let name = bad.image("x:latest");
    scratch.run(["d-pull", &name]).ok();
    (scratch, bad, name)
}

fn mode(path: &Path, mode: &str) {
    run(["chmod", mode]).arg(path).ok();
}

#[test]
fn a_layout_of_another_tool_is_a_cache() {
    let (scratch, bad, name) = pulled();
    let own = scratch.cache().join(".d-pull");
    for args in [&["--gc"][..], &[&name], &[&bad.image(&format!("x@{}", manifest_of(&image(&[1000, 200]))))]] {
        fs::remove_dir_all(&own).unwrap();
        scratch.run(["d-pull"]).args(args).ok();
        scratch.run(["d-pull", "--list"]).ok().out_has(&name);
        fs::create_dir_all(&own).unwrap();
    }
    fs::remove_dir_all(&own).unwrap();
    scratch.run(["d-pull", "--forget", &name]).ok();
    fs::remove_dir_all(&own).unwrap();
    scratch.run(["d-pull", &bad.image("x:b")]).ok();
    fs::write(blob(&scratch, &Digest::of(&noise(300, 1))), "damaged").unwrap();
    fs::remove_dir_all(&own).unwrap();
    scratch.run(["d-pull", "--fsck"]).fails(65).out_has("removed");
    scratch.run(["d-pull", "--fsck"]).ok().prints("");
}

#[test]
fn fsck_tells_what_it_cannot_read_and_goes_on() {
    let (scratch, _bad, name) = pulled();
    let (layer, other) = (blob(&scratch, &Digest::of(&noise(1000, 1))), blob(&scratch, &Digest::of(&noise(200, 2))));
    mode(&layer, "0");
    scratch.run(["d-pull", "--fsck"]).fails(65).out_has("cannot be read: Permission denied");
    assert!(layer.exists());
    scratch.run(["d-pull", "-o", "x.tar", &name]).fails(77).err_has("Permission denied");
    scratch.run(["d-pull", "--list"]).ok().out_has(&name);
    mode(&layer, "u+rw");
    // A manifest that is unreadable may need anything, and may be whole.
    let manifest = blob(&scratch, &manifest_of(&image(&[1000, 200])));
    mode(&manifest, "0");
    scratch.run(["d-pull", "--gc"]).fails(77).err_has("Permission denied");
    scratch.run(["d-pull", "--fsck"]).fails(65);
    mode(&manifest, "u+rw");
    assert!(layer.exists());
    scratch.run(["d-pull", "--list"]).ok().out_has(&name);
    // What is no file, and an index that is none.
    for file in [&layer, &other] {
        fs::remove_file(file).unwrap();
    }
    fs::create_dir_all(layer.join("full")).unwrap();
    run(["mkfifo"]).arg(&other).ok();
    let index = scratch.cache().join("index.json");
    fs::remove_file(&index).unwrap();
    run(["mkfifo"]).arg(&index).ok();
    scratch.run(["d-pull", "--list"]).fails(65).err_has("regular file");
    scratch.run(["d-pull", "--gc"]).fails(65).err_has("regular file");
    let done = scratch.run(["d-pull", "--fsck"]).fails(65);
    done.out_has("is no file: removed").out_has("is no file: cannot be removed").out_has("index.json cannot be read");
    assert!(layer.exists() && !other.exists());
    fs::remove_dir(layer.join("full")).unwrap();
    scratch.run(["d-pull", "--fsck"]).fails(65).out_has("is no file: removed");
    scratch.run(["d-pull", "--fsck"]).ok().prints("");
    scratch.run(["d-pull", &name]).ok();
    // A manifest that is a FIFO is as one that is gone, and so is a damaged one.
    let whole = fs::read(&manifest).unwrap();
    fs::remove_file(&manifest).unwrap();
    run(["mkfifo"]).arg(&manifest).ok();
    scratch.run(["d-pull", "--offline", &name]).fails(66);
    scratch.run(["d-pull", &name]).ok();
    assert_eq!(fs::read(&manifest).unwrap(), whole);
    fs::write(&manifest, noise(whole.len(), 1)).unwrap();
    let done = scratch.run(["d-pull", "--offline", &name]).fails(66);
    done.err_has("not in the cache (--offline): ").err_has("is damaged").err_has("--fsck");
    scratch.run(["d-pull", &name]).ok();
    assert_eq!(fs::read(&manifest).unwrap(), whole);
}

#[test]
fn a_damaged_layer_is_no_part_of_an_archive() {
    let (scratch, _bad, name) = pulled();
    fs::write(blob(&scratch, &Digest::of(&noise(1000, 1))), noise(1000, 5)).unwrap();
    let done = scratch.run(["d-pull", "-o", "x.tar", &name]).fails(65);
    done.err_has("does not match its digest").err_has("--fsck");
    assert!(!scratch.join("x.tar").exists());
}

#[test]
fn a_cache_that_may_not_be_read_is_77() {
    let (scratch, _bad, name) = pulled();
    let (all, of_blobs) = (["--list", "--gc", "--fsck", "--offline", "--forget"], ["--gc", "--fsck", "--offline"]);
    for (closed, steps) in [("", &all[..]), ("index.json", &all), ("blobs/sha256", &of_blobs)] {
        let closed = scratch.cache().join(closed);
        mode(&closed, "0");
        for step in steps {
            let of_image = ["--offline", "--forget"].contains(step).then_some(&name);
            let done = scratch.run(["d-pull", step]).args(of_image).fails(77);
            done.prints("").err_has("Permission denied");
        }
        mode(&closed, "u+rwX");
    }
    mode(&scratch.cache(), "0");
    scratch.run(["d-pull", "--expire=3"]).fails(77).err_has("Permission denied");
    mode(&scratch.cache(), "u+rwX");
    scratch.run(["d-pull", "--offline", &name]).ok();
    scratch.run(["d-pull", "--fsck"]).ok().prints("");
}
