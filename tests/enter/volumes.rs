//! Volumes that are kept in DIR.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use d_tests::eventually;
use rustix::process::Signal;
use serde_json::json;
use std::time::Duration;

use crate::place::{Place, under_both_maps};

#[test]
fn names_and_destinations_lie_in_volumes() {
    under_both_maps(|place| {
        place.sh("-v data:/srv/data", "echo 1 >/srv/data/f").ok();
        assert_eq!(fs::read_to_string(place.dir().join("volumes/data/f")).expect("f"), "1\n");
        // Without a source it is DIR/volumes/DST.
        place.sh("-v /var/lib/db", "echo 2 >/var/lib/db/f").ok();
        assert_eq!(fs::read_to_string(place.dir().join("volumes/var/lib/db/f")).expect("f"), "2\n");
        // They are there the next time, and apart from the image.
        place.sh("-v data:/elsewhere", "cat /elsewhere/f").ok().prints("1");
        place.sh("", "ls /srv/data /var/lib/db").ok().prints("/srv/data:\n\n/var/lib/db:");
        place.config(json!({"Volumes": {"/var/lib/db": {}}}));
        place.sh("", "cat /var/lib/db/f").ok().prints("2");
    });
}

#[test]
fn a_volume_is_filled_from_the_image_once() {
    under_both_maps(|place| {
        place.write("srv/sub/f", "image");
        std::os::unix::fs::symlink("sub/f", place.rootfs("srv/link")).expect("a link");
        fs::set_permissions(place.rootfs("srv/sub/f"), fs::Permissions::from_mode(0o640)).expect("a mode");
        fs::set_permissions(place.rootfs("srv"), fs::Permissions::from_mode(0o1775)).expect("a mode");
        let script = "cat /srv/link; stat -c %a /srv /srv/sub/f; echo changed >/srv/sub/f";
        place.sh("-v /srv", script).ok().prints("image1775\n640");
        place.sh("-v /srv", "cat /srv/sub/f").ok().prints("changed");
        place.write("srv/later", "later");
        place.sh("-v /srv", "[ ! -e /srv/later ]").ok();
        assert_eq!(fs::read_to_string(place.rootfs("srv/sub/f")).expect("f"), "image");
        place.sh("-v empty:/srv:nocopy", "ls -A /srv").ok().prints("");
        assert_eq!(place.scratch.names("box/volumes"), ["empty", "srv"]);
        // A path of the host is never filled.
        fs::create_dir(place.scratch.join("host")).expect("a folder");
        place.sh("-v ./host:/srv", "ls -A /srv").ok().prints("");
    });
}

#[test]
fn a_filled_volume_keeps_the_owners() {
    let place = Place::new("subid");
    place.sh("", "mkdir /srv && touch /srv/f && chown -R web:extra /srv").ok();
    place.sh("-v /srv", "stat -c %u:%g /srv /srv/f").ok().prints("33:44\n33:44");
    place.sh("-u web -v /srv", "touch /srv/mine").ok();
    assert_ne!(
        fs::metadata(place.dir().join("volumes/srv/mine")).expect("mine").uid(),
        fs::metadata(place.dir()).expect("DIR").uid()
    );
}

#[test]
fn read_only_volumes_cannot_be_written() {
    under_both_maps(|place| {
        place.write("srv/f", "image");
        place.sh("-v /srv:ro", "cat /srv/f; touch /srv/x 2>/dev/null || echo ' ro'").ok().prints("image ro");
    });
}

#[test]
fn names_cannot_leave_the_folder() {
    let place = Place::new("single");
    for spec in ["..:/x", "/../x", "/", "/a/../../b", ":/x", ""] {
        place.enter(&["-v", spec], &["true"]).fails(125);
    }
    // Nor can a link in their place.
    let outside = place.scratch.join("outside");
    fs::create_dir_all(place.dir().join("volumes")).expect("a folder");
    fs::create_dir(&outside).expect("a folder");
    std::os::unix::fs::symlink(&outside, place.dir().join("volumes/sly")).expect("a link");
    place.sh("-v sly:/x", "touch /x/escaped").done();
    assert!(outside.read_dir().expect("outside").next().is_none());
}

#[test]
fn many_first_uses_at_once_give_one_volume() {
    let place = Place::new("subid");
    for n in 0..50 {
        place.write(&format!("srv/{n}"), "x");
    }
    let all: Vec<_> = (0..8).map(|_| place.sh("-v /srv", "ls /srv | wc -l").spawn()).collect();
    for one in all {
        one.wait(Duration::from_secs(60)).prints("50");
    }
    assert_eq!(place.scratch.names("box/volumes"), ["srv"], "nothing temporary is left");
}

#[test]
fn what_cannot_be_a_volume_leaves_nothing() {
    under_both_maps(|place| {
        place.write("etc/file", "");
        for volume in ["new:/etc/file", "/etc/file"] {
            place.enter(&["-v", volume], &["true"]).fails(125).err_has("it is a file");
        }
        // What a killed one has left goes with the next.
        place.scratch.write("box/volumes/.d-enter/half", "");
        assert_eq!(place.scratch.names("box/volumes"), [".d-enter"]);
        place.sh("-v whole:/x", "ls /x").ok();
        assert_eq!(place.scratch.names("box/volumes"), ["whole"]);
    });
}

#[test]
fn a_directory_in_use_is_locked() {
    under_both_maps(|place| {
        let mut running = place.sh("", "echo up; sleep 30").spawn();
        running.wait_out("up");
        place.outside("flock -n -x box true").code(1);
        place.outside("flock -n -s box true").ok();
        place.sh("", "true").ok();
        running.signal(Signal::TERM);
        running.wait(Duration::from_secs(5));
        assert!(eventually(Duration::from_secs(2), || place.outside("flock -n -x box true").done().code() == 0));
        // Under an exclusive lock it does not wait.
        let done = place.outside("flock -x box d-enter --map $MAP box true").fails(125);
        done.expect(done.took < Duration::from_secs(5), "no waiting");
    });
}
