//! Capabilities, no_new_privs, system call filters, and what the caller keeps to itself.

use crate::place::{Place, under_both_maps};

/// Docker's default set (moby, oci/caps/defaults.go).
const DEFAULT: u64 = 0x0000_0000_a804_25fb;

fn set(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
    u64::from_str_radix(line.trim_start_matches(':').trim(), 16).expect("a hexadecimal number")
}

#[test]
fn root_has_dockers_capabilities_and_others_none() {
    under_both_maps(|place| {
        let status = |options: &str| place.sh(options, "cat /proc/self/status").ok().out();
        let root = status("");
        for name in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(set(&root, name), DEFAULT, "{name}");
        }
        assert_eq!((set(&root, "CapInh"), set(&root, "CapAmb")), (0, 0));
        let web = status("-u web");
        for name in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(set(&web, name), 0, "{name}");
        }
    });
}

#[test]
fn capabilities_are_added_and_dropped() {
    under_both_maps(|place| {
        let effective = |options: &str| set(&place.sh(options, "cat /proc/self/status").ok().out(), "CapEff");
        let bounding = |options: &str| set(&place.sh(options, "cat /proc/self/status").ok().out(), "CapBnd");
        let (sys_admin, chown, net_admin, kill) = (1 << 21, 1, 1 << 12, 1 << 5);
        assert_eq!(effective("--cap-add SYS_ADMIN"), DEFAULT | sys_admin);
        assert_eq!(effective("--cap-add=CAP_SYS_ADMIN,net_admin"), DEFAULT | sys_admin | net_admin);
        assert_eq!(effective("--cap-drop CHOWN --cap-drop cap_kill"), DEFAULT & !chown & !kill);
        assert_eq!(effective("--cap-drop ALL"), 0);
        assert_eq!(bounding("--cap-drop ALL"), 0);
        assert_eq!(effective("--cap-drop ALL --cap-add CHOWN"), chown);
        let all = effective("--cap-add ALL");
        assert_eq!(all & 0x1ff_ffff_ffff, all);
        assert!(all > DEFAULT && all & sys_admin != 0);
        assert_eq!(effective("--cap-add ALL --cap-drop SYS_ADMIN"), all & !sys_admin);
        // Another user gets what is added, as docker has it not but podman and the word say.
        assert_eq!(effective("-u web --cap-add KILL"), kill);
    });
}

#[test]
fn no_new_privs_when_asked() {
    let place = Place::new("subid");
    let flag = |options: &str| place.sh(options, "grep NoNewPrivs /proc/self/status | cut -f 2").ok().out();
    assert_eq!((flag(""), flag("--no-new-privs"), flag("-u web")), ("0".into(), "1".into(), "0".into()));
}

#[test]
fn a_filter_is_on_unless_none() {
    under_both_maps(|place| {
        let mode = |options: &str| place.sh(options, "grep ^Seccomp: /proc/self/status | cut -f 2").ok().out();
        assert_eq!((mode(""), mode("--seccomp default")), ("2".into(), "2".into()));
        assert_eq!(mode("--seccomp none -u web"), "0");
        // It forbids what containers must not do.
        place.sh("", "unshare -m true 2>/dev/null && echo made || echo refused").ok().prints("refused");
        let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls":
            [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]}"#;
        place.scratch.write("profile.json", profile);
        place.sh("--seccomp profile.json", "mkdir /made 2>&1 || true").ok().out_has("not implemented");
        place.scratch.write("bad.json", "{\"defaultAction\": 5}");
        place.enter(&["--seccomp", "bad.json"], &["true"]).fails(125).err_has("bad.json");
    });
}

/// One that forbids what d-enter itself needs on the way to the command may forbid to say so, too.
#[test]
fn a_filter_that_lets_nothing_start_is_told() {
    under_both_maps(|place| {
        for (name, profile) in [
            (
                "execve",
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["execve"], "action": "SCMP_ACT_ERRNO"}]}"#,
            ),
            (
                "most",
                r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["write", "exit_group"], "action": "SCMP_ACT_ALLOW"}]}"#,
            ),
            ("all", r#"{"defaultAction": "SCMP_ACT_ERRNO"}"#),
            ("dies", r#"{"defaultAction": "SCMP_ACT_KILL_PROCESS"}"#),
        ] {
            place.scratch.write(name, profile);
            place.enter(&["--seccomp", name], &["true"]).fails(126);
            place.enter(&["--as-pid-1", "--seccomp", name], &["true"]).fails(126);
        }
        place.sh("", "exit 125").code(125).silent();
        place.sh("", "kill -SEGV $$").code(139).silent();
    });
}

#[test]
fn the_host_cannot_be_seen_or_signalled() {
    under_both_maps(|place| {
        let me = std::process::id();
        place.sh("", &format!("kill -0 {me} 2>/dev/null && echo signalled; ps | grep -c d-tests; true")).ok();
        let done = place.sh("", "ps -o pid,args").env("SECRET", "in-the-callers-environment").ok();
        done.expect(!done.out().contains("box"), "no argument of d-enter");
        // PID 1 hides the caller: its environment, its arguments, its memory, its descriptors, its executable.
        let script = "cat /proc/1/environ 2>/dev/null | tr '\\0' '\\n'; cat /proc/1/cmdline | tr '\\0' ' '; \
                      ls /proc/1/fd 2>/dev/null; readlink /proc/1/exe; head -c 1 /proc/1/mem 2>/dev/null; readlink /proc/1/cwd; true";
        for options in ["", "--cap-add ALL --seccomp none", "-u web"] {
            let done = place.sh(options, script).env("SECRET", "in-the-callers-environment").ok();
            for word in ["SECRET", "callers", "box", "d-enter", "--map"] {
                done.expect(!done.out().contains(word), &format!("no {word} under {options:?}"));
            }
        }
        // The old root is gone.
        place
            .sh(
                "--cap-add ALL --seccomp none",
                "cat /proc/self/mountinfo | grep -c /box/rootfs/..; chroot /proc/1/root true 2>/dev/null; true",
            )
            .ok();
    });
}
