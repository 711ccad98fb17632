//! `--bundle`: config.json as an OCI runtime config (runtime-spec config.md), for a runtime without root: `crun run -b DIR`.
//!
//! The same container that d-enter makes by default: its capabilities, its mounts, an own network namespace. The user is looked
//! up in the root filesystem, since a runtime takes numbers only.

use std::fs::File;
use std::io;
use std::path::Path;

use anyhow::Result;
use d_common::beneath::{Link, Root};
use d_common::container::ROOTFS;
use d_common::exit::Exit;
use d_common::fail;
use d_common::idmap::Extent;
use d_common::layout::{MAX_JSON, read_bounded};
use d_common::protected::{MASKED, READONLY};
use rustix::fs::{Mode, OFlags};
use serde_json::{Value, json};

use crate::identity::Identity;

/// The PATH of an image that sets none, as Docker's.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Docker's default capabilities.
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// The runtime config for the converted `docker` config of the container directory `dir`.
///
/// # Errors
/// [`Exit::Data`] when the image's user is not in its passwd file.
pub fn config(docker: &Value, identity: &Identity, dir: &Path) -> Result<Value> {
    let text = |key: &str| docker.get(key).and_then(Value::as_str).unwrap_or_default();
    let list = |key: &str| -> Vec<Value> { docker.get(key).and_then(Value::as_array).cloned().unwrap_or_default() };
    let user = user(text("User"), &read(dir, "etc/passwd"), &read(dir, "etc/group"))?;
    let mut args = [list("Entrypoint"), list("Cmd")].concat();
    if args.is_empty() {
        args.push(json!("/bin/sh"));
    }
    let mut env = list("Env");
    let has = |name: &str, env: &[Value]| env.iter().any(|v| v.as_str().is_some_and(|v| v.starts_with(name)));
    if !has("PATH=", &env) {
        env.insert(0, json!(PATH));
    }
    if !has("TERM=", &env) {
        env.push(json!("TERM=xterm"));
    }
    if !has("HOME=", &env) {
        env.push(json!(format!("HOME={}", user.home)));
    }
    let or = |given: &str, default: &str| if given.is_empty() { default.to_owned() } else { given.to_owned() };
    let capabilities: &[&str] = if user.uid == 0 { &CAPABILITIES } else { &[] };
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": user.uid, "gid": user.gid, "additionalGids": user.groups},
            "args": args,
            "env": env,
            "cwd": or(text("WorkingDir"), "/"),
            "capabilities": {
                "bounding": CAPABILITIES, "effective": capabilities, "permitted": capabilities,
            },
            "noNewPrivileges": false,
        },
        "root": {"path": ROOTFS, "readonly": false},
        "hostname": or(text("Hostname"), "container"),
        "mounts": mounts(identity),
        "linux": {
            "uidMappings": mappings(&identity.map.uids),
            "gidMappings": mappings(&identity.map.gids),
            "namespaces": [
                {"type": "user"}, {"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "network"}, {"type": "cgroup"},
            ],
            "maskedPaths": MASKED,
            "readonlyPaths": READONLY,
        },
    }))
}

/// A file of the root filesystem, found beneath its root, whatever links the image has there; empty when it is no file.
fn read(dir: &Path, name: &str) -> String {
    let open = || -> io::Result<Vec<u8>> {
        let root = Root::open(&dir.join(ROOTFS))?;
        // A FIFO would wait for its other end.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let file = File::from(root.open_at(name, flags, Mode::empty(), Link::Follow)?);
        if file.metadata()?.is_file() { read_bounded(file, MAX_JSON) } else { Ok(Vec::new()) }
    };
    open().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn mounts(identity: &Identity) -> Value {
    let mount = |target: &str, kind: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": kind, "options": options});
    // The tty group is no group of a single map.
    let mut pts = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    if !identity.map.is_single() {
        pts.push("gid=5");
    }
    json!([
        mount("/proc", "proc", &[]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", &pts),
        mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/tmp", "tmpfs", &["nosuid", "nodev", "mode=1777"]),
    ])
}

fn mappings(extents: &[Extent]) -> Value {
    let one = |e: &Extent| json!({"containerID": e.inside, "hostID": e.outside, "size": e.count});
    extents.iter().map(one).collect()
}

/// A user as the root filesystem knows it.
#[derive(Debug, PartialEq, Eq)]
struct User {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    home: String,
}

/// `NAME|UID[:GROUP|GID]`, as Docker reads it: with a group that group alone, else the supplementary ones too.
fn user(text: &str, passwd: &str, group: &str) -> Result<User> {
    let (name, with_group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let name = if name.is_empty() { "0" } else { name };
    let find = |table: &str, key: &str| -> Option<Vec<String>> {
        let rows = table.lines().map(|line| line.split(':').map(str::to_owned).collect::<Vec<_>>());
        let mut rows = rows.filter(|row| row.len() >= 3);
        rows.find(|row| row[0] == key || row[2] == key)
    };
    let number = |row: &Option<Vec<String>>, at: usize| row.as_ref()?.get(at)?.parse::<u32>().ok();
    let row = find(passwd, name);
    let Some(uid) = number(&row, 2).or_else(|| name.parse().ok()) else {
        fail!(Exit::Data, "the image's user {name:?} is not in its /etc/passwd");
    };
    let home = row.as_ref().and_then(|row| row.get(5).cloned()).filter(|h| !h.is_empty());
    let (gid, groups) = match with_group.filter(|g| !g.is_empty()) {
        Some(name) => match number(&find(group, name), 2).or_else(|| name.parse().ok()) {
            Some(gid) => (gid, Vec::new()),
            None => fail!(Exit::Data, "the image's group {name:?} is not in its /etc/group"),
        },
        None => (number(&row, 3).unwrap_or(0), supplementary(group, row.as_ref().map_or("", |row| &row[0]))),
    };
    Ok(User { uid, gid, groups, home: home.unwrap_or_else(|| "/".to_owned()) })
}

/// The groups that list `name` as a member.
fn supplementary(group: &str, name: &str) -> Vec<u32> {
    let member = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let lists = !name.is_empty() && fields.get(3)?.split(',').any(|m| m == name);
        lists.then(|| fields[2].parse().ok()).flatten()
    };
    group.lines().filter_map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_by_name_and_number() {
        let passwd = "root:x:0:0::/root:/bin/sh\nwww:x:33:33::/var/www:\n";
        let group = "root:x:0:\nwww:x:33:\nextra:x:50:a,www\n";
        let of = |text: &str| user(text, passwd, group).unwrap();
        let expected =
            |uid, gid, groups: &[u32], home: &str| User { uid, gid, groups: groups.into(), home: home.into() };
        assert_eq!(of(""), expected(0, 0, &[], "/root"));
        assert_eq!(of("www"), expected(33, 33, &[50], "/var/www"));
        assert_eq!(of("33:extra"), expected(33, 50, &[], "/var/www"));
        assert_eq!(of("1234:7"), expected(1234, 7, &[], "/"));
        assert!(user("nobody", passwd, group).is_err() && user("0:nogroup", passwd, group).is_err());
    }
}
