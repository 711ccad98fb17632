//! What files say of this machine: sysctls, security modules, subordinate ids, devices, helper programs.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::path::Path;

use d_common::check::Row;
use d_common::idmap::{Facts, Range};
use d_common::report::errno_text;

use crate::seccomp::abi::Machine;

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned())
}

/// The sysctls that switch user namespaces off.
pub(super) fn sysctls(privileged: bool) -> Row {
    let clone = read("/proc/sys/kernel/unprivileged_userns_clone");
    let limit = read("/proc/sys/user/max_user_namespaces");
    judge_sysctls(privileged, clone.as_deref(), limit.as_deref())
}

/// `clone` is Debian's and Arch's own switch; other kernels lack it.
fn judge_sysctls(privileged: bool, clone: Option<&str>, limit: Option<&str>) -> Row {
    const NAME: &str = "userns-sysctl";
    match (clone, limit) {
        (_, None) => Row::no(NAME, "this kernel is built without user namespaces", "a kernel with CONFIG_USER_NS"),
        (_, Some("0")) => Row::no(
            NAME,
            "user.max_user_namespaces is 0",
            "sysctl user.max_user_namespaces=15000 as root (keep it in /etc/sysctl.d)",
        ),
        (Some("0"), _) if !privileged => Row::no(
            NAME,
            "kernel.unprivileged_userns_clone is 0",
            "sysctl kernel.unprivileged_userns_clone=1 as root (keep it in /etc/sysctl.d)",
        ),
        (_, Some(limit)) => Row::yes(NAME, format!("user.max_user_namespaces is {limit}")),
    }
}

/// Ubuntu's restriction: without a profile of its own a program gets a user namespace in which it has no capabilities.
pub(super) fn apparmor(privileged: bool) -> Row {
    let restricted = read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
    let label = read("/proc/self/attr/apparmor/current").or_else(|| read("/proc/self/attr/current"));
    judge_apparmor(privileged, restricted.as_deref(), label.as_deref())
}

fn judge_apparmor(privileged: bool, restricted: Option<&str>, label: Option<&str>) -> Row {
    const NAME: &str = "apparmor";
    let label = label.map(|label| label.trim_end_matches('\0')).filter(|label| !label.is_empty());
    match (restricted, label) {
        (Some("1"), None | Some("unconfined")) if !privileged => Row::no(
            NAME,
            "kernel.apparmor_restrict_unprivileged_userns is 1, and this program has no profile",
            "install the profile d-enter in /etc/apparmor.d and reload it with apparmor_parser -r",
        ),
        (_, Some(label)) if label != "unconfined" => Row::yes(NAME, format!("confined as {label}")),
        _ => Row::yes(NAME, "does not restrict user namespaces"),
    }
}

/// /etc/subuid and /etc/subgid, or what getsubids says.
pub(super) fn subordinate_ids(facts: &Facts) -> Row {
    const NAME: &str = "subordinate-ids";
    let list =
        |ranges: &[Range]| ranges.iter().map(|(start, count)| format!("{start}:{count}")).collect::<Vec<_>>().join(" ");
    let user = d_common::userns::user_name(facts.uid).unwrap_or_else(|| facts.uid.to_string());
    let missing = match (facts.uid_ranges.is_empty(), facts.gid_ranges.is_empty()) {
        (false, false) => {
            return Row::yes(NAME, format!("uids {}, gids {}", list(&facts.uid_ranges), list(&facts.gid_ranges)));
        }
        (true, false) => "/etc/subuid has",
        (false, true) => "/etc/subgid has",
        (true, true) => "/etc/subuid and /etc/subgid have",
    };
    let effect = if facts.privileged { "root inside is root outside" } else { "one user inside, --map single" };
    Row::no(
        NAME,
        format!("{missing} no entry for {user}: {effect}"),
        format!(
            "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user} as root, ids that are nobody else's"
        ),
    )
}

/// newuidmap and newgidmap.
pub(super) fn id_helpers(facts: &Facts) -> Row {
    match &facts.helpers_missing {
        None => Row::yes("newuidmap", "newuidmap and newgidmap have their privileges"),
        Some(cause) if cause.contains("installed") => Row::no("newuidmap", cause, "install uidmap"),
        Some(cause) if cause.contains("no_new_privs") => {
            Row::no("newuidmap", cause, "start d-enter from a process without no_new_privs, or take --map single")
        }
        Some(cause) => Row::no("newuidmap", cause, "chmod u+s on both, as root, or reinstall uidmap"),
    }
}

