//! What goes wrong on the way from a registry to a process: one clear line, the code of the table, nothing left behind.

use d_tests::badregistry::{BadRegistry, Response};
use d_tests::{Registry, Scratch, Setup, busybox_rootfs, fixture, free_port, is_root, skip};

/// The path of a fixture's manifest, which is what d-pull prints.
fn manifest(name: &str) -> String {
    let index = std::fs::read(fixture(name).join("index.json")).expect("the layout's index");
    let index: serde_json::Value = serde_json::from_slice(&index).expect("JSON");
    let digest = index["manifests"][0]["digest"].as_str().expect("a digest").replace(':', "/");
    fixture(name).join("blobs").join(digest).display().to_string()
}

fn digest(bytes: &[u8]) -> String {
    d_common::digest::Digest::of(bytes).to_string()
}

#[test]
fn wrong_bytes_never_reach_the_cache() {
    let layer = b"what the manifest promises".to_vec();
    let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#.to_vec();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(&layer), "size": layer.len()}],
    });
    let manifest = manifest.to_string().into_bytes();
    let (config_digest, layer_digest) = (digest(&config), digest(&layer));
    let evil = b"what the registry serves !".to_vec();
    assert_eq!(evil.len(), layer.len());
    let server = BadRegistry::start(move |request| match request.path.as_str() {
        "/v2/" => Response::ok("{}"),
        path if path.contains("/manifests/") => {
            Response::ok(manifest.clone()).header("Content-Type", "application/vnd.oci.image.manifest.v1+json")
        }
        path if path.ends_with(&config_digest) => Response::ok(config.clone()),
        path if path.ends_with(&layer_digest) => Response::ok(evil.clone()),
        _ => Response::status(404),
    });
    let scratch = Scratch::new();
    let hex = digest(&layer).replace("sha256:", "");
    scratch.run(["d-pull", &server.image("evil")]).fails(65).err_has(&hex).prints("");
    assert!(!scratch.cache().join("blobs/sha256").join(&hex).exists());
    scratch.run(["d-pull", "--offline", &server.image("evil")]).fails(66);
}

#[test]
fn unknown_images_and_unreachable_registries() {
    let registry = Registry::images();
    let scratch = Scratch::new();
    scratch.run(["d-pull", &registry.image("absent")]).fails(66).err_has("absent");
    scratch.run(["d-pull", &registry.image("busybox:absent")]).fails(66).err_has("absent");
    let closed = format!("127.0.0.1:{}", free_port());
    scratch.run(["d-pull", &format!("{closed}/busybox")]).fails(75).err_has(&closed).prints("");
}

/// What cannot be printed is a failure of one line, help and completions too.
#[test]
fn a_full_or_closed_stdout_is_told() {
    let scratch = Scratch::new();
    for (tool, options) in [
        ("d-pull", &["--help", "--version", "--completions=zsh", "--check", "--check --json"][..]),
        ("d-unpack", &["--help", "--version", "--completions=zsh", "--check", "--check --json"]),
        ("d-netup", &["--help", "--version", "--completions=zsh", "--check", "--check --json"]),
    ] {
        for option in options {
            let full = scratch.sh(&format!("{tool} {option} >/dev/full")).fails(73);
            full.err_has("cannot write to stdout: No space left on device");
            // The reader has gone before the first byte.
            let script = format!("{{ sleep 0.2; {tool} {option} || echo $? >code; }} | :; cat code >&2");
            let closed = scratch.sh(&script).ok();
            let lines: Vec<String> = closed.err().lines().map(str::to_owned).collect();
            let expected = [format!("{tool}: cannot write to stdout: Broken pipe"), "74".to_owned()];
            assert_eq!(lines, expected, "{tool} {option}");
        }
    }
}

