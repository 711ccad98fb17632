//! One entry of `mounts` (runtime-spec config.md, "Mounts"), to a [`Mount`] and back.
//!
//! Every mount is nosuid, and nodev unless it is a device: a bundle that asks for the contrary is refused. Binds are recursive,
//! as the kernel wants them in a user namespace. How times of access are kept is left to the kernel.

use std::path::{Path, PathBuf};

use anyhow::Result;
use d_common::exit::{Exit, failure};
use serde::Deserialize;
use serde_json::{Value, json};

use super::json::{is_empty, wrong};
use crate::size;
use crate::volume::{Kernel, Mount};

#[derive(Deserialize)]
struct Entry {
    destination: PathBuf,
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    source: Option<PathBuf>,
    #[serde(default)]
    options: Option<Vec<String>>,
}

/// What the options of an entry ask for.
#[derive(Default)]
struct Options {
    bind: bool,
    readonly: bool,
    noexec: bool,
    devices: bool,
    copy: bool,
    /// Those of the filesystem itself, `NAME=VALUE`.
    own: Vec<(String, String)>,
}

impl Options {
    fn read(words: &[String]) -> Result<Self, String> {
        let mut options = Self::default();
        for word in words {
            match (word.as_str(), word.split_once('=')) {
                ("bind" | "rbind", _) => options.bind = true,
                ("ro" | "rro", _) => options.readonly = true,
                ("rw" | "rrw", _) => options.readonly = false,
                ("noexec" | "rnoexec", _) => options.noexec = true,
                ("exec" | "rexec", _) => options.noexec = false,
                ("dev" | "rdev", _) => options.devices = true,
                ("tmpcopyup", _) => options.copy = true,
                // What holds for every mount here.
                (
                    "defaults" | "nosuid" | "rnosuid" | "nodev" | "rnodev" | "private" | "rprivate" | "newinstance",
                    _,
                ) => {}
                ("relatime" | "norelatime" | "strictatime" | "nostrictatime", _) => {}
                ("atime" | "noatime" | "diratime" | "nodiratime", _) => {}
                (_, Some((name, value))) => options.own.push((name.to_owned(), value.to_owned())),
                _ => return Err(format!("option {word:?} cannot be honoured here")),
            }
        }
        Ok(options)
    }
}

/// All of `mounts`.
///
/// # Errors
/// [`Exit::Enter`], naming the entry.
pub(super) fn read(json: &Value) -> Result<Vec<Mount>> {
    let Some(list) = json.pointer("/mounts").filter(|m| !is_empty(m)) else { return Ok(Vec::new()) };
    let Some(list) = list.as_array() else { return Err(wrong("/mounts", "expected a list")) };
    let entry = |(index, entry): (usize, &Value)| {
        one(entry).map_err(|why| {
            let target = entry["destination"].as_str().unwrap_or("no destination");
            wrong(&format!("/mounts/{index}"), format!("{target}: {why}"))
        })
    };
    list.iter().enumerate().map(entry).collect()
}

fn one(json: &Value) -> Result<Mount, String> {
    for key in ["uidMappings", "gidMappings"] {
        if !is_empty(&json[key]) {
            return Err(format!("{key} cannot be honoured here"));
        }
    }
    let entry = Entry::deserialize(json).map_err(|e| e.to_string())?;
    let target = entry.destination;
    if !target.is_absolute() {
        return Err("the destination is not an absolute path".to_owned());
    }
    let options = Options::read(&entry.options.unwrap_or_default())?;
    let Options { bind, readonly, noexec, devices, copy, own } = options;
    let kind = entry.kind.as_deref().unwrap_or("none");
    if bind || kind == "bind" {
        let Some(source) = entry.source.filter(|s| !s.as_os_str().is_empty()) else {
            return Err("a bind without a source".to_owned());
        };
        if let Some((name, _)) = own.first() {
            return Err(format!("option {name}= cannot be honoured here"));
        }
        if copy {
            return Err("option tmpcopyup is for a tmpfs".to_owned());
        }
        // Runtimes leave devices usable where nobody says nodev; here that goes by where they are.
        let device = source.starts_with("/dev") && !["/dev/shm", "/dev/mqueue"].iter().any(|d| source.starts_with(d));
        if devices && !device {
            return Err("option dev cannot be honoured here: devices can be used below /dev only".to_owned());
        }
        return Ok(match device {
            true => Mount::Device { source, target },
            false => Mount::Bind { source, target, readonly, noexec },
        });
    }
    if devices {
        return Err(
            "option dev cannot be honoured here: there are no devices in a user namespace but bound ones".to_owned()
        );
    }
    let kernel = |kind| match own.first() {
        Some((name, _)) if !matches!(kind, Kernel::Proc | Kernel::Devpts) => {
            Err(format!("option {name}= cannot be honoured here"))
        }
        _ => Ok(Mount::Kernel { kind, target: target.clone(), options: own.clone(), readonly, noexec }),
    };
    match kind {
        "proc" => kernel(Kernel::Proc),
        "sysfs" => kernel(Kernel::Sysfs),
        "devpts" => kernel(Kernel::Devpts),
        "mqueue" => kernel(Kernel::Mqueue),
        "cgroup" | "cgroup2" => kernel(Kernel::Cgroup),
        "tmpfs" => tmpfs(target, own, copy, readonly, noexec),
        other => Err(format!("type {other:?} cannot be mounted here")),
    }
}

