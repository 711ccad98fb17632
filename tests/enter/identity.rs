//! Who the command is: maps, users, groups, root emulation.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::json;

use crate::place::{Place, under_both_maps};

#[test]
fn root_inside_is_the_caller() {
    under_both_maps(|place| {
        place.sh("", "id -u; id -g; touch /made").ok().prints("0\n0");
        let (me, made) = (fs::metadata(place.dir()).expect("DIR"), fs::metadata(place.rootfs("made")).expect("made"));
        assert_eq!((made.uid(), made.gid()), (me.uid(), me.gid()));
        let map = place.sh("", "cat /proc/self/uid_map").ok().out();
        let first: Vec<&str> = map.lines().next().unwrap_or_default().split_whitespace().collect();
        assert_eq!(first, ["0", &me.uid().to_string(), "1"], "{map}");
        assert_eq!(map.lines().count() > 1, place.map == "subid", "{map}");
    });
}

#[test]
fn users_by_name_and_number() {
    let place = Place::new("subid");
    for (user, ids, home) in [
        ("web", "33 33 33,44", "/var"),
        ("33", "33 33 33,44", "/var"),
        // With a group that group alone.
        ("web:extra", "33 44 44", "/var"),
        ("33:44", "33 44 44", "/var"),
        ("web:0", "33 0 0", "/var"),
        ("33:1234", "33 1234 1234", "/var"),
        // A number without an entry.
        ("1234", "1234 0 0", "/"),
        ("1234:5678", "1234 5678 5678", "/"),
        ("0", "0 0 0", "/root"),
        ("root", "0 0 0", "/root"),
        ("0:44", "0 44 44", "/root"),
    ] {
        let done = place.sh(&format!("-u {user}"), "echo $(id -u) $(id -g) $(id -G | tr ' ' ,) $HOME").ok();
        done.prints(&format!("{ids} {home}"));
    }
    place.config(json!({"User": "web"}));
    place.sh("", "id -u").ok().prints("33");
    place.sh("-u 0", "id -u").ok().prints("0");
    place.sh("-u web -e HOME=/tmp", "echo $HOME").ok().prints("/tmp");
    for unknown in ["nobody-there", "web:nogroup-there", "4294967295", "-1", "99999999999"] {
        place.enter(&[&format!("--user={unknown}")], &["true"]).fails(125);
    }
}

#[test]
fn a_single_map_holds_the_containers_user() {
    let place = Place::new("single");
    for (user, ids) in [("web", "33 33"), ("web:extra", "33 44"), ("1234", "1234 0"), ("1234:5678", "1234 5678")] {
        let done = place.sh(&format!("-u {user}"), "echo $(id -u) $(id -g); touch /tmp/x /made; stat -c %u /made").ok();
        done.prints(&format!("{ids}\n{}", ids.split(' ').next().unwrap_or_default()));
        assert_eq!(
            fs::metadata(place.rootfs("made")).expect("made").uid(),
            fs::metadata(place.dir()).expect("DIR").uid()
        );
    }
    place.config(json!({"User": "web"}));
    place.sh("", "id -u; cat /proc/self/setgroups").ok().prints("33\ndeny");
    // Ids over 2^31.
    place.sh("-u 3000000000:4000000000", "id -u; id -g").ok().prints("3000000000\n4000000000");
}

#[test]
fn ids_beyond_the_map_are_named() {
    let place = Place::new("subid");
    place.enter(&["-u", "3000000000"], &["true"]).fails(125).err_has("3000000000");
}

#[test]
fn keep_id_keeps_the_callers_id() {
    let place = Place::new("keep-id");
    let me = fs::metadata(place.dir()).expect("DIR");
    let (uid, gid) = (me.uid().to_string(), me.gid().to_string());
    place
        .sh("", "id -u; id -g; cat /proc/self/status | grep CapEff")
        .ok()
        .prints(&format!("{uid}\n{gid}\nCapEff:\t0000000000000000"));
    place.sh("-u 0", "id -u").ok().prints("0");
    // Host folders mounted in are mine, and what I write there is.
    place.scratch.write("src/f", "");
    place.sh("-v ./src:/src", "touch /src/made; stat -c %u /src/f").ok().prints(&uid);
    assert_eq!(fs::metadata(place.scratch.join("src/made")).expect("made").uid(), me.uid());
}

