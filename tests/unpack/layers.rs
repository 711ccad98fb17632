//! `--layers`: unpacked layers that containers share.

use std::fs;

use d_tests::Scratch;
use d_tests::tar::Entry as E;

use crate::{image, maps};

/// The tree of the overlay that DIR is, as the container's root sees it.
#[track_caller]
fn overlay(scratch: &Scratch, dir: &str) -> Option<String> {
    let list = fs::read_to_string(scratch.join(dir).join("layers")).unwrap();
    let mut layers: Vec<&str> = list.lines().collect();
    layers.reverse();
    let map = if maps().len() > 1 && !d_tests::is_root() { "--map-auto" } else { "--user" };
    let script = format!(
        "mkdir -p mnt; mount -t overlay -o userxattr,lowerdir={},upperdir={dir}/upper,workdir={dir}/work o mnt || exit 42
         cd mnt; find . -mindepth 1 -printf '%y%P ' | tr ' ' '\\n' | sort | tr '\\n' ' '; cat f 2>/dev/null || :",
        layers.join(":")
    );
    let done = scratch.run(["unshare", map, "--map-root-user", "--mount", "sh", "-c", &script]).done();
    (done.code() != 42).then(|| done.out())
}

/// Names, types, modes, times, links and contents of what a container of DIR sees, and whether there are overlays here.
#[track_caller]
pub fn seen(scratch: &Scratch, dir: &str) -> (String, bool) {
    let root = match fs::read_to_string(scratch.join(dir).join("layers")) {
        Err(_) => format!("cd {dir}/rootfs"),
        Ok(list) => {
            let lower: Vec<&str> = list.lines().rev().collect();
            let options = format!("lowerdir={},upperdir={dir}/upper,workdir={dir}/work", lower.join(":"));
            format!("mkdir -p mnt; mount -t overlay -o userxattr,{options} o mnt || exit 42; cd mnt")
        }
    };
    let map = if maps().len() > 1 && !d_tests::is_root() { "--map-auto" } else { "--user" };
    let script = format!(
        "{root} && find . -printf '%P|%y|%m|%U|%G|%T@|%l|' '(' -type d -printf - -o -printf %n ')' -printf '\\n' | sort
         find . -type f -print0 | sort -z | xargs -0r md5sum"
    );
    let done = scratch.run(["unshare", map, "--map-root-user", "--mount", "sh", "-c", &script]).done();
    (done.out(), done.code() != 42)
}

#[track_caller]
fn as_plain<const N: usize>(layers: [Vec<E>; N], count: usize) {
    let scratch = Scratch::new();
    let image = image(layers);
    let manifest = image.write(&scratch.join("image"));
    scratch.run(["d-unpack", "-q"]).arg(&manifest).arg("plain").ok();
    scratch.run(["d-unpack", "-q", "--layers"]).arg(&manifest).arg("c").ok();
    scratch.run(["d-unpack", "-q", "--layers", "-", "piped"]).stdin(image.archive()).ok();
    let list = |dir: &str| fs::read_to_string(scratch.join(dir).join("layers")).unwrap();
    assert_eq!((list("c").lines().count(), list("c")), (count, list("piped")), "layers");
    match (seen(&scratch, "c"), seen(&scratch, "plain")) {
        ((layers, true), (plain, _)) => assert_eq!(layers, plain),
        _ => d_tests::skip("no overlay in a user namespace here"),
    }
}

/// A layer that means something only upon those below it is unpacked together with them.
#[test]
fn what_needs_lower_layers_gets_them() {
    let base =
        || vec![E::dir("").mode(0o711), E::dir("d").mode(0o750), E::file("d/x", "1").mode(0o4755), E::file("t", "2")];
    let usr = || vec![E::dir("usr"), E::dir("usr/lib"), E::file("usr/lib/x", "1"), E::symlink("lib", "usr/lib")];
    as_plain([base(), vec![E::file("own", "")]], 2);
    as_plain([base(), vec![E::hard_link("h", "t")], vec![E::file("own", "")]], 2);
    as_plain([base(), vec![E::file("d/y", "")]], 1);
    as_plain([usr(), vec![E::file("lib/x", "2"), E::file("lib/y", "3")]], 1);
    as_plain([usr(), vec![E::file("lib/.wh.x", "")], vec![E::file("own", "")]], 2);
    as_plain([base(), vec![E::file("missing/.wh.file", "")]], 1);
    as_plain([base(), vec![E::file(".wh.d", ""), E::dir("d"), E::file("d/z", "")]], 2);
    as_plain([base(), vec![E::file(".wh.d", ""), E::file("d/z", "")]], 1);
    let scratch = Scratch::new();
    let manifest = image([base(), vec![E::file(".wh.t", ""), E::hard_link("h", "t")]]).write(&scratch.join("image"));
    scratch.run(["d-unpack", "-q", "--layers"]).arg(&manifest).arg("c").fails(65).err_has("hard link to t");
}

#[test]
fn an_opaque_root_hides_all_layers_below() {
    let base = vec![E::file("zz", "1"), E::dir("d"), E::file("d/x", "2")];
    as_plain([base.clone(), vec![E::file(".wh..wh..opq", ""), E::file("own", "")]], 1);
    as_plain([base, vec![E::file("own", ""), E::file(".wh..wh..opq", "")], vec![E::dir("d")]], 2);
}

