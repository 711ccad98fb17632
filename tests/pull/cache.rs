//! The cache: what is asked again, what stays, what goes, and that nothing tears it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use d_common::digest::Digest;
use d_tests::badregistry::{BadRegistry, Request};
use d_tests::store::Store;
use d_tests::{Scratch, run};
use rustix::process::Signal;

use crate::{blob, image, manifest_of, noise};

fn serve(store: Store) -> BadRegistry {
    BadRegistry::start(move |r| store.answer(r))
}

fn age(path: &Path, days: u64) {
    let time = SystemTime::now() - Duration::from_secs(days * 86_400);
    let times = fs::FileTimes::new().set_accessed(time).set_modified(time);
    fs::File::open(path).unwrap().set_times(times).unwrap();
}

#[test]
fn a_second_pull_downloads_nothing() {
    let (scratch, bad) = (Scratch::new(), serve(Store::of(&image(&[100, 200])).image("same", &image(&[100, 300]))));
    let first = scratch.run(["d-pull", &bad.image("x")]).ok().out();
    let before = bad.requests().len();
    scratch.run(["d-pull", &bad.image("x")]).ok().prints(&first);
    let more: Vec<_> = bad.requests()[before..].iter().map(|r| format!("{} {}", r.method, r.path)).collect();
    assert_eq!(more, ["GET /v2/", "HEAD /v2/x/manifests/latest"]);
    // A layer that another image brought is not fetched either.
    scratch.run(["d-pull", &bad.image("x:same")]).ok();
    assert_eq!(bad.count(&Digest::of(&noise(100, 1)).to_string()), 1);
    // By digest there is nothing to ask.
    let before = bad.requests().len();
    scratch.run(["d-pull", &bad.image(&format!("x@{}", manifest_of(&image(&[100, 200]))))]).ok().prints(&first);
    assert_eq!(bad.requests().len(), before);
}

#[test]
fn when_the_registry_is_asked() {
    let scratch = Scratch::new();
    let bad = serve(Store::of(&image(&[100])));
    let (name, other) = (bad.image("x"), bad.image("x:other"));
    let path = scratch.run(["d-pull", &name]).ok().out();
    let asked = bad.requests().len();
    for quiet in [&["--offline"][..], &["--pull=never"], &["--pull", "missing"]] {
        scratch.run(["d-pull"]).args(quiet).arg(&name).ok().prints(&path).silent();
    }
    assert_eq!(bad.requests().len(), asked);
    scratch.run(["d-pull", "--offline", &other]).fails(66).err_has("not in the cache");
    assert_eq!(bad.requests().len(), asked);
    drop(bad);
    scratch.run(["d-pull", &name]).fails(75).prints("");
    scratch.run(["d-pull", "--pull=newer", &name]).ok().prints(&path).err_has("warning: ");
    scratch.run(["d-pull", "-q", "--pull=newer", &name]).ok().silent();
    scratch.run(["d-pull", "--pull=newer", &other]).fails(75);
    scratch.run(["d-pull", "--pull=missing", &name]).ok();
    scratch.run(["d-pull", "--pull=missing", &other]).fails(75);
    scratch.run(["d-pull", "--offline", "--cache", "nowhere", &name]).fails(66);
    assert!(!scratch.join("nowhere").exists());
}

#[test]
fn a_tag_that_moves_is_followed() {
    let moved = Arc::new(AtomicBool::new(false));
    let (old, new) = (Store::of(&image(&[100])), Store::of(&image(&[200])));
    let now = moved.clone();
    let bad = BadRegistry::start(move |r| match now.load(Ordering::SeqCst) {
        true => new.answer(r),
        false => old.answer(r),
    });
    let scratch = Scratch::new();
    let first = scratch.run(["d-pull", &bad.image("x")]).ok().out();
    moved.store(true, Ordering::SeqCst);
    scratch.run(["d-pull", "--pull=missing", &bad.image("x")]).ok().prints(&first);
    let second = scratch.run(["d-pull", &bad.image("x")]).ok().out();
    assert_ne!(first, second);
    assert_eq!(scratch.run(["d-pull", "--list"]).ok().out().lines().count(), 1);
    assert!(Path::new(&first).exists());
    scratch.run(["d-pull", "--gc"]).ok().prints("");
    assert!(!Path::new(&first).exists() && Path::new(&second).exists());
    scratch.run(["d-pull", "--offline", &bad.image("x")]).ok().prints(&second);
}

