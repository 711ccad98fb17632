//! Containers that other programs have made.

use d_tests::{Running, have, skip};

use crate::place::Place;
use crate::running::{SOON, join};

fn joined(place: &Place, other: &Running, script: &str) -> d_tests::Done {
    join(place, other.pid(), "", &["sh", "-c", script]).timeout(SOON).ok()
}

#[test]
fn of_bwrap_by_its_own_pid() {
    if !have("bwrap") {
        return skip("no bwrap");
    }
    let place = Place::new("single");
    let root = place.rootfs("").display().to_string();
    let script =
        format!("exec bwrap --bind {root} / --proc /proc --dev /dev --unshare-all --setenv WHO bwrap sleep 300");
    let other = place.scratch.sh(&script).spawn();
    // With the built-in filter, since that of others cannot be known; and no more capabilities than it has.
    let show = "echo $WHO $(hostname >/dev/null && cat /proc/2/cmdline | tr '\\0' ' '); grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/self/status";
    joined(&place, &other, show).prints("bwrap sleep 300\nCapBnd:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2");
}

#[test]
fn of_unshare() {
    let place = Place::new("single");
    let mut other =
        place.scratch.run(["unshare", "-Urmpf", "--mount-proc", "sh", "-c", "echo up; exec sleep 300"]).spawn();
    other.wait_out("up");
    let done = joined(&place, &other, "id -u; cat /proc/1/comm; ls -d /proc/[0-9]* | wc -l");
    assert_eq!(done.out().lines().collect::<Vec<_>>()[..2], ["0", "sleep"]);
    let terminal = join(&place, other.pid(), "-t", &["sh", "-c", "test -t 0 && echo a terminal"]);
    terminal.ok().prints("a terminal\r");
}
