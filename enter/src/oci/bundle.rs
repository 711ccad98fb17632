//! The config.json of a bundle (runtime-spec config.md, config-linux.md), read.
//!
//! What an option or a Docker key can say becomes one; the rest completes the plan ([`Bundle::complete`]). A key that asks for
//! something else is an error that names it; keys that the spec does not know are ignored, as it demands. Without a list of
//! namespaces all are new.

use std::path::PathBuf;

use anyhow::Result;
use d_common::exit::Exit;
use d_common::fail;
use d_common::idmap::{Extent, Facts, IdMap, MapChoice, to_outside};
use serde::Deserialize;
use serde_json::Value;

use super::json::{get, is_empty, or_default, wrong};
use super::{mounts, resources};
use crate::args::Args;
use crate::capabilities::{self, Capabilities};
use crate::choice::{Share, Tty};
use crate::config::{Config, Docker};
use crate::paths;
use crate::plan::{Plan, Seccomp};
use crate::process::Groups;
use crate::rlimit::Limit;
use crate::volume::Mount;

/// Keys of the specification that d-enter cannot honour; they may be there as long as they say nothing.
const REFUSED: [&str; 42] = [
    "/hooks/prestart",
    "/hooks/createRuntime",
    "/hooks/createContainer",
    "/hooks/startContainer",
    "/hooks/poststart",
    "/hooks/poststop",
    "/process/apparmorProfile",
    "/process/selinuxLabel",
    "/process/oomScoreAdj",
    "/process/ioPriority",
    "/process/scheduler",
    "/process/execCPUAffinity",
    "/process/commandLine",
    "/linux/cgroupsPath",
    "/linux/intelRdt",
    "/linux/memoryPolicy",
    "/linux/mountLabel",
    "/linux/netDevices",
    "/linux/personality",
    "/linux/timeOffsets",
    "/linux/resources/blockIO",
    "/linux/resources/hugepageLimits",
    "/linux/resources/network",
    "/linux/resources/rdma",
    "/linux/resources/unified",
    "/linux/resources/memory/reservation",
    "/linux/resources/memory/kernel",
    "/linux/resources/memory/kernelTCP",
    "/linux/resources/memory/swappiness",
    "/linux/resources/memory/disableOOMKiller",
    "/linux/resources/cpu/shares",
    "/linux/resources/cpu/burst",
    "/linux/resources/cpu/realtimeRuntime",
    "/linux/resources/cpu/realtimePeriod",
    "/linux/resources/cpu/cpus",
    "/linux/resources/cpu/mems",
    "/linux/resources/cpu/idle",
    "/solaris",
    "/windows",
    "/vm",
    "/zos",
    "/freebsd",
];

/// Devices that every container has, with their numbers (null(4), random(4), tty(4)); a terminal's differ.
const DEVICES: [(&str, Option<(u32, u32)>); 8] = [
    ("/dev/null", Some((1, 3))),
    ("/dev/zero", Some((1, 5))),
    ("/dev/full", Some((1, 7))),
    ("/dev/random", Some((1, 8))),
    ("/dev/urandom", Some((1, 9))),
    ("/dev/tty", Some((5, 0))),
    ("/dev/console", None),
    ("/dev/ptmx", None),
];

/// What a bundle says beyond options and Docker's keys.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The root filesystem, relative to the bundle.
    pub root: PathBuf,
    /// `linux.uidMappings` and `linux.gidMappings`.
    map: Option<(Vec<Extent>, Vec<Extent>)>,
    groups: Vec<u32>,
    capabilities: Capabilities,
    seccomp: Seccomp,
    mounts: Vec<Mount>,
    masked: Vec<String>,
    readonly: Vec<String>,
    console: Option<(u16, u16)>,
}

#[derive(Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    #[serde(rename = "containerID")]
    container_id: u32,
    #[serde(rename = "hostID")]
    host_id: u32,
    size: u32,
}

#[derive(Deserialize)]
struct Rlimit {
    #[serde(rename = "type")]
    kind: String,
    soft: u64,
    hard: u64,
}

