//! Tables: bundles as plans, and plans as bundles, without a kernel.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Result;
use d_common::idmap::{Facts, MapChoice};
use d_common::report::{Level, Report};
use serde_json::{Value, json};

use crate::args::Args;
use crate::config::Config;
use crate::directory::{Directory, Filesystem};
use crate::network::Net;
use crate::plan::{Caller, Plan, Seccomp};
use crate::process::Groups;
use crate::volume::Mount;

/// A bundle much like that of `runc spec --rootless`.
fn bundle() -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/bin", "A=1"],
            "cwd": "/w",
            "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"], "ambient": ["CAP_KILL"]},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 512}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/data", "type": "bind", "source": "data", "options": ["rbind"]},
        ],
        "linux": {
            "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
            "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "user"}, {"type": "uts"}, {"type": "network"}],
            "maskedPaths": ["/proc/kcore", "/etc/shadow"],
            "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"},
        },
    })
}

fn decide(config: &Value, line: &str) -> Result<Plan> {
    let directory = Directory {
        name: "b".into(),
        path: "/b".into(),
        filesystem: Filesystem::Folder("/b/rootfs".into()),
        config: Config::parse(config.to_string().as_bytes())?,
        is_mine: true,
        passwd: "root:x:0:0::/root:/bin/sh\n".into(),
        group: String::new(),
        room_beside: true,
        has_apt: false,
        changes_user: false,
    };
    let facts = Facts {
        uid: 1000,
        gid: 1000,
        uid_ranges: vec![(100_000, 65_536)],
        gid_ranges: vec![(100_000, 65_536)],
        ..Facts::default()
    };
    let argv = ["d-enter"].into_iter().chain(line.split_whitespace()).map(OsString::from);
    Plan::decide(Args::from_command_line(argv).unwrap(), &directory, &Caller::default(), &facts)
}

fn plan(config: &Value, line: &str) -> Plan {
    decide(config, line).unwrap()
}

/// The bundle with the member at `pointer` set.
fn with(pointer: &str, value: Value) -> Value {
    let mut config = bundle();
    let keys: Vec<&str> = pointer.split('/').skip(1).collect();
    *keys.iter().fold(&mut config, |at, key| &mut at[*key]) = value;
    config
}

#[test]
fn a_bundle_says_it_all() {
    let p = plan(&bundle(), "b");
    assert_eq!(
        (p.process.command, p.process.environment),
        (vec!["sh".into()], ["HOME=/root", "PATH=/bin", "A=1"].map(Into::into).into())
    );
    assert_eq!((p.process.capabilities.effective, p.process.capabilities.ambient), (1 << 5, 0));
    assert_eq!(
        (p.process.rlimits[0].soft, p.process.no_new_privs, p.read_only, p.special),
        (Some(512), true, true, false)
    );
    assert_eq!((p.hostname.as_str(), p.process.workdir.as_os_str()), ("box", "/w".as_ref()));
    assert_eq!((p.map.kind, p.fakeroot, p.net), (MapChoice::Single, false, Net::None));
    assert!(p.shared.ipc && p.shared.cgroup && !p.shared.pid);
    assert!(matches!(&p.mounts[1], Mount::Bind { source, .. } if source == Path::new("/b/data")));
    assert_eq!(p.masked, ["/proc/kcore", "/etc/shadow"]);
    assert!(matches!(p.seccomp, Seccomp::Oci(_)) && p.files.is_empty());
}

#[test]
fn the_command_line_goes_over_it() {
    let p = plan(&bundle(), "-e A=2 -w / -v /x:/y --seccomp default --unmask /etc/shadow --cap-add CHOWN -t b id -u");
    assert_eq!(p.process.command, ["id", "-u"]);
    assert!(p.process.environment.contains(&"A=2".into()) && p.process.pty == [true; 3]);
    assert_eq!((p.mounts.len(), p.process.capabilities.effective, p.seccomp), (3, 1 << 5 | 1, Seccomp::Default));
    assert_eq!(p.masked, ["/proc/kcore"]);
    assert_eq!(plan(&bundle(), "-p 8080:80 b").net, Net::User(Vec::new()));
    assert!(plan(&bundle(), "--dns 1.1.1.1 b").files.iter().any(|(path, _)| path.ends_with("resolv.conf")));
    assert_eq!(plan(&bundle(), "--ulimit nofile=64 b").process.rlimits.len(), 1);
    for line in ["--no-tmpfs b", "--map subid b"] {
        assert!(decide(&bundle(), line).is_err(), "{line}");
    }
}

