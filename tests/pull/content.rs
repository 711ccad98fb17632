//! What a registry may serve: indexes, embedded data, odd layers, and things that are no images.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use d_common::digest::{Algorithm, Digest};
use d_tests::Scratch;
use d_tests::badregistry::{BadRegistry, Response};
use d_tests::image::{Image, descriptor};
use d_tests::store::Store;
use serde_json::{Value, json};

use crate::{blob, image, manifest_of, noise};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

fn serve(store: Store) -> BadRegistry {
    BadRegistry::start(move |r| store.answer(r))
}

/// An image for a platform, and its entry in an index.
fn for_platform(os: &str, architecture: &str, variant: &str) -> (Image, Value) {
    let mut image = image(&[100]);
    image.config["architecture"] = json!(architecture);
    image.config["os"] = json!(os);
    image.config["mark"] = json!(variant);
    let manifest = image.blobs().pop().unwrap().1;
    let mut entry = descriptor(MANIFEST, &manifest);
    entry["platform"] = json!({"os": os, "architecture": architecture});
    if !variant.is_empty() {
        entry["platform"]["variant"] = json!(variant);
    }
    (image, entry)
}

fn index_of(entries: &[&Value]) -> Vec<u8> {
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string().into_bytes()
}

/// A manifest with these layers, which are in no store.
fn manifest(config: &Value, layers: &[Value]) -> Vec<u8> {
    json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}).to_string().into_bytes()
}

fn host_config() -> Vec<u8> {
    let blobs = Image::new().blobs();
    blobs[0].1.clone()
}