#[derive(Deserialize)]
struct Device {
    path: String,
    #[serde(default)]
    major: u32,
    #[serde(default)]
    minor: u32,
    #[serde(rename = "fileMode")]
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

/// Reads a config.json that has `ociVersion`.
///
/// # Errors
/// [`Exit::Enter`], naming the key that has a wrong type or cannot be honoured.
pub fn read(json: &Value) -> Result<Config> {
    let version: String = or_default(json, "/ociVersion")?;
    if !version.starts_with("1.") {
        return Err(wrong("/ociVersion", format!("{version:?} is not a version that is known here: 1.x is")));
    }
    for pointer in REFUSED {
        if json.pointer(pointer).is_some_and(|value| !is_empty(value)) {
            return Err(wrong(
                pointer,
                "d-enter cannot honour this key of an OCI bundle; remove it, or use another runtime",
            ));
        }
    }
    for (index, device) in or_default::<Vec<Device>>(json, "/linux/devices")?.iter().enumerate() {
        let pointer = format!("/linux/devices/{index}");
        let Some((_, number)) = DEVICES.iter().find(|(path, _)| *path == device.path) else {
            let why = format!("{} cannot be made in a user namespace; --device {0} binds the host's", device.path);
            return Err(wrong(&pointer, why));
        };
        let is_usual = number.is_none_or(|number| (device.major, device.minor) == number)
            && device.mode.is_none_or(|mode| mode & 0o666 == 0o666)
            && device.uid.unwrap_or(0) == 0
            && device.gid.is_none_or(|gid| matches!(gid, 0 | 5));
        if !is_usual {
            return Err(wrong(&pointer, format!("{} is the host's own: number, mode and owner stay", device.path)));
        }
    }
    if !matches!(or_default::<String>(json, "/linux/rootfsPropagation")?.as_str(), "" | "private" | "rprivate") {
        return Err(wrong("/linux/rootfsPropagation", "mounts are private here"));
    }
    let mut options = Args {
        no_fakeroot: true,
        read_only: or_default(json, "/root/readonly")?,
        no_new_privs: or_default(json, "/process/noNewPrivileges")?,
        tty: Some(if or_default(json, "/process/terminal")? { Tty::Always } else { Tty::Never }),
        umask: get::<u32>(json, "/process/user/umask")?.map(|mask| format!("{mask:o}")),
        ulimit: rlimits(json)?,
        ..Args::default()
    };
    resources::read(json, &mut options)?;
    namespaces(json, &mut options)?;
    sysctls(json, &mut options)?;
    Ok(Config { docker: docker(json, &options)?, bundle: Some(Bundle::read(json)?), options })
}

fn docker(json: &Value, options: &Args) -> Result<Docker> {
    let hostname = get::<String>(json, "/hostname")?.filter(|name| !name.is_empty());
    if hostname.is_some() && options.share.contains(&Share::Uts) {
        return Err(wrong("/hostname", "needs a uts namespace"));
    }
    let workdir: String = get(json, "/process/cwd")?.unwrap_or_else(|| "/".to_owned());
    if !workdir.starts_with('/') {
        return Err(wrong("/process/cwd", format!("{workdir:?} is not an absolute path")));
    }
    let id = |key: &str| or_default::<u32>(json, &format!("/process/user/{key}"));
    let annotation = |name: &str| -> Result<Option<String>> {
        Ok(get::<String>(json, &format!("/annotations/org.opencontainers.image.{name}"))?.filter(|v| !v.is_empty()))
    };
    Ok(Docker {
        hostname,
        workdir: Some(workdir),
        env: or_default(json, "/process/env")?,
        cmd: or_default(json, "/process/args")?,
        user: Some(format!("{}:{}", id("uid")?, id("gid")?)),
        stop_signal: annotation("stopSignal")?,
        exposed_ports: annotation("exposedPorts")?
            .map(|ports| ports.split(',').map(|p| p.trim().to_owned()).collect())
            .unwrap_or_default(),
        ..Docker::default()
    })
}

fn rlimits(json: &Value) -> Result<Vec<String>> {
    let mut specs: Vec<String> = Vec::new();
    for (index, limit) in or_default::<Vec<Rlimit>>(json, "/process/rlimits")?.into_iter().enumerate() {
        let pointer = format!("/process/rlimits/{index}");
        let name = limit.kind.strip_prefix("RLIMIT_").unwrap_or(&limit.kind).to_ascii_lowercase();
        let value = |n: u64| if n == u64::MAX { "-1".to_owned() } else { n.to_string() };
        let spec = format!("{name}={}:{}", value(limit.soft), value(limit.hard));
        Limit::parse(&spec).map_err(|e| wrong(&pointer, e))?;
        if specs.iter().any(|s| s.split('=').next() == Some(&name)) {
            return Err(wrong(&pointer, format!("{} is there twice", limit.kind)));
        }
        specs.push(spec);
    }
    Ok(specs)
}

fn sysctls(json: &Value, options: &mut Args) -> Result<()> {
    let sysctls: serde_json::Map<String, Value> = or_default(json, "/linux/sysctl")?;
    for (name, value) in &sysctls {
        let Some(value) = value.as_str() else {
            return Err(wrong(&format!("/linux/sysctl/{name}"), "expected a string"));
        };
        options.sysctl.push(format!("{name}={value}"));
    }
    let domain = get::<String>(json, "/domainname")?.filter(|name| !name.is_empty());
    options.sysctl.extend(domain.map(|name| format!("kernel.domainname={name}")));
    Ok(())
}

/// What is not in the list is shared with the caller; but user and mount namespaces are always new.
fn namespaces(json: &Value, options: &mut Args) -> Result<()> {
    let Some(list) = get::<Vec<Namespace>>(json, "/linux/namespaces")? else {
        options.net = Some("none".to_owned());
        return Ok(());
    };
    for (index, namespace) in list.iter().enumerate() {
        let pointer = format!("/linux/namespaces/{index}");
        let kind = namespace.kind.as_str();
        if list[..index].iter().any(|n| n.kind == kind) {
            return Err(wrong(&pointer, format!("{kind} is there twice")));
        }
        let path = namespace.path.as_deref().filter(|p| !p.is_empty());
        match (kind, path) {
            ("network", path) => options.net = Some(path.map_or("none".to_owned(), |p| format!("ns:{p}"))),
            ("user" | "mount" | "pid" | "ipc" | "uts" | "cgroup", None) => {}
            ("user" | "mount" | "pid" | "ipc" | "uts" | "cgroup", Some(_)) => {
                return Err(wrong(&pointer, format!("a {kind} namespace can be made here, not joined by a path")));
            }
            _ => return Err(wrong(&pointer, format!("namespaces of type {kind:?} are not known here"))),
        }
    }
    let has = |kind: &str| list.iter().any(|n| n.kind == kind);
    if !has("mount") {
        return Err(wrong("/linux/namespaces", "has no mount namespace, without which d-enter does not work"));
    }
    if options.net.is_none() {
        options.net = Some("host".to_owned());
    }
    let all = [("pid", Share::Pid), ("ipc", Share::Ipc), ("uts", Share::Uts), ("cgroup", Share::Cgroup)];
    options.share = all.into_iter().filter(|(kind, _)| !has(kind)).map(|(_, share)| share).collect();
    Ok(())
}

fn mappings(json: &Value, key: &str) -> Result<Vec<Extent>> {
    let pointer = format!("/linux/{key}");
    let list: Vec<Mapping> = or_default(json, &pointer)?;
    let fits =
        |m: &Mapping| [m.container_id, m.host_id].iter().all(|id| m.size > 0 && id.checked_add(m.size).is_some());
    if !list.iter().all(fits) {
        return Err(wrong(&pointer, "ids are 32 bits long, and a size is not 0"));
    }
    Ok(list.into_iter().map(|m| Extent { inside: m.container_id, outside: m.host_id, count: m.size }).collect())
}

fn capability_sets(json: &Value) -> Result<Capabilities> {
    let set = |name: &str| {
        let pointer = format!("/process/capabilities/{name}");
        capabilities::mask(&or_default::<Vec<String>>(json, &pointer)?).map_err(|e| wrong(&pointer, e))
    };
    let (permitted, inheritable) = (set("permitted")?, set("inheritable")?);
    Ok(Capabilities {
        bounding: set("bounding")?,
        permitted,
        effective: set("effective")? & permitted,
        inheritable,
        // The kernel's rule (capabilities(7)); the bundles that `crun spec` makes break it.
        ambient: set("ambient")? & permitted & inheritable,
    })
}

impl Bundle {
    fn read(json: &Value) -> Result<Self> {
        let root: PathBuf = or_default(json, "/root/path")?;
        if root.as_os_str().is_empty() {
            return Err(wrong("/root/path", "is missing: it names the directory of the root filesystem"));
        }
        let (uids, gids) = (mappings(json, "uidMappings")?, mappings(json, "gidMappings")?);
        if uids.is_empty() != gids.is_empty() {
            return Err(wrong("/linux", "uidMappings and gidMappings are there together or not at all"));
        }
        let size = |key: &str| or_default::<u16>(json, &format!("/process/consoleSize/{key}"));
        let console = Some((size("height")?, size("width")?)).filter(|size| *size != (0, 0));
        let seccomp = match json.pointer("/linux/seccomp").filter(|s| !is_empty(s)) {
            Some(profile) => Seccomp::Oci(profile.to_string()),
            None => Seccomp::None,
        };
        Ok(Self {
            root,
            map: (!uids.is_empty()).then_some((uids, gids)),
            groups: or_default(json, "/process/user/additionalGids")?,
            capabilities: capability_sets(json)?,
            seccomp,
            mounts: mounts::read(json)?,
            masked: or_default(json, "/linux/maskedPaths")?,
            readonly: or_default(json, "/linux/readonlyPaths")?,
            console,
        })
    }

