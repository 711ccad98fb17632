//! Containers whose changes vanish, in memory, on disk or by fuse-overlayfs; and overlays of shared layers, whose changes stay.

use std::fs;
use std::path::Path;
use std::time::Duration;

use d_tests::{Cmd, Scratch, alive, bin, children, eventually, have, skip};
use rustix::process::Signal;
use serde_json::json;

use crate::place::{Place, under_both_maps};

fn snapshot(dir: &Path) -> Cmd {
    d_tests::run(["sh", "-c", "cd \"$0\" && find . -printf '%p %m %U %s %T@ %C@\\n' | sort"]).arg(dir)
}

#[test]
fn an_ephemeral_container_writes_nothing_below_dir() {
    under_both_maps(|place| {
        place.write("data/f", "image");
        // What a first run makes for good.
        place.sh("-v kept:/kept", "echo kept >/kept/f").ok();
        let before = snapshot(&place.dir()).ok().out();
        let script = "echo changed >/data/f; rm /etc/group; mkdir /new; touch /new/x; chmod 700 /bin; mv /root /r2; \
                      cat /kept/f; echo changed >/kept/f; touch /fresh/x; cat /data/f";
        for options in ["--ephemeral", "--rm", "--ephemeral=64M"] {
            let done = place.sh(&format!("{options} -v kept:/kept -v other:/fresh"), script).ok();
            done.prints("kept\nchanged").silent();
            assert_eq!(snapshot(&place.dir()).ok().out(), before, "{options}");
        }
        place.config(json!({"ephemeral": true, "Volumes": {"/kept": {}}}));
        let before = snapshot(&place.dir()).ok().out();
        place.sh("", "touch /x /kept/x").ok();
        assert_eq!(snapshot(&place.dir()).ok().out(), before);
    });
}

#[test]
fn an_ephemeral_size_is_a_bound() {
    under_both_maps(|place| {
        let fill = "dd if=/dev/zero of=/big bs=1k count=8192 2>/dev/null && echo fits || echo full";
        place.sh("--ephemeral=4M", fill).ok().prints("full");
        place.sh("--ephemeral=32M", fill).ok().prints("fits");
    });
}

#[test]
fn overlays_of_layers_keep_their_changes_in_upper() {
    under_both_maps(|place| {
        fs::rename(place.rootfs(""), place.scratch.join("lower")).expect("renamed");
        place.scratch.write("lower/etc/shadow-", "");
        place.scratch.write("second/etc/two", "two");
        for dir in ["box/upper", "box/work", "box/rootfs"] {
            fs::create_dir_all(place.scratch.join(dir)).expect("a folder");
        }
        let layers = format!("{0}/lower\n{0}/second\n", place.scratch.path().display());
        place.scratch.write("box/layers", layers);
        place.sh("", "cat /etc/two; echo new >/etc/new; rm /etc/shadow-").ok().prints("two");
        assert!(place.scratch.join("box/upper/etc/new").exists());
        assert!(place.scratch.join("lower/etc/shadow-").exists());
        place.sh("", "cat /etc/new; [ ! -e /etc/shadow- ]").ok().prints("new");
        place.sh("--ephemeral", "cat /etc/new; touch /gone").ok().prints("new");
        assert!(!place.scratch.join("box/upper/gone").exists());
        // The upper directory is one container's at a time.
        let mut first = place.sh("", "echo up; sleep 30").spawn();
        first.wait_out("up");
        place.sh("", "true").fails(125).err_has("in use");
        place.sh("--ephemeral", "true").ok();
        first.signal(Signal::TERM);
        first.wait(Duration::from_secs(5));
    });
}

/// `d-enter OPTIONS box sh -c SCRIPT` where the kernel takes no overlay of it: a file system is mounted below its root, and
/// locked there.
fn refused(place: &Place, options: &str, script: &str) -> Cmd {
    let mount = place.rootfs("tmp").display().to_string();
    let bwrap = ["bwrap", "--dev-bind", "/", "/", "--tmpfs", &mount];
    let command = ["d-enter", "--map", "single", "--ephemeral"];
    let command = place.scratch.run(bwrap).args(command).args(options.split_whitespace());
    command.args(["box", "sh", "-c", script])
}

#[test]
fn where_the_kernel_takes_no_overlay_fuse_overlayfs_serves_one() {
    if !have("bwrap") || !have("fuse-overlayfs") {
        return skip("no bwrap or fuse-overlayfs");
    }
    let place = Place::new("single");
    let before = snapshot(&place.dir()).ok().out();
    let script = "echo new >/etc/new; rm /etc/group; mkdir /d; mv /d /e; chmod 700 /bin; \
                  cat /etc/new; ls -d /e /etc/group 2>/dev/null; ps | grep -c [o]verlayfs";
    refused(&place, "", script).code(1).prints("new\n/e\n0").silent();
    assert_eq!(snapshot(&place.dir()).ok().out(), before);
    refused(&place, "--verbose", "true").ok().err_has("fuse-overlayfs takes its place");
    let fill = "dd if=/dev/zero of=/big bs=1k count=8192 2>/dev/null && echo fits || echo full";
    refused(&place, "--ephemeral=4M", fill).ok().prints("full");
    refused(&place, "--ephemeral=32M", fill).ok().prints("fits");
}

#[test]
fn without_fuse_overlayfs_it_says_why_and_what_to_install() {
    if !have("bwrap") {
        return skip("no bwrap");
    }
    let place = Place::new("single");
    fs::create_dir(place.scratch.join("path")).expect("a folder");
    let path = |program: &str, at: &Path| std::os::unix::fs::symlink(at, place.scratch.join("path").join(program));
    path("bwrap", Path::new("/usr/bin/bwrap")).expect("a link");
    path("d-enter", &bin("d-enter")).expect("a link");
    let path = place.scratch.join("path");
    let done = refused(&place, "", "true").env("PATH", &path).fails(125);
    done.err_has("Invalid argument").err_has("install fuse-overlayfs");
    // And where it does not do its work, in its own words.
    fs::write(path.join("fuse-overlayfs"), "#!/bin/sh\necho it is broken >&2; exit 1\n").expect("a script");
    d_tests::run(["chmod", "755"]).arg(path.join("fuse-overlayfs")).ok();
    refused(&place, "", "true").env("PATH", &path).fails(125).err_has("it is broken");
}

#[test]
fn the_host_itself_can_be_entered_and_nothing_changes() {
    if !have("fuse-overlayfs") {
        return skip("no fuse-overlayfs");
    }
    for map in ["subid", "single"] {
        let scratch = Scratch::new();
        let enter = |script: &str| scratch.run(["d-enter", "--map", map, "--ephemeral", "/", "sh", "-c", script]);
        let name = format!("d-tests.{map}");
        enter(&format!("echo new >/{name} && cat /{name}")).ok().prints("new").silent();
        assert!(!Path::new("/").join(&name).exists());
        // Of the old root nothing is left to see: the root is one mount, and the only one of its device.
        enter("grep -c ' / / ' /proc/self/mountinfo").ok().prints("1");
        for signal in [Signal::TERM, Signal::KILL] {
            let mut running = enter("echo up; sleep 100").spawn();
            running.wait_out("up");
            let pids = children(running.pid());
            let served =
                |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c == "fuse-overlayfs\n");
            assert!(pids.iter().any(served), "{pids:?}");
            running.signal(signal);
            assert!(eventually(Duration::from_secs(5), || !pids.iter().any(|pid| alive(*pid))), "{pids:?}");
        }
    }
}