#[test]
fn an_index_leads_to_the_platform_and_nowhere_else() {
    let (amd, amd_entry) = for_platform("linux", "amd64", "");
    let (arm6, arm6_entry) = for_platform("linux", "arm", "v6");
    let (arm8, arm8_entry) = for_platform("linux", "arm64", "v8");
    let mut attestation = descriptor(MANIFEST, b"{}");
    attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let inner = index_of(&[&arm8_entry]);
    let nested = descriptor(INDEX, &inner);
    let store = Store::of(&amd).image("6", &arm6).image("8", &arm8).manifest("i", INDEX, inner);
    let store = store.manifest("multi", INDEX, index_of(&[&attestation, &amd_entry, &arm6_entry, &nested]));
    let (scratch, bad) = (Scratch::new(), serve(store));
    let name = bad.image("x:multi");
    for (platform, image) in [
        ("linux/amd64", &amd),
        ("linux/x86_64", &amd),
        ("linux/arm/v7", &arm6),
        ("linux/arm", &arm6),
        ("linux/arm64", &arm8),
        ("linux/arm64/v8", &arm8),
    ] {
        let out = scratch.run(["d-pull", "--platform", platform, &name]).ok().out();
        assert!(out.ends_with(manifest_of(image).hex()), "{platform}: {out}");
        scratch.run(["d-pull", "--offline", &name]).env("D_PLATFORM", platform).ok().prints(&out);
    }
    for missing in ["linux/s390x", "linux/arm/v5", "windows/amd64"] {
        let done = scratch.run(["d-pull", "--platform", missing, &name]).fails(66);
        done.err_has(missing).err_has("there are linux/amd64, linux/arm/v6");
        done.expect(!done.err().contains("unknown"), "no attestation");
    }
    let other = if cfg!(target_arch = "aarch64") { "linux/amd64" } else { "linux/arm64" };
    let index = std::fs::read_to_string(scratch.cache().join("index.json")).unwrap();
    assert!(index.contains(&format!(r#""{name}+{other}""#)) && index.contains(&format!(r#""{name}""#)), "{index}");
}

#[test]
fn a_single_image_for_another_machine_is_no_fallback() {
    let (other, entry) = for_platform("linux", "s390x", "");
    let (scratch, bad) = (Scratch::new(), serve(Store::of(&other)));
    scratch.run(["d-pull", &bad.image("x")]).fails(66).err_has("only for linux/s390x");
    scratch.run(["d-pull", "--platform=linux/s390x", &bad.image("x")]).ok();
    // By its digest it is exactly what was asked for.
    let exact = bad.image(&format!("x@{}", entry["digest"].as_str().unwrap()));
    scratch.run(["d-pull", &exact]).ok();
    scratch.run(["d-pull", "--platform=linux/amd64", &exact]).fails(66);
}

#[test]
fn an_image_cannot_say_more_of_its_platform_than_words() {
    let forged =
        format!("s390x sha256:{}\nevil.io/x:latest linux/amd64 sha256:{}\n#\x1b[2J", "a".repeat(64), "b".repeat(64));
    for (os, architecture, variant) in
        [("linux", forged.as_str(), ""), (&forged, "s390x", ""), ("linux", "arm", "v7 x")]
    {
        let mut image = image(&[100]);
        image.config["os"] = json!(os);
        image.config["architecture"] = json!(architecture);
        image.config["variant"] = json!(variant);
        let exact = manifest_of(&image);
        let (scratch, bad) = (Scratch::new(), serve(Store::of(&image)));
        let done = scratch.run(["d-pull", "--write-lock", "lock", &bad.image(&format!("x@{exact}"))]).fails(65);
        done.prints("").err_has("no platform");
        assert!(!scratch.join("lock").exists());
        scratch.run(["d-pull", "--list"]).ok().prints("");
    }
    // Nor what an earlier one may have brought into the index.
    let (scratch, bad) = (Scratch::new(), serve(Store::of(&image(&[100]))));
    scratch.run(["d-pull", &bad.image("x")]).ok();
    let path = scratch.cache().join("index.json");
    let mut index: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    index["manifests"][0]["platform"]["architecture"] = json!(forged);
    std::fs::write(&path, index.to_string()).unwrap();
    scratch.run(["d-pull", "--list"]).ok().prints("");
}

#[test]
fn odd_layers_are_no_trouble() {
    let (data, big) = (noise(50, 3), noise(5000, 4));
    let mut embedded = descriptor(LAYER, &data);
    embedded["data"] = json!(d_tests::run(["base64", "-w0"]).stdin(&data).ok().out());
    let mut long = descriptor(LAYER, &big);
    long["digest"] = json!(Digest::with(Algorithm::Sha512, &big).to_string());
    let empty = descriptor(LAYER, b"");
    let config = descriptor(CONFIG, &host_config());
    let layers = [embedded, empty.clone(), long.clone(), long, empty];
    let manifest = manifest(&config, &layers);
    let (scratch, bad) = (
        Scratch::new(),
        serve(Store::new().blob(host_config()).blob(big.clone()).manifest("latest", MANIFEST, manifest)),
    );
    scratch.run(["d-pull", &bad.image("x")]).ok();
    assert_eq!(bad.count("/blobs/sha512:"), 1, "a duplicate is fetched once");
    assert_eq!(bad.count(&Digest::of(&data).to_string()), 0, "embedded data is not fetched");
    assert_eq!(std::fs::read(blob(&scratch, &Digest::with(Algorithm::Sha512, &big))).unwrap(), big);
    assert_eq!(std::fs::read(blob(&scratch, &Digest::of(b""))).unwrap(), b"");
    // Names of sha512 are too long for a plain tar header.
    let listed = scratch.sh(&format!("d-pull -o - {} | tar tf -", bad.image("x"))).ok();
    listed.out_has(&format!("blobs/sha512/{}", Digest::with(Algorithm::Sha512, &big).hex()));
}

#[test]
fn embedded_data_that_lies_is_refused() {
    let mut layer = descriptor(LAYER, b"right");
    layer["data"] = json!("d3Jvbmc=");
    let manifest = manifest(&descriptor(CONFIG, &host_config()), &[layer]);
    let bad = serve(Store::new().blob(host_config()).blob(&b"right"[..]).manifest("latest", MANIFEST, manifest));
    Scratch::new().run(["d-pull", &bad.image("x")]).fails(65);
}

#[test]
fn foreign_layers_come_only_when_they_are_wanted() {
    let bytes = noise(2000, 9);
    let elsewhere = serve(Store::new().blob(bytes.clone()));
    let mut layer = descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", &bytes);
    layer["urls"] = json!([format!("http://{}/v2/f/blobs/{}", elsewhere.host(), Digest::of(&bytes))]);
    let manifest = manifest(&descriptor(CONFIG, &host_config()), &[layer]);
    let (scratch, bad) =
        (Scratch::new(), serve(Store::new().blob(host_config()).manifest("latest", MANIFEST, manifest)));
    scratch.run(["d-pull", &bad.image("x")]).fails(65).err_has("--foreign");
    assert!(elsewhere.requests().is_empty());
    scratch.run(["d-pull", "--foreign", &bad.image("x")]).ok();
    assert_eq!(std::fs::read(blob(&scratch, &Digest::of(&bytes))).unwrap(), bytes);
}

#[test]
fn what_is_no_image_is_refused_by_its_name() {
    let helm = "application/vnd.cncf.helm.config.v1+json";
    let empty = "application/vnd.oci.empty.v1+json";
    let schema1 = json!({"schemaVersion": 1, "name": "x", "fsLayers": [], "history": []});
    let mut sbom: Value = serde_json::from_slice(&manifest(&descriptor(empty, b"{}"), &[])).unwrap();
    sbom["artifactType"] = json!("application/spdx+json");
    for (media_type, bytes, word) in [
        (MANIFEST, manifest(&descriptor(helm, b"{}"), &[]), helm),
        (MANIFEST, sbom.to_string().into_bytes(), "application/spdx+json"),
        ("application/vnd.docker.distribution.manifest.v1+prettyjws", schema1.to_string().into_bytes(), "schema 1"),
        ("application/vnd.docker.distribution.manifest.v1+json", schema1.to_string().into_bytes(), "schema 1"),
        (INDEX, manifest(&descriptor(CONFIG, b"{}"), &[]), "contradicts"),
        (MANIFEST, b"{".to_vec(), "no JSON"),
        (MANIFEST, noise(5 << 20, 1), "limit"),
    ] {
        let bad = serve(Store::new().manifest("latest", media_type, bytes));
        let done = Scratch::new().run(["d-pull", &bad.image("x")]).code(65);
        done.expect(done.err().contains(word) || word == "limit" && done.err().contains("larger than"), word);
    }
}

#[test]
fn signatures_and_attestations_are_no_images_though_their_config_is_one() {
    for kind in ["application/vnd.dev.cosign.simplesigning.v1+json", "application/vnd.in-toto+json"] {
        let bytes = manifest(&descriptor(CONFIG, &host_config()), &[descriptor(kind, b"{}")]);
        let exact = format!("x@{}", Digest::of(&bytes));
        let bad = serve(Store::new().blob(host_config()).blob(&b"{}"[..]).manifest("latest", MANIFEST, bytes));
        for name in ["x", &exact] {
            let scratch = Scratch::new();
            scratch.run(["d-pull", &bad.image(name)]).fails(65).prints("").err_has(kind);
            assert_eq!(scratch.names("cache"), [""; 0], "nothing is left behind");
        }
    }
}

#[test]
fn types_and_digests_in_headers_are_checked_where_they_are_there() {
    let image = image(&[100]);
    let (digest, manifest) = image.blobs().pop().unwrap();
    let store = Store::of(&image);
    let answer = move |content_type: &'static str, digest: Option<String>| {
        let (store, manifest) = (store.clone(), manifest.clone());
        BadRegistry::start(move |r| {
            if !r.path.contains("/manifests/") {
                return store.answer(r);
            }
            let mut answer = Response::ok(manifest.clone());
            if !content_type.is_empty() {
                answer = answer.header("Content-Type", content_type);
            }
            digest.iter().fold(answer, |a, d| a.header("Docker-Content-Digest", d))
        })
    };
    for content_type in ["", "application/json", "text/plain; charset=utf-8", "application/octet-stream"] {
        let bad = answer(content_type, None);
        let done = Scratch::new().run(["d-pull", &bad.image("x")]).ok();
        assert!(done.out().ends_with(digest.hex()));
    }
    let bad = answer(MANIFEST, Some(Digest::of(b"other").to_string()));
    Scratch::new().run(["d-pull", &bad.image("x")]).fails(65).err_has("Docker-Content-Digest");
    let bad = answer(MANIFEST, Some("rubbish".into()));
    let done = Scratch::new().run(["d-pull", &bad.image("x")]).fails(76);
    done.err_has(&format!("the Docker-Content-Digest of http://{}/v2/x/manifests/latest is broken", bad.host()));
    // Asked for by digest, the answer must have it.
    let bad = answer(MANIFEST, None);
    Scratch::new().run(["d-pull", &bad.image(&format!("x@{}", Digest::of(b"other")))]).fails(65);
}

#[test]
fn a_registrys_own_digest_names_the_image() {
    let image = image(&[100]);
    let (short, manifest) = image.blobs().pop().unwrap();
    let long = Digest::with(Algorithm::Sha512, &manifest);
    let (store, said) = (Store::of(&image), long.to_string());
    let bad = BadRegistry::start(move |r| match () {
        () if r.path.ends_with(short.hex()) => Response::status(404),
        () if r.path.contains("/manifests/") => {
            Response::ok(manifest.clone()).header("Content-Type", MANIFEST).header("Docker-Content-Digest", &said)
        }
        () => store.answer(r),
    });
    let scratch = Scratch::new();
    let path = scratch.run(["d-pull", "--write-lock=lock", &bad.image("x")]).ok().out();
    assert_eq!(path, blob(&scratch, &long).display().to_string());
    scratch.run(["d-pull", &bad.image("x")]).ok().prints(&path);
    scratch.run(["d-pull", "--digest", &bad.image("x")]).ok().prints(&long.to_string());
    scratch.run(["d-pull", "--list"]).ok().out_has(&long.to_string());
    scratch.run(["d-pull", "--locked=lock", "--cache=other"]).ok().out_has(long.hex());
}

#[test]
fn a_head_that_contradicts_the_manifest_is_named() {
    let lie = Digest::of(b"other").to_string();
    let store = Store::of(&image(&[100]));
    let wrong = lie.clone();
    let bad = BadRegistry::start(move |r| match r.method.as_str() {
        "HEAD" => Response::status(200).header("Docker-Content-Digest", &wrong),
        _ => store.answer(r),
    });
    let scratch = Scratch::new();
    scratch.run(["d-pull", &bad.image("x")]).ok();
    scratch.run(["d-pull", &bad.image("x")]).fails(65).prints("").err_has(&lie).err_has("HEAD");
    // One that knows its manifests by tag alone is no liar.
    let (old, new) = (Store::of(&image(&[200])), Store::of(&image(&[300])));
    let moved = Arc::new(AtomicBool::new(false));
    let moves = moved.clone();
    let bad = BadRegistry::start(move |r| match moves.load(Ordering::SeqCst) {
        _ if r.path.contains("/manifests/sha256:") => Response::status(404),
        true => new.answer(r),
        false => old.answer(r),
    });
    scratch.run(["d-pull", &bad.image("x")]).ok().out_has(manifest_of(&image(&[200])).hex());
    moved.store(true, Ordering::SeqCst);
    scratch.run(["d-pull", &bad.image("x")]).ok().out_has(manifest_of(&image(&[300])).hex());
}

#[test]
fn sizes_that_lie_are_found() {
    let bytes = noise(100, 1);
    for size in [99, 101] {
        let mut layer = descriptor(LAYER, &bytes);
        layer["size"] = json!(size);
        let manifest = manifest(&descriptor(CONFIG, &host_config()), &[layer]);
        let bad = serve(Store::new().blob(host_config()).blob(bytes.clone()).manifest("latest", MANIFEST, manifest));
        Scratch::new().run(["d-pull", &bad.image("x")]).fails(65);
    }
    let mut entry = descriptor(MANIFEST, &manifest(&descriptor(CONFIG, &host_config()), &[]));
    entry["platform"] = json!({"os": "linux", "architecture": image(&[]).config["architecture"]});
    entry["size"] = json!(entry["size"].as_u64().unwrap() + 1);
    let manifest = manifest(&descriptor(CONFIG, &host_config()), &[]);
    let store = Store::new().blob(host_config()).manifest("m", MANIFEST, manifest).manifest(
        "latest",
        INDEX,
        index_of(&[&entry]),
    );
    Scratch::new().run(["d-pull", &serve(store).image("x")]).fails(65).err_has("its descriptor says");
}

#[test]
fn an_image_in_dockers_own_format_is_read_by_others_after_a_copy() {
    if !d_tests::have("skopeo") {
        return d_tests::skip("no skopeo");
    }
    const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
    let layer = d_tests::run(["sh", "-c", "tar cf - -C /etc hostname | gzip -n"]).ok().stdout;
    let plain = d_tests::run(["gzip", "-dc"]).stdin(&layer).ok().stdout;
    let mut config: Value = serde_json::from_slice(&host_config()).unwrap();
    config["rootfs"] = json!({"type": "layers", "diff_ids": [Digest::of(&plain).to_string()]});
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": DOCKER,
        "config": descriptor("application/vnd.docker.container.image.v1+json", &config),
        "layers": [descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", &layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    let digest = Digest::of(&manifest);
    let (scratch, bad) =
        (Scratch::new(), serve(Store::new().blob(config).blob(layer).manifest("latest", DOCKER, manifest)));
    let path = scratch.run(["d-pull", "-o", "x.tar", &bad.image("x")]).ok().out();
    assert!(path.ends_with(digest.hex()), "its digest is the registry's: {path}");
    // As d-pull(1) says in BUGS.
    let copy = ["skopeo", "--insecure-policy", "copy", "-q", "oci-archive:x.tar", "oci:copy:name"];
    scratch.run(copy).ok();
    scratch.run(["skopeo", "inspect", "oci:copy:name"]).ok();
    scratch.run(["d-unpack", "--map=single", &path, "tree"]).ok();
}