    /// What was typed, as far as it makes sense over a bundle.
    ///
    /// # Errors
    /// [`Exit::Enter`] for an option that does not, or that contradicts the bundle.
    pub fn check(&self, mut typed: Args) -> Result<Args> {
        if typed.no_tmpfs {
            fail!(Exit::Enter, "--no-tmpfs makes no sense with an OCI bundle, which lists its mounts itself");
        }
        if typed.map.is_some() && self.map.is_some() {
            fail!(Exit::Enter, "--map contradicts linux.uidMappings of the bundle's config.json");
        }
        if typed.net.is_none() && (typed.publish_all || !typed.publish.is_empty()) {
            typed.net = Some("user".to_owned());
        }
        Ok(typed)
    }

    /// The id map that the bundle lists, if it does.
    pub fn map(&self, facts: &Facts) -> Option<IdMap> {
        let (uids, gids) = self.map.clone()?;
        let one = |extents: &[Extent], me: u32| matches!(extents, [e] if e.count == 1 && e.outside == me);
        let kind = if one(&uids, facts.uid) && one(&gids, facts.gid) { MapChoice::Single } else { MapChoice::Subid };
        Some(IdMap { kind, uids, gids })
    }

    /// Puts into the plan what no option says. `typed` is the command line alone.
    ///
    /// # Errors
    /// [`Exit::Enter`] for groups that cannot be had.
    pub fn complete(&self, plan: &mut Plan, typed: &Args) -> Result<()> {
        plan.special = false;
        plan.console = self.console;
        let relative = |mount: &Mount| match mount.clone() {
            Mount::Bind { source, target, readonly, noexec } => {
                Mount::Bind { source: plan.dir.join(source), target, readonly, noexec }
            }
            other => other,
        };
        let listed: Vec<Mount> = self.mounts.iter().map(relative).collect();
        plan.mounts.splice(..0, listed);
        plan.masked = paths::without(&self.masked, &typed.unmask);
        plan.readonly = paths::without(&self.readonly, &typed.unmask);
        plan.process.capabilities = self.capabilities.with(plan.process.user.uid, &typed.cap_add, &typed.cap_drop)?;
        if typed.seccomp.is_none() {
            plan.seccomp = self.seccomp.clone();
        }
        plan.files.retain(|(path, _)| wants_etc(typed) || !path.starts_with("/etc"));
        if typed.user.is_none() {
            self.supplement(plan)?;
        }
        Ok(())
    }

    fn supplement(&self, plan: &mut Plan) -> Result<()> {
        let key = "/process/user/additionalGids";
        if let Some(gid) = self.groups.iter().find(|gid| to_outside(&plan.map.gids, **gid).is_none()) {
            return Err(wrong(key, format!("group {gid} is not mapped")));
        }
        match &mut plan.process.groups {
            Groups::Set(groups) => groups.clone_from(&self.groups),
            Groups::Keep if self.groups.iter().all(|gid| *gid == plan.process.user.gid) => {}
            Groups::Keep => return Err(wrong(key, "groups cannot be set where one id is mapped")),
        }
        Ok(())
    }
}

/// Whether the command line asks for something that files under /etc follow from; a bundle alone has its own.
fn wants_etc(typed: &Args) -> bool {
    typed.net.is_some() || !typed.dns.is_empty() || !typed.add_host.is_empty()
}