#[test]
fn images_are_listed_forgotten_and_collected() {
    let (scratch, bad) = (Scratch::new(), serve(Store::of(&image(&[100, 200])).image("b", &image(&[100, 200, 300]))));
    scratch.run(["d-pull", "--list"]).ok().prints("");
    scratch.run(["d-pull", "--gc"]).ok();
    let (a, b) = (bad.image("x:latest"), bad.image("x:b"));
    scratch.run(["d-pull", &a, &b]).ok();
    let line = |name: &str, image| format!("{name} {} {}", host(), manifest_of(&image));
    let listed = scratch.run(["d-pull", "--list"]).ok();
    listed.prints(&format!("{}\n{}", line(&b, image(&[100, 200, 300])), line(&a, image(&[100, 200]))));
    scratch.run(["d-pull", "--forget", &b]).ok().prints("");
    scratch.run(["d-pull", "--forget", &b]).fails(66);
    scratch.run(["d-pull", "--list"]).ok().prints(&line(&a, image(&[100, 200])));
    let (shared, own) = (blob(&scratch, &Digest::of(&noise(100, 1))), blob(&scratch, &Digest::of(&noise(300, 3))));
    assert!(shared.exists() && own.exists());
    scratch.write("cache/d-utils/.d-pull/partial/sha256-0", "left");
    scratch.run(["d-pull", "--gc"]).ok();
    assert!(shared.exists() && !own.exists());
    assert_eq!(scratch.names("cache/d-utils/.d-pull/partial"), [""; 0]);
    scratch.run(["d-pull", "--offline", &a]).ok();
}

fn host() -> &'static str {
    if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" }
}

#[test]
fn unused_blobs_expire_and_used_ones_keep_their_time() {
    let (scratch, bad) = (Scratch::new(), serve(Store::of(&image(&[100, 200])).image("b", &image(&[100, 300]))));
    let (a, b) = (bad.image("x"), bad.image("x:b"));
    let old = scratch.run(["d-pull", &a]).ok().out();
    let aged = || {
        let folder = scratch.cache().join("blobs/sha256");
        for entry in fs::read_dir(folder).unwrap() {
            age(&entry.unwrap().path(), 40);
        }
    };
    // Use is recorded, and leaves the time that make looks at.
    aged();
    scratch.run(["d-pull", &a]).ok();
    assert!(fs::metadata(&old).unwrap().modified().unwrap() < SystemTime::now() - Duration::from_secs(39 * 86_400));
    scratch.run(["d-pull", &b]).ok();
    assert!(Path::new(&old).exists());
    // Without use it goes, but not under --offline, nor with 0.
    aged();
    scratch.run(["d-pull", "--offline", &b]).ok();
    scratch.run(["d-pull", "--expire", "0", &b]).ok();
    scratch.run(["d-pull", &b]).env("D_EXPIRE", "0").ok();
    scratch.run(["d-pull", "--expire=41", &b]).ok();
    scratch.run(["d-pull", "--offline", "--expire=1"]).ok();
    scratch.run(["d-pull", "--pull=never", "--expire=1", "--list"]).ok();
    assert!(Path::new(&old).exists());
    scratch.run(["d-pull", &b]).ok();
    assert!(!Path::new(&old).exists());
    assert!(blob(&scratch, &Digest::of(&noise(100, 1))).exists(), "the other image has this layer too");
    let list = scratch.run(["d-pull", "--list"]).ok();
    assert!(list.out().starts_with(&b) && list.out().lines().count() == 1, "{list}");
    aged();
    scratch.run(["d-pull", "--expire", "30"]).ok();
    assert_eq!(scratch.names("cache/d-utils/blobs/sha256"), [""; 0]);
}

