//! Seccomp end to end: what a process in d-enter is answered when it calls the kernel by itself, through each ABI; the filters
//! of `--seccomp` and `--fakeroot`; attacks that are made of system calls.

use std::fs;

use d_tests::{Scratch, busybox_rootfs, fixtures, have, run, skip};

#[cfg(target_arch = "x86_64")]
const NATIVE: &str = "x86_64";
#[cfg(not(target_arch = "x86_64"))]
const NATIVE: &str = "native";

const EPERM: i64 = -1;
const ENOSYS: i64 = -38;

/// A scratch folder with `rootfs`: busybox, and the program `call` of call.c.
fn place() -> Scratch {
    let scratch = Scratch::new();
    busybox_rootfs(&scratch.join("rootfs"));
    let source = scratch.write("call.c", include_str!("call.c"));
    let program = scratch.join("rootfs/bin/call");
    run(["gcc", "-static", "-no-pie", "-O1", "-o"]).arg(program).arg(source).ok();
    scratch
}

/// What the kernel answers inside to each call, `ABI NUMBER ARG...`, in one container.
#[track_caller]
fn answers(scratch: &Scratch, options: &[&str], calls: &[String]) -> Vec<String> {
    let script: String = calls.iter().map(|call| format!("call {call}\n")).collect();
    let enter = scratch.run(["d-enter"]).args(options).args(["rootfs", "sh", "-ec", &script]);
    let done = enter.ok();
    done.out().lines().map(str::to_owned).collect()
}

#[track_caller]
fn answer(scratch: &Scratch, options: &[&str], call: &str) -> String {
    answers(scratch, options, &[call.to_owned()]).remove(0)
}

/// A call of this machine's own ABI.
fn native(number: i64, arguments: &str) -> String {
    format!("{NATIVE} {number} {arguments}")
}

/// The lines of /proc/self/status that tell of filters: mode, how many, no_new_privs.
#[track_caller]
fn filters(scratch: &Scratch, options: &[&str]) -> (String, String, String) {
    let show = r#"awk '/^(Seccomp|Seccomp_filters|NoNewPrivs):/ { print $1 $2 }' /proc/self/status"#;
    let done = scratch.run(["d-enter"]).args(options).args(["rootfs", "sh", "-c", show]).ok();
    let out = done.out();
    let value = |name: &str| out.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().to_owned();
    (value("Seccomp:"), value("Seccomp_filters:"), value("NoNewPrivs:"))
}

fn texts(values: [&str; 3]) -> (String, String, String) {
    let [mode, count, privileges] = values.map(str::to_owned);
    (mode, count, privileges)
}

#[test]
fn filters_in_force() {
    let scratch = place();
    for (options, expected) in [
        (&["--map=subid"][..], ["2", "1", "0"]),
        (&["--map=subid", "--seccomp=none"], ["0", "0", "0"]),
        (&["--map=subid", "--no-new-privs"], ["2", "1", "1"]),
        (&["--map=single"], ["2", "2", "1"]),
        (&["--map=single", "--seccomp=none"], ["2", "1", "1"]),
        (&["--map=single", "--no-fakeroot"], ["2", "1", "0"]),
        (&["--map=single", "--no-fakeroot", "--seccomp=none"], ["0", "0", "0"]),
        (&["--map=single", "--user=33"], ["2", "1", "0"]),
    ] {
        assert_eq!(filters(&scratch, options), texts(expected), "{options:?}");
    }
}

