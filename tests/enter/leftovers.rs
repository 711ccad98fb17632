//! Nothing is left: no process, mount, file or helper.

use std::fs;
use std::time::Duration;

use d_tests::{Scratch, alive, children, eventually};
use rustix::process::Signal;

use crate::place::{Place, under_both_maps};

fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").expect("mountinfo")
}

fn names(scratch: &Scratch) -> (Vec<String>, Vec<String>) {
    (scratch.names("box"), scratch.names("box/rootfs"))
}

#[test]
fn a_hundred_starts_at_once_leave_nothing() {
    under_both_maps(|place| {
        place.sh("", "true").ok();
        let before = (mounts(), names(&place.scratch));
        let all: Vec<_> = (0..100).map(|n| place.sh("", &format!("exit {}", n % 100)).spawn()).collect();
        let inside: Vec<u32> = all.iter().flat_map(|r| children(r.pid())).collect();
        for (n, running) in all.into_iter().enumerate() {
            let done = running.wait(Duration::from_secs(120));
            done.expect(done.code() == n as i32 % 100, "its own code").silent();
        }
        assert!(!inside.iter().any(|p| alive(*p)));
        assert_eq!((mounts(), names(&place.scratch)), before);
    });
}

#[test]
fn killed_at_any_moment_it_leaves_nothing() {
    under_both_maps(|place| {
        place.sh("-n", "true").ok();
        let before = (mounts(), names(&place.scratch));
        let mut pids = Vec::new();
        for n in 0..30u64 {
            let options = if n % 3 == 0 { "-n" } else { "" };
            let running = place.sh(options, "sleep 1000").spawn();
            std::thread::sleep(Duration::from_millis(n * 3));
            pids.extend(children(running.pid()));
            running.signal(Signal::KILL);
            drop(running);
        }
        // Whatever was born after our look has the scratch folder as its root or directory.
        let ours = || {
            fs::read_dir("/proc").expect("/proc").flatten().any(|e| {
                let path = e.path();
                fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(place.scratch.path()))
            })
        };
        assert!(eventually(Duration::from_secs(20), || !pids.iter().any(|p| alive(*p)) && !ours()), "{pids:?}");
        assert_eq!((mounts(), names(&place.scratch)), before);
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
fn many_starts_in_a_row_leave_nothing() {
    let place = Place::new("single");
    place
        .outside("i=0; while [ $i -lt 200 ]; do d-enter --map single box true; i=$((i + 1)); done")
        .timeout(Duration::from_secs(300))
        .ok()
        .silent();
    assert_eq!(place.scratch.names("box"), ["config.json", "rootfs"]);
}