#[test]
fn fsck_finds_what_is_broken() {
    let (scratch, bad) = (Scratch::new(), serve(Store::of(&image(&[1000, 200]))));
    let name = bad.image("x");
    let path = scratch.run(["d-pull", &name]).ok().out();
    let layer = blob(&scratch, &Digest::of(&noise(1000, 1)));
    fs::write(&layer, noise(1000, 5)).unwrap();
    scratch.run(["d-pull", "--fsck"]).fails(65).out_has(&Digest::of(&noise(1000, 1)).to_string());
    assert!(!layer.exists());
    scratch.run(["d-pull", "--fsck"]).ok().prints("");
    scratch.run(["d-pull", "--offline", &name]).fails(66);
    let asked = bad.count("/blobs/");
    scratch.run(["d-pull", &name]).ok().prints(&path);
    assert_eq!(bad.count("/blobs/"), asked + 1, "only the broken one is fetched again");
    fs::write(scratch.cache().join("index.json"), "{").unwrap();
    scratch.run(["d-pull", &name]).fails(65).err_has("--fsck");
    scratch.run(["d-pull", "--fsck"]).fails(65);
    scratch.run(["d-pull", &name]).ok().prints(&path);
}

#[test]
fn a_truncated_blob_is_fetched_again() {
    let (scratch, bad) = (Scratch::new(), serve(Store::of(&image(&[1000]))));
    scratch.run(["d-pull", &bad.image("x")]).ok();
    let layer = blob(&scratch, &Digest::of(&noise(1000, 1)));
    fs::write(&layer, b"").unwrap();
    scratch.run(["d-pull", "--offline", &bad.image("x")]).fails(66);
    scratch.run(["d-pull", &bad.image("x")]).ok();
    assert_eq!(fs::read(&layer).unwrap(), noise(1000, 1));
}

/// A registry that sends its layer in small answers and slowly, so that kills hit it.
fn slow(size: usize) -> BadRegistry {
    let store = Store::of(&image(&[size]));
    let name = Digest::of(&noise(size, 1)).to_string();
    BadRegistry::start(move |r| {
        let answer = store.answer(r);
        if r.path.ends_with(&name) { answer.cut(20_000).stall(Duration::from_millis(20)) } else { answer }
    })
}

#[test]
fn killed_at_fifty_moments_it_goes_on_where_it_was() {
    const SIZE: usize = 3_000_000;
    for signal in [Signal::KILL, Signal::INT] {
        let scratch = Scratch::new();
        let layer = Digest::of(&noise(SIZE, 1));
        let store = Store::of(&image(&[SIZE]));
        let hurry = Arc::new(AtomicBool::new(false));
        let (name, hurries) = (layer.to_string(), hurry.clone());
        // It sends little at once and slowly, so that kills hit it; and the rest of it quickly in the end.
        let bad = BadRegistry::start(move |r| {
            let answer = store.answer(r);
            let slow = r.path.ends_with(&name) && !hurries.load(Ordering::SeqCst);
            if slow { answer.cut(40_000).stall(Duration::from_millis(20)) } else { answer }
        });
        // The first byte wanted, for each request so far.
        let starts = || -> Vec<u64> {
            let of_layer = |r: &Request| r.path.ends_with(&layer.to_string());
            let start = |r: &Request| r.header("range").map(|v| v["bytes=".len()..].trim_end_matches('-').to_owned());
            let requests = bad.requests();
            requests.iter().filter(|r| of_layer(r)).map(|r| start(r).map_or(0, |s| s.parse().unwrap())).collect()
        };
        let partial = scratch.cache().join(format!(".d-pull/partial/sha256-{}", layer.hex()));
        let size = |path: &Path| fs::metadata(path).map_or(0, |m| m.len());
        for i in 0..50_u64 {
            let kept = size(&partial);
            let running = scratch.run(["d-pull", &bad.image("x")]).spawn();
            std::thread::sleep(Duration::from_millis(25 + i * 29 % 220));
            running.signal(signal);
            running.wait(Duration::from_secs(10));
            assert!(size(&partial) >= kept, "{kept} bytes were there before the run {i}");
            let index = scratch.cache().join("index.json");
            if index.exists() {
                run(["jq", "-e", ".manifests"]).arg(index).ok();
            }
        }
        let kept = size(&partial);
        assert!(kept > 0 && !blob(&scratch, &layer).exists(), "{kept} bytes were fetched before the kills");
        let before = starts().len();
        hurry.store(true, Ordering::SeqCst);
        scratch.run(["d-pull", &bad.image("x")]).ok();
        scratch.run(["d-pull", "--fsck"]).ok().prints("");
        // No byte that had arrived was asked for again, by any run: the last one asked for the rest at once.
        let starts = starts();
        assert!(starts.is_sorted() && starts[before..] == [kept], "{kept}: {starts:?}");
    }
}

