//! The images of the tests, made once by `tests/images` and shared by all tests, which only read them.
//!
//! | layout (OCI, tag `latest`) | what |
//! |---|---|
//! | `busybox`, `busybox-zstd` | busybox-static with a link for each applet; one layer |
//! | `debian`, `debian-zstd` | `mmdebstrap --variant=apt bookworm`; a layer that deletes; a layer with an opaque directory |
//!
//! Beside them `registry` (storage of docker-registry with all of them) and `debian.tar` (the first layer, plain).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::command::run;

/// The folder of the fixtures, made now if need be (a minute or so, with access to Debian's archive).
#[track_caller]
pub fn fixtures() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let default = || crate::bin_dir().join("../fixtures");
        let dir = std::env::var_os("D_FIXTURES").map_or_else(default, PathBuf::from);
        if !dir.join("complete").exists() {
            let made = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/images")).arg(&dir).status();
            assert!(made.is_ok_and(|s| s.success()), "tests/images {} failed", dir.display());
        }
        dir.canonicalize().expect("the folder of the fixtures")
    })
}

/// An OCI layout of the fixtures: `busybox`, `busybox-zstd`, `debian`, `debian-zstd`; its tag is `latest`.
#[track_caller]
pub fn fixture(name: &str) -> PathBuf {
    let layout = fixtures().join(name);
    assert!(layout.join("index.json").is_file(), "no such fixture: {}", layout.display());
    layout
}

/// Makes a bare root filesystem of busybox at `dir`, without any of our tools: what a test of d-enter starts from.
#[track_caller]
pub fn busybox_rootfs(dir: &Path) {
    for folder in ["bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "var/tmp"] {
        fs::create_dir_all(dir.join(folder)).expect("a folder of the rootfs");
    }
    fs::copy("/bin/busybox", dir.join("bin/busybox")).expect("busybox-static, which tests/run installs");
    for applet in run(["busybox", "--list"]).ok().out().lines().filter(|a| *a != "busybox") {
        std::os::unix::fs::symlink("busybox", dir.join("bin").join(applet)).expect("a link for an applet");
    }
    fs::write(dir.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/var:/bin/sh\n").expect("passwd");
    fs::write(dir.join("etc/group"), "root:x:0:\nweb:x:33:\nextra:x:44:web\n").expect("group");
}
