//! Capabilities: which the command has, and giving up the rest (capabilities(7)).
//!
//! The sets are laid out as runc does it: user 0 has Docker's default set; any other user has none, but keeps the bounding set
//! so that sudo works inside; what was added by name for such a user is inheritable and ambient, so that it survives exec.

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::Serialize;

/// All names, by number (linux/capability.h).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Docker's default set.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Every capability that this program knows, as a bit mask.
const ALL: u64 = (1 << NAMES.len()) - 1;

/// The sets of the command, as bit masks by capability number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// The most that any program inside can gain.
    pub bounding: u64,
    /// What it may make effective.
    pub permitted: u64,
    /// What it has.
    pub effective: u64,
    /// What programs with the same in their file keep over exec.
    pub inheritable: u64,
    /// What every program keeps over exec.
    pub ambient: u64,
}

/// The bit of a name, with or without `CAP_`, in any case.
fn bit(name: &str) -> Result<u64> {
    let upper = name.trim().to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    match NAMES.iter().position(|n| *n == short) {
        Some(number) => Ok(1 << number),
        None if short == "ALL" => Ok(ALL),
        None => fail!(Exit::Enter, "{name:?} is not a capability: see capabilities(7), or take ALL"),
    }
}

/// The set of some names.
///
/// # Errors
/// [`Exit::Enter`] for one that is not known.
pub fn mask(names: &[String]) -> Result<u64> {
    names.iter().try_fold(0, |set, name| bit(name).map(|b| set | b))
}

/// The names in a set.
pub fn names(set: u64) -> Vec<String> {
    let has = |(number, _): &(usize, &&str)| set & (1 << number) != 0;
    NAMES.iter().enumerate().filter(has).map(|(_, name)| format!("CAP_{name}")).collect()
}

/// Whether `ALL` is among some names, and the set of the others.
fn named(names: &[String]) -> Result<(bool, u64)> {
    let all = names.iter().any(|n| bit(n).is_ok_and(|b| b == ALL));
    let single: Vec<String> = names.iter().filter(|n| bit(n).map_or(true, |b| b != ALL)).cloned().collect();
    Ok((all, mask(&single)?))
}

impl Capabilities {
    /// The sets for a user, given `--cap-add` and `--cap-drop`: `ALL` first, then names, drops last (docker's order).
    ///
    /// # Errors
    /// [`Exit::Enter`] for an unknown name.
    pub fn decide(uid: u32, add: &[String], drop: &[String]) -> Result<Self> {
        let ((add_all, added), (drop_all, dropped)) = (named(add)?, named(drop)?);
        let default = DEFAULT.iter().try_fold(0, |set, name| bit(name).map(|b| set | b))?;
        let base = match (add_all, drop_all) {
            (true, _) => ALL,
            (false, true) => 0,
            (false, false) => default,
        };
        let bounding = (base | added) & !dropped;
        let by_name = (if add_all { ALL } else { 0 } | added) & !dropped;
        Ok(if uid == 0 {
            Self { bounding, permitted: bounding, effective: bounding, inheritable: 0, ambient: 0 }
        } else {
            Self { bounding, permitted: by_name, effective: by_name, inheritable: by_name, ambient: by_name }
        })
    }

    /// These sets with `--cap-add` and `--cap-drop` over them, in the same order; a user that is not 0 keeps what was added.
    ///
    /// # Errors
    /// [`Exit::Enter`] for an unknown name.
    pub fn with(self, uid: u32, add: &[String], drop: &[String]) -> Result<Self> {
        let ((add_all, added), (drop_all, dropped)) = (named(add)?, named(drop)?);
        let base = if drop_all { Self::default() } else { self };
        let added = if add_all { ALL } else { added };
        let kept = if uid == 0 { 0 } else { added };
        Ok(Self {
            bounding: (base.bounding | added) & !dropped,
            permitted: (base.permitted | added) & !dropped,
            effective: (base.effective | added) & !dropped,
            inheritable: (base.inheritable | kept) & !dropped,
            ambient: (base.ambient | kept) & !dropped,
        })
    }
}

fn one(number: u32) -> CapabilitySet {
    CapabilitySet::from_bits_retain(1 << number)
}

/// Whether a process with these may enter any directory and own its streams, as it could before it had only them.
pub fn suffice(held: &Capabilities) -> bool {
    const CHOWN_AND_DAC_OVERRIDE: u64 = 0b11;
    held.effective & CHOWN_AND_DAC_OVERRIDE == CHOWN_AND_DAC_OVERRIDE
}

