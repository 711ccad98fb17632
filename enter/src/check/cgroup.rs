//! Limits through the caller's own cgroup: is there a version 2 hierarchy, with which controllers, and is it delegated?

use std::fs;
use std::path::Path;

use d_common::check::Row;
use rustix::fs::{Access, access};

use crate::cgroup::{ROOT, own_path};

/// What --memory, --cpus and --pids-limit need.
const WANTED: [&str; 3] = ["memory", "cpu", "pids"];
const ELSEWHERE: &str = "a systemd user manager (row systemd-user) gives limits without it";

/// The rows of cgroups.
pub(super) fn rows() -> [Row; 2] {
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let text = read(Path::new("/proc/self/cgroup"));
    let own = own_path(&text).map(|path| Path::new(ROOT).join(path));
    // The file is there only in version 2, and at the top of a hybrid setup it lies elsewhere.
    let Some(own) = own.filter(|own| own.join("cgroup.controllers").exists()) else {
        let cause = format!("{ROOT} is no cgroup version 2 hierarchy, or not the one that this process is in");
        let remedy = format!("boot with systemd.unified_cgroup_hierarchy=1; {ELSEWHERE}");
        return ["cgroup-controllers", "cgroup-delegation"].map(|name| Row::no(name, cause.clone(), remedy.clone()));
    };
    [controllers(&read(&own.join("cgroup.controllers"))), delegation(&own)]
}

fn controllers(available: &str) -> Row {
    const NAME: &str = "cgroup-controllers";
    let missing: Vec<&str> =
        WANTED.into_iter().filter(|name| !available.split_whitespace().any(|a| a == *name)).collect();
    if missing.is_empty() {
        return Row::yes(NAME, WANTED.join(" "));
    }
    Row::no(
        NAME,
        format!("this cgroup lacks {}", missing.join(" ")),
        format!("Delegate=cpu memory pids for user@.service (systemd.resource-control(5)); {ELSEWHERE}"),
    )
}

/// Delegated means: the user may make child cgroups and move processes into them (cgroups(7), "Cgroups delegation").
fn delegation(own: &Path) -> Row {
    const NAME: &str = "cgroup-delegation";
    let mut files = [own.to_owned(), own.join("cgroup.procs"), own.join("cgroup.subtree_control")].into_iter();
    match files.find(|path| access(path, Access::WRITE_OK).is_err()) {
        None => Row::yes(NAME, format!("{} is delegated", own.display())),
        Some(path) => Row::no(
            NAME,
            format!("{} is not writable: no limits by this cgroup", path.display()),
            format!("systemd-run --user --scope -p Delegate=yes SHELL; {ELSEWHERE}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_that_lack_are_named() {
        assert!(controllers("cpuset cpu io memory hugetlb pids\n").ok);
        assert_eq!(controllers("memory\n").found, "this cgroup lacks cpu pids");
    }
}
