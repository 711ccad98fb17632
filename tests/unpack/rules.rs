//! The rules by which layers become a tree (image-spec layer.md; d-unpack(1), LAYERS), each from raw tar bytes, under every map,
//! from a layout and through a pipe.

use d_tests::Scratch;
use d_tests::image::Image;
use d_tests::tar::Entry as E;
use d_tests::tar::{kind, tar};

use crate::{image, maps, tree};

/// The image's tree under every map and through the pipe, as [`tree`] prints it.
#[track_caller]
fn gives(image: &Image, expected: &str) {
    let scratch = Scratch::new();
    let manifest = image.write(&scratch.join("image"));
    for map in maps() {
        scratch.run(["d-unpack", "-q", "--map", map]).arg(&manifest).arg(map).ok();
        assert_eq!(tree(&scratch, map), expected, "--map={map}");
    }
    scratch.run(["d-unpack", "-q", "-", "piped"]).stdin(image.archive()).ok();
    assert_eq!(tree(&scratch, "piped"), expected, "through a pipe");
}

#[track_caller]
fn layers_give<const N: usize>(layers: [Vec<E>; N], expected: &str) {
    gives(&image(layers), expected);
}

#[track_caller]
fn is_refused<const N: usize>(layers: [Vec<E>; N], words: &str) {
    let scratch = Scratch::new();
    let image = image(layers);
    let manifest = image.write(&scratch.join("image"));
    let before = scratch.names("");
    scratch.run(["d-unpack", "-q"]).arg(&manifest).arg("c").fails(65).err_has(words);
    scratch.run(["d-unpack", "-q", "-", "c"]).stdin(image.archive()).fails(65).err_has(words);
    assert_eq!(scratch.names(""), before, "nothing is left");
}

fn f(name: &str, data: &str) -> E {
    E::file(name, data)
}

fn d(name: &str) -> E {
    E::dir(name)
}

#[test]
fn a_whiteout_removes_what_is_below() {
    let base = || vec![d("a"), f("a/x", "1"), f("a/y", "2"), d("b"), f("b/z", "3")];
    layers_give([base(), vec![f("a/.wh.x", ""), f(".wh.b", "")]], "a/ a/y=2");
    layers_give([base(), vec![f(".wh.a", ""), f("missing/.wh.file", ""), f(".wh.none", "")]], "b/ b/z=3");
}

#[test]
fn a_whiteout_spares_its_own_layer_before_and_after() {
    let base = || vec![d("a"), f("a/x", "old"), f("a/y", "old")];
    layers_give([base(), vec![f("a/.wh.x", ""), f("a/x", "new")]], "a/ a/x=new a/y=old");
    layers_give([base(), vec![f("a/x", "new"), f("a/.wh.x", "")]], "a/ a/x=new a/y=old");
    layers_give([base(), vec![f(".wh.a", ""), d("a"), f("a/z", "new")]], "a/ a/z=new");
    layers_give([base(), vec![d("a"), f("a/z", "new"), f(".wh.a", "")]], "a/ a/z=new");
    // A directory that only its content makes this layer's.
    layers_give([base(), vec![f("a/z", "new"), f(".wh.a", "")]], "a/ a/z=new");
}

/// A directory that goes leaves its inode's number to the next one (at once on ext4), and what was remembered of it.
#[test]
fn a_removed_directory_of_the_same_layer_leaves_nothing_behind() {
    let base = || vec![d("B"), d("B/A"), f("B/A/low", "1")];
    for (gone, shown) in [(E::symlink("C", "x"), "C->x"), (f("C", "x"), "C=x")] {
        for whiteout in ["B/.wh.A", ".wh.B", "B/.wh..wh..opq"] {
            let layer = vec![d("C"), gone.clone(), f("B/A/s/own", "2"), f(whiteout, "")];
            layers_give([base(), layer], &format!("B/ B/A/ B/A/s/ B/A/s/own=2 {shown}"));
        }
    }
    // Parents that are made for a file which a later layer replaces are this layer's all the same.
    layers_give([base(), vec![f("B/A/x", ""), f("B/.wh.A", "")], vec![f("B/A/.wh.x", "")]], "B/ B/A/");
}

/// A directory that replaces a link on its own path is not where that path leads then.
#[test]
fn a_directory_may_replace_a_link_that_leads_to_it() {
    layers_give([vec![E::symlink("B", "/"), d("B/B"), f("B/B/x", "1")]], "B/ B/B/ B/B/x=1");
}

