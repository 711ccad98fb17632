//! `--memory --memory-swap --cpus --pids-limit` end to end, as far as any machine goes; `tests/vm` has the rest.

// Shared with tests/enter.rs, which uses all of it.
#[allow(dead_code)]
#[path = "enter/place.rs"]
mod place;

use place::{Place, under_both_maps};
use serde_json::json;

#[test]
fn limits_hold_or_are_refused() {
    under_both_maps(|place| {
        for (option, file, value) in [
            ("-m 64M", "memory.max", "67108864"),
            ("--memory=1g", "memory.max", "1073741824"),
            ("--pids-limit 20", "pids.max", "20"),
            ("--cpus 1.5", "cpu.max", "150000 100000"),
        ] {
            let done = place.sh(option, &format!("cat /sys/fs/cgroup/{file}")).done();
            if done.code() == 0 {
                done.prints(value);
                continue;
            }
            // Neither a delegated cgroup nor a manager: the cause in one line, and what can be done.
            done.expect(done.code() == 125 && done.errors().len() == 1, "125 and one line");
            done.prints("");
            let line = &done.errors()[0];
            done.expect(line.starts_with("d-enter: cannot limit anything: "), "what cannot be done");
            let remedies = ["systemd.unified_cgroup_hierarchy=1", "Delegate="];
            done.expect(remedies.iter().any(|remedy| line.contains(remedy)), "a remedy");
        }
    });
}

#[test]
fn what_is_no_limit_is_named() {
    let place = Place::new("single");
    for (options, option) in [
        ("-m lots", "--memory"),
        ("--memory=-5", "--memory"),
        ("--memory-swap 1G", "--memory-swap"),
        ("-m 1G --memory-swap 5M", "--memory-swap"),
        ("--cpus 0.0001", "--cpus"),
        ("--cpus two", "--cpus"),
        ("--pids-limit -7", "--pids-limit"),
        ("--pids-limit 1.5", "--pids-limit"),
    ] {
        place.sh(options, "true").fails(125).err_has(option);
    }
    place.config(json!({"memory": "lots"}));
    place.sh("", "true").fails(125).err_has("lots");
}

#[test]
fn no_limit_needs_nothing() {
    let place = Place::new("single");
    place.sh("--pids-limit -1 --cpus 0 -m 0", "echo ran").ok().prints("ran");
}

#[test]
fn the_plan_has_them() {
    let place = Place::new("single");
    let plan = place.plan("-m 64M --memory-swap 96M --cpus .5 --pids-limit 9");
    let expected = json!({"memory": 64 << 20, "swap": 32 << 20, "cpu": 500_000, "pids": 9});
    assert_eq!(plan["limits"], expected);
    place.config(json!({"memory": "1G", "pids-limit": "5"}));
    let plan = place.plan("--memory 2G");
    assert_eq!((&plan["limits"]["memory"], &plan["limits"]["pids"]), (&json!(2u64 << 30), &json!(5)));
}