#[test]
fn other_maps_namespaces_and_groups() {
    let mut few = with("/linux/namespaces", json!([{"type": "mount"}]));
    assert!(decide(&few, "b").unwrap_err().to_string().contains("hostname"));
    few["hostname"] = json!("");
    let p = plan(&few, "b");
    assert!(p.shared.pid && p.shared.uts && p.net == Net::Host);
    let path = json!([{"type": "mount"}, {"type": "network", "path": "/run/n"}, {"type": "uts"}]);
    assert_eq!(plan(&with("/linux/namespaces", path), "b").net, Net::Ns("/run/n".into()));
    let mut wide = with("/linux/uidMappings", json!(null));
    wide["linux"]["gidMappings"] = json!([]);
    wide["process"]["user"]["additionalGids"] = json!([7, 8]);
    let p = plan(&wide, "b");
    assert_eq!((p.map.kind, p.process.groups), (MapChoice::Subid, Groups::Set(vec![7, 8])));
    assert_eq!(plan(&with("/process/consoleSize", json!({"height": 24, "width": 80})), "b").console, Some((24, 80)));
}

#[test]
fn what_cannot_be_honoured_names_its_key() {
    for (pointer, value) in [
        ("/hooks/prestart", json!([{"path": "/x"}])),
        ("/process/apparmorProfile", json!("p")),
        ("/process/selinuxLabel", json!("l")),
        ("/process/oomScoreAdj", json!(5)),
        ("/linux/intelRdt", json!({"closID": "x"})),
        ("/linux/cgroupsPath", json!("/x")),
        ("/linux/rootfsPropagation", json!("shared")),
        ("/linux/resources/cpu", json!({"shares": 5})),
        ("/linux/devices", json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}])),
        ("/linux/devices", json!([{"path": "/dev/null", "type": "c", "major": 1, "minor": 5}])),
        ("/linux/devices", json!([{"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 384}])),
        ("/mounts", json!([{"destination": "/m", "type": "bind", "source": "/srv", "options": ["bind", "dev"]}])),
        ("/mounts", json!([{"destination": "/m", "type": "bind", "source": "/srv", "options": ["tmpcopyup"]}])),
        ("/mounts", json!([{"destination": "/m", "type": "tmpfs", "options": ["dev"]}])),
        ("/linux/namespaces", json!([{"type": "pid"}])),
        ("/linux/namespaces", json!([{"type": "mount"}, {"type": "time"}])),
        ("/linux/namespaces", json!([{"type": "mount"}, {"type": "mount"}])),
        ("/linux/namespaces", json!([{"type": "mount"}, {"type": "pid", "path": "/proc/1/ns/pid"}])),
        ("/linux/gidMappings", json!([])),
        ("/linux/uidMappings", json!([{"containerID": 1, "hostID": 1, "size": u32::MAX}])),
        ("/linux/sysctl", json!({"net.ipv4.ip_forward": 1})),
        ("/process/user/additionalGids", json!([7])),
        ("/process/user/uid", json!("root")),
        ("/process/args", json!("sh")),
        ("/process/cwd", json!("w")),
        ("/process/rlimits", json!([{"type": "RLIMIT_WHAT", "soft": 1, "hard": 1}])),
        ("/process/capabilities/bounding", json!(["CAP_WHAT"])),
        ("/root/path", json!(null)),
        ("/ociVersion", json!("2.0")),
    ] {
        let error = decide(&with(pointer, value.clone()), "b").unwrap_err().to_string();
        let key = pointer.rsplit('/').next().unwrap();
        assert!(
            error.starts_with("config.json: ") && (error.contains(key) || pointer.contains("Mappings")),
            "{pointer} {value}: {error}"
        );
    }
    // What says nothing, or what the specification does not know, is no error.
    for (pointer, value) in [
        ("/hooks", json!({"prestart": []})),
        ("/linux/resources", json!({"devices": [{"allow": false, "access": "rwm"}], "memory": {"limit": 0}})),
        ("/linux/devices", json!([{"path": "/dev/null", "type": "c", "major": 1, "minor": 3}])),
        ("/io.example.key", json!({"x": 1})),
    ] {
        plan(&with(pointer, value), "b");
    }
}

#[test]
fn a_printed_plan_is_the_plan_again() {
    let quiet = Report::new("d-enter", Level::Quiet);
    let mut bundle = bundle();
    bundle["process"]["capabilities"]["ambient"] = json!([]);
    let printed = super::print(&plan(&bundle, "b"), quiet).unwrap();
    assert_eq!(printed, super::print(&plan(&printed, "b"), quiet).unwrap());
    let error = super::print(&plan(&bundle, "--ephemeral b"), quiet).unwrap_err();
    assert!(error.to_string().contains("--ephemeral"));
}
