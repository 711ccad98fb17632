//! `--net ns:PATH`: the network namespace behind a path, /run/netns/NAME or /proc/PID/ns/net.
//!
//! Only who rules over the user namespace that owns it may enter it (setns(2)). So d-enter itself goes there first, before
//! anything is decided: the container's user namespace then becomes a child of that one, and has ids of it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::Result;
use d_common::exit::{Exit, OrExit, failure};
use d_common::idmap::Facts;
use d_common::{sys, userns};
use rustix::io::Errno;
use rustix::process::DumpableBehavior;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Takes this process into the network namespace and its owner. Returns what that one offers.
///
/// # Errors
/// [`Exit::Enter`] when it is none, or its owner is not ours to join.
pub fn enter(path: &Path) -> Result<Facts> {
    let shown = path.display();
    let network: OwnedFd = File::open(path).or_exit(Exit::Enter, || format!("cannot open --net ns:{shown}"))?.into();
    let owner = sys::owner_namespace(&network).map_err(|error| match errno(&error) {
        Some(Errno::PERM) => refused(path, "it belongs to a user namespace outside of this one"),
        _ => refused(path, "it is no namespace"),
    })?;
    let own = File::open("/proc/self/ns/user").or_exit(Exit::Enter, || "cannot open /proc/self/ns/user")?;
    let id = |fd: &dyn AsFd| rustix::fs::fstat(fd.as_fd()).map(|s| (s.st_dev, s.st_ino));
    let same = id(&owner).ok() == id(&own).ok();
    if !same {
        join(&owner, LinkNameSpaceType::User).map_err(|_| {
            refused(path, "the user namespace that owns it is another user's, or an ancestor of this one")
        })?;
    }
    join(&network, LinkNameSpaceType::Network).map_err(|error| match errno(&error) {
        Some(Errno::PERM) => refused(
            path,
            "it belongs to the user namespace that this process is in, over which only root rules (sudo ip netns made it?)",
        ),
        _ => refused(path, "it is no network namespace"),
    })?;
    let mut facts = userns::facts();
    if !same {
        // The change of user namespace took that away, and without it the map of a child cannot be written.
        rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)
            .or_exit(Exit::Enter, || "cannot be dumpable again")?;
        limit(&mut facts);
    }
    Ok(facts)
}

fn join(namespace: &OwnedFd, kind: LinkNameSpaceType) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace.as_fd(), Some(kind))?)
}

fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw_os_error)
}

fn refused(path: &Path, why: &str) -> anyhow::Error {
    failure(Exit::Enter, format!("cannot use --net ns:{}: {why}", path.display()))
}

/// The ids of the owner's namespace are all there is: the subordinate ids of outside mean nothing in it.
fn limit(facts: &mut Facts) {
    facts.uid_ranges.clear();
    facts.gid_ranges.clear();
    if facts.own_uids.iter().map(|(_, count)| u64::from(*count)).sum::<u64>() > 1 {
        facts.borrowed = true;
    } else {
        // As for everybody with one id: groups are denied here.
        facts.privileged = false;
        facts.helpers_missing = Some("the user namespace that owns the network has one id only".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_network_namespace_is_refused() {
        let tmp = tempfile::NamedTempFile::new().unwrap();
        for (path, why) in [(Path::new("/nonexistent"), "cannot open"), (tmp.path(), "no namespace")] {
            assert!(enter(path).unwrap_err().to_string().contains(why), "{}", path.display());
        }
    }

    #[test]
    fn a_namespace_of_one_id_gives_one_id() {
        let wide = Facts {
            privileged: true,
            own_uids: vec![(0, 1), (1, 65_536)],
            uid_ranges: vec![(9, 9)],
            ..Facts::default()
        };
        let mut facts = wide.clone();
        limit(&mut facts);
        assert!(facts.borrowed && facts.privileged && facts.uid_ranges.is_empty());
        let mut facts = Facts { own_uids: vec![(0, 1)], ..wide };
        limit(&mut facts);
        assert!(!facts.borrowed && !facts.privileged && facts.helpers_missing.is_some());
    }
}
