//! /proc, /sys, /dev, /tmp, /run, masked and read-only paths.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::place::{Place, under_both_maps};

#[test]
fn dev_has_what_programs_expect_and_nothing_else() {
    under_both_maps(|place| {
        let names = place.sh("", "ls /dev").ok().out();
        let names: Vec<&str> = names.lines().collect();
        let expected = [
            "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
            "urandom", "zero",
        ];
        assert_eq!(names, expected);
        place
            .sh("", "for d in null zero full random urandom tty; do [ -c /dev/$d ] || echo no $d; done")
            .ok()
            .prints("");
        place.sh("", "echo x >/dev/null; head -c 2 /dev/zero | wc -c; head -c 2 /dev/urandom | wc -c; echo x 2>/dev/null >/dev/full || echo full").ok().prints("2\n2\nfull");
        place
            .sh("", "for l in fd stdin stdout stderr; do readlink /dev/$l; done")
            .ok()
            .prints("/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2");
        // /proc/kcore is masked.
        place.sh("", "[ ! -e /dev/core ] || cat /dev/core").ok().prints("");
        place
            .sh("", "stat -c %a /dev/shm; stat -f -c %T /dev /dev/shm; touch /dev/shm/x")
            .ok()
            .prints("1777\ntmpfs\ntmpfs");
        // The console is there with a pty.
        place.sh("-t", "[ -c /dev/console ] && echo console").ok().out_has("console");
        // A script may open ptys of its own.
        place.sh("", "script -qc 'tty' /dev/null 2>/dev/null || true").ok();
    });
}

#[test]
fn pts_have_the_group_tty_when_it_is_mapped() {
    let options = |map| Place::new(map).sh("", "grep ' /dev/pts ' /proc/self/mountinfo").ok().out();
    assert!(options("subid").contains("gid="), "{}", options("subid"));
    assert!(!options("single").contains("gid="), "{}", options("single"));
}

#[test]
fn proc_shows_the_container_alone() {
    under_both_maps(|place| {
        let done = place
            .sh(
                "",
                "ls -d /proc/[0-9]* | wc -l; stat -f -c %T /proc; awk '$5==\"/proc\"{print $6}' /proc/self/mountinfo",
            )
            .ok();
        let lines: Vec<String> = done.out().lines().map(str::to_owned).collect();
        assert!(lines[0].parse::<u32>().is_ok_and(|n| n <= 4), "{done}");
        assert_eq!(lines[1], "proc");
        for flag in ["nosuid", "nodev", "noexec"] {
            done.expect(lines[2].contains(flag), flag);
        }
    });
}

#[test]
fn proc_modes() {
    under_both_maps(|place| {
        let me = std::process::id();
        let sees = format!("[ -d /proc/{me} ] && echo host || echo own");
        for (options, printed) in [
            ("", "own"),
            ("--proc auto", "own"),
            ("--proc=new", "own"),
            ("--proc=bind", "host"),
            ("--share pid", "host"),
        ] {
            place.sh(options, &sees).ok().prints(printed);
        }
        place.sh("--proc none", "ls -A /proc").ok().prints("");
        place.sh("--proc=none", "echo x").ok().prints("x");
    });
}

#[test]
fn dangerous_paths_are_masked_or_read_only() {
    under_both_maps(|place| {
        let script = "for f in /proc/kcore /proc/keys /proc/timer_list /proc/interrupts; do \
                        [ -e $f ] && [ \"$(cat $f | wc -c)\" != 0 ] && echo open $f; done; \
                      for d in /proc/acpi /proc/scsi /sys/firmware; do [ -d $d ] && ls -A $d | sed s,^,$d/,; done; \
                      for f in /proc/sys/kernel/hostname /proc/sysrq-trigger /proc/irq/x /sys/x; do \
                        (echo x >$f) 2>/dev/null && echo wrote $f; done; true";
        place.sh("", script).ok().prints("");
        // --unmask opens one, or all.
        let masks = |options: &str| {
            let script = "awk '$5 ~ \"^/(proc|sys)/\" && $5 != \"/sys/fs/cgroup\"{print $5}' /proc/self/mountinfo";
            place.sh(options, script).ok().out()
        };
        let all = masks("");
        for path in ["/proc/kcore", "/proc/keys", "/proc/sys", "/proc/sysrq-trigger"] {
            if !std::path::Path::new(path).exists() {
                continue;
            }
            assert!(all.lines().any(|l| l == path), "{path} in {all}");
        }
        let without = masks("--unmask /proc/kcore --unmask /proc/sys");
        assert!(!without.lines().any(|l| l == "/proc/kcore" || l == "/proc/sys"), "{without}");
        assert!(without.contains("/proc/keys"));
        let none = masks("--unmask ALL");
        assert!(!none.contains("/proc/"), "{none}");
    });
}