/// Takes all but `keep` out of the bounding set, and tells which capabilities this kernel knows. This needs CAP_SETPCAP, so it
/// comes before [`set`].
///
/// # Errors
/// [`Exit::Enter`].
pub fn limit_bounding(keep: u64) -> Result<u64> {
    let mut known = 0;
    for number in 0..63 {
        let drops = keep & (1 << number) == 0;
        let result = if drops { rustix::thread::remove_capability_from_bounding_set(one(number)) } else { Ok(()) };
        if !drops || result.is_err() {
            // EINVAL: beyond the last one.
            let Ok(held) = rustix::thread::capability_is_in_bounding_set(one(number)) else { break };
            if held {
                result.or_exit(Exit::Enter, || format!("cannot drop capability {number} from the bounding set"))?;
            }
        }
        known |= 1 << number;
    }
    Ok(known)
}

/// Sets permitted, effective, inheritable and ambient, as far as they are `known` here, and reads effective and bounding back:
/// what the kernel does not confirm is not run.
///
/// # Errors
/// [`Exit::Enter`] when the kernel refuses or shows something else than was asked for.
pub fn set(wanted: &Capabilities, known: u64) -> Result<()> {
    let caps = |bits: u64| CapabilitySet::from_bits_retain(bits & known);
    let sets = CapabilitySets {
        effective: caps(wanted.effective),
        permitted: caps(wanted.permitted),
        inheritable: caps(wanted.inheritable),
    };
    let read = || rustix::thread::capabilities(None).or_exit(Exit::Enter, || "cannot read the capabilities");
    let before = read()?;
    rustix::thread::set_capabilities(None, sets).or_exit(Exit::Enter, || "cannot set the capabilities")?;
    rustix::thread::clear_ambient_capability_set().or_exit(Exit::Enter, || "cannot clear the ambient capabilities")?;
    for number in (0..63).filter(|n| wanted.ambient & known & (1u64 << n) != 0) {
        rustix::thread::configure_capability_in_ambient_set(one(number), true)
            .or_exit(Exit::Enter, || format!("cannot make capability {number} ambient"))?;
    }
    let now = read()?;
    // Inside a container with an emulated root capset(2) answers 0 and does nothing. That is no harm where execve(2) makes
    // these very sets, out of the bounding set for user 0 and out of nothing for others (capabilities(7)).
    let by_exec = if rustix::process::getuid().is_root() { wanted.bounding } else { 0 };
    let emulated = now == before && wanted.effective == by_exec && wanted.inheritable == 0;
    let held = |n: &u32| rustix::thread::capability_is_in_bounding_set(one(*n)).unwrap_or(true);
    let excess = (0..63).filter(|n| known & !wanted.bounding & (1u64 << n) != 0).any(|n| held(&n));
    if (now.effective.bits() != wanted.effective & known && !emulated) || excess {
        fail!(
            Exit::Enter,
            "the kernel shows other capabilities than were set: effective {:x}, not {:x}",
            now.effective.bits(),
            wanted.effective & known
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn root_has_dockers_set_and_others_none() {
        let root = Capabilities::decide(0, &[], &[]).unwrap();
        // The figure that `docker run ... grep Cap /proc/self/status` shows; build.rs compiles the built-in filter for it.
        assert_eq!((root.bounding, root.effective, root.ambient), (0xa804_25fb, 0xa804_25fb, 0));
        let user = Capabilities::decide(33, &[], &[]).unwrap();
        assert_eq!((user.bounding, user.effective, user.ambient), (0xa804_25fb, 0, 0));
    }

    #[test]
    fn adding_and_dropping() {
        let c = Capabilities::decide(0, &list(&["net_admin"]), &list(&["CAP_CHOWN"])).unwrap();
        assert_eq!(c.effective, (0xa804_25fb | 1 << 12) & !1);
        let c = Capabilities::decide(0, &list(&["SYS_TIME"]), &list(&["ALL"])).unwrap();
        assert_eq!(c.bounding, 1 << 25);
        let c = Capabilities::decide(0, &list(&["ALL"]), &list(&["SYS_ADMIN"])).unwrap();
        assert_eq!(c.bounding, ALL & !(1 << 21));
        let c = Capabilities::decide(5, &list(&["NET_RAW"]), &[]).unwrap();
        assert_eq!((c.effective, c.ambient), (1 << 13, 1 << 13));
        assert!(Capabilities::decide(0, &list(&["NET_RWA"]), &[]).is_err());
        let c = c.with(0, &list(&["KILL"]), &list(&["net_raw"])).unwrap();
        assert_eq!((c.permitted, c.ambient), (1 << 5, 0));
        assert_eq!(c.with(5, &list(&["KILL"]), &list(&["ALL"])).unwrap().ambient, 1 << 5);
        assert_eq!(names(1 << 13 | 1), ["CAP_CHOWN", "CAP_NET_RAW"]);
    }
}
