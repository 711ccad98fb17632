//! What the mount options mean: `--volume`, `--bind`, `--tmpfs`, `--device` as typed become [`Mount`]s.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use serde::Serialize;

use crate::mount_args::MountArg;
use crate::size;

/// Something mounted inside, in the order given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Mount {
    /// A file or directory of the host.
    Bind {
        /// On the host; relative to the working directory of the caller.
        source: PathBuf,
        /// Inside.
        target: PathBuf,
        /// Read-only, with everything mounted below it.
        readonly: bool,
        /// Nothing on it can be executed.
        noexec: bool,
    },
    /// A directory under DIR/volumes, filled from the image at its first use.
    Kept {
        /// Relative to DIR/volumes.
        name: PathBuf,
        /// Inside.
        target: PathBuf,
        /// Read-only.
        readonly: bool,
        /// Nothing on it can be executed.
        noexec: bool,
        /// Whether it is filled from the image.
        copy: bool,
    },
    /// A tmpfs.
    Tmpfs {
        /// Inside.
        target: PathBuf,
        /// Its size in bytes; the kernel's default (half of the memory) without.
        size: Option<u64>,
        /// The mode of its root; that of the directory it covers without.
        mode: Option<u32>,
        /// Whether it starts with a copy of what it covers.
        copy: bool,
        /// Nothing on it can be executed.
        noexec: bool,
        /// Read-only.
        readonly: bool,
        /// Further options (tmpfs(5)).
        options: Vec<(String, String)>,
    },
    /// A filesystem of the kernel's, as an OCI bundle lists it.
    Kernel {
        /// Which one.
        kind: Kernel,
        /// Inside.
        target: PathBuf,
        /// Its own options.
        options: Vec<(String, String)>,
        /// Read-only.
        readonly: bool,
        /// Nothing on it can be executed.
        noexec: bool,
    },
    /// A device of the host.
    Device {
        /// On the host.
        source: PathBuf,
        /// Inside.
        target: PathBuf,
    },
}

/// Filesystems of the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kernel {
    /// proc(5)
    Proc,
    /// sysfs(5)
    Sysfs,
    /// pts(4)
    Devpts,
    /// mq_overview(7)
    Mqueue,
    /// cgroups(7)
    Cgroup,
}

impl Kernel {
    /// Its name in an OCI config.
    pub fn name(self) -> &'static str {
        match self {
            Self::Proc => "proc",
            Self::Sysfs => "sysfs",
            Self::Devpts => "devpts",
            Self::Mqueue => "mqueue",
            Self::Cgroup => "cgroup",
        }
    }
}

impl Mount {
    /// Where it appears inside.
    pub fn target(&self) -> &Path {
        match self {
            Self::Bind { target, .. }
            | Self::Kept { target, .. }
            | Self::Tmpfs { target, .. }
            | Self::Kernel { target, .. }
            | Self::Device { target, .. } => target,
        }
    }

    /// What an option means.
    ///
    /// # Errors
    /// [`Exit::Enter`] with the reason.
    pub fn parse(arg: &MountArg) -> Result<Self> {
        let mount = match arg {
            MountArg::Volume(spec) => volume(spec),
            MountArg::Bind(source, target) => bind(source, target, false),
            MountArg::RoBind(source, target) => bind(source, target, true),
            MountArg::Tmpfs(spec) => tmpfs(spec),
            MountArg::Device(spec) => device(spec),
        }?;
        if is_root(mount.target()) {
            fail!(Exit::Enter, "cannot mount on /: that is DIR's own root filesystem; name a path below it");
        }
        Ok(mount)
    }
}

/// Whether an absolute path names / itself.
fn is_root(path: &Path) -> bool {
    let depth = path.components().fold(0_usize, |depth, part| match part {
        Component::Normal(_) => depth + 1,
        Component::ParentDir => depth.saturating_sub(1),
        _ => depth,
    });
    depth == 0
}

