//! config.json: the image's wishes in Docker's keys, and nothing else of it.

use std::fs;

use d_tests::Scratch;
use d_tests::image::Image;
use d_tests::tar::{Entry as E, tar};
use serde_json::{Value, json};

fn config_of(image: &Image) -> (Value, String) {
    let scratch = Scratch::new();
    let manifest = image.write(&scratch.join("image"));
    let done = scratch.run(["d-unpack", "--verbose", "--map=single"]).arg(manifest).arg("c").ok();
    (serde_json::from_slice(&fs::read(scratch.join("c/config.json")).unwrap()).unwrap(), done.err())
}

#[test]
fn dockers_keys_and_the_map() {
    let image = Image::new()
        .config("Env", json!(["A=1", "B=x=y"]))
        .config("Cmd", json!(["sh"]))
        .config("Entrypoint", json!(["/init"]))
        .config("WorkingDir", json!("/srv"))
        .config("User", json!("www:www"))
        .config("StopSignal", json!("SIGINT"))
        .config("Volumes", json!({"/data": {}}))
        .config("ExposedPorts", json!({"80/tcp": {}}));
    let mut expected = image.config["config"].clone();
    expected["map"] = json!("single");
    assert_eq!(config_of(&image).0, expected);
}

#[test]
fn a_hostile_config_chooses_nothing() {
    let image = Image::new()
        .config("net", json!("host"))
        .config("seccomp", json!("none"))
        .config("volume", json!(["/:/host"]))
        .config("ociVersion", json!("1.0.2"))
        .config("map", json!("keep-id"))
        .config("Volumes", json!({"/home:/mnt": {}, "data": {}, "/ok": {}, "/": {}, "/a/../../b": {}}))
        .config("StopSignal", json!("SIGFOO"))
        .config("Cmd", json!({"a": 1}))
        .config("Env", json!(vec!["A=1"; 100_000]))
        .config("User", json!(["root"]))
        .config("Hostname", json!("a\nb"));
    let (config, said) = config_of(&image);
    assert_eq!(config, json!({"Volumes": {"/ok": {}}, "map": "single"}));
    for key in
        ["net", "seccomp", "volume", "ociVersion", "map", "Cmd", "Env", "User", "Hostname", "/home:/mnt", "StopSignal"]
    {
        assert!(said.contains(key), "{key} is told: {said}");
    }
}

#[test]
fn the_config_object_stays_as_it_came() {
    let scratch = Scratch::new();
    let image = Image::new().layer(tar([E::file("f", "")])).config("Labels", json!({"b": 1, "a": [2]}));
    let manifest = image.write(&scratch.join("image"));
    scratch.run(["d-unpack", "-q"]).arg(manifest).arg("c").ok();
    let blobs = image.blobs();
    assert_eq!(fs::read(scratch.join("c/image.json")).unwrap(), blobs[blobs.len() - 2].1);
}

#[test]
fn an_archive_without_a_config() {
    let scratch = Scratch::new();
    scratch.write("r.tar", tar([E::file("f", "")]));
    scratch.run(["d-unpack", "--map=single", "r.tar", "c"]).ok();
    let config: Value = serde_json::from_slice(&fs::read(scratch.join("c/config.json")).unwrap()).unwrap();
    assert_eq!(config, json!({"map": "single"}));
    assert_eq!(fs::read(scratch.join("c/image.json")).unwrap(), b"{}\n");
}

#[test]
fn a_bundle_reads_nothing_outside() {
    let scratch = Scratch::new();
    let canary = scratch.write("passwd", "evil:x:4711:4711::/:\n");
    for passwd in
        [E::symlink("etc/passwd", &*canary.to_string_lossy()), E::of_kind("etc/passwd", d_tests::tar::kind::FIFO)]
    {
        let layer = tar([E::dir("etc"), passwd]);
        let manifest = Image::new().layer(layer).config("User", json!("evil")).write(&scratch.join("image"));
        scratch.run(["d-unpack", "-q", "--bundle"]).arg(&manifest).arg("c").fails(65).err_has("not in its /etc/passwd");
    }
}

#[test]
fn a_bundle_for_runtimes() {
    let scratch = Scratch::new();
    let passwd = "root:x:0:0::/root:/bin/sh\nwww:x:33:33::/srv:/bin/sh\n";
    let layer = tar([E::dir("etc"), E::file("etc/passwd", passwd), E::file("etc/group", "extra:x:50:www\n")]);
    let image = Image::new()
        .layer(layer)
        .config("User", json!("www"))
        .config("Cmd", json!(["id"]))
        .config("Env", json!(["A=1"]));
    let manifest = image.write(&scratch.join("image"));
    scratch.run(["d-unpack", "-q", "--bundle"]).arg(&manifest).arg("c").ok();
    let config: Value = serde_json::from_slice(&fs::read(scratch.join("c/config.json")).unwrap()).unwrap();
    assert_eq!(config["process"]["args"], json!(["id"]));
    assert_eq!(config["process"]["user"], json!({"uid": 33, "gid": 33, "additionalGids": [50]}));
    assert_eq!(config["root"]["path"], "rootfs");
    assert!(config["ociVersion"].is_string() && config["linux"]["uidMappings"].is_array());
    assert!(config["process"]["env"].as_array().unwrap().contains(&json!("A=1")));
}
