//! Beside rootless podman: inside it is the same but for the differences that d-enter(1) explains, and its containers can be
//! joined.
//!
//! podman wants a pure cgroup2 tree. Where there is none, only root can mount one, so root does that in a mount namespace of
//! its own and becomes the ordinary user there.

#[allow(dead_code)]
#[path = "enter/place.rs"]
mod place;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use d_tests::{Cmd, Done, bin_dir, have, skip};
use place::Place;

const CGROUPS: &str = "[ \"$(stat -f -c %T /sys/fs/cgroup)\" = cgroup2fs ] || \
                       { umount -l /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; } && exec \"$@\"";

/// MKNOD, AUDIT_WRITE and NET_RAW: docker gives them, podman does not.
const DOCKERS_ALONE: u64 = 1 << 27 | 1 << 29 | 1 << 13;

/// Whether d-enter(1), "Differences from rootless podman", explains a difference. Empty is not there.
fn explained(name: &str, ours: &str, theirs: &str) -> bool {
    let capabilities = |hex: &str| u64::from_str_radix(hex, 16).expect("a set of capabilities");
    let flags = |mount: &str| mount.split(' ').skip(1).map(str::to_owned).collect::<BTreeSet<_>>();
    match name {
        "CapPrm" | "CapEff" | "CapBnd" => capabilities(ours) & !DOCKERS_ALONE == capabilities(theirs) & !DOCKERS_ALONE,
        // A tmpfs, and podman's mark of its own.
        "mount /tmp" | "mount /run" => ours == "tmpfs nodev nosuid rw" && theirs.is_empty(),
        "mount /run/.containerenv" => ours.is_empty(),
        // Nothing but the devices is on it.
        "mount /dev" => ours == "tmpfs nodev nosuid rw",
        // Generated on the tmpfs of /dev.
        "mount /etc/hosts" | "mount /etc/hostname" => ours == "tmpfs nodev nosuid rw",
        // Volumes are nosuid and nodev.
        "mount /probe" => flags(ours) == &flags(theirs) | &["nodev", "nosuid"].map(str::to_owned).into(),
        // Process 1 is an init.
        "processes" => ours.starts_with("/proc/1 /proc/2 ") && ours.split(' ').count() == 3,
        "variables" => ours == "HOME PATH PWD SHLVL container",
        // Bound from the host, as they are there.
        _ if name.starts_with("mount /dev/") => ours.split(' ').next() == theirs.split(' ').next(),
        // Hidden by more mounts, or with more flags; a device in the place of a file hides it just as well.
        _ if name.starts_with("mount /proc/") || name.starts_with("mount /sys/") => {
            ours.starts_with("devtmpfs") || flags(ours).is_superset(&flags(theirs))
        }
        _ if name.starts_with("shown /") => ours == "0",
        _ => false,
    }
}

/// A place of the ordinary user, entered by both.
struct Both {
    place: Place,
    user: String,
}

impl Both {
    /// None where podman cannot be tried.
    fn new() -> Option<Self> {
        let user = std::env::var("D_USER").ok().filter(|user| !user.is_empty())?;
        let place = Place::new("subid");
        place.scratch.write("probe", include_str!("podman-probe"));
        std::fs::create_dir(place.scratch.join("run")).expect("a folder");
        d_tests::run(["chown", "-R", &user]).arg(place.scratch.path()).ok();
        d_tests::run(["chgrp", "-R"]).arg(d_tests::run(["id", "-g", &user]).ok().out()).arg(place.scratch.path()).ok();
        have("podman").then_some(Self { place, user })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.scratch.join(name)
    }