/// `[SRC:]DST[:OPT,...]`. A SRC with a slash (or `.`) is a path, else a name under DIR/volumes.
pub fn volume(spec: &OsStr) -> Result<Mount> {
    let wrong = |why: &str| -> Result<Mount> {
        fail!(Exit::Enter, "cannot read --volume {:?}: {why}; expected [SRC:]DST[:OPTIONS]", spec.display().to_string())
    };
    let fields: Vec<&[u8]> = spec.as_bytes().split(|b| *b == b':').collect();
    let (source, target, options) = match fields.as_slice() {
        [dst] => (None, *dst, None),
        [dst, options] if !options.starts_with(b"/") && dst.starts_with(b"/") => (None, *dst, Some(*options)),
        [src, dst] => (Some(*src), *dst, None),
        [src, dst, options] => (Some(*src), *dst, Some(*options)),
        _ => return wrong("too many colons (--bind SRC DST takes any path)"),
    };
    if !target.starts_with(b"/") {
        return wrong("DST is not an absolute path");
    }
    let (mut readonly, mut noexec, mut copy) = (false, false, true);
    for option in options.into_iter().flat_map(|o| o.split(|b| *b == b',')) {
        match option {
            b"ro" => readonly = true,
            b"rw" => readonly = false,
            b"noexec" => noexec = true,
            b"nocopy" => copy = false,
            // Every bind is recursive here, and there are no SELinux labels to set on a file that is not ours to relabel.
            b"rbind" | b"bind" | b"z" | b"Z" | b"nosuid" | b"nodev" | b"exec" | b"private" | b"rprivate" => {}
            other => return wrong(&format!("unknown option {:?}", String::from_utf8_lossy(other))),
        }
    }
    let target = PathBuf::from(OsStr::from_bytes(target));
    match source {
        Some(b"") => wrong("SRC is empty"),
        Some(src) if src == b"." || src.contains(&b'/') => {
            Ok(Mount::Bind { source: OsStr::from_bytes(src).into(), target, readonly, noexec })
        }
        Some(b"..") => wrong("write ../ or an absolute path for the directory above"),
        Some(name) => Ok(Mount::Kept { name: OsStr::from_bytes(name).into(), target, readonly, noexec, copy }),
        None => {
            let parts = target.components().filter(|c| !matches!(c, Component::RootDir | Component::CurDir));
            let name: PathBuf = parts.collect();
            if name.as_os_str().is_empty() || name.components().any(|c| c == Component::ParentDir) {
                return wrong("DST must name a directory below /");
            }
            Ok(Mount::Kept { name, target, readonly, noexec, copy })
        }
    }
}

fn bind(source: &OsStr, target: &OsStr, readonly: bool) -> Result<Mount> {
    if source.is_empty() || !target.as_bytes().starts_with(b"/") {
        fail!(
            Exit::Enter,
            "cannot bind {:?} on {:?}: expected a path and an absolute path inside",
            source.display().to_string(),
            target.display().to_string()
        );
    }
    Ok(Mount::Bind { source: source.into(), target: target.into(), readonly, noexec: false })
}

fn tmpfs(spec: &OsStr) -> Result<Mount> {
    let text = spec.to_string_lossy();
    let (target, options) = text.split_once(':').unwrap_or((&text, ""));
    let wrong = |why: String| -> Result<Mount> {
        fail!(Exit::Enter, "cannot read --tmpfs {text:?}: {why}; expected DST[:size=SIZE,mode=MODE,notmpcopyup]")
    };
    if !target.starts_with('/') {
        return wrong("DST is not an absolute path".to_owned());
    }
    let (mut limit, mut mode, mut copy, mut noexec, mut readonly) = (None, None, true, false, false);
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match option.split_once('=') {
            Some(("size", value)) => {
                limit = Some(size::parse(value).or_exit(Exit::Enter, || format!("--tmpfs {text:?}"))?);
            }
            Some(("mode", value)) => match u32::from_str_radix(value, 8) {
                Ok(bits) if bits <= 0o7777 => mode = Some(bits),
                _ => return wrong(format!("{value:?} is not an octal mode")),
            },
            None if option == "notmpcopyup" => copy = false,
            None if option == "tmpcopyup" => copy = true,
            None if option == "noexec" => noexec = true,
            None if option == "ro" => readonly = true,
            None if matches!(option, "rw" | "exec" | "nosuid" | "nodev") => {}
            _ => return wrong(format!("unknown option {option:?}")),
        }
    }
    Ok(Mount::Tmpfs { target: target.into(), size: limit, mode, copy, noexec, readonly, options: Vec::new() })
}

