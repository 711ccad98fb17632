//! Who owns what is unpacked: the id map, and whether this process can write its owners (d-utils(7), IDENTITY).
//!
//! An ordinary user enters a user namespace in which the map holds and every capability counts, so owners, modes and file
//! capabilities are written as they stand in the layer. Real root needs no namespace: it writes the ids outside. Under a single
//! map everything is mine; a namespace is then only a convenience (directories that their owner cannot write), and where none
//! can be made it works without.

use std::os::fd::AsFd;

use anyhow::Result;
use d_common::exit::{Exit, Failure, failure};
use d_common::idmap::{Facts, IdMap, MapChoice, decide, to_inside, to_outside, wide};
use d_common::report::{Report, chain};
use d_common::userns;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

/// How ids of a layer become ids of files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owners {
    /// All files are mine, whatever the layer says.
    Mine,
    /// As they stand: this process is in the user namespace.
    Inside,
    /// Translated to the ids outside: this process is root there.
    Outside,
}

/// The map in force.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The map.
    pub map: IdMap,
    /// How owners are written.
    pub owners: Owners,
    /// Whether permission bits do not bind this process (CAP_DAC_OVERRIDE): in a namespace, or as root.
    pub is_mighty: bool,
    /// The owner and group of the files that this process makes, as chown(2) would name them.
    pub me: (u32, u32),
}

impl Identity {
    /// Decides the map and enters its namespace; one in which files of subordinate ids can be deleted, too, if there
    /// `are_others`. The process must have one thread.
    ///
    /// # Errors
    /// [`Exit::Unavailable`] when a map that was asked for by name cannot be had.
    pub fn take(choice: MapChoice, are_others: bool, report: &Report) -> Result<Self> {
        let facts = userns::facts();
        let decision = decide(choice, &facts, (0, 0))?;
        let mut warning = decision.warning;
        if facts.privileged {
            tell(warning.as_deref(), report);
            return Ok(Self::privileged(decision.map, &facts));
        }
        if !decision.map.is_single() {
            match userns::enter(&decision.map, false) {
                Ok(()) => return Ok(Self::inside(decision.map, &facts)),
                Err(e) if choice == MapChoice::Auto => {
                    warning = Some(format!("using --map=single (one user id): {}", chain(&e)));
                }
                Err(e) => return Err(e.context(Failure::new(Exit::Unavailable, format!("cannot use --map={choice}")))),
            }
        }
        let map = IdMap::single(&facts, 0, 0);
        // Root is the same one in a wider namespace, and no owners are written in either.
        if are_others && enter_wide(&facts).is_ok() {
            tell(warning.as_deref(), report);
            return Ok(Self { map, owners: Owners::Mine, is_mighty: true, me: (0, 0) });
        }
        let entered = userns::enter(&map, false);
        if let Err(e) = &entered {
            // It says why there is no wider map, too.
            warning = Some(format!("using --map=single, and no user namespace: {}", chain(e)));
        }
        tell(warning.as_deref(), report);
        Ok(Self { map, owners: Owners::Mine, is_mighty: entered.is_ok(), me: (0, 0) })
    }

    /// Becomes who may delete what was unpacked: root as it is, others in their user namespace; if there `are_others`, in one with
    /// subordinate ids. Why it cannot have those.
    ///
    /// # Errors
    /// As [`Identity::take`].
    pub fn take_to_delete(are_others: bool, report: &Report) -> Result<Option<anyhow::Error>> {
        let facts = userns::facts();
        if facts.privileged {
            return Ok(None);
        }
        let wide = if are_others { enter_wide(&facts) } else { Ok(()) };
        if wide.is_err() || !are_others {
            Self::take(MapChoice::Single, false, report)?;
        }
        Ok(wide.err())
    }

    fn privileged(map: IdMap, facts: &Facts) -> Self {
        let owners = if map.is_single() { Owners::Mine } else { Owners::Outside };
        Self { map, owners, is_mighty: true, me: (facts.uid, facts.gid) }
    }

