//! `--net ns:PATH`.

use std::fs;

use d_tests::{Running, is_root, skip};

use crate::place::{Place, under_both_maps};
use crate::running::{SOON, pids, start};

fn network(pid: u32) -> String {
    fs::read_link(format!("/proc/{pid}/ns/net")).expect("a network namespace").display().to_string()
}

#[test]
fn of_another_container() {
    under_both_maps(|place| {
        let running = start(place, "");
        let (_, command) = pids(&running);
        let done = place
            .sh(
                &format!("--net ns:/proc/{command}/ns/net"),
                "readlink /proc/self/ns/net; id -u; cat /proc/self/uid_map | wc -l",
            )
            .ok();
        let lines = if place.map == "subid" { 2 } else { 1 };
        assert_eq!(
            done.out().split_whitespace().collect::<Vec<_>>(),
            [network(command), "0".into(), lines.to_string()]
        );
        // The one is heard on the loopback of the other.
        let mut server = crate::running::join(
            place,
            running.pid(),
            "",
            &["sh", "-c", "echo up; echo hello | nc -l -p 4711 127.0.0.1"],
        )
        .spawn();
        server.wait_out("up");
        let client = format!("--net ns:/proc/{command}/ns/net");
        let script = "for i in 1 2 3 4 5 6 7 8 9; do nc 127.0.0.1 4711 </dev/null && exit; sleep 0.3; done; exit 1";
        place.sh(&client, script).timeout(SOON).ok().prints("hello");
    });
}

#[test]
fn of_unshare() {
    let place = Place::new("single");
    let mut other: Running = place.scratch.run(["unshare", "-Urn", "sh", "-c", "echo up; exec sleep 300"]).spawn();
    other.wait_out("up");
    let done = place.sh(&format!("--net ns:/proc/{}/ns/net", other.pid()), "readlink /proc/self/ns/net; id -u").ok();
    done.prints(&format!("{}\n0", network(other.pid())));
    // There is one id, whatever the directory was unpacked for: that is never taken silently.
    let net = format!("ns:/proc/{}/ns/net", other.pid());
    let place = Place::new("subid");
    let enter =
        |map: &str| place.scratch.run(["d-enter", "--net", &net, "--map", map, "box", "cat", "/proc/self/uid_map"]);
    enter("subid").fails(125).err_has("one id only");
    let bare = enter("auto").code(0);
    assert_eq!(
        (bare.out().lines().count(), bare.err().lines().count()),
        (1, 1),
        "single, with a warning: {}",
        bare.err()
    );
}

#[test]
fn of_nobody_we_rule_over() {
    if is_root() {
        return skip("root rules over all");
    }
    let place = Place::new("single");
    for (path, why) in [
        ("/proc/self/ns/net", "only root rules"),
        ("/proc/self/ns/user", "namespace"),
        ("/etc/passwd", "no namespace"),
        ("/nowhere", "/nowhere"),
    ] {
        place.sh(&format!("--net ns:{path}"), "true").fails(125).err_has(why);
    }
    place.sh("--net ns:/proc/self/ns/net -p 80", "true").fails(125).err_has("--publish");
}