fn tmpfs(
    target: PathBuf,
    own: Vec<(String, String)>,
    copy: bool,
    readonly: bool,
    noexec: bool,
) -> Result<Mount, String> {
    let (mut limit, mut mode, mut options) = (None, None, Vec::new());
    for (name, value) in own {
        match name.as_str() {
            "size" => limit = Some(size::parse(&value).map_err(|e| format!("size: {e}"))?),
            "mode" => mode = Some(u32::from_str_radix(&value, 8).map_err(|_| format!("mode {value:?} is not octal"))?),
            _ => options.push((name, value)),
        }
    }
    Ok(Mount::Tmpfs { target, size: limit, mode, copy, noexec, readonly, options })
}

/// An entry of `mounts` for a mount. `volumes` is where volumes kept in DIR lie.
///
/// # Errors
/// [`Exit::Enter`] for a path that no JSON can hold.
pub(super) fn write(mount: &Mount, volumes: &Path) -> Result<Value> {
    let flag = |on: bool, name: &str| on.then(|| name.to_owned());
    let flags = |readonly: bool, noexec: bool| {
        let always = ["nosuid", "nodev"].map(|f| Some(f.to_owned()));
        always.into_iter().chain([flag(noexec, "noexec"), flag(readonly, "ro")]).flatten()
    };
    let own = |options: &[(String, String)]| options.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>();
    let bind = |source: &Path, words: Vec<String>| {
        Ok::<_, anyhow::Error>(("bind", text(source)?, [vec!["rbind".to_owned()], words].concat()))
    };
    let (kind, source, options) = match mount {
        Mount::Bind { source, readonly, noexec, .. } => {
            let absolute = std::path::absolute(source).unwrap_or_else(|_| source.clone());
            bind(&absolute, flags(*readonly, *noexec).collect())?
        }
        Mount::Kept { name, readonly, noexec, .. } => bind(&volumes.join(name), flags(*readonly, *noexec).collect())?,
        Mount::Device { source, .. } => bind(source, vec!["nosuid".to_owned(), "noexec".to_owned()])?,
        Mount::Tmpfs { size, mode, copy, noexec, readonly, options, .. } => {
            let size = size.map(|s| format!("size={s}"));
            let mode = mode.map(|m| format!("mode={m:o}"));
            let words = flags(*readonly, *noexec).chain(flag(*copy, "tmpcopyup")).chain(size).chain(mode);
            ("tmpfs", "tmpfs".to_owned(), words.chain(own(options)).collect())
        }
        Mount::Kernel { kind, options, readonly, noexec, .. } => {
            let words = flags(*readonly, *noexec).filter(|f| !(*kind == Kernel::Devpts && f == "nodev"));
            let instance = flag(*kind == Kernel::Devpts, "newinstance");
            (kind.name(), kind.name().to_owned(), words.chain(instance).chain(own(options)).collect())
        }
    };
    Ok(json!({ "destination": text(mount.target())?, "type": kind, "source": source, "options": options }))
}

fn text(path: &Path) -> Result<String> {
    let not_text = || failure(Exit::Enter, format!("{} is not UTF-8, which JSON needs", path.display()));
    path.to_str().map(str::to_owned).ok_or_else(not_text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuse(entry: Value) -> String {
        read(&json!({ "mounts": [entry] })).unwrap_err().to_string()
    }

    #[test]
    fn entries_round_trip() {
        let entries = [
            json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "nodev", "noexec"]}),
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
            json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                   "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]}),
            json!({"destination": "/data", "type": "none", "source": "/srv/x", "options": ["rbind", "ro"]}),
            json!({"destination": "/dev/fuse", "type": "bind", "source": "/dev/fuse", "options": ["rbind"]}),
            json!({"destination": "/run", "type": "tmpfs", "options": ["tmpcopyup", "nr_inodes=100", "uid=5"]}),
            json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "ro"]}),
            json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "relatime"]}),
        ];
        let mounts = read(&json!({ "mounts": entries })).unwrap();
        assert!(matches!(&mounts[1], Mount::Tmpfs { size: Some(0x400_0000), mode: Some(0o755), .. }));
        assert!(matches!(&mounts[3], Mount::Bind { readonly: true, .. }));
        assert!(matches!(&mounts[4], Mount::Device { .. }));
        let printed: Vec<Value> = mounts.iter().map(|m| write(m, Path::new("/v")).unwrap()).collect();
        assert_eq!(read(&json!({ "mounts": printed })).unwrap(), mounts);
    }

    #[test]
    fn what_cannot_be_honoured_is_named() {
        for (entry, word) in [
            (json!({"destination": "/x", "type": "tmpfs", "options": ["suid"]}), "suid"),
            (json!({"destination": "/x", "type": "bind", "source": "/y", "options": ["rshared"]}), "rshared"),
            (json!({"destination": "/x", "type": "ext4", "source": "/dev/sda"}), "ext4"),
            (json!({"destination": "x", "type": "tmpfs"}), "absolute"),
            (json!({"destination": "/x", "type": "sysfs", "options": ["a=b"]}), "a="),
            (json!({"destination": "/x", "type": "bind"}), "source"),
            (json!({"type": "tmpfs"}), "destination"),
            (json!({"destination": "/x", "type": "bind", "source": "/y", "uidMappings": [{"size": 1}]}), "uidMappings"),
        ] {
            let error = refuse(entry);
            assert!(error.contains("mounts[0]") && error.contains(word), "{error}");
        }
    }
}
