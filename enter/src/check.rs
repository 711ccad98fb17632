//! `d-enter --check`: what this machine can do, each with yes or no, and for each no the cause and the remedy.
//!
//! What can be tried is tried ([`tried`]): a kernel says yes in its settings and no in its deeds, behind a security module or
//! inside another container. The rest is read from files ([`machine`], [`cgroup`]). A container can be started when everything
//! that is `needed` is there; what else is missing costs an option, and d-enter says so when that option is used.

mod cgroup;
mod machine;
mod tried;

use d_common::check::{Row, report};
use d_common::idmap::Facts;
use d_common::userns;

/// The report, and whether a container can be started here. With `json` a row is a JSON object on a line of its own.
///
/// It makes short-lived processes in namespaces of their own, so the caller must have one thread.
pub fn run(json: bool) -> (String, bool) {
    report(&rows(&userns::facts()), json)
}

fn rows(facts: &Facts) -> Vec<Row> {
    let mut rows = vec![machine::sysctls(facts.privileged), machine::apparmor(facts.privileged)];
    rows.extend(tried::rows(facts));
    rows.extend([
        machine::subordinate_ids(facts),
        machine::id_helpers(facts),
        machine::seccomp(),
        machine::tun(),
        machine::program("slirp4netns", "--net user", "install slirp4netns"),
        machine::program("d-netup", "--net user", "install d-netup, or name it in D_NETUP"),
        machine::program("fuse-overlayfs", "--ephemeral where the kernel takes no overlay", "install fuse-overlayfs"),
    ]);
    rows.extend(cgroup::rows());
    rows.push(machine::systemd());
    rows
}
