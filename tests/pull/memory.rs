//! Memory is bounded, whatever the size of an image.

use std::time::Duration;

use d_common::digest::{Algorithm, Hasher};
use d_tests::badregistry::{BadRegistry, Response};
use d_tests::image::descriptor;
use d_tests::store::Store;
use d_tests::{Cmd, Scratch};
use serde_json::json;

use crate::{image, noise};

/// The most that d-pull may ever have resident, in kB.
const MOST: u64 = 40_000;

/// Runs d-pull to its end; the most that it had resident, in kB, as seen by looking often.
#[track_caller]
fn peak(pull: Cmd) -> u64 {
    let mut running = pull.timeout(Duration::from_secs(300)).spawn();
    let mut peak = 0;
    while !running.ended() {
        let status = std::fs::read_to_string(format!("/proc/{}/status", running.pid())).unwrap_or_default();
        let line =
            status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        peak = line.unwrap_or(peak);
        std::thread::sleep(Duration::from_millis(5));
    }
    let done = running.wait(Duration::from_secs(5));
    done.expect(done.code() == 0, "success");
    assert!(peak > 1000, "{peak} kB is no memory of a process");
    peak
}

#[test]
fn two_hundred_layers() {
    let store = Store::of(&image(&[100_000; 200]));
    let bad = BadRegistry::start(move |r| store.answer(r));
    for jobs in ["6", "64"] {
        let scratch = Scratch::new();
        let most = peak(scratch.run(["d-pull", "-j", jobs, &bad.image("x")]));
        assert!(most <= MOST, "-j {jobs}: {most} kB");
        assert_eq!(scratch.names("cache/d-utils/blobs/sha256").len(), 202);
    }
}

#[test]
fn a_layer_of_a_gibibyte() {
    const BLOCK: usize = 1 << 20;
    const TIMES: usize = 1 << 10;
    let block = noise(BLOCK, 1);
    let mut hasher = Hasher::new(Algorithm::Sha256);
    (0..TIMES).for_each(|_| hasher.update(&block));
    let layer = hasher.finish();
    let config = image(&[]).blobs()[0].1.clone();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer.to_string(), "size": BLOCK * TIMES,
        }],
    });
    let manifest = manifest.to_string();
    let store = Store::new().blob(config).manifest("latest", "application/vnd.oci.image.manifest.v1+json", manifest);
    let name = layer.to_string();
    let bad = BadRegistry::start(move |r| {
        if r.path.ends_with(&name) { Response::ok(block.clone()).times(TIMES) } else { store.answer(r) }
    });
    let scratch = Scratch::new();
    let most = peak(scratch.run(["d-pull", &bad.image("x")]));
    assert!(most <= MOST, "{most} kB");
    let kept = std::fs::metadata(crate::blob(&scratch, &layer)).unwrap();
    assert_eq!(kept.len(), (BLOCK * TIMES) as u64);
    // As a stream it needs no more.
    let script = format!("exec d-pull -o - {} >/dev/null", bad.image("x"));
    let most = peak(scratch.sh(&script));
    assert!(most <= MOST, "-o -: {most} kB");
}