#[test]
fn gc_spares_what_a_running_pull_needs() {
    let (scratch, bad) = (Scratch::new(), slow(600_000));
    let mut running = scratch.run(["d-pull", &bad.image("x")]).spawn();
    let config = image(&[600_000]).blobs()[1].0.clone();
    let mut rounds = 0;
    while !running.ended() {
        scratch.run(["d-pull", "--gc"]).ok();
        rounds += u32::from(blob(&scratch, &config).exists());
    }
    assert!(rounds > 2, "gc never ran beside the pull");
    running.wait(Duration::from_secs(30)).expect(true, "");
    scratch.run(["d-pull", "--offline", &bad.image("x")]).ok();
}

#[test]
fn one_download_serves_two_runs() {
    let (scratch, bad) = (Scratch::new(), slow(300_000));
    let both: Vec<_> = (0..2).map(|_| scratch.run(["d-pull", &bad.image("x")]).spawn()).collect();
    for running in both {
        let done = running.wait(Duration::from_secs(60));
        done.expect(done.code() == 0, "success");
    }
    let layer = Digest::of(&noise(300_000, 1)).to_string();
    let plain = bad.requests().iter().filter(|r| r.path.ends_with(&layer) && r.header("range").is_none()).count();
    assert_eq!(plain, 1, "the layer was begun twice");
}

#[test]
fn a_cache_that_cannot_be_written_is_73_and_a_read_only_one_can_be_used() {
    let (scratch, bad) = (Scratch::new(), serve(Store::of(&image(&[100])).image("old", &image(&[200]))));
    let old = scratch.run(["d-pull", &bad.image("x:old")]).ok().out();
    age(Path::new(&old), 40);
    let path = scratch.run(["d-pull", "--expire=0", &bad.image("x")]).ok().out();
    run(["chmod", "-R", "a-w"]).arg(scratch.cache()).ok();
    scratch.run(["d-pull", "--offline", &bad.image("x")]).ok().prints(&path).silent();
    scratch.run(["d-pull", &bad.image("x")]).ok().prints(&path).silent();
    run(["chmod", "-R", "u+w"]).arg(scratch.cache()).ok();
    scratch.write("file", "");
    scratch.run(["d-pull", "--cache", "file/below", &bad.image("x")]).fails(73);
    scratch.run(["d-pull", "--cache", "/proc/nowhere", &bad.image("x")]).fails(73);
}

#[test]
fn another_tools_entries_stay() {
    let (scratch, bad) = (Scratch::new(), serve(Store::of(&image(&[100]))));
    image(&[50]).write(&scratch.join("other"));
    scratch.run(["d-pull", &bad.image("x")]).ok();
    let layout = format!("oci:{}:mine", scratch.cache().display());
    run([
        "skopeo",
        "--insecure-policy",
        "copy",
        "-q",
        &format!("oci:{}:latest", scratch.join("other").display()),
        &layout,
    ])
    .ok();
    scratch.run(["d-pull", &bad.image("x")]).ok();
    scratch.run(["d-pull", "--gc"]).ok();
    run(["skopeo", "inspect", &layout]).ok();
    scratch.run(["d-pull", "--fsck"]).ok();
}

