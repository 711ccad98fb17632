//! Mounts of the host's files, tmpfs, devices, read-only containers.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::place::{Place, under_both_maps};

/// The options of the last mount on `path`, as /proc/self/mountinfo has them.
fn flags_of(path: &str) -> String {
    format!("awk '$5==\"{path}\"{{f=$6}} END{{print \",\" f \",\"}}' /proc/self/mountinfo")
}

#[test]
fn a_path_is_mounted_as_it_is() {
    under_both_maps(|place| {
        place.scratch.write("src/sub/f", "f");
        let source = place.scratch.join("src").display().to_string();
        for options in [
            vec!["-v".to_owned(), format!("{source}:/dst")],
            vec![format!("--volume={source}:/dst:rw")],
            vec!["-v".to_owned(), "./src:/dst".to_owned()],
            vec!["-v".to_owned(), "src/../src:/dst:z".to_owned()],
            vec!["-v".to_owned(), "./src/:/dst/:Z,rbind".to_owned()],
            vec!["--bind".to_owned(), source.clone(), "/dst".to_owned()],
            vec!["--bind".to_owned(), "src".to_owned(), "/dst".to_owned()],
        ] {
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            let done = place.enter(&options, &["sh", "-c", "cat /dst/sub/f && echo new >/dst/new"]).ok();
            done.prints("f").silent();
            fs::remove_file(place.scratch.join("src/new")).expect("what was written inside");
        }
        // `.` is the caller's directory.
        place.enter(&["-v", ".:/dst"], &["cat", "/dst/src/sub/f"]).ok().prints("f");
        assert!(place.rootfs("dst").read_dir().expect("the mount point").next().is_none());
    });
}

#[test]
fn volumes_are_nosuid_and_nodev_and_take_flags() {
    under_both_maps(|place| {
        place.scratch.write("src/f", "f");
        for (options, expected, not) in [
            ("-v ./src:/dst", "nosuid nodev rw", "noexec ro"),
            ("-v ./src:/dst:ro", "nosuid nodev ro", "noexec rw"),
            ("-v ./src:/dst:noexec", "nosuid nodev noexec rw", "ro"),
            ("-v ./src:/dst:ro,noexec", "nosuid nodev noexec ro", "rw"),
            ("--bind ./src /dst", "nosuid nodev rw", "noexec ro"),
            ("--ro-bind ./src /dst", "nosuid nodev ro", "noexec rw"),
            ("-v kept:/dst", "nosuid nodev rw", "noexec ro"),
            ("-v kept:/dst:ro,noexec", "nosuid nodev noexec ro", "rw"),
            ("-v /dst:noexec", "nosuid nodev noexec rw", "ro"),
            ("--tmpfs /dst", "nosuid nodev rw", "ro"),
        ] {
            let flags = place.sh(options, &flags_of("/dst")).ok().out();
            for flag in expected.split(' ') {
                assert!(flags.contains(&format!(",{flag},")), "{flag} of {options}: {flags}");
            }
            for flag in not.split(' ') {
                assert!(!flags.contains(&format!(",{flag},")), "no {flag} of {options}: {flags}");
            }
        }
    });
}

#[test]
fn read_only_is_recursive() {
    under_both_maps(|place| {
        place.scratch.write("src/below/f", "");
        // A mount below the source, made by a container around this one.
        let inner = "mount -t tmpfs none src/below && d-enter --map single -v ./src:/dst:ro box sh -c '
            touch /dst/below/x 2>/dev/null && echo writable; touch /dst/x 2>/dev/null && echo writable; \
            grep -c \" /dst/below \" /proc/self/mountinfo'";
        place.outside(&format!("unshare -rm sh -ec '{}'", inner.replace('\'', "'\\''"))).ok().prints("1");
    });
}

#[test]
fn sources_must_exist() {
    under_both_maps(|place| {
        for options in [
            &["-v", "./missing:/dst"][..],
            &["-v", "/no/such/thing:/dst"],
            &["--bind", "missing", "/dst"],
            &["--ro-bind", "/no/such", "/dst"],
            &["--device", "/dev/no-such"],
        ] {
            place.enter(options, &["true"]).fails(125).err_has("does not exist");
        }
        assert!(!place.scratch.join("missing").exists());
    });
}

