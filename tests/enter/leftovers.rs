//! Nothing is left: no process, mount, file or helper.

use std::fs;
use std::time::Duration;

use d_tests::{Scratch, alive, children, eventually};
use rustix::process::Signal;

use crate::place::{Place, under_both_maps};

/// The mounts outside that have to do with the test's folder: others may come and go.
fn mounts(scratch: &Scratch) -> Vec<String> {
    let all = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let path = scratch.path().display().to_string();
    all.lines().filter(|line| line.contains(&path)).map(str::to_owned).collect()
}

fn names(scratch: &Scratch) -> (Vec<String>, Vec<String>) {
    (scratch.names("box"), scratch.names("box/rootfs"))
}

/// Whether any process has the scratch folder as its directory: also one that was born after its parent was looked at.
fn is_used(place: &Place) -> bool {
    let directory = |process: fs::DirEntry| fs::read_link(process.path().join("cwd"));
    let inside = |process| directory(process).is_ok_and(|cwd| cwd.starts_with(place.scratch.path()));
    fs::read_dir("/proc").expect("/proc").flatten().any(inside)
}

#[test]
fn a_hundred_starts_at_once_leave_nothing() {
    under_both_maps(|place| {
        place.sh("", "true").ok();
        let before = (mounts(&place.scratch), names(&place.scratch));
        let all: Vec<_> = (0..100).map(|n| place.sh("", &format!("exit {}", n % 100)).spawn()).collect();
        let inside: Vec<u32> = all.iter().flat_map(|r| children(r.pid())).collect();
        for (n, running) in all.into_iter().enumerate() {
            let done = running.wait(Duration::from_secs(120));
            done.expect(done.code() == n as i32 % 100, "its own code").silent();
        }
        assert!(!inside.iter().any(|p| alive(*p)));
        assert_eq!((mounts(&place.scratch), names(&place.scratch)), before);
    });
}

#[test]
fn killed_at_any_moment_it_leaves_nothing() {
    under_both_maps(|place| {
        place.sh("-n", "true").ok();
        let before = (mounts(&place.scratch), names(&place.scratch));
        let mut pids = Vec::new();
        for n in 0..30u64 {
            let options = if n % 3 == 0 { "-n" } else { "" };
            let running = place.sh(options, "sleep 1000").spawn();
            std::thread::sleep(Duration::from_millis(n * 3));
            pids.extend(children(running.pid()));
            running.signal(Signal::KILL);
            drop(running);
        }
        let gone = || !pids.iter().any(|p| alive(*p)) && !is_used(place);
        assert!(eventually(Duration::from_secs(20), gone), "{pids:?}");
        assert_eq!((mounts(&place.scratch), names(&place.scratch)), before);
    });
}

#[test]
fn ended_at_any_moment_it_says_so() {
    under_both_maps(|place| {
        for n in 0..20u64 {
            let running = place.sh(if n % 5 == 0 { "-n" } else { "" }, "sleep 1000").spawn();
            // Before this the program itself may not have begun.
            std::thread::sleep(Duration::from_millis(10 + n * 4));
            running.signal(Signal::TERM);
            let done = running.wait(Duration::from_secs(20));
            done.expect(done.code() == 143, "143");
        }
    });
}

#[test]
fn a_thousand_starts_in_a_row_leave_nothing() {
    let place = Place::new("single");
    place.sh("", "true").ok();
    let before = (mounts(&place.scratch), names(&place.scratch));
    place
        .outside("i=0; while [ $i -lt 1000 ]; do d-enter --map single box true || exit; i=$((i + 1)); done")
        .timeout(Duration::from_secs(300))
        .ok()
        .silent();
    assert_eq!((mounts(&place.scratch), names(&place.scratch)), before);
    assert!(!is_used(&place));
}