/// What a later layer replaces is left out, but what fits nowhere is refused as through a pipe.
#[test]
fn what_is_left_out_is_as_impossible_as_what_is_made() {
    let whiteout = || vec![f(".wh.b", "")];
    let linked = |layer: Vec<E>| [vec![E::symlink("l", "b")], layer, vec![f(".wh.b", ""), f("n", "")]];
    is_refused([vec![f("b", "1"), f("b/c", "2")], whiteout()], "b/c");
    is_refused([vec![d("b")], vec![f("b", "1"), f("b/c", "2")], whiteout()], "b/c");
    is_refused([vec![f("b", "1"), E::hard_link("b/c", "b")], whiteout()], "b/c");
    is_refused(linked(vec![f("b", "1"), f("l/c", "2")]), "l/c");
    is_refused([vec![E::hard_link("b", "nowhere")], whiteout()], "nowhere");
    is_refused([vec![f("b", "1")], vec![f("b/c", "2")], whiteout()], "b/c");
    layers_give([vec![f("b", "1"), d("b"), f("b/c", "2")], whiteout()], "");
    layers_give([vec![f("x", "1"), E::hard_link("b", "x")], whiteout()], "x=1");
}

#[test]
fn an_opaque_mark_hides_what_is_below_wherever_it_stands() {
    let base = || vec![d("a"), f("a/x", "1"), d("a/s"), f("a/s/y", "2"), f("t", "3")];
    layers_give([base(), vec![f("a/.wh..wh..opq", ""), f("a/n", "4")]], "a/ a/n=4 t=3");
    layers_give(
        [base(), vec![f("a/n", "4"), d("a/s"), f("a/s/m", "5"), f("a/.wh..wh..opq", "")]],
        "a/ a/n=4 a/s/ a/s/m=5 t=3",
    );
    layers_give([base(), vec![f(".wh..wh..opq", ""), f("n", "4")]], "n=4");
    layers_give([base(), vec![f("n", "4"), f(".wh..wh..opq", "")]], "n=4");
}

#[test]
fn whiteouts_in_the_first_layer_do_nothing() {
    layers_give([vec![d("a"), f("a/x", "1"), f("a/.wh.x", ""), f(".wh..wh..opq", ""), f(".wh.q", "")]], "a/ a/x=1");
}

#[test]
fn whiteouts_go_through_the_symlinks_of_lower_layers() {
    let base = || vec![d("usr"), d("usr/lib"), f("usr/lib/x", "1"), E::symlink("lib", "usr/lib")];
    layers_give([base(), vec![f("lib/.wh.x", "")]], "lib->usr/lib usr/ usr/lib/");
    layers_give([base(), vec![f("lib/x", "2"), f("usr/lib/.wh.x", "")]], "lib->usr/lib usr/ usr/lib/ usr/lib/x=2");
    // The link itself, not what it points to.
    layers_give([base(), vec![f(".wh.lib", "")]], "usr/ usr/lib/ usr/lib/x=1");
}

#[test]
fn what_whiteouts_may_not_name() {
    for name in [".wh.", "a/.wh.", ".wh..", ".wh...", "a/.wh...", ".wh.a/b"] {
        is_refused([vec![d("a"), f("a/x", "1")], vec![f(name, "")]], ".wh.");
    }
}

#[test]
fn aufs_leftovers_are_ignored() {
    layers_give([vec![f("a", "1"), f(".wh..wh.aufs", ""), d(".wh..wh.plnk"), f(".wh..wh.plnk/1.2", "")]], "a=1");
}

#[test]
fn types_replace_each_other() {
    let base = || vec![d("d"), f("d/in", "1"), f("f", "2"), E::symlink("l", "d"), E::symlink("x", "f")];
    layers_give([base(), vec![f("d", "3")]], "d=3 f=2 l->d x->f");
    layers_give([base(), vec![E::symlink("d", "f")]], "d->f f=2 l->d x->f");
    layers_give([base(), vec![d("f"), f("f/in", "4")]], "d/ d/in=1 f/ f/in=4 l->d x->f");
    layers_give([base(), vec![d("l"), f("l/in", "5")]], "d/ d/in=1 f=2 l/ l/in=5 x->f");
    layers_give([base(), vec![f("l", "6")]], "d/ d/in=1 f=2 l=6 x->f");
    // Never written through: the target of the link keeps its content.
    layers_give([base(), vec![f("x", "7")]], "d/ d/in=1 f=2 l->d x=7");
    layers_give([base(), vec![E::of_kind("d", kind::FIFO)]], "d:p f=2 l->d x->f");
}

#[test]
fn a_directory_merges_with_a_directory() {
    layers_give([vec![d("d"), f("d/a", "1")], vec![d("d").mode(0o711), f("d/b", "2")]], "d/ d/a=1 d/b=2");
}