    fn inside(map: IdMap, facts: &Facts) -> Self {
        let me = to_inside(&map.uids, facts.uid).zip(to_inside(&map.gids, facts.gid));
        // The kernel's overflow id: chown will be called for every file.
        Self { map, owners: Owners::Inside, is_mighty: true, me: me.unwrap_or((65_534, 65_534)) }
    }

    /// The same identity at work in the directory `dir`: where a server decides (NFS, FUSE), it knows nothing of our namespace, and
    /// permission bits bind after all.
    pub fn at(&self, dir: impl AsFd) -> Self {
        const PROBE: &str = ".probe";
        let is_free = || -> Result<(), Errno> {
            rustix::fs::mkdirat(&dir, PROBE, Mode::empty())?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let probe = rustix::fs::openat(&dir, PROBE, flags, Mode::empty())?;
            rustix::fs::mkdirat(&probe, PROBE, Mode::empty())?;
            rustix::fs::unlinkat(&probe, PROBE, AtFlags::REMOVEDIR)
        };
        let is_mighty = self.is_mighty && is_free().is_ok();
        let _ = rustix::fs::unlinkat(&dir, PROBE, AtFlags::REMOVEDIR);
        Self { is_mighty, ..self.clone() }
    }

    /// The ids to give to chown(2) for a file of `uid` and `gid`; `None` when owners are not written at all.
    ///
    /// # Errors
    /// [`Exit::Data`] when the map has no such id.
    pub fn owner(&self, uid: u32, gid: u32) -> Result<Option<(u32, u32)>> {
        let outside = |id, extents: &[_], kind| {
            to_outside(extents, id).ok_or_else(|| {
                failure(
                    Exit::Data,
                    format!(
                        "{kind} {id} is not in the id map: there are not enough subordinate ids (/etc/sub{kind}); \
                         --map=single does without"
                    ),
                )
            })
        };
        if self.owners == Owners::Mine {
            return Ok(None);
        }
        let there = (outside(uid, &self.map.uids, "uid")?, outside(gid, &self.map.gids, "gid")?);
        Ok(Some(if self.owners == Owners::Inside { (uid, gid) } else { there }))
    }

    /// The root id to write into file capabilities (capabilities(7), "Namespaced file capabilities"): `None` where the kernel
    /// adds it by itself.
    pub fn capability_root(&self) -> Option<u32> {
        match self.owners {
            Owners::Outside => to_outside(&self.map.uids, 0).filter(|id| *id != 0),
            Owners::Inside | Owners::Mine => None,
        }
    }
}

/// Enters a namespace with all subordinate ids.
fn enter_wide(facts: &Facts) -> Result<()> {
    let wide = wide(facts, MapChoice::Subid).map_err(|why| failure(Exit::Unavailable, why))?;
    userns::enter(&wide.map, false)
}

fn tell(warning: Option<&str>, report: &Report) {
    if let Some(warning) = warning {
        report.warn(warning);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use d_common::exit::exit_of;
    use d_common::idmap::Extent;

    fn identity(owners: Owners) -> Identity {
        let uids = vec![Extent { inside: 0, outside: 100_000, count: 10 }];
        let map = IdMap { kind: MapChoice::Subid, gids: uids.clone(), uids };
        Identity { map, owners, is_mighty: true, me: (0, 0) }
    }

    #[test]
    fn owners_by_where_we_are() {
        assert_eq!(identity(Owners::Inside).owner(3, 4).unwrap(), Some((3, 4)));
        assert_eq!(identity(Owners::Outside).owner(3, 4).unwrap(), Some((100_003, 100_004)));
        assert_eq!(identity(Owners::Mine).owner(3_000_000, 4).unwrap(), None);
        let error = identity(Owners::Inside).owner(3, 10).unwrap_err();
        assert_eq!(exit_of(&error), Exit::Data);
        assert!(error.to_string().contains("/etc/subgid"));
    }

    #[test]
    fn capabilities_belong_to_the_containers_root() {
        assert_eq!(identity(Owners::Outside).capability_root(), Some(100_000));
        assert_eq!(identity(Owners::Inside).capability_root(), None);
    }
}