/// Calls that the kernel itself would not answer so: each has another answer with `--seccomp none`.
#[test]
fn the_default_profile_forbids() {
    let scratch = place();
    let calls: Vec<(String, i64)> = vec![
        (native(libc::SYS_bpf, "0 0 0"), EPERM),
        (native(libc::SYS_perf_event_open, "0 0 0 0 0"), EPERM),
        (native(libc::SYS_vmsplice, "-1 0 0 0"), EPERM),
        (native(libc::SYS_move_pages, "0 0 0 0 0 0"), EPERM),
        (native(libc::SYS_kcmp, "1 999999 0 0 0"), EPERM),
        (native(libc::SYS_process_madvise, "-1 0 0 0 0"), EPERM),
        (native(libc::SYS_quotactl, "0 0 0 0"), EPERM),
        (native(libc::SYS_sethostname, "@x 1"), EPERM),
        (native(libc::SYS_io_uring_setup, "0 0"), ENOSYS),
        (native(libc::SYS_personality, "0x40000"), ENOSYS),
        (native(1000, ""), ENOSYS),
        (native(libc::SYS_personality, "0xffffffff"), 0),
        (native(libc::SYS_unshare, "0"), 0),
        (native(libc::SYS_ptrace, "0x4206 999999 0 0"), -3),
    ];
    let asked: Vec<String> = calls.iter().map(|(call, _)| call.clone()).collect();
    let expected: Vec<String> = calls.iter().map(|(_, answer)| answer.to_string()).collect();
    for map in ["--map=subid", "--map=single"] {
        let found = answers(&scratch, &[map], &asked);
        for ((call, expected), found) in asked.iter().zip(&expected).zip(&found) {
            assert_eq!(found, expected, "{call} under {map}");
        }
    }
    // The same without the filter: the kernel's own answers.
    let bare = answers(&scratch, &["--map=subid", "--seccomp=none"], &asked);
    let changed = |index: &usize| bare[*index] != expected[*index];
    assert!([2, 3, 4, 5, 8, 9].iter().all(changed), "the filter makes no difference: {bare:?}");
}

#[test]
fn capabilities_open_the_profile() {
    let scratch = place();
    let chroot = native(libc::SYS_chroot, "@/tmp");
    let hostname = native(libc::SYS_sethostname, "@x 1");
    assert_eq!(answer(&scratch, &["--map=subid"], &chroot), "0");
    assert_eq!(answer(&scratch, &["--map=subid", "--cap-drop=SYS_CHROOT"], &chroot), "-1");
    assert_eq!(answer(&scratch, &["--map=subid", "--cap-add=SYS_ADMIN"], &hostname), "0");
    // AF_NETLINK, SOCK_RAW, NETLINK_AUDIT: as if there were no such protocol.
    let audit = native(libc::SYS_socket, "16 3 9");
    assert_ne!(answer(&scratch, &["--map=subid"], &audit), "-22");
    assert_eq!(answer(&scratch, &["--map=subid", "--cap-drop=AUDIT_WRITE"], &audit), "-22");
    assert_ne!(
        answer(&scratch, &["--map=subid", "--cap-drop=AUDIT_WRITE"], &native(libc::SYS_socket, "16 3 0")),
        "-22"
    );
}

/// A filter that knows one ABI is walked around through another.
#[cfg(target_arch = "x86_64")]
#[test]
fn foreign_abis_are_filtered_alike() {
    if run(["sh", "-c", "grep -q 'CONFIG_IA32_EMULATION is not set' /boot/config-$(uname -r)"]).done().code() == 0 {
        return skip("this kernel takes no i386 calls");
    }
    let scratch = place();
    let table = [
        ("i386 20", "pid"),          // getpid
        ("i386 357 0 0 0", "-1"),    // bpf
        ("i386 336 0 0 0", "-1"),    // perf_event_open
        ("i386 283", "-1"),          // kexec_load
        ("i386 136 0x40000", "-38"), // personality
        ("i386 999", "-38"),
        ("i386 374 0", "-1"),       // userfaultfd
        ("x32 321 0 0 0", "-1"),    // bpf
        ("x32 135 0x40000", "-38"), // personality
        ("x32 900", "-38"),
    ];
    let calls: Vec<String> = table.iter().map(|(call, _)| (*call).to_owned()).collect();
    let found = answers(&scratch, &["--map=subid"], &calls);
    for ((call, expected), found) in table.iter().zip(&found) {
        let right = if *expected == "pid" { found.parse().is_ok_and(|pid: i32| pid > 0) } else { found == expected };
        assert!(right, "{call}: {found}, not {expected}");
    }
    // A profile without the other ABIs ends who tries.
    let only = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"]}"#;
    scratch.write("only.json", only);
    let enter = |call: &[&str]| scratch.run(["d-enter", "--seccomp=only.json", "rootfs", "call"]).args(call);
    enter(&["x86_64", "39"]).ok();
    enter(&["i386", "20"]).code(128 + libc::SIGSYS);
    enter(&["x32", "39"]).code(128 + libc::SIGSYS);
}