#[test]
fn sys_is_read_only_all_the_way_down() {
    under_both_maps(|place| {
        for options in ["", "--net host"] {
            let script = "awk '$5 ~ \"^/sys\" {print $5, $6}' /proc/self/mountinfo";
            let done = place.sh(options, script).ok();
            done.expect(done.out().starts_with("/sys"), "a mount on /sys");
            for line in done.out().lines() {
                let flags = line.split(' ').nth(1).unwrap_or_default();
                done.expect(flags.split(',').any(|f| f == "ro"), line);
            }
            place.sh(options, "ls /sys/class/net").ok().out_has("lo");
            place.sh(options, "[ -d /sys/fs/cgroup ]").ok();
        }
    });
}

#[test]
fn tmp_and_run_are_tmpfs_and_run_has_the_images_directories() {
    let place = Place::new("subid");
    place.sh("--no-tmpfs", "mkdir -p /run/app/sub /run/locked && chown web:extra /run/app && chmod 2775 /run/app && chmod 700 /run/locked && touch /run/app/file /tmp/file").ok();
    let done = place.sh("", "stat -f -c %T /tmp /run; stat -c '%a %u:%g' /tmp /run/app /run/app/sub /run/locked; ls /tmp; ls -A /run/app").ok();
    done.prints("tmpfs\ntmpfs\n1777 0:0\n2775 33:44\n755 0:0\n700 0:0\nsub");
    place.sh("", "touch /tmp/new /run/new").ok();
    assert!(!place.rootfs("tmp/new").exists() && !place.rootfs("run/new").exists());
    place.sh("--no-tmpfs", "ls /run/app /tmp; touch /tmp/new").ok().prints("/run/app:\nfile\nsub\n\n/tmp:\nfile");
    assert!(place.rootfs("tmp/new").exists());
}

#[test]
fn var_run_may_be_a_link() {
    under_both_maps(|place| {
        std::os::unix::fs::symlink("/run", place.rootfs("var/run")).expect("a link");
        fs::create_dir(place.rootfs("run/db")).expect("a folder");
        fs::set_permissions(place.rootfs("run/db"), fs::Permissions::from_mode(0o2775)).expect("a mode");
        place.sh("", "stat -c %a /var/run/db; touch /var/run/db/pid").ok().prints("2775");
    });
}

#[test]
fn namespaces_are_its_own_unless_shared() {
    under_both_maps(|place| {
        let link = |ns: &str| fs::read_link(format!("/proc/self/ns/{ns}")).expect("a link").display().to_string();
        let inside = |options: &str, ns: &str| place.sh(options, &format!("readlink /proc/self/ns/{ns}")).ok().out();
        for ns in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
            assert_ne!(inside("", ns), link(ns), "{ns}");
        }
        for ns in ["pid", "ipc", "uts", "cgroup"] {
            assert_eq!(inside(&format!("--share {ns}"), ns), link(ns), "{ns}");
        }
        for ns in ["pid", "ipc", "uts", "cgroup"] {
            assert_eq!(inside("--share pid,ipc --share uts --share cgroup", ns), link(ns), "{ns}");
        }
        assert_eq!(inside("--net host", "net"), link("net"));
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        place.sh("--share uts", "uname -n; cat /etc/hostname").ok().prints(&format!("{host}\n{host}"));
        place.enter(&["--share", "uts", "--hostname", "x"], &["true"]).fails(125).err_has("--hostname");
        place.sh("", "cat /proc/self/cgroup | cut -d: -f3 | sort -u").ok().prints("/");
    });
}

#[test]
fn in_a_shared_pid_namespace_the_rest_ends_too() {
    under_both_maps(|place| {
        let done = place.sh("--share pid", "sleep 1000 & echo $!; setsid sleep 1000 & echo $!; sleep 0.1").ok();
        for pid in done.out().lines() {
            assert!(!d_tests::alive(pid.parse().expect("a pid")), "{pid} lives on");
        }
    });
}