/// Whoever comes second waits: a --gc by a clock breaks no build.
#[test]
fn a_cache_at_work_is_waited_for() {
    let scratch = Scratch::new();
    image([vec![E::file("f", "")]]).write(&scratch.join("image"));
    scratch.run(["d-unpack", "-q", "--layers", "image", "one"]).ok();
    for (lock, command) in [("-x", "--layers image two"), ("-s", "--gc")] {
        let script = format!(
            "flock {lock} cache/d-utils/layers sh -c 'touch locked; sleep 1; touch done' & while ! test -e locked; do sleep 0.05; done; d-unpack -v {command}; test -e done; rm locked done"
        );
        scratch.sh(&script).ok().err_has("waiting");
    }
}

#[test]
fn an_overlay_shows_the_image() {
    let scratch = Scratch::new();
    let base = vec![
        E::dir("d"),
        E::file("d/x", "1"),
        E::file("gone", "2"),
        E::dir("o"),
        E::file("o/hidden", ""),
        E::file("f", "3"),
    ];
    let top = vec![
        E::file(".wh.gone", ""),
        E::dir("o"),
        E::file("o/new", ""),
        E::file("o/.wh..wh..opq", ""),
        E::file("f", "4"),
    ];
    let manifest = image([base, top]).write(&scratch.join("image"));
    for dir in ["one", "two"] {
        scratch.run(["d-unpack", "-q", "--layers"]).arg(&manifest).arg(dir).ok();
    }
    assert_eq!(scratch.names("one/rootfs"), [""; 0]);
    assert_eq!(fs::read(scratch.join("one/layers")).unwrap(), fs::read(scratch.join("two/layers")).unwrap());
    match overlay(&scratch, "one") {
        Some(tree) => assert_eq!(tree, "dd do fd/x ff fo/new 4"),
        None => d_tests::skip("no overlay in a user namespace here"),
    }
}

#[test]
fn layers_live_as_long_as_a_container_needs_them() {
    let scratch = Scratch::new();
    let shared = || vec![E::file("a", "shared")];
    image([shared(), vec![E::file("b", "1")]]).write(&scratch.join("one"));
    image([shared(), vec![E::file("b", "2")]]).write(&scratch.join("two"));
    for name in ["one", "two"] {
        scratch.run(["d-unpack", "--layers", name, &format!("c{name}")]).ok();
    }
    let count = || scratch.names("cache/d-utils/layers").len() - 1;
    assert_eq!(count(), 3);
    scratch.run(["d-unpack", "--gc"]).ok();
    assert_eq!(count(), 3);
    // Wherever a container is moved, its layers stay; and its old place can be another's.
    scratch
        .sh("mkdir elsewhere; mv cone elsewhere/; d-unpack --gc; d-unpack -q --layers two cone; d-unpack --remove cone")
        .ok();
    scratch.run(["d-unpack", "--gc"]).ok();
    assert_eq!(count(), 3);
    scratch.run(["d-unpack", "--remove", "elsewhere/cone"]).ok();
    scratch.run(["d-unpack", "--gc"]).ok();
    assert_eq!(count(), 2);
    scratch.run(["d-unpack", "--remove", "ctwo"]).ok();
    scratch.run(["d-unpack", "--gc"]).ok();
    assert_eq!(count(), 0);
}

#[test]
fn the_cache_is_private_and_what_is_strange_in_it_stays() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    image([vec![E::file("a", "")]]).write(&scratch.join("one"));
    let layers = scratch.cache().join("layers");
    scratch.sh("mkdir -p cache/d-utils/layers/dir cache/d-utils/layers/roots/dir; chmod 777 cache/d-utils/layers").ok();
    scratch.write("cache/d-utils/layers/stray", "");
    scratch.run(["d-unpack", "--layers", "one", "c"]).ok();
    let mode = |path: std::path::PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(layers.clone()), 0o700);
    for name in scratch.names("cache/d-utils/layers/roots").iter().filter(|name| name.len() == 64) {
        assert_eq!(mode(layers.join("roots").join(name)), 0o600);
    }
    scratch.run(["d-unpack", "--remove", "c"]).ok();
    scratch.run(["d-unpack", "--gc"]).ok().err_has("stray").err_has("layers/dir").err_has("roots/dir");
    assert_eq!(scratch.names("cache/d-utils/layers"), ["dir", "roots", "stray"]);
}

#[test]
fn options_that_change_content_make_layers_of_their_own() {
    let scratch = Scratch::new();
    let manifest = image([vec![E::file("a", "").mode(0o4755)]]).write(&scratch.join("image"));
    for (dir, option) in [("a", "-q"), ("b", "--strip-setid"), ("c", "--map=single")] {
        scratch.run(["d-unpack", "-q", "--layers", option]).arg(&manifest).arg(dir).done();
    }
    let layers = |dir: &str| fs::read_to_string(scratch.join(dir).join("layers")).unwrap();
    assert_ne!(layers("a"), layers("b"));
    assert!(maps().len() == 1 || layers("a") != layers("c"));
    scratch.write("r.tar", d_tests::tar::tar([E::file("f", "")]));
    scratch.run(["d-unpack", "--layers", "r.tar", "d"]).fails(64);
}

#[test]
fn two_hundred_layers() {
    let scratch = Scratch::new();
    let image = (0..200)
        .fold(d_tests::image::Image::new(), |image, n| image.layer(d_tests::tar::tar([E::file(format!("f{n}"), "x")])));
    let manifest = image.write(&scratch.join("image"));
    scratch.run(["d-unpack", "--layers"]).arg(&manifest).arg("c").ok();
    assert_eq!(fs::read_to_string(scratch.join("c/layers")).unwrap().lines().count(), 200);
    scratch.run(["d-unpack"]).arg(&manifest).arg("plain").ok();
    assert_eq!(scratch.names("plain/rootfs").len(), 200);
}