#[test]
fn targets_are_made_as_what_is_mounted() {
    under_both_maps(|place| {
        place.scratch.write("dir/f", "in dir");
        place.scratch.write("file", "file");
        place.write("old", "old");
        place
            .sh("-v ./dir:/new/deep/dir -v ./file:/new/deep/file", "cat /new/deep/dir/f /new/deep/file")
            .ok()
            .prints("in dirfile");
        assert!(place.rootfs("new/deep/dir").is_dir() && place.rootfs("new/deep/file").is_file());
        // A file over a file; the image's is untouched.
        place.sh("-v ./file:/old", "cat /old").ok().prints("file");
        assert_eq!(fs::read_to_string(place.rootfs("old")).expect("old"), "old");
        // A directory on a file, and the other way round.
        place.enter(&["-v", "./dir:/old"], &["true"]).fails(125).err_has("/old");
        place.enter(&["-v", "./file:/etc"], &["true"]).fails(125).err_has("/etc");
        // The root itself is DIR's.
        for options in
            ["-v ./dir:/", "-v ./dir:/new/..", "-v name://", "--bind ./dir /.", "--tmpfs /", "--device /dev/null:/"]
        {
            place.sh(options, "true").fails(125).err_has("cannot mount on /");
        }
        symlink("..", place.rootfs("link")).expect("a link");
        place.sh("-v ./dir:/link", "true").fails(125).err_has("cannot mount on /link");
    });
}

#[test]
fn links_in_the_image_are_resolved_inside() {
    under_both_maps(|place| {
        place.scratch.write("src/f", "f");
        place.scratch.write("file", "file");
        fs::create_dir(place.rootfs("real")).expect("a folder");
        let outside = place.scratch.join("outside");
        fs::create_dir(&outside).expect("a folder");
        for (link, target) in [
            ("abs", "/real"),
            ("rel", "real"),
            ("up", "../../../../../../real"),
            ("out", outside.to_str().expect("a path")),
            ("dangling", "/made/by/this"),
        ] {
            symlink(target, place.rootfs(link)).expect("a link");
            place.sh(&format!("-v ./src:/{link}"), &format!("cat /{link}/f")).ok().prints("f");
            place.sh(&format!("-v ./src:/{link}/below"), &format!("cat /{link}/below/f")).ok().prints("f");
        }
        assert!(outside.read_dir().expect("outside").next().is_none(), "nothing was made outside");
        symlink("/etc/passwd", place.rootfs("filelink")).expect("a link");
        place.sh("-v ./file:/filelink", "cat /filelink /etc/passwd").ok().prints("filefile");
        // `..` stays inside.
        place.sh("-v ./src:/../../real", "cat /real/f").ok().prints("f");
    });
}

#[test]
fn mounts_are_made_in_the_order_given() {
    under_both_maps(|place| {
        for name in ["a", "b"] {
            place.scratch.write(format!("{name}/name"), name);
            fs::create_dir(place.scratch.join(name).join("in")).expect("a folder");
        }
        let script = "cat /d/name /d/in/name 2>/dev/null";
        place.sh("-v ./a:/d -v ./b:/d/in", script).ok().prints("ab");
        // The outer one later covers the inner one.
        place.sh("-v ./b:/d/in -v ./a:/d", script).code(1).prints("a");
        place.sh("--tmpfs /d -v ./b:/d/in", script).code(1).prints("b");
        place.sh("-v ./a:/d -v ./b:/d", "cat /d/name").ok().prints("b");
        place.sh("-v ./a:/d --bind ./b /d", "cat /d/name").ok().prints("b");
    });
}

#[test]
fn binds_take_any_bytes() {
    under_both_maps(|place| {
        place.scratch.write("a:b, c/f", "odd");
        let done = place.enter(&["--bind", "a:b, c", "/x:y z"], &["cat", "/x:y z/f"]).ok();
        done.prints("odd");
        use std::os::unix::ffi::OsStrExt;
        let name = std::ffi::OsStr::from_bytes(b"\xff\xfe");
        place.scratch.write(Path::new(name), "bytes");
        let base = place.scratch.run(["d-enter", "--map", place.map, "--ro-bind"]).arg(name).arg("/b").arg("box");
        base.args(["cat", "/b"]).ok().prints("bytes");
    });
}

