//! PID 1: signals, stops, orphans, the end of the rest; the caller's death.

use std::time::Duration;

use d_tests::{alive, children, eventually, run};
use rustix::process::Signal;
use serde_json::json;

use crate::place::{Place, under_both_maps};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn catchable_signals_are_forwarded() {
    under_both_maps(|place| {
        for (signal, name) in [
            (Signal::TERM, "TERM"),
            (Signal::INT, "INT"),
            (Signal::HUP, "HUP"),
            (Signal::QUIT, "QUIT"),
            (Signal::USR1, "USR1"),
            (Signal::USR2, "USR2"),
            (Signal::WINCH, "WINCH"),
            (Signal::ALARM, "ALRM"),
        ] {
            let script = format!("trap 'echo got {name}; exit 7' {name}; echo up; while :; do sleep 0.05; done");
            let mut running = place.sh("", &script).spawn();
            running.wait_out("up");
            running.signal(signal);
            let done = running.wait(SOON);
            done.expect(done.code() == 7 && done.out().contains(&format!("got {name}")), name);
        }
        // Without a handler the command dies of it, which d-enter tells by its exit code.
        for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129), (Signal::USR1, 138)] {
            let mut running = place.sh("", "echo up; exec sleep 100").spawn();
            running.wait_out("up");
            running.signal(signal);
            let done = running.wait(SOON);
            done.expect(done.status.code() == Some(code), &code.to_string());
        }
    });
}

#[test]
fn sigterm_becomes_the_images_stop_signal() {
    under_both_maps(|place| {
        for stop in ["SIGQUIT", "QUIT", "3"] {
            place.config(json!({"StopSignal": stop}));
            for options in ["", "--as-pid-1"] {
                let mut running =
                    place.sh(options, "trap 'echo quit; exit 9' QUIT; echo up; while :; do sleep 0.05; done").spawn();
                running.wait_out("up");
                running.signal(Signal::TERM);
                let done = running.wait(SOON);
                done.expect(done.code() == 9 && done.out().contains("quit"), stop);
            }
        }
    });
}

#[test]
fn orphans_are_reaped_and_the_rest_ends_with_the_command() {
    under_both_maps(|place| {
        let script = "for i in 1 2 3 4 5; do (sleep 0.01 &) ; done; sleep 0.3; ps -o stat,args | grep -c '^Z'; true";
        place.sh("", script).ok().prints("0");
        let done = place.sh("", "sleep 1000 & setsid sleep 1000 & (trap '' TERM HUP; sleep 1000) & exit 4").code(4);
        done.expect(done.took < SOON, "its end");
        place.sh("", "echo $$").ok().prints("2");
    });
}

#[test]
fn the_command_may_be_pid_1() {
    under_both_maps(|place| {
        place.sh("--as-pid-1", "echo $$").ok().prints("1");
        place.sh("--as-pid-1", "exit 5").code(5);
        place.enter(&["--as-pid-1"], &["/nope"]).fails(127);
        place.enter(&["--as-pid-1", "--share", "pid"], &["true"]).fails(125);
        let mut running = place.sh("--as-pid-1", "trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done").spawn();
        running.wait_out("up");
        running.signal(Signal::TERM);
        running.wait(SOON).expect(true, "an end");
    });
}

#[test]
fn a_stop_inside_is_a_stop_outside() {
    let state = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().and_then(|s| s.chars().next())
    };
    under_both_maps(|place| {
        // A caller may ignore the signal of Ctrl-Z.
        for first in ["", "trap '' TSTP;"] {
            let inside = "echo up; kill -STOP $$; echo on; exit 6";
            let outside = format!("{first} exec d-enter --map $MAP box sh -c '{inside}'");
            let mut running = place.outside(&outside).spawn();
            running.wait_out("up");
            assert!(eventually(SOON, || state(running.pid()) == Some('T')), "d-enter stops too");
            running.signal(Signal::CONT);
            let done = running.wait(SOON);
            done.expect(done.code() == 6 && done.out().contains("on"), "it goes on");
        }
    });
}

#[test]
fn everything_ends_with_d_enter() {
    under_both_maps(|place| {
        for options in ["", "--as-pid-1", "--share pid", "-n", "-t"] {
            let mut running = place.sh(options, "sleep 1000 & setsid sleep 1000 & echo up; wait").spawn();
            running.wait_out("up");
            let inside = children(running.pid());
            assert!(inside.len() >= 3, "{options}: {inside:?}");
            running.signal(Signal::KILL);
            assert!(eventually(SOON, || !inside.iter().any(|p| alive(*p))), "{options}: {inside:?} outlive d-enter");
        }
    });
}

#[test]
fn die_with_parent_is_by_request() {
    under_both_maps(|place| {
        let start = |options: &str| {
            let script = format!(
                "d-enter --map $MAP {options} --pid-file pid box sleep 1000 >/dev/null 2>&1 & while [ ! -s pid ]; do sleep 0.02; done; echo $!; cat pid"
            );
            let done = place.outside(&script).ok();
            let pids: Vec<u32> = done.out().lines().map(|l| l.parse().expect("a pid")).collect();
            (pids[0], pids[1])
        };
        let (enter, command) = start("--die-with-parent");
        assert!(eventually(SOON, || !alive(enter) && !alive(command)), "{enter} and {command} outlive the caller");
        let _ = std::fs::remove_file(place.scratch.join("pid"));
        let (enter, command) = start("");
        std::thread::sleep(Duration::from_millis(300));
        assert!(alive(enter) && alive(command), "it outlives its caller");
        run(["kill", &enter.to_string()]).ok();
        assert!(eventually(SOON, || !alive(enter) && !alive(command)));
    });
}

#[test]
fn nohup_and_background_jobs_go_on() {
    let place = Place::new("single");
    let script = "nohup d-enter --map single --pid-file pid box sh -c 'sleep 1; echo finished' >out 2>err & \
                  while [ ! -s pid ]; do sleep 0.02; done; kill -HUP $!; wait $!; echo $?; cat out";
    place.outside(script).ok().prints("0\nfinished");
}