#[test]
fn a_full_disk_is_73_and_leaves_nothing_there() {
    let (scratch, bad) = (Scratch::new(), serve(Store::of(&image(&[3_000_000]))));
    let script = format!(
        "mount -t tmpfs -o size=1m tmpfs small || exit 99
        code=0; d-pull --cache small/cache {} || code=$?
        find small/cache/.d-pull/partial small/cache/blobs -size +100k
        exit $code",
        bad.image("x")
    );
    fs::create_dir(scratch.join("small")).unwrap();
    let done = scratch.run(["unshare", "-Urm", "sh", "-uc", &script]).done();
    if done.code() == 99 || done.err().starts_with("unshare") {
        return d_tests::skip("no tmpfs can be mounted in a user namespace");
    }
    done.expect(done.code() == 73, "exit code 73").prints("").err_has("No space left on device");
}

#[test]
fn a_cache_without_a_name_or_a_marker_is_mended() {
    let store = Store::of(&image(&[100]));
    let (scratch, bad) = (Scratch::new(), BadRegistry::start(move |r| store.answer(r)));
    let name = bad.image("x:latest");
    let path = scratch.run(["d-pull", &name]).ok().out();
    // Whoever removes index.json wants all names gone.
    fs::remove_file(scratch.cache().join("index.json")).unwrap();
    scratch.run(["d-pull", "--list"]).ok().prints("");
    scratch.run(["d-pull", "--offline", &name]).fails(66).err_has("not in the cache");
    scratch.run(["d-pull", &name]).ok().prints(&path);
    scratch.run(["d-pull", "--list"]).ok().out_has(&name);
    fs::remove_file(scratch.cache().join("oci-layout")).unwrap();
    scratch.run(["d-pull", &name]).ok().prints(&path);
    assert!(scratch.cache().join("oci-layout").exists());
    // A layout of the future is nobody's to write to.
    fs::write(scratch.cache().join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
    scratch.run(["d-pull", &name]).fails(65).err_has("2.0.0");
}

#[test]
fn the_working_directory_may_be_gone() {
    let store = Store::of(&image(&[100]));
    let (scratch, bad) = (Scratch::new(), BadRegistry::start(move |r| store.answer(r)));
    let gone = |args: &str| scratch.sh(&format!("mkdir g; cd g; rmdir ../g; d-pull {args} {}", bad.image("x")));
    gone("").ok();
    gone("--cache c").fails(66).err_has("the working directory is gone");
}

#[test]
fn what_is_listed_is_of_the_platform_that_is_asked_for() {
    let store = Store::of(&image(&[100]));
    let (scratch, bad) = (Scratch::new(), BadRegistry::start(move |r| store.answer(r)));
    scratch.run(["d-pull", &bad.image("x")]).ok();
    let here = if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" };
    scratch.run(["d-pull", "--list", "--platform", here]).ok().out_has(here);
    scratch.run(["d-pull", "--list", "--platform", "linux/s390x"]).ok().prints("");
    // The variable is a default for pulling.
    let other = |args: &[&str]| scratch.run(["d-pull"]).args(args).env("D_PLATFORM", "linux/s390x");
    scratch.run(["d-pull", "--write-lock=lock", &bad.image("x")]).ok();
    other(&["--list"]).ok().out_has(here);
    other(&["--locked=lock"]).ok().out_has("/");
    other(&["--locked=lock", "--platform=linux/s390x"]).ok().prints("");
    other(&["--locked=lock", &bad.image("x")]).fails(66);
    other(&["--forget", &bad.image("x")]).ok();
}
