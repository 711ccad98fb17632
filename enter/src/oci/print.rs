//! A plan as the config.json of an OCI runtime (`--print-oci`), for rootless `crun run -b` and `runc run`.

use std::collections::BTreeMap;
use std::ffi::OsString;

use anyhow::Result;
use d_common::exit::{Exit, failure};
use d_common::fail;
use d_common::idmap::{Extent, to_outside};
use d_common::report::Report;
use serde_json::{Value, json};

use super::{mounts, resources};
use crate::capabilities::names;
use crate::choice::ProcMode;
use crate::command::{kernel_version, profile};
use crate::directory::Filesystem;
use crate::network::Net;
use crate::plan::Plan;
use crate::process::Groups;
use crate::rlimit::Limit;
use crate::volume::{Kernel, Mount};
use d_common::container::VOLUMES;

/// The version of the specification that is written.
const VERSION: &str = "1.0.2";

/// Writes a plan; one warning names what is in it and in no OCI config.
///
/// # Errors
/// [`Exit::Enter`] for a plan whose root filesystem no runtime can be told about, or words that are not UTF-8.
pub fn print(plan: &Plan, report: Report) -> Result<Value> {
    let Filesystem::Folder(root) = &plan.filesystem else {
        fail!(
            Exit::Enter,
            "--print-oci: DIR is an overlay of layers, and runtimes take a plain rootfs; unpack it without --layers"
        );
    };
    if plan.ephemeral.is_some() {
        fail!(Exit::Enter, "--print-oci: an OCI config cannot say --ephemeral");
    }
    let volumes = plan.dir.join(VOLUMES);
    let special = if plan.special { standard(plan) } else { Vec::new() };
    let mounts: Result<Vec<Value>> = special.iter().chain(&plan.mounts).map(|m| mounts::write(m, &volumes)).collect();
    let mut config = json!({
        "ociVersion": VERSION,
        "process": process(plan)?,
        "root": { "path": word(root.as_os_str())?, "readonly": plan.read_only },
        "mounts": mounts?,
        "linux": linux(plan)?,
    });
    if !plan.shared.uts {
        config["hostname"] = plan.hostname.as_str().into();
    }
    if plan.process.stop_signal != 15 {
        config["annotations"] = json!({ "org.opencontainers.image.stopSignal": plan.process.stop_signal.to_string() });
    }
    let lost = lost(plan);
    if !lost.is_empty() {
        report.warn(format!("left out, since an OCI config has no words for it: {}", lost.join(", ")));
    }
    Ok(config)
}

fn word(word: &std::ffi::OsStr) -> Result<&str> {
    word.to_str().ok_or_else(|| failure(Exit::Enter, format!("{} is not UTF-8, which JSON needs", word.display())))
}

fn process(plan: &Plan) -> Result<Value> {
    let process = &plan.process;
    let words = |list: &[OsString]| list.iter().map(|w| word(w).map(str::to_owned)).collect::<Result<Vec<_>>>();
    let caps = &process.capabilities;
    let mut user = json!({ "uid": process.user.uid, "gid": process.user.gid, "umask": process.umask });
    if let Groups::Set(groups) = &process.groups {
        user["additionalGids"] = groups.as_slice().into();
    }
    let mut value = json!({
        "terminal": process.pty[0],
        "user": user,
        "args": words(&process.command)?,
        "env": words(&process.environment)?,
        "cwd": word(&process.workdir)?,
        "noNewPrivileges": process.no_new_privs,
        "rlimits": process.rlimits.iter().map(rlimit).collect::<Vec<_>>(),
        "capabilities": {
            "bounding": names(caps.bounding),
            "permitted": names(caps.permitted),
            "effective": names(caps.effective),
            "inheritable": names(caps.inheritable),
            "ambient": names(caps.ambient),
        },
    });
    if let Some((height, width)) = plan.console {
        value["consoleSize"] = json!({ "height": height, "width": width });
    }
    Ok(value)
}

fn rlimit(limit: &Limit) -> Value {
    let value = |n: Option<u64>| n.unwrap_or(u64::MAX);
    let kind = format!("RLIMIT_{}", limit.name.to_ascii_uppercase());
    json!({ "type": kind, "soft": value(limit.soft), "hard": value(limit.hard) })
}

