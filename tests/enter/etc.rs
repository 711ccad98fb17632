//! Generated files over the image's: resolv.conf, hosts, hostname.

use std::fs;
use std::os::unix::fs::symlink;

use crate::place::under_both_maps;

#[test]
fn the_host_name_is_dirs_last_component() {
    under_both_maps(|place| {
        place.sh("", "hostname; cat /etc/hostname; uname -n").ok().prints("box\nbox\nbox");
        place
            .sh("--hostname other.example", "hostname; cat /etc/hostname; grep -c other.example /etc/hosts")
            .ok()
            .prints("other.example\nother.example\n1");
        // It is inside only.
        assert_ne!(rustix::system::uname().nodename().to_string_lossy(), "other.example");
        place.outside("cd box && d-enter --map $MAP . hostname").ok().prints("box");
        place.outside("cd box/rootfs && d-enter --map $MAP .. hostname").ok().prints("box");
        place.outside("ln -s box web && d-enter --map $MAP web/ hostname").ok().prints("web");
        for bad in ["", "a b"] {
            place.enter(&["--hostname", bad], &["true"]).fails(125);
        }
        place.enter(&["--hostname", &"x".repeat(65)], &["true"]).fails(125);
    });
}

#[test]
fn hosts_names_localhost_the_host_and_what_is_added() {
    under_both_maps(|place| {
        let done =
            place.sh("--add-host db:10.1.2.3 --add-host six:fd00::1 --add-host db:10.1.2.4", "cat /etc/hosts").ok();
        for line in ["127.0.0.1\tlocalhost", "10.1.2.3\tdb", "fd00::1\tsix"] {
            done.expect(done.out().lines().any(|l| l == line), line);
        }
        done.expect(done.out().lines().any(|l| l.ends_with("\tbox")), "the container's own name");
        place.sh("", "ping -c 1 -W 1 localhost >/dev/null 2>&1; getent hosts localhost 2>/dev/null; nslookup x 2>/dev/null; true").ok();
    });
}

#[test]
fn name_servers() {
    under_both_maps(|place| {
        place.write("etc/resolv.conf", "nameserver 192.0.2.1\n");
        // Without a network the image's own stays.
        place.sh("", "cat /etc/resolv.conf").ok().prints("nameserver 192.0.2.1");
        place
            .sh("--dns 9.9.9.9 --dns 2620:fe::fe", "grep nameserver /etc/resolv.conf")
            .ok()
            .prints("nameserver 9.9.9.9\nnameserver 2620:fe::fe");
        let host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        place.sh("--net host", "cat /etc/resolv.conf").ok().prints(host.trim_end_matches('\n'));
    });
}

#[test]
fn the_images_own_files_are_untouched() {
    under_both_maps(|place| {
        for file in ["hosts", "hostname", "resolv.conf"] {
            place.write(&format!("etc/{file}"), "image\n");
        }
        place
            .sh("--dns 9.9.9.9 --hostname x", "cat /etc/hosts /etc/hostname /etc/resolv.conf; echo mine >>/etc/hosts")
            .ok();
        for file in ["hosts", "hostname", "resolv.conf"] {
            assert_eq!(fs::read_to_string(place.rootfs("etc").join(file)).expect(file), "image\n");
        }
    });
}

#[test]
fn links_in_their_place_are_resolved_inside() {
    under_both_maps(|place| {
        fs::create_dir_all(place.rootfs("run/systemd/resolve")).expect("a folder");
        for target in [
            "../run/systemd/resolve/stub-resolv.conf",
            "/run/resolvconf/resolv.conf",
            "../../../../../../run/x",
            "/tmp/y",
        ] {
            let _ = fs::remove_file(place.rootfs("etc/resolv.conf"));
            symlink(target, place.rootfs("etc/resolv.conf")).expect("a link");
            place.sh("--dns 9.9.9.9", "grep -c 9.9.9.9 /etc/resolv.conf").ok().prints("1");
            assert_eq!(fs::read_link(place.rootfs("etc/resolv.conf")).expect("still a link").to_str(), Some(target));
        }
        // One that leads nowhere at all is left as it is.
        fs::remove_file(place.rootfs("etc/resolv.conf")).expect("removed");
        symlink("resolv.conf", place.rootfs("etc/resolv.conf")).expect("a link");
        place.sh("--dns 9.9.9.9", "true").ok().err_has("warning: /etc/resolv.conf is the image's own");
        // A link out of the container is one inside it.
        let outside = place.scratch.write("outside", "host\n");
        fs::remove_file(place.rootfs("etc/resolv.conf")).expect("removed");
        symlink(&outside, place.rootfs("etc/resolv.conf")).expect("a link");
        place.sh("--dns 9.9.9.9", "cat /etc/resolv.conf; echo x >>/etc/resolv.conf").ok().out_has("9.9.9.9");
        assert_eq!(fs::read_to_string(outside).expect("outside"), "host\n");
    });
}

#[test]
fn an_own_mount_on_them_counts() {
    under_both_maps(|place| {
        place.scratch.write("mine", "mine\n");
        place
            .sh("-v ./mine:/etc/hosts -v ./mine:/etc/resolv.conf --dns 9.9.9.9", "cat /etc/hosts /etc/resolv.conf")
            .ok()
            .prints("mine\nmine");
    });
}

#[test]
fn a_root_filesystem_without_etc_will_do() {
    under_both_maps(|place| {
        fs::remove_dir_all(place.rootfs("etc")).expect("removed");
        place.sh("", "id -u; echo $HOME; cat /etc/hostname").ok().prints("0\n/\nbox");
    });
}

/// And the host's can be mounted over it, even where it is a link.
#[test]
fn the_time_zone_is_the_images() {
    under_both_maps(|place| {
        place.write("usr/share/zone", "the image's");
        std::os::unix::fs::symlink("../usr/share/zone", place.rootfs("etc/localtime")).expect("a link");
        let show = "cat /etc/localtime";
        place.sh("", show).env("TZ", "XYZ-3").ok().prints("the image's");
        place.scratch.write("zone", "the host's");
        place.sh("-v ./zone:/etc/localtime:ro", show).ok().prints("the host's");
        assert_eq!(std::fs::read_to_string(place.rootfs("usr/share/zone")).unwrap(), "the image's");
    });
}

#[test]
fn an_image_with_something_else_there() {
    under_both_maps(|place| {
        fs::remove_file(place.rootfs("etc/hosts")).ok();
        fs::create_dir_all(place.rootfs("etc/hosts")).expect("a directory");
        place.sh("", "test -d /etc/hosts && hostname").ok().prints("box").err_has("/etc/hosts is the image's own");
        fs::remove_dir_all(place.rootfs("run")).ok();
        place.write("run", "a file");
        place.sh("", "true").fails(125).err_has("cannot mount on /run: the root filesystem has no directory there");
    });
}
