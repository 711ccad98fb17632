//! The plan: everything that is decided before the first system call of the dance. A pure value; `--dry-run` prints it.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use d_common::idmap::{self, IdMap};
use serde::{Serialize, Serializer};

use crate::choice::ProcMode;
use crate::directory::Filesystem;
use crate::limits::Limits;
use crate::network::Net;
use crate::process::Process;
use crate::terminal::Job;
use crate::volume::Mount;

/// What is known of the caller: its files and descriptors, read once.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// Which of descriptors 0 to 2 are terminals.
    pub terminals: [bool; 3],
    /// What d-enter is to the terminal on stdin.
    pub job: Job,
    /// Its environment.
    pub environment: Vec<(OsString, OsString)>,
    /// The text of its /etc/resolv.conf.
    pub resolv_conf: String,
    /// The text of its /etc/hosts.
    pub hosts: String,
    /// The texts of the `--env-file`s, in order.
    pub env_files: Vec<Vec<u8>>,
    /// Its login name.
    pub name: Option<String>,
    /// Its host name.
    pub hostname: String,
    /// Whether d-enter itself runs in a container.
    pub in_container: bool,
    /// Whether a tmpfs of this kernel can carry an overlay; looked at with `--ephemeral` only.
    pub tmpfs_keeps_attributes: bool,
}

impl Caller {
    /// One of its variables.
    pub fn var(&self, name: &OsStr) -> Option<OsString> {
        self.environment.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone())
    }
}

/// Where the changes of an ephemeral container go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ephemeral {
    /// Bytes; no bound but the kernel's without.
    pub size: Option<u64>,
    /// A directory on disk, where the kernel's tmpfs cannot carry an overlay; else they go to memory.
    pub beside: Option<PathBuf>,
    /// The kernel has no place at all for an overlay's changes: fuse-overlayfs keeps them in memory.
    pub served: bool,
}

/// Which system call filter is installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Seccomp {
    /// The built-in profile.
    Default,
    /// None.
    None,
    /// A profile in Docker's JSON.
    File(PathBuf),
    /// The JSON text of an OCI bundle's `linux.seccomp`.
    Oci(String),
}

/// Namespaces that the container shares with the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[allow(clippy::struct_excessive_bools)]
pub struct Shared {
    /// Process ids.
    pub pid: bool,
    /// System V and POSIX queues.
    pub ipc: bool,
    /// Host name.
    pub uts: bool,
    /// Control groups.
    pub cgroup: bool,
}

/// A kernel setting of a namespace (sysctl(8)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sysctl {
    /// As `net.ipv4.ip_forward`.
    pub name: String,
    /// What is written.
    pub value: String,
    /// Whether the user asked for it; else it is a convenience that may fail.
    pub asked: bool,
}

/// Everything that is decided.
#[derive(Debug, Clone, Serialize)]
#[allow(clippy::struct_excessive_bools)]
pub struct Plan {
    /// The directory, absolute.
    pub dir: PathBuf,
    /// The root filesystem.
    pub filesystem: Filesystem,
    /// Changes vanish.
    pub ephemeral: Option<Ephemeral>,
    /// The root filesystem is read-only.
    pub read_only: bool,
    /// The id map.
    #[serde(serialize_with = "show_map")]
    pub map: IdMap,
    /// Whether d-enter itself may write any map.
    pub privileged: bool,
    /// The command.
    #[serde(flatten)]
    pub process: Process,
    /// Whether root is emulated by a filter.
    pub fakeroot: bool,
    /// The system call filter.
    pub seccomp: Seccomp,
    /// Host name.
    pub hostname: String,
    /// Sysctls of the container's own namespaces.
    pub sysctls: Vec<Sysctl>,
    /// Limits of the whole container.
    pub limits: Limits,
    /// The network.
    pub net: Net,
    /// Forwards, as d-netup takes them.
    pub publish: Vec<String>,
    /// Shared namespaces.
    pub shared: Shared,
    /// How /proc comes to be.
    pub proc: ProcMode,
    /// d-enter's own mounts are made: /proc, /sys, /dev, and /tmp and /run as `tmpfs` says. An OCI bundle lists its own.
    pub special: bool,
    /// /tmp and /run are tmpfs.
    pub tmpfs: bool,
    /// Volumes and other mounts, in order.
    pub mounts: Vec<Mount>,
    /// Files bound over those of the image: path and text.
    pub files: Vec<(PathBuf, String)>,
    /// Paths that are hidden.
    pub masked: Vec<String>,
    /// Paths that are read-only.
    pub readonly: Vec<String>,
    /// Rows and columns of the container's terminal, where they are not the caller's terminal's.
    pub console: Option<(u16, u16)>,
    /// d-enter itself runs in a container, which may forbid some of this.
    pub nested: bool,
    /// What the user should know, said once before the start.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

fn show_map<S: Serializer>(map: &IdMap, serializer: S) -> Result<S::Ok, S::Error> {
    let rows = |e: &[idmap::Extent]| e.iter().map(|e| [e.inside, e.outside, e.count]).collect::<Vec<_>>();
    let json = serde_json::json!({"kind": map.kind.to_string(), "uids": rows(&map.uids), "gids": rows(&map.gids)});
    json.serialize(serializer)
}
