//! `d-enter --check`: what this machine can do, each with yes or no, and for each no the cause and the remedy.
//!
//! What can be tried is tried ([`tried`]): a kernel says yes in its settings and no in its deeds, behind a security module or
//! inside another container. The rest is read from files ([`machine`], [`cgroup`]). A container can be started when everything
//! that is `needed` is there; what else is missing costs an option, and d-enter says so when that option is used.

mod cgroup;
mod machine;
mod tried;

use d_common::{idmap::Facts, userns};
use serde::Serialize;

/// One thing that a machine can or cannot do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Its name.
    pub check: &'static str,
    /// Is it there?
    pub ok: bool,
    /// Can no container be started without it?
    pub needed: bool,
    /// What was found; where it is missing, why.
    pub found: String,
    /// What to do where it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Row {
    fn yes(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, ok: true, needed: false, found: found.into(), remedy: None }
    }

    fn no(check: &'static str, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, ok: false, needed: false, found: cause.into(), remedy: Some(remedy.into()) }
    }

    fn needed(self) -> Self {
        Self { needed: true, ..self }
    }
}

/// The report, and whether a container can be started here. With `json` a row is a JSON object on a line of its own.
///
/// It makes short-lived processes in namespaces of their own, so the caller must have one thread.
pub fn run(json: bool) -> (String, bool) {
    let rows = rows(&userns::facts());
    let render = if json { as_json } else { as_text };
    (rows.iter().map(render).collect(), rows.iter().all(|row| row.ok || !row.needed))
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
    ]);
    rows.extend(cgroup::rows());
    rows.push(machine::systemd());
    rows
}

fn as_json(row: &Row) -> String {
    // A struct of strings and bools always has a JSON form.
    serde_json::to_string(row).map(|line| line + "\n").unwrap_or_default()
}

fn as_text(row: &Row) -> String {
    let answer = if row.ok { "yes" } else { "no" };
    let remedy = row.remedy.as_ref().map(|remedy| format!("; remedy: {remedy}")).unwrap_or_default();
    format!("{answer:<4}{:<20}{}{remedy}\n", row.check, row.found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_as_text_and_as_json() {
        let row = Row::no("tun", "/dev/net/tun is missing", "modprobe tun");
        assert_eq!(as_text(&row), "no  tun                 /dev/net/tun is missing; remedy: modprobe tun\n");
        let json =
            r#"{"check":"tun","ok":false,"needed":false,"found":"/dev/net/tun is missing","remedy":"modprobe tun"}"#;
        assert_eq!(as_json(&row), format!("{json}\n"));
        let row = Row::yes("seccomp", "filters").needed();
        assert_eq!(as_text(&row), "yes seccomp             filters\n");
        assert_eq!(as_json(&row), "{\"check\":\"seccomp\",\"ok\":true,\"needed\":true,\"found\":\"filters\"}\n");
    }
}
