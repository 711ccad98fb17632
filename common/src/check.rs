//! What `--check` reports: one row for each thing that a machine can or cannot do, as text or as JSON lines.

use serde::Serialize;

/// One thing that a machine can or cannot do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Its name.
    pub check: &'static str,
    /// Is it there?
    pub ok: bool,
    /// Is the tool of no use without it?
    pub needed: bool,
    /// What was found; where it is missing, why.
    pub found: String,
    /// What to do where it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Row {
    /// It is there.
    pub fn yes(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, ok: true, needed: false, found: found.into(), remedy: None }
    }

    /// It is not.
    pub fn no(check: &'static str, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, ok: false, needed: false, found: cause.into(), remedy: Some(remedy.into()) }
    }

    /// The tool is of no use without it.
    #[must_use]
    pub fn needed(self) -> Self {
        Self { needed: true, ..self }
    }
}

/// The report, a row a line, and whether all that is needed is there.
pub fn report(rows: &[Row], json: bool) -> (String, bool) {
    let render = if json { as_json } else { as_text };
    (rows.iter().map(render).collect(), rows.iter().all(|row| row.ok || !row.needed))
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
        let missing = Row::no("tun", "/dev/net/tun is missing", "modprobe tun");
        let (text, good) = report(std::slice::from_ref(&missing), false);
        assert_eq!(text, "no  tun                 /dev/net/tun is missing; remedy: modprobe tun\n");
        assert!(good);
        assert!(!report(&[missing.clone().needed()], false).1);
        assert_eq!(
            report(&[missing], true).0,
            "{\"check\":\"tun\",\"ok\":false,\"needed\":false,\"found\":\"/dev/net/tun is missing\",\"remedy\":\"modprobe tun\"}\n"
        );
        let (text, good) = report(&[Row::yes("seccomp", "filters").needed()], false);
        assert_eq!((text.as_str(), good), ("yes seccomp             filters\n", true));
    }
}