#[test]
fn a_file_through_a_symlinked_parent_lands_in_its_target() {
    let base = || vec![d("usr"), d("usr/lib"), E::symlink("lib", "usr/lib"), E::symlink("abs", "/usr/lib")];
    layers_give(
        [base(), vec![f("lib/x", "1"), f("abs/y", "2")]],
        "abs->/usr/lib lib->usr/lib usr/ usr/lib/ usr/lib/x=1 usr/lib/y=2",
    );
    // As in Debian's /var/lock: the target is not there yet.
    layers_give(
        [vec![d("var"), E::symlink("var/lock", "/run/lock"), f("var/lock/x", "1")]],
        "run/ run/lock/ run/lock/x=1 var/ var/lock->/run/lock",
    );
}

#[test]
fn hard_links() {
    layers_give([vec![f("a", "1"), E::hard_link("b", "a"), E::hard_link("c", "./b")]], "a=1 b=1 c=1");
    layers_give([vec![f("a", "1")], vec![E::hard_link("b", "a")]], "a=1 b=1");
    layers_give([vec![f("a", "1"), E::hard_link("b", "a")], vec![f("a", "2")]], "a=2 b=1");
    layers_give([vec![f("a", "1"), E::hard_link("b", "a")], vec![f(".wh.a", "")]], "b=1");
    layers_give([vec![f("a", "1"), f("b", "old")], vec![E::hard_link("b", "a"), f("a", "2")]], "a=2 b=1");
    layers_give([vec![f("a", "1"), E::hard_link("a", "a")]], "a=1");
    layers_give([vec![E::symlink("s", "t"), E::hard_link("h", "s")]], "h->t s->t");
    // Absolute targets are the container's.
    layers_give(
        [vec![
            d("etc"),
            f("etc/passwd", "in"),
            E::hard_link("p", "/etc/passwd"),
            E::hard_link("q", "../../etc/passwd"),
        ]],
        "etc/ etc/passwd=in p=in q=in",
    );
    is_refused([vec![E::hard_link("a", "missing")]], "which is not there");
    is_refused([vec![d("d"), E::hard_link("a", "d")]], "directory");
    is_refused([vec![E::hard_link("a", "/")]], "root directory");
}

#[test]
fn hard_links_share_their_inode() {
    let scratch = Scratch::new();
    let manifest = image([vec![f("a", "1")], vec![E::hard_link("b", "a")]]).write(&scratch.join("image"));
    scratch.run(["d-unpack", "-q"]).arg(manifest).arg("c").ok();
    let inodes = crate::find(&scratch, scratch.join("c/rootfs"), "%i");
    assert_eq!(inodes[0], inodes[1]);
}

#[test]
fn a_file_that_a_later_layer_replaces_is_still_there_for_its_links() {
    let top = || vec![f("d/a", "new"), f(".wh.gone", "")];
    layers_give(
        [
            vec![d("d"), f("d/a", "old"), E::hard_link("d/b", "d/a"), f("gone", "x"), E::hard_link("kept", "gone")],
            top(),
        ],
        "d/ d/a=new d/b=old kept=x",
    );
    layers_give(
        [vec![d("d"), f("d/a", "old"), f("gone", "x")], vec![E::hard_link("d/b", "d/a")], top()],
        "d/ d/a=new d/b=old",
    );
}

#[test]
fn what_a_later_layer_replaces_is_never_written() {
    let scratch = Scratch::new();
    if !d_tests::have("strace") {
        return d_tests::skip("no strace");
    }
    let base =
        vec![d("d"), f("d/replaced", "old"), f("d/deleted", "old"), d("o"), f("o/hidden", "old"), f("kept", "1")];
    let top = vec![f("d/replaced", "new"), f("d/.wh.deleted", ""), f("o/.wh..wh..opq", "")];
    let manifest = image([base, top]).write(&scratch.join("image"));
    scratch
        .run(["strace", "-f", "-o", "trace", "-e", "trace=openat,openat2", "d-unpack", "-q", "--map=single"])
        .arg(manifest)
        .arg("c")
        .ok();
    let trace = std::fs::read_to_string(scratch.join("trace")).unwrap();
    let makes =
        |name: &str| trace.lines().filter(|l| l.contains(&format!("\"{name}\"")) && l.contains("O_CREAT")).count();
    assert_eq!((makes("replaced"), makes("deleted"), makes("hidden"), makes("kept")), (1, 0, 0, 1));
}

#[test]
fn parents_that_no_entry_makes() {
    layers_give([vec![f("a/b/c", "1")]], "a/ a/b/ a/b/c=1");
    let scratch = Scratch::new();
    let manifest = image([vec![f("a/b/c", "1")]]).write(&scratch.join("image"));
    scratch.sh(&format!("umask 077; d-unpack -q {} c", manifest.display())).ok();
    assert_eq!(
        crate::find(&scratch, scratch.join("c/rootfs"), "%P %m %T@"),
        ["a 755 1700000000.0000000000", "a/b 755 1700000000.0000000000", "a/b/c 644 1700000000.0000000000"]
    );
    is_refused([vec![f("a", "1"), f("a/b", "2")]], "Not a directory");
}

