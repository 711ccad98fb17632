//! Images that mean harm: whatever they hold, nothing outside the container directory changes, and no option of d-enter is
//! chosen. Each case is unpacked under both id maps, and leaves a folder beside DIR as it was.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use d_tests::image::Image;
use d_tests::tar::{Entry, kind, tar};
use d_tests::{Done, Scratch};
use serde_json::json;

/// Unpacks layers into ./box beside ./victim, and makes sure that ./victim is as before.
fn unpack_beside_victim(map: &str, layers: &[Vec<Entry>]) -> (Scratch, Done) {
    let scratch = Scratch::new();
    let victim = scratch.write("victim/file", "precious");
    let image = layers.iter().fold(Image::new(), |image, layer| image.layer(tar(layer.iter().cloned())));
    let manifest = image.write(&scratch.join("image"));
    let before = describe(&scratch.join("victim"));
    let done = scratch.run(["d-unpack", "--map", map]).arg(&manifest).arg("./box").done();
    assert_eq!(before, describe(&scratch.join("victim")), "the victim changed: {layers:?}\n{done}");
    assert_eq!(std::fs::read_to_string(&victim).expect("the victim's file"), "precious");
    if done.code() != 0 {
        done.expect(done.code() == 65, "done, or bad data");
        assert_eq!(scratch.names(""), ["cache", "home", "image", "victim"], "left behind");
    }
    (scratch, done)
}

/// Name, mode, owner, links and time of a folder and what is in it.
fn describe(folder: &Path) -> Vec<String> {
    let mut lines: Vec<String> = std::fs::read_dir(folder)
        .expect("the folder")
        .map(|e| e.expect("an entry").path())
        .chain([folder.to_owned()])
        .map(|path| {
            let m = path.symlink_metadata().expect("what was there");
            format!("{} {:o} {} {} {}.{}", path.display(), m.mode(), m.uid(), m.nlink(), m.mtime(), m.mtime_nsec())
        })
        .collect();
    lines.sort();
    lines
}

#[test]
fn no_archive_gets_out() {
    // ./box/rootfs is two levels above ./victim.
    let out = ["../victim", "../../victim", "../../../victim", "/../../victim", "x/../../../victim", "./../../victim"];
    for map in ["subid", "single"] {
        for way in out {
            let file = format!("{way}/file");
            let cases: Vec<Vec<Vec<Entry>>> = vec![
                vec![vec![Entry::file(&file, "evil")]],
                vec![vec![Entry::dir(way).mode(0o777)]],
                vec![vec![Entry::symlink("door", way), Entry::file("door/file", "evil")]],
                vec![vec![Entry::symlink("door", way)], vec![Entry::file("door/file", "evil")]],
                vec![vec![Entry::symlink("door", way)], vec![Entry::dir("door").mode(0o777)]],
                vec![vec![Entry::symlink("door", way)], vec![Entry::file("door/.wh.file", "")]],
                vec![vec![Entry::symlink("door", way)], vec![Entry::file("door/.wh..wh..opq", "")]],
                vec![vec![Entry::symlink("a", "b"), Entry::symlink("b", way), Entry::file("a/new", "evil")]],
                vec![vec![Entry::hard_link("stolen", &file), Entry::file("stolen", "evil")]],
                vec![vec![Entry::symlink("door", way), Entry::hard_link("stolen", "door/file").mode(0o777)]],
                vec![vec![Entry::file(format!("{way}/.wh.file"), "")]],
                vec![vec![Entry::of_kind(format!("{way}/fifo"), kind::FIFO)]],
                vec![vec![Entry::file("x", "").pax("path", format!("{way}/file"))]],
                vec![vec![Entry::hard_link("x", "y").pax("linkpath", &file)]],
                vec![vec![Entry::file("door", "x"), Entry::symlink("door", &file), Entry::file("door", "evil")]],
            ];
            for layers in cases {
                unpack_beside_victim(map, &layers);
            }
        }
    }
}

#[test]
fn absolute_links_mean_the_root_of_the_container() {
    let scratch = Scratch::new();
    let target = scratch.join("victim");
    std::fs::create_dir(&target).expect("a victim");
    let name = target.to_str().expect("text");
    let layers = [
        tar([
            Entry::symlink("door", name),
            Entry::symlink("sbin", "/usr/sbin"),
            Entry::dir("usr"),
            Entry::dir("usr/sbin"),
        ]),
        tar([Entry::file("sbin/tool", "tool")]),
    ];
    let manifest = Image::new().layer(&layers[0]).layer(&layers[1]).write(&scratch.join("image"));
    scratch.run(["d-unpack", "--map", "single"]).arg(manifest).arg("./box").ok();
    assert_eq!(std::fs::read_to_string(scratch.join("box/rootfs/usr/sbin/tool")).expect("through the link"), "tool");
    assert!(scratch.names("victim").is_empty());
}

#[test]
fn the_root_cannot_change_its_type() {
    for entry in
        [Entry::symlink("/", "/tmp"), Entry::symlink(".", "/tmp"), Entry::file("./", "x"), Entry::file(".wh..", "")]
    {
        let (scratch, done) = unpack_beside_victim("single", &[vec![entry, Entry::file("kept", "x")]]);
        if done.code() == 0 {
            assert!(scratch.join("box/rootfs").symlink_metadata().expect("a rootfs").is_dir());
        }
    }
}

#[test]
fn an_image_chooses_no_option_of_d_enter() {
    let scratch = Scratch::new();
    let image = Image::new()
        .layer(tar([Entry::dir("bin")]))
        .config("Cmd", json!(["/bin/sh"]))
        .config("Volumes", json!({"/data": {}, "/etc:/host": {}, "relative": {}}))
        .config("volume", json!(["/:/host"]))
        .config("net", json!("host"))
        .config("share", json!(["pid"]))
        .config("ociVersion", json!("1.0.2"))
        .config("map", json!("keep-id"));
    let manifest = image.write(&scratch.join("image"));
    scratch.run(["d-unpack", "--map", "single"]).arg(manifest).arg("./box").ok();
    let config = std::fs::read(scratch.join("box/config.json")).expect("config.json");
    let config: serde_json::Value = serde_json::from_slice(&config).expect("JSON");
    let keys: Vec<_> =
        config.as_object().expect("an object").keys().filter(|k| k.starts_with(char::is_lowercase)).collect();
    assert_eq!(keys, ["map"]);
    assert_eq!(config["map"], "single");
    assert_eq!(config["Volumes"], json!({"/data": {}}));
}

#[test]
fn names_cannot_drive_the_terminal() {
    let scratch = Scratch::new();
    let name = b"evil\x1b]0;title\x07\x1b[2Jname";
    let manifest = Image::new().layer(tar([Entry::of_kind(name, b'!')])).write(&scratch.join("image"));
    let done = scratch.run(["d-unpack", "--map", "single"]).arg(manifest).arg("./box").fails(65);
    done.expect(!done.stderr.iter().any(|b| *b < b' ' && *b != b'\n'), "no control character");
}

#[test]
fn a_setuid_file_is_out_of_reach_of_others() {
    let (scratch, done) = unpack_beside_victim("subid", &[vec![Entry::file("su", "x").mode(0o4755)]]);
    done.expect(done.code() == 0, "exit code 0");
    assert_eq!(scratch.join("box").metadata().expect("DIR").mode() & 0o7777, 0o700);
}