    /// A script of the ordinary user, where podman works; `$PODMAN` is its command.
    fn sh(&self, script: &str) -> Cmd {
        let path = format!("{}:{}", bin_dir().display(), d_tests::PATH);
        let shown = |name: &str| self.path(name).display().to_string();
        let podman = format!(
            "podman --log-level error --cgroup-manager cgroupfs --root {} --runroot {}",
            shown("store"),
            shown("run/c")
        );
        let command = self.place.scratch.run(["unshare", "--mount", "sh", "-c", CGROUPS, "sh"]);
        let command = command.args(["runuser", "-u", &self.user, "--", "env", "-i"]);
        let variables = [("PATH", path), ("HOME", shown("")), ("XDG_RUNTIME_DIR", shown("run")), ("PODMAN", podman)];
        // podman leaves a process behind that holds its namespaces.
        let script = format!("trap '[ ! -e {0} ] || kill $(cat {0})' EXIT\n{script}", "run/libpod/tmp/pause.pid");
        command.args(variables.map(|(name, value)| format!("{name}={value}"))).args(["sh", "-c", &script])
    }
}

/// What the probe found; a namespace is the caller's or its own.
fn found(done: &Done) -> BTreeMap<String, String> {
    let line = |line: &str| {
        let (name, value) = line.split_once('=').unwrap_or_else(|| panic!("{line:?} in\n{done}"));
        let value = match name.strip_suffix(" namespace") {
            Some(kind) => {
                let outside = std::fs::read_link(format!("/proc/self/ns/{kind}")).expect("a namespace");
                if outside.as_os_str() == value { "the caller's" } else { "its own" }
            }
            None => value.trim(),
        };
        (name.to_owned(), value.to_owned())
    };
    done.out().lines().map(line).collect()
}

#[test]
fn as_root_inside_is_as_in_podman() {
    let Some(both) = Both::new() else { return skip("no podman, or no ordinary user (D_USER)") };
    let ours = found(both.sh("d-enter -v ./probe:/probe:ro box sh /probe").ok().silent());
    let podman = r#"$PODMAN run --rm --network none -v ./probe:/probe:ro --rootfs "$PWD/box/rootfs" sh /probe"#;
    let theirs = found(&both.sh(podman).ok());
    let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let of = |found: &BTreeMap<String, String>, name: &str| found.get(name).cloned().unwrap_or_default();
    let strange = |name: &&&String| {
        let (ours, theirs) = (of(&ours, name), of(&theirs, name));
        ours != theirs && !explained(name, &ours, &theirs)
    };
    let strange: Vec<_> = names.iter().filter(strange).map(|name| (name, ours.get(*name), theirs.get(*name))).collect();
    assert!(strange.is_empty(), "{strange:#?}");
    // The probe has seen something at all.
    assert!(ours.len() > 60 && ours["net namespace"] == "its own" && ours["write /sys"] == "1", "{ours:#?}");
}

#[test]
fn as_root_a_container_of_podman_is_joined() {
    let Some(both) = Both::new() else { return skip("no podman, or no ordinary user (D_USER)") };
    // As by podman's own exec.
    let script = r#"
        $PODMAN run --rm -d --name other -e WHO=podman -w /var --rootfs "$PWD/box/rootfs" sleep 100 >/dev/null || exit
        pid=$($PODMAN inspect --format '{{.State.Pid}}' other)
        show='echo $WHO $(id -u) $(pwd); tr "\0" " " </proc/1/cmdline; readlink /proc/self/ns/pid; grep -E "^(Cap|NoNew|Seccomp:)" /proc/self/status'
        d-enter --join "$pid" sh -c "$show" >joined
        echo "joined: $?"
        $PODMAN exec other sh -c "$show" | cmp - joined
        echo "the same as by podman exec: $?"
        d-enter --join "$pid" -u 33 sh -c 'id -u; grep CapEff /proc/self/status'
        d-enter --join "$pid" -t sh -c 'test -t 0 && echo a terminal'
        $PODMAN rm -f -t 0 other >/dev/null"#;
    let done = both.sh(script).ok();
    done.prints("joined: 0\nthe same as by podman exec: 0\n33\nCapEff:\t0000000000000000\na terminal\r").silent();
}