fn device(spec: &OsStr) -> Result<Mount> {
    let fields: Vec<&[u8]> = spec.as_bytes().split(|b| *b == b':').collect();
    let path = |b: &[u8]| PathBuf::from(OsStr::from_bytes(b));
    let wrong = |why: &str| fail!(Exit::Enter, "cannot read --device {:?}: {why}", spec.display().to_string());
    let (source, target, access) = match fields.as_slice() {
        [src] => (path(src), path(src), None),
        [src, dst] if dst.starts_with(b"/") => (path(src), path(dst), None),
        [src, access] => (path(src), path(src), Some(*access)),
        [src, dst, access] => (path(src), path(dst), Some(*access)),
        _ => return wrong("expected SRC[:DST]"),
    };
    if !source.is_absolute() {
        return wrong("SRC is not an absolute path");
    }
    if !target.is_absolute() {
        return wrong("DST is not an absolute path");
    }
    match access {
        Some(access) if access.is_empty() || access.iter().any(|b| !b"rwm".contains(b)) => {
            wrong("expected SRC[:DST], or docker's SRC[:DST]:rwm")
        }
        // That is about device cgroups, which an ordinary user has not.
        Some(access) if !b"rw".iter().all(|b| access.contains(b)) => {
            wrong("only the device's own mode can keep its users from reading or writing; leave that out")
        }
        _ => Ok(Mount::Device { source, target }),
    }
}

/// Docker's `Volumes` keys: paths, or d-utils' `SRC:DST[:ro]`.
///
/// # Errors
/// As [`volume`].
pub fn from_config(volumes: &[String]) -> Result<Vec<Mount>> {
    volumes.iter().map(|v| volume(OsString::from(v).as_os_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vol(spec: &str) -> Mount {
        volume(OsStr::new(spec)).unwrap()
    }

    fn kept(name: &str, target: &str, copy: bool) -> Mount {
        Mount::Kept { name: name.into(), target: target.into(), readonly: false, noexec: false, copy }
    }

    #[test]
    fn volumes_by_form() {
        let bind = |source: &str, readonly| Mount::Bind {
            source: source.into(),
            target: "/t".into(),
            readonly,
            noexec: false,
        };
        assert_eq!(vol("/s:/t"), bind("/s", false));
        assert_eq!(vol("./s:/t:ro,z"), bind("./s", true));
        assert_eq!(vol(".:/t"), bind(".", false));
        assert_eq!(vol("name:/t"), kept("name", "/t", true));
        assert_eq!(vol("name:/t:nocopy"), kept("name", "/t", false));
        assert_eq!(vol("/var/lib/x"), kept("var/lib/x", "/var/lib/x", true));
        assert_eq!(vol("/x:nocopy"), kept("x", "/x", false));
    }

    #[test]
    fn malformed_volumes_are_refused() {
        for bad in ["", "x", "a:b", "/a:/b:/c:d", "/a:/b:sticky", ":/b", "..:/b", "/", "/../x", "/a/../../b"] {
            assert!(volume(OsStr::new(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn tmpfs_options() {
        let m = Mount::parse(&MountArg::Tmpfs("/s:size=1m,mode=0700,notmpcopyup".into())).unwrap();
        let Mount::Tmpfs { size, mode, copy, .. } = m else { panic!("{m:?}") };
        assert_eq!((size, mode, copy), (Some(1 << 20), Some(0o700), false));
        for bad in ["s", "/s:size=x", "/s:mode=9", "/s:what"] {
            assert!(Mount::parse(&MountArg::Tmpfs(bad.into())).is_err(), "{bad}");
        }
    }

    #[test]
    fn devices() {
        let m = Mount::parse(&MountArg::Device("/dev/fuse:/dev/f:rwm".into())).unwrap();
        assert_eq!(m.target(), Path::new("/dev/f"));
        assert!(Mount::parse(&MountArg::Device("fuse".into())).is_err());
    }
}
