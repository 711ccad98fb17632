//! The options that mount something, in the order typed: later ones may lie on earlier ones.

use std::ffi::OsString;

use clap::ArgMatches;

/// An option that mounts something, as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountArg {
    /// `--volume`
    Volume(OsString),
    /// `--bind SRC DST`
    Bind(OsString, OsString),
    /// `--ro-bind SRC DST`
    RoBind(OsString, OsString),
    /// `--tmpfs`
    Tmpfs(OsString),
    /// `--device`
    Device(OsString),
}

/// The values of all options that mount, sorted by their place on the command line: later ones cover earlier ones.
pub fn in_order(matches: &ArgMatches) -> Vec<MountArg> {
    let mut found: Vec<(usize, MountArg)> = Vec::new();
    let values = |id: &str| -> Vec<(usize, Vec<OsString>)> {
        let groups = matches.get_occurrences::<OsString>(id).into_iter().flatten();
        let groups: Vec<Vec<OsString>> = groups.map(|g| g.cloned().collect()).collect();
        let mut indices = matches.indices_of(id).into_iter().flatten();
        groups.into_iter().filter_map(|g| Some((indices.by_ref().take(g.len()).last()?, g))).collect()
    };
    let pair = |g: &[OsString]| (g.first().cloned().unwrap_or_default(), g.get(1).cloned().unwrap_or_default());
    for id in ["volume", "bind", "ro_bind", "tmpfs", "device"] {
        for (index, group) in values(id) {
            let (first, second) = pair(&group);
            let mount = match id {
                "volume" => MountArg::Volume(first),
                "bind" => MountArg::Bind(first, second),
                "ro_bind" => MountArg::RoBind(first, second),
                "tmpfs" => MountArg::Tmpfs(first),
                _ => MountArg::Device(first),
            };
            found.push((index, mount));
        }
    }
    found.sort_by_key(|(index, _)| *index);
    found.into_iter().map(|(_, mount)| mount).collect()
}
