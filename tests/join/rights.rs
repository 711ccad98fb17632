//! What a joined command may do: what the running one may, and never more.

use std::fs;

use d_tests::Scratch;
use serde_json::json;

use crate::place::{Place, under_both_maps};
use crate::running::{join, pids, start};

/// The lines of a status that are about rights.
fn rights(status: &str) -> Vec<String> {
    let names = ["Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "Seccomp"];
    status.lines().filter(|l| names.iter().any(|n| l.starts_with(n))).map(str::to_owned).collect()
}

#[test]
fn rights_are_the_running_commands() {
    under_both_maps(|place| {
        for options in [
            "",
            "-u web",
            "--cap-drop ALL",
            "--cap-add NET_ADMIN,SYS_PTRACE",
            "--no-new-privs",
            "--seccomp none",
            "-u web --cap-add NET_RAW",
            "--no-fakeroot",
            "-u 33:0",
        ] {
            let running = start(place, options);
            // Its own view of itself, from inside.
            let (_, command) = pids(&running);
            let inside = fs::read_to_string(format!("/proc/{command}/status")).expect("its status");
            let number =
                inside.lines().find_map(|l| l.strip_prefix("NSpid:")?.split_whitespace().last()).expect("a pid");
            let script = format!("cat /proc/{number}/status; echo; cat /proc/self/status");
            let done = join(place, running.pid(), "", &["sh", "-c", &script]).ok();
            let (theirs, ours) = done.out().split_once("\n\n").map(|(a, b)| (rights(a), rights(b))).expect("two texts");
            assert_eq!(theirs, ours, "{options} under {}", place.map);
            assert!(theirs.len() >= 10, "{theirs:?}");
        }
    });
}

#[test]
fn a_filter_from_a_file_outlives_the_file() {
    under_both_maps(|place| {
        let profile = json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]});
        let file = place.scratch.write("profile.json", profile.to_string());
        let running = start(place, &format!("--seccomp {}", file.display()));
        fs::remove_file(file).expect("the profile");
        join(place, running.pid(), "", &["mkdir", "/tmp/x"]).code(1).err_has("No space left on device");
    });
}

#[test]
fn another_user_of_the_container() {
    let place = Place::new("subid");
    let running = start(&place, "");
    let script = "id -u; id -g; id -G; echo $HOME; grep -E 'Cap(Eff|Bnd)' /proc/self/status | cut -f2";
    join(&place, running.pid(), "-u web", &["sh", "-c", script])
        .ok()
        .prints("33\n33\n33 44\n/var\n0000000000000000\n00000000a80425fb");
    let place = Place::new("subid");
    let web = start(&place, "-u web --no-new-privs");
    // Under no_new_privs root has no more than the running command had.
    join(&place, web.pid(), "-u root", &["sh", "-c", "id -u; grep CapEff /proc/self/status | cut -f2"])
        .ok()
        .prints("0\n0000000000000000");
}

#[test]
fn nothing_of_the_caller_comes_along() {
    under_both_maps(|place| {
        let running = start(place, "");
        let script = "exec 9<secret; d-enter --join PID sh -c 'ls /proc/self/fd | wc -l; env | grep -c SECRET; ls -d /proc/[0-9]* | wc -l'";
        let script = script.replace("PID", &running.pid().to_string());
        place.scratch.write("secret", "secret");
        // Descriptors 0, 1, 2 and that of ls; pids: the init, the command, the shell, ls and wc. The process beside is in no /proc.
        let done =
            place.outside(&script).env("SECRET", "1").env("XDG_RUNTIME_DIR", place.scratch.join("runtime")).done();
        assert_eq!(done.out().lines().map(str::trim).collect::<Vec<_>>(), ["4", "0", "5"], "{}", done.err());
    });
}

#[test]
fn a_descriptor_is_kept_where_that_is_asked_for() {
    let place = Place::new("single");
    let running = start(&place, "");
    let scratch: &Scratch = &place.scratch;
    scratch.write("text", "kept\n");
    let script = format!("exec 5<text; d-enter --join {} --keep-fd 5 cat /proc/self/fd/5", running.pid());
    scratch.sh(&script).env("XDG_RUNTIME_DIR", scratch.join("runtime")).ok().prints("kept");
}
