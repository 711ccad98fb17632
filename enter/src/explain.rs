//! What `--verbose` says of a plan: a line for each thing that a user may wonder about. All of it is in `--dry-run`.

use d_common::idmap::Extent;

use crate::directory::Filesystem;
use crate::network::Net;
use crate::plan::Plan;
use crate::process::Groups;

/// The lines.
pub fn lines(plan: &Plan) -> Vec<String> {
    let process = &plan.process;
    let root = match &plan.filesystem {
        Filesystem::Folder(folder) => folder.display().to_string(),
        Filesystem::Overlay { layers, upper, .. } => format!("{} layers below {}", layers.len(), upper.display()),
    };
    let when = |on: bool, text: &'static str| if on { text } else { "" };
    let (read_only, vanish) = (when(plan.read_only, ", read-only"), when(plan.ephemeral.is_some(), ", changes vanish"));
    let groups = match &process.groups {
        Groups::Keep => "as the caller's".to_owned(),
        Groups::Set(groups) => format!("{groups:?}"),
    };
    let net = match &plan.net {
        Net::None => "none".to_owned(),
        Net::User(options) => format!("user {}", options.join(" ")),
        Net::Host => "the host's".to_owned(),
        Net::Ns(path) => path.display().to_string(),
    };
    let targets = plan.mounts.iter().map(|m| format!("mount on {}", m.target().display()));
    let words: Vec<_> = process.command.iter().map(|word| word.to_string_lossy()).collect();
    let mut lines = vec![
        format!("root filesystem {root}{read_only}{vanish}"),
        format!("map {}: users {}, groups {}", plan.map.kind, extents(&plan.map.uids), extents(&plan.map.gids)),
        format!(
            "user {}:{}, supplementary groups {groups}{}",
            process.user.uid,
            process.user.gid,
            when(plan.fakeroot, ", root is emulated")
        ),
        format!("capabilities {:#x}{}", process.capabilities.effective, when(process.no_new_privs, ", no_new_privs")),
        format!("network {net}, host name {}", plan.hostname),
    ];
    lines.extend(targets);
    lines.push(format!("runs {} in {}", words.join(" "), process.workdir.display()));
    lines
}

/// `0=1000 1-65536=100000`: inside, and where it begins outside.
fn extents(map: &[Extent]) -> String {
    let one = |e: &Extent| match e.count {
        1 => format!("{}={}", e.inside, e.outside),
        count => format!("{}-{}={}", e.inside, e.inside + (count - 1), e.outside),
    };
    map.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_short() {
        let extent = |inside, outside, count| Extent { inside, outside, count };
        assert_eq!(extents(&[extent(0, 1000, 1), extent(1, 100_000, 65_536)]), "0=1000 1-65536=100000");
    }
}