fn linux(plan: &Plan) -> Result<Value> {
    let rows = |extents: &[Extent]| -> Vec<Value> {
        extents.iter().map(|e| json!({ "containerID": e.inside, "hostID": e.outside, "size": e.count })).collect()
    };
    let sysctl: BTreeMap<&str, &str> = plan.sysctls.iter().map(|s| (s.name.as_str(), s.value.as_str())).collect();
    let mut linux = json!({
        "namespaces": namespaces(plan)?,
        "uidMappings": rows(&plan.map.uids),
        "gidMappings": rows(&plan.map.gids),
        "sysctl": sysctl,
        "maskedPaths": plan.masked,
        "readonlyPaths": plan.readonly,
    });
    if let Some(resources) = resources::write(&plan.limits) {
        linux["resources"] = resources;
    }
    if let Some(profile) = profile(&plan.seccomp)? {
        linux["seccomp"] = profile.to_oci(plan.process.capabilities.bounding, kernel_version());
    }
    Ok(linux)
}

fn namespaces(plan: &Plan) -> Result<Vec<Value>> {
    let shared = &plan.shared;
    let all = [("pid", shared.pid), ("ipc", shared.ipc), ("uts", shared.uts), ("cgroup", shared.cgroup)];
    let own = all.iter().filter(|(_, shared)| !shared).map(|(kind, _)| *kind);
    let mut list: Vec<Value> = ["user", "mount"].into_iter().chain(own).map(|kind| json!({ "type": kind })).collect();
    match &plan.net {
        Net::None | Net::User(_) => list.push(json!({ "type": "network" })),
        Net::Ns(path) => list.push(json!({ "type": "network", "path": word(path.as_os_str())? })),
        Net::Host => {}
    }
    Ok(list)
}

/// The mounts that [`crate::special`] makes, as a runtime makes them.
fn standard(plan: &Plan) -> Vec<Mount> {
    let kernel = |kind, target: &str, readonly, options| Mount::Kernel {
        kind,
        target: target.into(),
        options,
        readonly,
        noexec: true,
    };
    let bind = |path: &str, readonly| Mount::Bind { source: path.into(), target: path.into(), readonly, noexec: true };
    let tmpfs = |target: &str, mode, size, noexec, copy| {
        let options = Vec::new();
        Mount::Tmpfs { target: target.into(), size, mode: Some(mode), copy, noexec, readonly: false, options }
    };
    let option = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut list = match plan.proc {
        ProcMode::None => Vec::new(),
        ProcMode::Bind => vec![bind("/proc", false)],
        ProcMode::Auto | ProcMode::New => vec![kernel(Kernel::Proc, "/proc", false, Vec::new())],
    };
    list.push(if plan.net.is_new() { kernel(Kernel::Sysfs, "/sys", true, Vec::new()) } else { bind("/sys", true) });
    list.push(kernel(Kernel::Cgroup, "/sys/fs/cgroup", true, Vec::new()));
    list.push(tmpfs("/dev", 0o755, Some(64 << 20), false, false));
    let mut terminals = vec![option("ptmxmode", "0666"), option("mode", "0620")];
    terminals.extend(to_outside(&plan.map.gids, 5).map(|_| option("gid", "5")));
    list.push(kernel(Kernel::Devpts, "/dev/pts", false, terminals));
    list.push(tmpfs("/dev/shm", 0o1777, None, true, false));
    // A new one belongs to a new ipc namespace.
    list.push(match plan.shared.ipc {
        true => bind("/dev/mqueue", false),
        false => kernel(Kernel::Mqueue, "/dev/mqueue", false, Vec::new()),
    });
    if plan.tmpfs {
        list.push(tmpfs("/tmp", 0o1777, None, false, false));
        list.push(tmpfs("/run", 0o755, None, false, true));
        if plan.read_only {
            list.push(tmpfs("/var/tmp", 0o1777, None, false, false));
        }
    }
    list
}

/// What an OCI config has no words for.
fn lost(plan: &Plan) -> Vec<String> {
    let files: Vec<String> = plan.files.iter().map(|(path, _)| path.display().to_string()).collect();
    let facts = [
        (plan.fakeroot, "the emulation of root under a single map".to_owned()),
        (matches!(plan.net, Net::User(_)), "the network's connection (d-netup PID makes it)".to_owned()),
        (!plan.process.keep_fds.is_empty(), "--keep-fd".to_owned()),
        (plan.process.die_with_parent, "--die-with-parent".to_owned()),
        (
            plan.mounts.iter().any(|m| matches!(m, Mount::Kept { .. })),
            "the first filling of volumes kept in DIR".to_owned(),
        ),
        (!files.is_empty(), format!("the generated {}", files.join(" "))),
    ];
    facts.into_iter().filter(|(is, _)| *is).map(|(_, text)| text).collect()
}
