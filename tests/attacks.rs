//! Attacks from inside a container, and from the root filesystem that it is made of: each is tried, and nothing outside
//! changes, nothing outside is read. Those that consist of system calls are in seccomp.rs.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use d_tests::{Cmd, Scratch, bin, busybox_rootfs};

const MAPS: [&str; 2] = ["--map=subid", "--map=single"];

/// A scratch folder with `rootfs`, and a folder `victim` outside of it.
fn place() -> Scratch {
    let scratch = Scratch::new();
    busybox_rootfs(&scratch.join("rootfs"));
    scratch.write("victim/file", "precious\n");
    scratch
}

/// The same with a shell and two commands only: for tests that need many.
fn small_place() -> Scratch {
    let scratch = Scratch::new();
    scratch.write("victim/file", "precious\n");
    for folder in ["bin", "dev", "etc", "proc", "run", "sys", "tmp", "usr"] {
        fs::create_dir_all(scratch.join("rootfs").join(folder)).unwrap();
    }
    fs::copy("/bin/busybox", scratch.join("rootfs/bin/sh")).unwrap();
    for name in ["cat", "ls"] {
        symlink("sh", scratch.join("rootfs/bin").join(name)).unwrap();
    }
    scratch
}

fn enter(scratch: &Scratch, map: &str) -> Cmd {
    scratch.run(["d-enter", map, "rootfs"])
}

/// What is in the folder `victim`: all names, and the file's content.
#[track_caller]
fn assert_unharmed(scratch: &Scratch, what: &str) {
    assert_eq!(scratch.names("victim"), ["file"], "{what}");
    assert_eq!(fs::read_to_string(scratch.join("victim/file")).unwrap(), "precious\n", "{what}");
}