#[test]
fn a_private_image_needs_credentials() {
    let login = ("someone".to_owned(), "secret".to_owned());
    let registry = Registry::with(Setup { login: Some(login), ..Setup::default() });
    registry.push(&fixture("busybox"), "latest", "private");
    let scratch = Scratch::new();
    scratch.run(["d-pull", &registry.image("private")]).fails(77).err_has(&registry.host()).prints("");
    let auth = serde_json::json!({"auths": {registry.host(): {"auth": "c29tZW9uZTpzZWNyZXQ="}}});
    scratch.write("auth.json", auth.to_string());
    let done = scratch.run(["d-pull", "--authfile", "auth.json", &registry.image("private")]).ok();
    assert!(std::path::Path::new(&done.out()).is_file());
}

#[test]
fn a_web_site_is_no_registry() {
    let site = BadRegistry::start(|_| Response::ok("<html>Welcome</html>").header("Content-Type", "text/html"));
    let scratch = Scratch::new();
    scratch.run(["d-pull", &site.image("x")]).fails(76).err_has(&site.host()).prints("");
}

#[test]
fn a_directory_that_exists_is_left_alone() {
    let scratch = Scratch::new();
    let mine = scratch.write("mine/file", "precious");
    scratch.run(["d-unpack", &manifest("busybox"), "./mine"]).fails(73).err_has("mine").prints("");
    assert_eq!(std::fs::read_to_string(mine).expect("my file"), "precious");
    assert_eq!(scratch.names("mine"), ["file"]);
    assert_eq!(scratch.names(""), ["cache", "home", "mine"]);
}

#[test]
fn a_full_disk_leaves_nothing() {
    let registry = Registry::images();
    let scratch = Scratch::new();
    // A tmpfs in a mount namespace of ours.
    let on_small_disk = |command: &str| {
        let script = format!("mkdir -p small; mount -t tmpfs -o size=700k none small; {command}");
        scratch.run(["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", &script])
    };
    let unpack = format!("d-unpack --map single {} small/box", manifest("busybox"));
    on_small_disk(&unpack).fails(73).err_has("No space left on device").prints("");
    on_small_disk(&format!("{unpack}; ls -A small")).ok().prints("").err_has("No space left on device");
    let pull = format!("d-pull --cache small/cache {}", registry.image("debian:12"));
    on_small_disk(&pull).fails(73).err_has("No space left on device").prints("");
}

#[test]
fn as_root_a_user_without_subordinate_ids() {
    if !is_root() {
        return skip("only root can become another user");
    }
    let scratch = Scratch::new();
    let nobody = 54321;
    std::os::unix::fs::chown(scratch.path(), Some(nobody), Some(nobody)).expect("root may");
    let as_nobody = |argv: &[&str]| {
        let ids = [format!("--reuid={nobody}"), format!("--regid={nobody}"), "--clear-groups".to_owned()];
        scratch.run(["setpriv"]).args(ids).args(argv)
    };
    let image = manifest("busybox");
    as_nobody(&["d-unpack", "--map", "subid", &image, "./box"]).fails(69).err_has("/etc/subuid").prints("");
    assert_eq!(scratch.names(""), ["cache", "home"]);

    let done = as_nobody(&["d-unpack", &image, "./box"]).ok();
    done.expect(done.err().lines().count() == 1, "one line").err_has("d-unpack: warning: ").err_has("/etc/subuid");
    // The directory says single: no further warning.
    as_nobody(&["d-enter", "./box", "id", "-u"]).ok().prints("0").silent();
    as_nobody(&["d-enter", "--map", "subid", "./box", "true"]).fails(125);
}

#[test]
fn no_slirp4netns() {
    let scratch = Scratch::new();
    busybox_rootfs(&scratch.join("box"));
    let path = d_tests::bin_dir();
    let without = |argv: &[&str]| scratch.run(argv).env("PATH", &path);
    without(&["d-enter", "--map", "single", "-n", "./box", "true"]).fails(125).err_has("slirp4netns");
    without(&["d-netup", "--", "/bin/true"]).fails(125).err_has("slirp4netns");
    let sleeper = scratch.run(["unshare", "--user", "--map-root-user", "--net", "sleep", "100"]).spawn();
    without(&["d-netup", &sleeper.pid().to_string()]).fails(69).err_has("slirp4netns");
}