#[test]
fn a_nameless_user_gets_a_line_but_the_image_keeps_its_files() {
    under_both_maps(|place| {
        let passwd = fs::read(place.rootfs("etc/passwd")).expect("passwd");
        let group = fs::read(place.rootfs("etc/group")).expect("group");
        let done = place.sh("-u 1234:5678", "whoami && id -gn && grep -c . /etc/passwd").ok();
        assert_eq!(done.out().lines().last(), Some("3"), "{done}");
        // Only who is the caller has the caller's name.
        let name = d_tests::run(["id", "-un"]).ok().out();
        let expected = if place.map == "single" { name } else { "user1234".into() };
        assert_eq!(done.out().lines().next(), Some(expected.as_str()), "{done}");
        assert_eq!(fs::read(place.rootfs("etc/passwd")).expect("passwd"), passwd);
        assert_eq!(fs::read(place.rootfs("etc/group")).expect("group"), group);
        // A named one sees the image's own files.
        place.sh("-u web", "grep -c etc/passwd /proc/self/mountinfo").code(1).prints("0");
    });
}

#[test]
fn supplementary_groups_are_the_images_or_kept() {
    let place = Place::new("subid");
    place.sh("-u web --groups image", "id -G").ok().prints("33 44");
    place.sh("-u web:extra --groups image", "grep ^Groups: /proc/self/status | tr -d '\\t '").ok().prints("Groups:");
    let kept = place.sh("-u web --groups keep", "id -G").ok();
    kept.expect(!kept.out().contains("44"), "the caller's groups alone");
    let place = Place::new("single");
    place.sh("--groups image", "true").ok();
    place.sh("--groups keep", "true").ok();
}

#[test]
fn root_is_emulated_under_a_single_map() {
    let place = Place::new("single");
    let script = "touch /f && chown 33:44 /f && chown -h 1:1 /f && chgrp 5 /f && mknod /null c 1 3 && mknod /b b 7 0 && echo done; \
                  grep NoNewPrivs /proc/self/status";
    place.sh("", script).ok().prints("done\nNoNewPrivs:\t1");
    place.sh("-r -u web", "id -u; chown 5 /f").ok().prints("0");
    place.config(json!({"User": "web"}));
    place.sh("--fakeroot", "id -u; chown 5 /f").ok().prints("0");
    // Another user is not fooled.
    place.sh("", "chown 5 /f 2>/dev/null || echo refused").ok().prints("refused");
    place.config(json!({"fakeroot": true, "User": "web"}));
    place.sh("", "id -u; chown 5 /f").ok().prints("0");
    place.sh("-u web", "id -u").ok().prints("33");
    place.config(json!({}));
    place
        .sh("--no-fakeroot", "chown 33 /f 2>/dev/null || echo refused; grep NoNewPrivs /proc/self/status")
        .ok()
        .prints("refused\nNoNewPrivs:\t0");
    // A file, a directory and a FIFO are still made for real.
    place.sh("", "mkfifo /fifo && [ -p /fifo ] && mkdir /d && [ -d /d ]").ok();
}

#[test]
fn under_subordinate_ids_root_is_real_enough() {
    let place = Place::new("subid");
    place
        .sh("", "touch /f && chown 33:44 /f && stat -c %u:%g /f; grep NoNewPrivs /proc/self/status")
        .ok()
        .prints("33:44\nNoNewPrivs:\t0");
    assert_ne!(fs::metadata(place.rootfs("f")).expect("f").uid(), fs::metadata(place.dir()).expect("DIR").uid());
    place.sh("", "su web -s /bin/sh -c 'id -u'").ok().prints("33");
    place.config(json!({"User": "web"}));
    place.sh("-r", "id -u").ok().prints("0");
}

#[test]
fn su_inside_a_single_map_is_warned_of_never_silent() {
    let place = Place::new("single");
    // The id does not exist, so the emulation's success changes nothing.
    place.sh("", "touch /tmp/x; chown 33 /tmp/x; stat -c %u /tmp/x").ok().prints("0");
}

