//! The filesystems that an OCI bundle lists, mounted in its order, and the device files that a runtime adds to them
//! (runtime-spec config.md "Mounts", config-linux.md "Default Devices").

use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::Result;
use d_common::beneath::{Make, Root};
use d_common::exit::{Exit, OrExit};

use crate::choice::ProcMode;
use crate::mounts::{Flags, attach, new_filesystem};
use crate::plan::Plan;
use crate::special::{self, Devices, Found};
use crate::volume::{Kernel, Mount};

/// Mounts one filesystem of the kernel's; another kind of mount is none of ours.
///
/// # Errors
/// [`Exit::Enter`], naming the place.
pub fn mount(root: &Root, plan: &Plan, mount: &Mount, found: &mut Found) -> Result<()> {
    let Mount::Kernel { kind, target, options, readonly, noexec } = mount else { return Ok(()) };
    if *kind == Kernel::Proc && plan.proc == ProcMode::None {
        return Ok(());
    }
    let words: Vec<(&str, &str)> = options.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let flags = Flags { readonly: *readonly, noexec: *noexec, devices: *kind == Kernel::Devpts };
    let failed = || format!("cannot mount {} on {}", kind.name(), target.display());
    let place = root.ensure(target, Make::Directory).or_exit(Exit::Enter, failed)?;
    let tree = match kind {
        Kernel::Proc => {
            let (tree, warning) = special::new_proc(plan, &words, flags)?;
            found.warnings.extend(warning);
            tree
        }
        Kernel::Sysfs => special::new_sysfs(plan, flags)?,
        Kernel::Cgroup => special::new_cgroup(flags)?,
        Kernel::Mqueue => special::new_mqueue(plan, flags).or_exit(Exit::Enter, failed)?,
        Kernel::Devpts => new_filesystem(c"devpts", &words, flags).or_exit(Exit::Enter, failed)?,
    };
    attach(&tree, place).or_exit(Exit::Enter, failed)?;
    match (kind, target.to_str()) {
        (Kernel::Proc, Some("/proc")) => found.proc = Some(tree),
        (Kernel::Sysfs, Some("/sys")) => found.sys = Some(tree),
        _ => {}
    }
    Ok(())
}

/// The container's /dev, with the devices that every container has, unless one of the mounts brings a /dev of its own.
///
/// # Errors
/// [`Exit::Enter`].
pub fn devices(root: &Root, plan: &Plan, devices: &Devices) -> Result<OwnedFd> {
    let dev = root.ensure(Path::new("/dev"), Make::Directory).or_exit(Exit::Enter, || "cannot make /dev")?;
    let brought = |m: &Mount| matches!(m, Mount::Bind { target, .. } | Mount::Device { target, .. } if target == Path::new("/dev"));
    if !plan.mounts.iter().any(brought) {
        special::nodes(&dev, devices).or_exit(Exit::Enter, || "cannot fill /dev")?;
    }
    Ok(dev)
}