fn script(scratch: &Scratch, name: &str, text: &str) {
    let path = scratch.write(Path::new("rootfs").join(name), text);
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Puts a link where the root filesystem has a folder or a file.
fn replace_by_link(scratch: &Scratch, name: &str, target: impl AsRef<Path>) {
    let path = scratch.join("rootfs").join(name);
    let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
    symlink(target, path).unwrap();
}

/// CVE-2019-5736: the image makes the host's program run inside, and gets hold of its file.
#[test]
fn the_program_itself_is_not_run_inside() {
    let scratch = place();
    // One that its user may change, as after `cargo install`.
    let program = scratch.join("d-enter");
    fs::copy(bin("d-enter"), &program).unwrap();
    script(&scratch, "bin/script", "#!/proc/self/exe --version\n");
    script(&scratch, "bin/nested", "#!/bin/script\n");
    symlink("/proc/self/exe", scratch.join("rootfs/bin/outward")).unwrap();
    script(&scratch, "bin/by-link", "#! /bin/outward --version\n");
    let before = fs::read(&program).unwrap();
    for map in MAPS {
        for command in ["/proc/self/exe", "script", "nested", "outward", "/bin/by-link", "/proc/thread-self/exe"] {
            let done = scratch.run([program.as_os_str()]).args([map, "rootfs", command]).code(126);
            done.err_has("out of the container").prints("");
        }
    }
    assert!(fs::read(&program).unwrap() == before, "the program has changed");
}

/// The same with the program's file in hand, as after a race that was won: it is busy for as long as anything lives inside.
#[test]
fn the_program_cannot_be_written_from_inside() {
    let scratch = place();
    fs::create_dir(scratch.join("host")).unwrap();
    let program = scratch.join("host/d-enter");
    fs::copy(bin("d-enter"), &program).unwrap();
    let before = fs::read(&program).unwrap();
    let write = "for i in 1 2 3; do echo x >>/host/d-enter; dd if=/dev/zero of=/host/d-enter conv=notrunc; done; \
                 truncate -s 0 /host/d-enter; exec 3</host/d-enter; echo x >/proc/self/fd/3; echo over";
    for map in MAPS {
        let done =
            scratch.run([program.as_os_str()]).args([map, "-v", "./host:/host", "rootfs", "sh", "-c", write]).ok();
        done.prints("over").err_has("Text file busy");
        assert!(fs::read(&program).unwrap() == before, "the program has changed");
    }
    // It is its user's own, and can be written when nothing runs.
    fs::OpenOptions::new().append(true).open(&program).unwrap();
}

/// CVE-2024-21626: a descriptor of the caller's that stays open is a way out, by itself or as the working directory.
#[test]
fn no_descriptor_and_no_working_directory_leads_outside() {
    let scratch = place();
    for map in MAPS {
        let list = format!("d-enter {map} rootfs sh -c 'echo /proc/self/fd/*' 7<victim 8<victim/file 9<.");
        // The shell's own: 0 to 2; the folder itself is not open while the shell expands the pattern, or is 3.
        let out = scratch.sh(&list).ok().out();
        assert!(out.split_whitespace().count() <= 4, "{out}");
        for number in 3..16 {
            let cwd = format!("cd victim; d-enter {map} -w /proc/self/fd/{number} ../rootfs cat file 9<.");
            let done = scratch.sh(&cwd).done();
            done.expect(done.code() != 0 && !done.out().contains("precious"), "nothing from outside");
        }
    }
}

/// Links of the root filesystem at the places where d-enter mounts and writes.
#[test]
fn links_in_the_root_filesystem_lead_nowhere_outside() {
    for map in MAPS {
        enter(&small_place(), map).args(["sh", "-c", "cat /victim/file || ls / >/tmp/new"]).ok();
        for name in ["dev", "proc", "sys", "tmp", "run", "etc", "dev/shm", "dev/console", "sys/fs"] {
            for target in ["../victim", "../../victim", "/"] {
                let scratch = small_place();
                let outside = if target == "/" { scratch.join("victim") } else { PathBuf::from(target) };
                if let Some(parent) = Path::new(name).parent() {
                    fs::create_dir_all(scratch.join("rootfs").join(parent)).unwrap();
                }
                replace_by_link(&scratch, name, outside);
                // It may refuse, or go on with a folder of its own.
                let done = enter(&scratch, map).args(["sh", "-c", "cat /victim/file; ls / >/tmp/new"]).done();
                done.expect(!done.out().contains("precious"), "nothing from outside");
                assert_unharmed(&scratch, &format!("{name} -> {target} under {map}\n{done}"));
            }
        }
        for name in ["etc/resolv.conf", "etc/hosts", "etc/hostname", "etc/passwd", "etc/group"] {
            for target in ["/victim/file", "../../victim/file", "../../../victim/file"] {
                let scratch = small_place();
                replace_by_link(&scratch, name, target);
                let options = ["--hostname=x", "--add-host=a:127.0.0.9", "--dns=127.0.0.9"];
                let done = scratch.run(["d-enter", map]).args(options).args(["rootfs", "ls"]).done();
                assert_unharmed(&scratch, &format!("{name} -> {target} under {map}\n{done}"));
            }
        }
    }
}

/// A volume's target is resolved inside, whatever links are on its way.
#[test]
fn targets_of_volumes_stay_inside() {
    for map in MAPS {
        let scratch = place();
        scratch.write("data/content", "data\n");
        symlink(scratch.join("victim"), scratch.join("rootfs/absolute")).unwrap();
        symlink("../../../../victim", scratch.join("rootfs/relative")).unwrap();
        let volume = |target: &str| format!("{}:{target}", scratch.join("data").display());
        for target in ["/absolute/x", "/relative/x", "/absolute", "/../../victim/x"] {
            let done = scratch.run(["d-enter", map, "-v", &volume(target), "rootfs", "true"]).done();
            assert_unharmed(&scratch, &format!("{target} under {map}\n{done}"));
        }
    }
}

/// Setuid programs and devices on what the user mounts in mean nothing.
#[test]
fn volumes_are_nosuid_and_nodev() {
    for map in MAPS {
        let scratch = place();
        fs::create_dir(scratch.join("data")).unwrap();
        let volume = format!("{}:/data", scratch.join("data").display());
        let show = "awk '$5 == \"/data\" { print $6 }' /proc/self/mountinfo";
        let flags = scratch.run(["d-enter", map, "-v", &volume, "rootfs", "sh", "-c", show]).ok().out();
        let has = |flag: &str| flags.split(',').any(|f| f == flag);
        assert!(has("nosuid") && has("nodev"), "{flags:?} under {map}");
    }
}

/// What the caller has in its environment, and d-enter in its arguments, is nobody's inside.
#[test]
fn the_callers_environment_is_not_seen() {
    let scratch = place();
    let look = "env; cat /proc/1/environ /proc/1/cmdline | tr '\\0' '\\n'; cat /proc/*/environ | tr '\\0' '\\n'";
    for map in MAPS {
        let done = enter(&scratch, map).env("SECRET", "hidden-from-inside").args(["sh", "-c", look]).done();
        done.expect(!done.out().contains("hidden-from-inside"), "no SECRET");
        let shown = scratch.join("rootfs").display().to_string();
        done.expect(!done.out().contains(&shown), "no path of the host");
    }
}

/// The kernel's settings belong to all.
#[test]
fn kernel_settings_cannot_be_written() {
    let scratch = place();
    let writes = [
        "echo x >/proc/sys/kernel/core_pattern",
        "echo x >/proc/sysrq-trigger",
        "echo 1 >/proc/sys/vm/drop_caches",
        "echo x >/sys/kernel/uevent_helper",
        "mkdir /sys/fs/cgroup/new",
        "echo x >/proc/sys/kernel/hostname",
    ];
    for map in MAPS {
        for write in writes {
            let done = enter(&scratch, map).args(["sh", "-c", write]).done();
            done.expect(done.code() != 0, "a refusal");
        }
        let masked = "cat /proc/kcore /proc/keys /proc/timer_list | wc -c; ls /proc/acpi /proc/scsi /sys/firmware | grep -c ^[a-z]";
        let done = enter(&scratch, map).args(["sh", "-c", masked]).done();
        done.expect(done.out().lines().next() == Some("0"), "nothing to read in masked files");
    }
}

/// Abstract sockets have no file that could be out of sight: only a network namespace keeps them apart.
#[test]
fn abstract_sockets_are_out_of_reach() {
    use std::os::linux::net::SocketAddrExt;
    let scratch = place();
    let name = format!("d-tests-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    let seen = |cmd: Cmd| cmd.args(["cat", "/proc/net/unix"]).ok().out().contains(&name);
    for map in MAPS {
        assert!(!seen(enter(&scratch, map)), "seen under {map}");
    }
    assert!(seen(scratch.run(["d-enter", "--net=host", "rootfs"])), "the look itself works");
}

/// Nothing of the container outlives d-enter, however that ends.
#[test]
fn nothing_outlives_d_enter() {
    let scratch = place();
    for map in MAPS {
        let command = "trap '' HUP INT TERM; (setsid sleep 987654 &); echo started; sleep 987654; sleep 987654";
        let mut running = enter(&scratch, map).args(["sh", "-c", command]).spawn();
        running.wait_out("started");
        running.signal(rustix::process::Signal::KILL);
        // wait() fails where a process holds stdout open.
        let done = running.wait(std::time::Duration::from_secs(20));
        assert_eq!(done.code(), 137);
    }
}
