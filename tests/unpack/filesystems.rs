//! Filesystems that do not take all that an image has: one warning, and a tree that can be used.

use d_tests::Scratch;
use d_tests::tar::{Entry as E, tar};

use crate::{lacks_owners, maps};

/// An archive with owners, attributes, and directories that nobody may write.
fn write_archive(scratch: &Scratch) {
    let entries = vec![
        E::dir("d").owner(7, 7),
        E::file("d/f", "content").owner(33, 34).xattr("user.a", "1"),
        E::file("d/setuid", "x").mode(0o4755),
        E::dir("readonly").mode(0o555),
        E::file("readonly/f", "x").mode(0o400),
        E::symlink("link", "d/f").owner(5, 5),
        E::hard_link("hard", "d/f"),
    ];
    scratch.write("r.tar", tar(entries));
}

const TREE: &str = "d 755 d\nd/f 644 f\nd/setuid 4755 f\nhard 644 f\nlink 777 l\nreadonly 555 d\nreadonly/f 400 f";

/// Unpacks it in `m` under `map`, prints what it became, replaces it and removes it again.
fn script(map: &str) -> String {
    format!(
        "cd m; d-unpack --map={map} ../r.tar c >/dev/null; (cd c/rootfs; find . -mindepth 1 -printf '%P %m %y\\n' | sort)
         test \"$(cat c/rootfs/link)\" = content; d-unpack -q --map={map} --replace=all ../r.tar c >/dev/null
         d-unpack --remove c; ls -A; cd .."
    )
}

/// A server that knows nothing of user namespaces, changes no owner and keeps no attributes: as NFS, in FUSE.
#[test]
fn a_server_that_refuses_owners_and_attributes() {
    if lacks_owners(&["bindfs"]) {
        return;
    }
    for map in maps() {
        let scratch = Scratch::new();
        write_archive(&scratch);
        let mount = "mkdir src m; bindfs --no-allow-other --chown-deny --chgrp-deny --xattr-none src m";
        let done = scratch.sh(&format!("{mount}; trap 'fusermount3 -u m' EXIT; {}", script(map))).ok();
        done.prints(TREE).err_has("user.a (Operation not supported)");
        done.expect(map == "single" || done.err().contains("owners (Operation not permitted)"), "a word about owners");
        done.expect(done.err().lines().count() == 1, "one warning");
    }
}

#[test]
fn a_filesystem_without_attributes() {
    let scratch = Scratch::new();
    write_archive(&scratch);
    let script = format!("mkdir m; mount -t ramfs r m; {}", script("single"));
    let done = scratch.run(["unshare", "--map-root-user", "--mount", "sh", "-ec", &script]).ok();
    done.prints(TREE).err_has("warning").err_has("user.a (Operation not supported)");
    done.expect(done.err().lines().count() == 1, "one warning");
}