#[test]
fn a_profile_of_the_users_own() {
    let scratch = place();
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1, "syscalls": [
        {"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
        {"names": ["sethostname"], "action": "SCMP_ACT_KILL_PROCESS"},
        {"names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 71,
         "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}]}"#;
    scratch.write("profile.json", profile);
    let enter = |command: &[&str]| scratch.run(["d-enter", "--seccomp=profile.json", "rootfs"]).args(command);
    enter(&["mkdir", "/tmp/x"]).code(1).err_has("No space left on device");
    enter(&["hostname", "x"]).code(128 + libc::SIGSYS);
    let priority = libc::SYS_getpriority.to_string();
    enter(&["call", NATIVE, &priority, "1", "0"]).ok().prints("-71");
    let nice = enter(&["call", NATIVE, &priority, "0", "0"]).ok();
    nice.expect(!nice.out().starts_with('-'), "20 minus the nice value of who runs the tests");
}

#[test]
fn profiles_that_are_refused() {
    let scratch = place();
    for (text, part) in [
        (r#"{"defaultAction": "SCMP_ACT_PLEASE"}"#, "SCMP_ACT_PLEASE"),
        (r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#, "SCMP_ACT_NOTIFY"),
        (r#"{"syscalls": []}"#, "defaultAction"),
        ("not json", "profile.json"),
    ] {
        scratch.write("profile.json", text);
        scratch.run(["d-enter", "--seccomp=profile.json", "rootfs", "true"]).fails(125).err_has(part);
    }
    scratch.run(["d-enter", "--seccomp=missing.json", "rootfs", "true"]).fails(125).err_has("missing.json");
}

#[test]
fn fakeroot_answers_what_only_root_may() {
    let scratch = place();
    let mut calls = vec![
        native(libc::SYS_fchownat, "-100 @/etc/passwd 33 33 0"),
        native(libc::SYS_setresuid, "33 33 33"),
        native(libc::SYS_setgroups, "1 %"),
        native(libc::SYS_setfsuid, "33"),
        native(libc::SYS_capset, "0 0"),
        native(libc::SYS_mknodat, "-100 @/tmp/device 0020600 0x103"),
        native(libc::SYS_mknodat, "-100 @/tmp/fifo 0010600 0"),
        native(libc::SYS_mknodat, "-100 @/tmp/file 0100600 0"),
    ];
    if cfg!(target_arch = "x86_64") {
        calls.extend(
            ["i386 212 @/etc/passwd 33 33", "i386 213 33", "i386 14 @/tmp/device 0060600 0x103"].map(str::to_owned),
        );
        // chown and setgroups with 16-bit ids.
        calls.extend(["i386 182 @/etc/passwd 33 33", "i386 81 1 %"].map(str::to_owned));
    }
    let script: String = calls.iter().map(|call| format!("call {call}\n")).collect();
    let after = "id -u; stat -c %u /etc/passwd; test -p /tmp/fifo; test -f /tmp/file; test ! -e /tmp/device";
    let enter =
        |options: &[&str], script: &str| scratch.run(["d-enter"]).args(options).args(["rootfs", "sh", "-ec", script]);
    let expected = "0\n".repeat(calls.len()) + "0\n0";
    for options in [&["--map=single"][..], &["--map=single", "--fakeroot"], &["--map=single", "-r"]] {
        enter(options, &format!("{script}{after}")).ok().prints(&expected);
    }
    let refused = enter(&["--map=single", "--no-fakeroot"], &script).ok();
    let refused: Vec<String> = refused.out().lines().map(str::to_owned).collect();
    assert_eq!(refused[..2], ["-22", "-22"], "the kernel's own answers");
}

/// Under a map of many ids chown works for real, and nothing is faked.
#[test]
fn fakeroot_is_not_needed_with_many_ids() {
    let scratch = place();
    let chown = "touch /tmp/x; chown 33:44 /tmp/x; stat -c %u:%g /tmp/x";
    scratch.run(["d-enter", "--map=subid", "rootfs", "sh", "-ec", chown]).ok().prints("33:44");
    scratch.run(["d-enter", "--map=single", "rootfs", "sh", "-ec", chown]).ok().prints("0:0");
}

/// A Debian root filesystem of the calling user, and a repository with a package that does all that is special.
fn debian() -> Scratch {
    let scratch = Scratch::new();
    fs::create_dir(scratch.join("rootfs")).unwrap();
    let tar = scratch.run(["tar", "--no-same-owner", "--exclude=./dev/*", "-C", "rootfs", "-xf"]);
    tar.arg(fixtures().join("debian.tar")).ok();
    scratch.write(
        "demo/DEBIAN/control",
        "Package: demo\nVersion: 1\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: a test\n",
    );
    let postinst = "#!/bin/sh\nset -e\nadduser --system --group --quiet --no-create-home --home /nonexistent demo\n\
                    chown demo:demo /usr/lib/demo/file\nchmod 2755 /usr/lib/demo/file\n\
                    mknod /usr/lib/demo/device c 1 3\nsu -s /bin/sh demo -c 'touch /usr/lib/demo/by-demo'\n";
    scratch.write("demo/DEBIAN/postinst", postinst);
    scratch.write("demo/usr/lib/demo/file", "content\n");
    let script = r#"
        chmod 755 demo/DEBIAN/postinst
        mkdir rootfs/repo
        fakeowner=--root-owner-group
        dpkg-deb $fakeowner --build demo rootfs/repo/demo.deb >/dev/null
        cd rootfs/repo
        { dpkg-deb -f demo.deb
          echo "Filename: ./demo.deb"
          echo "Size: $(stat -c %s demo.deb)"
          echo "SHA256: $(sha256sum demo.deb | cut -d' ' -f1)"; } >Packages
        rm -f ../etc/apt/sources.list ../etc/apt/sources.list.d/*
        echo 'deb [trusted=yes] file:/repo ./' >../etc/apt/sources.list
    "#;
    scratch.sh(script).ok();
    scratch
}

/// DESIGN's promise: apt and dpkg work with one id and without newuidmap.
#[test]
fn apt_and_dpkg_install_with_a_single_id() {
    if !have("dpkg-deb") {
        return skip("no dpkg-deb");
    }
    let scratch = debian();
    let enter = |command: &[&str]| scratch.run(["d-enter", "--map=single", "rootfs"]).args(command);
    let check = "dpkg -s demo | grep ^Status; stat -c '%u %a' /usr/lib/demo/file; test -e /usr/lib/demo/by-demo";
    let installed = "Status: install ok installed\n0 2755";
    enter(&["dpkg", "-i", "/repo/demo.deb"]).ok();
    enter(&["sh", "-ec", check]).ok().prints(installed);
    enter(&["dpkg", "--purge", "demo"]).ok();
    enter(&["apt-get", "update"]).ok();
    enter(&["apt-get", "install", "-y", "demo"]).ok();
    enter(&["sh", "-ec", check]).ok().prints(installed);
    // The image's own files tell nothing of the sandbox user that apt was given.
    assert!(!scratch.join("rootfs/run/apt.conf").exists());
    enter(&["sh", "-ec", "apt-config dump | grep ^APT::Sandbox::User"]).ok().out_has("root");
}

/// Keyrings are in no namespace: without a session keyring of its own the caller's keys could be read by their number, and even
/// so the keyring of the caller's user id (`KEYCTL_GET_KEYRING_ID` tells its number) could be linked into that one.
#[test]
fn the_callers_keys_cannot_be_read() {
    let scratch = place();
    let call = scratch.join("rootfs/bin/call").display().to_string();
    let (add, keyctl) = (libc::SYS_add_key, libc::SYS_keyctl);
    // In a session keyring of its own (KEYCTL_JOIN_SESSION_KEYRING) there is nothing to tidy up afterwards.
    let script = format!(
        "key=$({call} {NATIVE} {add} @user @d-tests @secret 6 -4)
         test $key -gt 0
         {call} {NATIVE} {keyctl} 11 $key % 4096
         d-enter --map=single rootfs call {NATIVE} {keyctl} 11 $key % 4096
         d-enter --map=subid rootfs call {NATIVE} {keyctl} 11 $key % 4096
         d-enter --map=subid --seccomp=none rootfs call {NATIVE} {keyctl} 11 $key % 4096
         {call} {NATIVE} {keyctl} 3 $key
         ring=$({call} {NATIVE} {keyctl} 0 -4 0)
         test $ring -gt 0
         d-enter --map=single rootfs call {NATIVE} {keyctl} 8 $ring -3
         d-enter --map=subid rootfs call {NATIVE} {keyctl} 8 $ring -3"
    );
    let done = scratch.sh(&script).ok();
    let out = done.out();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "6 secret", "the caller reads it: {out}");
    for line in &lines[1..4] {
        assert!(line.starts_with('-'), "inside it was read: {out}");
    }
    assert!(lines[5..].iter().all(|line| line.starts_with('-')) && lines.len() == 7, "it was linked: {out}");
}

/// What is outside the pid namespace has no number inside.
#[test]
fn processes_outside_are_out_of_reach() {
    let scratch = place();
    let pid = std::process::id();
    let calls = [
        native(libc::SYS_ptrace, &format!("16 {pid} 0 0")),
        native(libc::SYS_kill, &format!("{pid} 0")),
        native(libc::SYS_pidfd_open, &format!("{pid} 0")),
        native(libc::SYS_tgkill, &format!("{pid} {pid} 0")),
    ];
    for map in ["--map=subid", "--map=single"] {
        for (call, answer) in calls.iter().zip(answers(&scratch, &[map], &calls)) {
            assert_eq!(answer, "-3", "{call} under {map}");
        }
    }
}

/// The first process is d-enter's own: the command may not look into it, nor make it do something.
#[test]
fn the_init_process_cannot_be_taken_over() {
    let scratch = place();
    // PTRACE_ATTACH and PTRACE_SEIZE.
    let calls = [native(libc::SYS_ptrace, "16 1 0 0"), native(libc::SYS_ptrace, "0x4206 1 0 0")];
    for map in ["--map=subid", "--map=single"] {
        assert_eq!(answers(&scratch, &[map], &calls), ["-1", "-1"], "{map}");
        let look = "cat /proc/1/environ || readlink /proc/1/exe || readlink /proc/1/fd/0 || readlink /proc/1/cwd";
        scratch.run(["d-enter", map, "rootfs", "sh", "-c", look]).code(1).prints("");
    }
}

/// User namespaces may be made inside, as under podman; what they give is no more than d-enter had.
#[test]
fn a_user_namespace_inside_lifts_nothing() {
    let scratch = place();
    let enter = |script: &str| scratch.run(["d-enter", "--map=subid", "rootfs", "sh", "-c", script]);
    enter("unshare -U -r -m id -u").ok().prints("0");
    // Masked and read-only paths are locked together with the mounts that they cover.
    enter("unshare -U -r -m umount /proc/kcore").code(1);
    enter("unshare -U -r -m sh -c 'mount -o remount,bind,rw /proc/sys && echo x > /proc/sys/kernel/hostname'").code(1);
    enter("unshare -U -r -m mount -t sysfs sysfs /sys").code(1);
}

/// Characters pushed into the caller's terminal would be run by its shell.
#[test]
fn nothing_is_typed_into_the_callers_terminal() {
    if !have("script") {
        return skip("no script(1)");
    }
    let scratch = place();
    let ioctl = libc::SYS_ioctl;
    // TIOCSTI and TIOCLINUX. What script(1) itself writes to its terminal (^@ at the end of its input) is also in its output.
    for (tty, request) in [("never", 0x5412), ("never", 0x541c), ("auto", 0x541c)] {
        let call = format!("call {NATIVE} {ioctl} 0 {request:#x} @x");
        let inside = format!("case $({call}) in -*) echo refused;; *) echo typed;; esac");
        let command = format!("d-enter --tty={tty} rootfs sh -c '{inside}'");
        scratch.run(["script", "-qec", &command, "/dev/null"]).ok().out_has("refused");
    }
}

/// mount(2) needs a capability that the command has not, also where its user is 0.
#[test]
fn mounts_are_refused() {
    let scratch = place();
    let calls = [
        native(libc::SYS_mount, "@tmpfs @/tmp @tmpfs 0 0"),
        native(libc::SYS_umount2, "@/proc 2"),
        native(libc::SYS_pivot_root, "@/tmp @/tmp"),
        native(libc::SYS_fsopen, "@tmpfs 0"),
        native(libc::SYS_open_tree, "-100 @/ 1"),
    ];
    for map in ["--map=subid", "--map=single"] {
        for (call, answer) in calls.iter().zip(answers(&scratch, &[map], &calls)) {
            assert_eq!(answer, "-1", "{call} under {map}");
        }
    }
}