#[test]
fn a_tree_that_is_not_mine_is_entered_as_single() {
    if d_tests::is_root() {
        return;
    }
    // The host's own root filesystem is one.
    let place = Place::new("single");
    let done = place.scratch.run(["d-enter", "-q", "/", "cat", "/proc/self/uid_map"]).ok();
    assert_eq!(done.out().lines().count(), 1, "{done}");
}

#[test]
fn without_newuidmap_auto_is_single_with_a_warning() {
    let place = Place::new("subid");
    let enter = |map: &str| {
        let script = format!("PATH=/nowhere \"$(command -v d-enter)\" --map {map} box /bin/wc -l /proc/self/uid_map");
        place.scratch.sh(&script)
    };
    let done = enter("auto").ok();
    done.out_has("1 /proc").expect(done.err().lines().filter(|l| l.contains("warning: ")).count() == 1, "one warning");
    enter("subid").fails(125).err_has("newuidmap");
    place.config(json!({"map": "subid"}));
    let done = enter("auto").fails(125);
    done.err_has("newuidmap").err_has("--map").err_has("--replace");
}

#[test]
fn inside_a_single_map_there_is_a_single_map() {
    let place = Place::new("single");
    let done = place.outside("unshare -r d-enter box sh -c 'id -u; touch /f; chown 33 /f'").ok();
    done.prints("0").err_has("--map=single");
    place.outside("unshare -r d-enter -q -u web box id -u").ok().prints("33");
    // d-enter in itself: root is emulated around it, so that even capset(2) only seems to work.
    let own = d_tests::bin("d-enter");
    let mounts = ["/usr", "/lib", "/lib64"].iter().filter(|d| std::path::Path::new(d).exists());
    let mut outer = place.scratch.run(["d-enter", "-q", "--map", "single", "-v", ".:/mnt"]);
    for folder in mounts {
        outer = outer.arg("-v").arg(format!("{folder}:{folder}:ro"));
    }
    let outer = outer.arg("--bind").arg(own).args(["/bin/d-enter", "box", "d-enter", "-q"]);
    let caps = "/mnt/box grep CapEff /proc/self/status";
    outer.clone().args(caps.split(' ')).ok().prints("CapEff:\t00000000a80425fb");
    outer.clone().args(["--cap-drop", "ALL"]).args(caps.split(' ')).ok().prints("CapEff:\t0000000000000000");
    outer.args(["-u", "web", "/mnt/box", "sh", "-c", "id -u; touch /made"]).ok().prints("33");
}

#[test]
fn as_root_a_container_is_entered_like_any_other() {
    if !d_tests::is_root() {
        return d_tests::skip("not root");
    }
    for map in ["auto", "single"] {
        let place = Place::new(map);
        place.sh("", "id -u; touch /f; chown web /f").ok().prints("0");
        place.sh("-u web", "id -u; id -g").ok().prints("33\n33");
        // Its root is none over the machine's devices.
        place.sh("--no-fakeroot --cap-add ALL", "mknod /sda b 8 0 2>/dev/null || echo refused").ok().prints("refused");
        place.sh("", "exit 7").code(7);
    }
}

#[test]
fn an_entrypoint_that_changes_its_user_is_warned_of() {
    under_both_maps(|place| {
        place.write("usr/local/bin/entry.sh", "#!/bin/sh\n[ \"$1\" = web ] && exec gosu web \"$@\"\nexec \"$@\"\n");
        std::fs::set_permissions(
            place.rootfs("usr/local/bin/entry.sh"),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .expect("a mode");
        place.config(serde_json::json!({"Entrypoint": ["entry.sh"], "map": place.map}));
        let done = place.enter(&[], &["echo", "x"]).ok();
        done.prints("x");
        assert_eq!(done.err().contains("changes its user"), place.map == "single", "{done}");
        assert!(place.enter(&["-u", "33"], &["true"]).ok().err().is_empty());
        assert!(place.enter(&["--entrypoint", ""], &["true"]).ok().err().is_empty());
    });
}
