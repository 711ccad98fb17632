//! What a joining command takes over from the running one, read from the texts of proc_pid_status(5) and its neighbours: never
//! more than that one has.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use d_common::idmap::{Extent, to_inside};

use crate::capabilities::Capabilities;
use crate::rlimit::Limit;

/// A running command's identity and rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    /// Effective user id inside; `None` when it has none there.
    pub uid: Option<u32>,
    /// Effective group id inside.
    pub gid: Option<u32>,
    /// Supplementary groups, those that exist inside.
    pub groups: Vec<u32>,
    /// All five sets.
    pub capabilities: Capabilities,
    /// Whether it has given up gaining privileges.
    pub no_new_privs: bool,
    /// File mode creation mask.
    pub umask: u32,
}

impl State {
    /// Reads a status whose ids are those of the outside, as the maps have them.
    pub(super) fn parse(status: &str, uids: &[Extent], gids: &[Extent]) -> Self {
        let field = |name: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_default().trim()
        };
        let mask = |name: &str| u64::from_str_radix(field(name), 16).unwrap_or(0);
        let inside = |id: &str, map: &[Extent]| to_inside(map, id.parse().ok()?);
        // Real, effective, saved, file system.
        let effective = |name: &str, map: &[Extent]| inside(field(name).split_whitespace().nth(1)?, map);
        Self {
            uid: effective("Uid", uids),
            gid: effective("Gid", gids),
            groups: field("Groups").split_whitespace().filter_map(|g| inside(g, gids)).collect(),
            capabilities: Capabilities {
                bounding: mask("CapBnd"),
                permitted: mask("CapPrm"),
                effective: mask("CapEff"),
                inheritable: mask("CapInh"),
                ambient: mask("CapAmb"),
            },
            no_new_privs: field("NoNewPrivs") == "1",
            umask: u32::from_str_radix(field("Umask"), 8).unwrap_or(0o022),
        }
    }
}

/// The lines of a uid_map or gid_map.
pub(super) fn parse_map(text: &str) -> Vec<Extent> {
    let line = |line: &str| {
        let mut numbers = line.split_whitespace().map(|n| n.parse().ok());
        Some(Extent { inside: numbers.next()??, outside: numbers.next()??, count: numbers.next()?? })
    };
    text.lines().filter_map(line).collect()
}

/// The variables of an environ: `NAME=VALUE`, each ended by a NUL.
pub(super) fn parse_environ(bytes: &[u8]) -> Vec<OsString> {
    let strings = bytes.split(|b| *b == 0).filter(|s| s.iter().position(|b| *b == b'=').is_some_and(|i| i > 0));
    strings.map(|s| OsStr::from_bytes(s).to_owned()).collect()
}

/// The limits of a proc_pid_limits(5).
pub(super) fn parse_limits(text: &str) -> Vec<Limit> {
    const NAMES: [(&str, &str); 16] = [
        ("Max cpu time", "cpu"),
        ("Max file size", "fsize"),
        ("Max data size", "data"),
        ("Max stack size", "stack"),
        ("Max core file size", "core"),
        ("Max resident set", "rss"),
        ("Max processes", "nproc"),
        ("Max open files", "nofile"),
        ("Max locked memory", "memlock"),
        ("Max address space", "as"),
        ("Max file locks", "locks"),
        ("Max pending signals", "sigpending"),
        ("Max msgqueue size", "msgqueue"),
        ("Max nice priority", "nice"),
        ("Max realtime priority", "rtprio"),
        ("Max realtime timeout", "rttime"),
    ];
    let value = |text: &str| match text {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    };
    let line = |line: &str| {
        let (rest, name) = NAMES.iter().find_map(|(words, name)| Some((line.strip_prefix(words)?, name)))?;
        let mut values = rest.split_whitespace().map(value);
        Some(Limit { name: (*name).to_owned(), soft: values.next()??, hard: values.next()?? })
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tsleep\nUmask:\t0027\nUid:\t1000\t1000\t1000\t1000\nGid:\t200032\t200032\t200032\t200032\n\
                          Groups:\t10 200043 \nCapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t0000000000000001\n\
                          CapBnd:\t00000000a80425ff\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n";

    #[test]
    fn a_status_is_read_as_it_looks_inside() {
        let map = parse_map("         0       1000          1\n         1     200000      65536\n");
        let state = State::parse(STATUS, &map, &map);
        assert_eq!((state.uid, state.gid, state.groups), (Some(0), Some(33), vec![44]));
        assert_eq!((state.capabilities.permitted, state.capabilities.effective), (0xa804_25fb, 1));
        assert_eq!((state.capabilities.bounding, state.no_new_privs, state.umask), (0xa804_25ff, true, 0o027));
        assert_eq!(State::parse("", &[], &[]).uid, None);
    }

    #[test]
    fn environments_and_limits() {
        assert_eq!(parse_environ(b"A=1\0B=\0=x\0junk\0\0"), ["A=1", "B="]);
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max open files            1024                 unlimited            files     \n";
        let expected = Limit { name: "nofile".into(), soft: Some(1024), hard: None };
        assert_eq!(parse_limits(text), [expected]);
    }
}
