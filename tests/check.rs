//! `d-enter --check`: the machine of the tests can do everything that is needed, and what is taken away is named.

use d_tests::{Done, Scratch, have, is_root, run, skip};
use serde_json::Value;

/// The row of a name.
#[track_caller]
fn row(done: &Done, name: &str) -> Value {
    let rows = done.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let mut rows = rows.map(|line| serde_json::from_slice::<Value>(line).expect("a JSON object on each line"));
    rows.find(|row| row["check"] == name).unwrap_or_else(|| panic!("no row {name} in\n{done}"))
}

#[test]
fn a_container_can_be_started_here() {
    let text = run(["d-enter", "--check"]).ok();
    text.out_has("yes user-namespace").out_has("yes namespaces").silent();
    let json = run(["d-enter", "--check", "--json"]).ok();
    for name in ["user-namespace", "namespaces", "seccomp", "proc", "overlay"] {
        let row = row(&json, name);
        assert!(row["ok"] == true && row["remedy"].is_null(), "{row}");
    }
    assert_eq!(row(&json, "user-namespace")["needed"], true);
    let rows = text.out().lines().count();
    assert_eq!(json.out().lines().count(), rows, "the same rows in both forms");
}

/// One program reads the reports of all four.
#[test]
fn all_tools_report_in_the_same_form() {
    let scratch = Scratch::new();
    for tool in ["d-pull", "d-unpack", "d-enter", "d-netup"] {
        let json = scratch.run([tool, "--check", "--json"]).ok();
        let text = scratch.run([tool, "--check"]).ok().out();
        for (line, shown) in json.out().lines().zip(text.lines()) {
            let row: Value = serde_json::from_str(line).unwrap();
            let name = row["check"].as_str().unwrap_or_default();
            let known = ["check", "ok", "needed", "found", "remedy"];
            let only_known = row.as_object().unwrap().keys().all(|key| known.contains(&key.as_str()));
            let complete =
                !name.is_empty() && !name.contains(' ') && row["found"].is_string() && row["needed"].is_boolean();
            assert!(only_known && complete && (row["ok"] == true) == row["remedy"].is_null(), "{tool}: {row}");
            assert!(
                shown.starts_with(&format!("{:<4}{name} ", if row["ok"] == true { "yes" } else { "no" })),
                "{shown}"
            );
        }
        assert_eq!(json.out().lines().count(), text.lines().count(), "{tool}");
    }
}

/// Every "no" says why and what to do.
#[test]
fn what_is_missing_has_a_cause_and_a_remedy() {
    let scratch = Scratch::new();
    // In a namespace where the caller has no id of its own no further one can be made.
    let done = scratch.run(["unshare", "-U", "d-enter", "--check", "--json"]).done();
    done.expect(done.code() != 0, "a failure: no container can be started");
    let user = row(&done, "user-namespace");
    assert!(user["ok"] == false && user["found"].as_str().is_some_and(|cause| cause.contains("EPERM")), "{user}");
    for line in done.out().lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let complete = row["found"].as_str().is_some_and(|found| !found.is_empty());
        assert!(complete && (row["ok"] == true) == row["remedy"].is_null(), "{row}");
    }
}

#[test]
fn helpers_that_are_not_in_path_are_named() {
    let done = run(["d-enter", "--check", "--json"]).env("PATH", "/nonexistent").ok();
    for name in ["slirp4netns", "newuidmap"] {
        assert_eq!(row(&done, name)["ok"], false, "{name}");
    }
    if !is_root() {
        assert_eq!(row(&done, "map-subid")["ok"], false);
    }
}

#[test]
fn a_limit_of_no_user_namespaces_is_recognised() {
    // In a namespace of our own we may set the limit for what is made inside.
    let script = "echo 0 >/proc/sys/user/max_user_namespaces && exec d-enter --check --json";
    let done = run(["unshare", "-U", "-r", "sh", "-c", script]).done();
    done.expect(done.code() != 0, "a failure: no container can be started");
    let sysctl = row(&done, "userns-sysctl");
    assert!(sysctl["ok"] == false && sysctl["remedy"].as_str().is_some_and(|r| r.contains("sysctl")), "{sysctl}");
    let user = row(&done, "user-namespace");
    assert!(user["found"].as_str().is_some_and(|cause| cause.contains("max_user_namespaces")), "{user}");
}

/// The AppArmor profiles, as they were when the tests were built.
const PROFILES: [(&str, &str); 3] = [
    ("d-unpack", include_str!("../unpack/apparmor/d-unpack")),
    ("d-enter", include_str!("../enter/apparmor/d-enter")),
    ("d-netup", include_str!("../netup/apparmor/d-netup")),
];

/// Parsed, not loaded: that needs a kernel with AppArmor, and root. Before version 4 the parser knows neither the rule `userns`
/// nor its abi; there the rest is parsed, by what Debian 12 has.
#[test]
fn the_apparmor_profiles_are_understood() {
    if !have("apparmor_parser") {
        return skip("no apparmor_parser");
    }
    let old = run(["apparmor_parser", "--version"]).ok().out().contains("version 3.");
    let scratch = Scratch::new();
    for (tool, text) in PROFILES {
        assert!(text.lines().any(|line| line.trim() == "userns,"), "{tool}: lifts the restriction");
        assert!(text.contains(&format!("profile {tool} /usr/{{,local/}}bin/{tool} flags=(unconfined)")), "{tool}");
        let known = if old { text.replace("abi/4.0", "abi/3.0").replace("userns,", "") } else { text.to_owned() };
        let profile = scratch.write(tool, known);
        run(["apparmor_parser", "--skip-kernel-load", "--skip-cache"]).arg(profile).ok();
        let broken = scratch.write(tool, text.replace("flags=", "flag="));
        run(["apparmor_parser", "--skip-kernel-load", "--skip-cache"]).arg(broken).code(1);
    }
}