/// Seccomp filters, and whether the numbers of this machine's calls are known.
pub(super) fn seccomp() -> Row {
    let actions = read("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    match (actions.split(' ').any(|action| action == "errno"), Machine::host()) {
        (true, Some(machine)) => Row::yes("seccomp", format!("filters for {} system call ABIs", machine.abis.len())),
        (true, None) => Row::no(
            "seccomp",
            format!("no system call numbers are known for {}", std::env::consts::ARCH),
            "--seccomp none",
        ),
        (false, _) => Row::no("seccomp", "this kernel has no seccomp filters", "--seccomp none"),
    }
}

/// /dev/net/tun, which slirp4netns opens as the user.
pub(super) fn tun() -> Row {
    const PATH: &str = "/dev/net/tun";
    match OpenOptions::new().read(true).write(true).open(PATH) {
        Ok(_) => Row::yes("tun", format!("{PATH} can be opened")),
        Err(e) if e.kind() == ErrorKind::NotFound => Row::no(
            "tun",
            format!("{PATH} is missing: no --net user"),
            "modprobe tun as root; in a container, --device /dev/net/tun",
        ),
        Err(e) => Row::no(
            "tun",
            format!("{PATH} cannot be opened: {}", errno_text(e.raw_os_error().unwrap_or(0))),
            format!("chmod 0666 {PATH} as root"),
        ),
    }
}

/// A helper in PATH; one of our own may also lie beside this executable, or be named by a variable (`D_NETUP`).
pub(super) fn program(name: &'static str, lost: &str, remedy: &str) -> Row {
    let named = std::env::var_os(name.to_uppercase().replace('-', "_")).map(Into::into);
    let beside = || std::env::current_exe().ok().map(|exe| exe.with_file_name(name)).filter(|path| path.exists());
    match named.or_else(beside).or_else(|| which::which(name).ok()) {
        Some(path) => Row::yes(name, path.display().to_string()),
        None => Row::no(name, format!("not in PATH: no {lost}"), remedy),
    }
}

/// The user's systemd, which can give a container limits where the caller's own cgroup cannot.
pub(super) fn systemd() -> Row {
    const NAME: &str = "systemd-user";
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    let Some(runtime) = runtime else {
        return Row::no(
            NAME,
            "XDG_RUNTIME_DIR is not set: no user manager is known",
            "log in through a session of systemd-logind, or loginctl enable-linger",
        );
    };
    if !Path::new(&runtime).join("systemd/private").exists() {
        let cause = format!("no user manager answers in {}", Path::new(&runtime).display());
        return Row::no(NAME, cause, "loginctl enable-linger as root starts one for this user");
    }
    match which::which("busctl") {
        Ok(_) => Row::yes(NAME, "can give a container limits in a transient scope"),
        Err(_) => Row::no(NAME, "busctl is not in PATH", "install systemd"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctls_that_forbid() {
        assert!(judge_sysctls(false, None, Some("255000")).ok);
        assert!(judge_sysctls(false, Some("1"), Some("255000")).ok);
        assert!(!judge_sysctls(false, Some("0"), Some("255000")).ok);
        assert!(judge_sysctls(true, Some("0"), Some("255000")).ok, "root is not held by Debian's switch");
        assert!(!judge_sysctls(true, Some("1"), Some("0")).ok);
        assert!(!judge_sysctls(false, None, None).ok);
    }

    #[test]
    fn ubuntus_restriction_is_recognised() {
        let row = judge_apparmor(false, Some("1"), Some("unconfined"));
        assert!(!row.ok && row.remedy.unwrap().contains("/etc/apparmor.d"));
        assert!(!judge_apparmor(false, Some("1"), None).ok);
        assert!(judge_apparmor(true, Some("1"), Some("unconfined")).ok);
        assert!(judge_apparmor(false, Some("1"), Some("d-enter (unconfined)\0")).ok);
        assert!(judge_apparmor(false, Some("0"), Some("unconfined")).ok);
        assert!(judge_apparmor(false, None, None).ok);
    }

    #[test]
    fn subordinate_ids_that_are_missing_are_named() {
        let ranges = vec![(100_000, 65_536)];
        let mut facts = Facts { uid: 0, uid_ranges: ranges.clone(), gid_ranges: ranges, ..Facts::default() };
        assert_eq!(subordinate_ids(&facts).found, "uids 100000:65536, gids 100000:65536");
        facts.gid_ranges.clear();
        let row = subordinate_ids(&facts);
        assert!(!row.ok && row.found.starts_with("/etc/subgid has no entry for root"), "{row:?}");
    }
}