#[test]
fn nothing_mounted_inside_is_seen_outside() {
    under_both_maps(|place| {
        place.scratch.write("src/f", "");
        let before = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        place
            .sh("-v ./src:/dst --cap-add SYS_ADMIN --seccomp none", "mount -t tmpfs none /dst; touch /dst/hidden")
            .done();
        assert_eq!(fs::read_to_string("/proc/self/mountinfo").expect("mountinfo"), before);
    });
}

#[test]
fn a_tmpfs_starts_with_a_copy_of_what_it_covers() {
    under_both_maps(|place| {
        place.write("data/sub/f", "image");
        fs::set_permissions(place.rootfs("data"), fs::Permissions::from_mode(0o750)).expect("a mode");
        let script = "cat /data/sub/f 2>/dev/null; stat -c %a /data; touch /data/new";
        place.sh("--tmpfs /data", script).ok().prints("image750");
        place.sh("--tmpfs /data:notmpcopyup", script).ok().prints("750");
        place.sh("--tmpfs /data:mode=1777", script).ok().prints("image1777");
        place.sh("--tmpfs /fresh", "stat -f -c %T /fresh; touch /fresh/x").ok().prints("tmpfs");
        place
            .sh(
                "--tmpfs /data:size=1m,notmpcopyup",
                "dd if=/dev/zero of=/data/big bs=1k count=2000 2>/dev/null; stat -c %s /data/big",
            )
            .ok()
            .prints("1048576");
        place
            .sh("--tmpfs /data:size=64k,mode=0700", "df -k /data | awk 'END{print $2}'; stat -c %a /data")
            .ok()
            .prints("64\n700");
        assert!(!place.rootfs("data/new").exists());
        for bad in ["/data:size=x", "/data:mode=9", "/data:bogus", "data", ""] {
            place.enter(&["--tmpfs", bad], &["true"]).fails(125);
        }
    });
}

#[test]
fn devices_of_the_host_are_shown() {
    under_both_maps(|place| {
        place
            .sh("--device /dev/null:/dev/mine", "echo x >/dev/mine; [ -c /dev/mine ] && stat -c %t:%T /dev/mine")
            .ok()
            .prints("1:3");
        place.sh("--device /dev/full", "echo x >/dev/full").code(1);
        place.sh("--device /dev/zero:/opt/zero:rwm", "head -c 3 /opt/zero | wc -c").ok().prints("3");
        place.enter(&["--device", "/etc/passwd"], &["true"]).fails(125).err_has("no device");
        for (spec, why) in [
            ("/dev/null:relative", "expected"),
            ("/dev/null:/dev/n:bogus", "expected"),
            ("/dev/null:relative:rw", "not an absolute path"),
            ("/dev/null:r", "device's own mode"),
        ] {
            place.enter(&["--device", spec], &["true"]).fails(125).err_has(why);
        }
    });
}

#[test]
fn a_read_only_root_has_scratch_space() {
    under_both_maps(|place| {
        place.scratch.write("src/f", "");
        let script = "for d in / /etc /root /usr; do touch $d/x 2>/dev/null && echo $d; done; \
                      for d in /tmp /run /var/tmp /dev/shm /vol; do touch $d/x || echo cannot $d; done";
        place.sh("--read-only -v ./src:/vol", script).ok().prints("").silent();
        place.sh("--read-only", "echo hello >/etc/hosts").code(1);
        assert!(!place.rootfs("etc/x").exists() && !place.rootfs("var/tmp/x").exists());
    });
}

#[test]
fn the_image_can_be_changed_for_good_otherwise() {
    let place = Place::new("subid");
    place.sh("", "echo changed >/etc/issue; chown web /etc/issue").ok();
    place.sh("", "cat /etc/issue; stat -c %U /etc/issue").ok().prints("changed\nweb");
}