#[test]
fn names_of_all_kinds() {
    let long = "n".repeat(255);
    let deep = vec!["d"; 1990].join("/") + "/f";
    layers_give([vec![f("./a//b/", "1"), f("/abs", "2"), f(&long, "3")]], &format!("a/ a/b=1 abs=2 {long}=3"));
    let scratch = Scratch::new();
    let manifest =
        image([vec![f("new\nline", "1"), E::file(b"latin-\xe9", "2"), f(&deep, "3")]]).write(&scratch.join("image"));
    scratch.run(["d-unpack", "-q", "--map=single"]).arg(manifest).arg("c").ok();
    let root = scratch.join("c/rootfs");
    assert_eq!(std::fs::read(root.join("new\nline")).unwrap(), b"1");
    use std::os::unix::ffi::OsStrExt;
    assert_eq!(std::fs::read(root.join(std::ffi::OsStr::from_bytes(b"latin-\xe9"))).unwrap(), b"2");
    scratch.run(["d-unpack", "-q", "--remove", "c"]).ok();
    is_refused([vec![f(&"n".repeat(256), "1")]], "File name too long");
    is_refused([vec![f(&"d/".repeat(2500), "1")]], "bytes, more than");
}

#[test]
fn the_root_stays_a_directory() {
    for entry in [E::symlink(".", "/tmp"), E::symlink("/", "/"), f("./", "x").mode(0o644), E::hard_link("..", "a")] {
        let entry = E { kind: if entry.kind == kind::FILE { kind::FIFO } else { entry.kind }, ..entry };
        is_refused([vec![f("a", "1"), entry]], "root directory");
    }
}

#[test]
fn devices_become_placeholders_and_fifos_are_made() {
    let scratch = Scratch::new();
    let layer = vec![
        E::of_kind("null", kind::CHAR),
        E::of_kind("sda", kind::BLOCK).mode(0o600),
        E::of_kind("pipe", kind::FIFO),
    ];
    let manifest = image([layer]).write(&scratch.join("image"));
    let done = scratch.run(["d-unpack"]).arg(manifest).arg("c").ok();
    done.err_has("2 device nodes became empty files");
    assert_eq!(
        crate::find(&scratch, scratch.join("c/rootfs"), "%P %y %m %s"),
        ["null f 644 0", "pipe p 644 0", "sda f 600 0"]
    );
}

#[test]
fn unknown_types_and_duplicates() {
    is_refused([vec![E::of_kind("a", b'A')]], "unknown entry type");
    is_refused([vec![E::of_kind("a", b'M')]], "unknown entry type");
    layers_give([vec![f("a", "1"), f("a", "2"), d("d"), d("d"), f("d", "3")]], "a=2 d=3");
    layers_give([vec![]], "");
    gives(&Image::new(), "");
}

#[test]
fn two_runs_give_the_same_tree() {
    let scratch = Scratch::new();
    let image = image([vec![d("a"), f("a/x", "1"), f("no/parent", "2")], vec![f("a/y", "3"), f("no/.wh.parent", "")]]);
    let manifest = image.write(&scratch.join("image"));
    let mut trees = Vec::new();
    for dir in ["one", "two"] {
        scratch.run(["d-unpack", "-q"]).arg(&manifest).arg(dir).ok();
        trees.push(crate::find(&scratch, scratch.join(dir).join("rootfs"), "%P %y %m %U %G %s %T@"));
        std::thread::sleep(std::time::Duration::from_millis(30));
    }
    assert_eq!(trees[0], trees[1]);
}

#[test]
fn a_broken_layer_leaves_nothing() {
    let layer = tar([f("a", "1")]);
    for (bytes, words) in [
        (layer[..700].to_vec(), "ends"),
        (layer[..1024].to_vec(), "ends before its end marker"),
        ([&layer[..], b"garbage"].concat(), "garbage"),
        (vec![b'x'; 1024], "not a tar header"),
        (Vec::new(), "ends before its end marker"),
    ] {
        let scratch = Scratch::new();
        let image = Image::new().layer(bytes);
        let manifest = image.write(&scratch.join("image"));
        let before = scratch.names("");
        scratch.run(["d-unpack", "-q"]).arg(manifest).arg("c").fails(65).err_has(words);
        scratch.run(["d-unpack", "-q", "-", "c"]).stdin(image.archive()).fails(65);
        assert_eq!(scratch.names(""), before);
    }
}
