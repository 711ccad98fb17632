//! OCI runtime bundles: those that others make run, each key has its effect or is refused by name, and what --print-oci
//! writes runs under crun and runc. crun's own test programs, one by one: tests/crun-tests.md.

use std::fs;
use std::path::{Path, PathBuf};

use d_tests::{Cmd, Done, Scratch, busybox_rootfs, fixture, have, run, skip};
use serde_json::{Value, json};

/// A folder with bundles in it.
struct Bundles {
    scratch: Scratch,
}

impl Bundles {
    fn new() -> Self {
        Self { scratch: Scratch::new() }
    }

    /// A bundle `b` of busybox, all of whose namespaces are new, with what `edit` makes of its config.
    #[track_caller]
    fn make(&self, edit: impl FnOnce(&mut Value)) -> PathBuf {
        let dir = self.scratch.join("b");
        if !dir.join("rootfs/bin").exists() {
            busybox_rootfs(&dir.join("rootfs"));
        }
        let all = ["user", "mount", "pid", "ipc", "uts", "cgroup", "network"].map(|kind| json!({"type": kind}));
        let mut config = json!({
            "ociVersion": "1.0.2",
            "process": {"args": ["sh"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}},
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
                {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=1m"]},
                {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "ro"]},
            ],
            "linux": {"namespaces": all},
        });
        edit(&mut config);
        fs::write(dir.join("config.json"), config.to_string()).expect("config.json");
        dir
    }

    /// `d-enter b sh -c SCRIPT`, after `edit`.
    #[track_caller]
    fn sh(&self, script: &str, edit: impl FnOnce(&mut Value)) -> Done {
        self.make(edit);
        self.scratch.run(["d-enter", "b", "sh", "-c", script]).ok()
    }

    /// d-enter must refuse the bundle and name `key`.
    #[track_caller]
    fn refused(&self, key: &str, edit: impl FnOnce(&mut Value)) {
        self.make(edit);
        let done = self.scratch.run(["d-enter", "b", "true"]).fails(125);
        done.expect(done.err().contains(key), &format!("{key} in the error"));
    }

    /// A script as root of a user namespace where cgroup v2 is mounted alone, as crun wants it.
    fn with_cgroup2(&self, script: &str) -> Cmd {
        let script = format!("mount -t cgroup2 none /sys/fs/cgroup && {{ {script}; }}");
        self.scratch.run(["unshare", "--map-auto", "--map-root-user", "-m", "-C", "sh", "-ec", &script])
    }
}

#[test]
fn bundles_that_others_make_run() {
    let b = Bundles::new();
    for (name, runtime) in [("crun", "crun"), ("runc", "runc")] {
        if !have(runtime) {
            return skip(&format!("{runtime} is not installed"));
        }
        busybox_rootfs(&b.scratch.join(format!("{name}/rootfs")));
        b.scratch.run([runtime, "spec", "--rootless"]).cwd(b.scratch.join(name)).ok();
        let script = "id -u; hostname; ulimit -n; grep CapEff /proc/self/status; touch /x 2>&1; ls /sys | grep -c .";
        // terminal is true in both.
        let done = b.scratch.run(["d-enter", name, "sh", "-c", script]).ok();
        for text in ["0\r\n", name, "1024", "0000000020000420", "Read-only file system"] {
            done.out_has(text);
        }
        // Without a command the bundle's own runs: sh, which has nothing to read.
        b.scratch.run(["d-enter", name]).stdin("exit 7\n").code(7);
    }
    let image = format!("{}:latest", fixture("busybox").display());
    b.scratch.run(["umoci", "unpack", "--rootless", "--image", &image, "umoci"]).ok();
    let done =
        b.scratch.run(["d-enter", "umoci", "sh", "-c", "cat /proc/self/uid_map; hostname; cat /etc/resolv.conf"]).ok();
    done.out_has("umoci-default");
    let resolv = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    assert!(done.out().replace('\r', "").ends_with(resolv.trim_end()), "{done}");
}

#[test]
fn the_process_is_as_the_bundle_says() {
    let b = Bundles::new();
    let process = |config: &mut Value| {
        config["process"] = json!({
            "args": ["sh", "-c", "echo \"$0\"; env | sort; pwd; id -u; id -g; id -G; umask; ulimit -n; ulimit -Hn; grep -E 'Cap|NoNew' /proc/self/status", "arg zero"],
            "env": ["PATH=/bin", "A=1 2", "HOME=/h"],
            "cwd": "/new/place",
            "user": {"uid": 33, "gid": 44, "additionalGids": [5, 6], "umask": 0o27},
            "capabilities": {
                "bounding": ["CAP_KILL", "CAP_NET_RAW", "CAP_CHOWN"], "permitted": ["CAP_KILL", "CAP_NET_RAW"], "effective": ["CAP_KILL"],
                "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL", "CAP_NET_RAW"],
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}],
            "noNewPrivileges": true,
        });
    };
    b.make(process);
    let out = b.scratch.run(["d-enter", "b"]).ok().out();
    let lines: Vec<&str> = out.lines().filter(|l| !l.starts_with("SHLVL=") && !l.starts_with("PWD=")).collect();
    let caps = [
        "CapInh:\t0000000000000020",
        "CapPrm:\t0000000000000020",
        "CapEff:\t0000000000000020",
        "CapBnd:\t0000000000002021",
        "CapAmb:\t0000000000000020",
    ];
    let expected =
        ["arg zero", "A=1 2", "HOME=/h", "PATH=/bin", "/new/place", "33", "44", "44 5 6", "0027", "100", "200"];
    assert_eq!(lines, [&expected[..], &caps[..], &["NoNewPrivs:\t1"]].concat());
}

#[test]
fn without_keys_there_are_no_rights_and_no_filter() {
    let b = Bundles::new();
    let done = b.sh("grep -E 'CapBnd|CapEff|NoNew|Seccomp:' /proc/self/status", |_| {});
    assert_eq!(done.out(), "CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t0");
}

#[test]
fn a_terminal_has_the_size_that_is_asked_for() {
    let b = Bundles::new();
    let done = b.sh("tty; stty size; ls -l /dev/console | cut -c1", |config| {
        config["process"]["terminal"] = true.into();
        config["process"]["consoleSize"] = json!({"height": 31, "width": 77});
    });
    assert_eq!(done.out().replace('\r', ""), "/dev/pts/0\n31 77\nc");
    let done = b.sh("tty; test -c /dev/console && touch /x 2>&1 || true", |config| {
        config["process"]["terminal"] = true.into();
        config["root"]["readonly"] = true.into();
        config["mounts"].as_array_mut().expect("a list").retain(|m| m["destination"] != "/dev");
    });
    done.out_has("/dev/pts/0").out_has("Read-only");
    let done = b.sh("tty || true", |_| {});
    done.out_has("not a tty");
}

#[test]
fn mounts_are_made_in_order_with_their_options() {
    let b = Bundles::new();
    b.scratch.write("b/data/file", "inside");
    let script = "cat /data/file; touch /data/x 2>&1; grep -E ' (/data|/scratch|/dev/shm|/proc|/sys) ' /proc/mounts; cat /full/kept; stat -c %a /scratch /full";
    let done = b.sh(script, |config| {
        let mounts = config["mounts"].as_array_mut().expect("a list");
        mounts.push(json!({"destination": "/data", "type": "none", "source": "data", "options": ["rbind", "ro", "noexec"]}));
        mounts.push(json!({"destination": "/scratch", "type": "tmpfs", "options": ["size=64k", "mode=700", "nr_inodes=10", "uid=7"]}));
        mounts.push(json!({"destination": "/full", "type": "tmpfs", "options": ["tmpcopyup"]}));
        let rootfs = b.scratch.join("b/rootfs/full");
        fs::create_dir_all(&rootfs).expect("a folder");
        fs::write(rootfs.join("kept"), "kept\n").expect("a file");
    });
    for text in [
        "insidetouch: /data/x: Read-only file system",
        "/data ",
        "tmpfs /scratch tmpfs rw,nosuid,nodev,relatime,size=64k,nr_inodes=10,mode=700",
        "size=1024k",
        "proc /proc proc rw,nosuid,nodev",
        "sysfs /sys sysfs ro,nosuid,nodev,noexec",
        "kept\n700\n755",
    ] {
        done.out_has(text);
    }
}

#[test]
fn anything_can_be_bound() {
    let b = Bundles::new();
    b.scratch.write("host/file", "text");
    b.scratch.run(["sh", "-ec", "mkfifo host/fifo; ln -s file host/link"]).ok();
    let _socket = std::os::unix::net::UnixListener::bind(b.scratch.join("host/socket")).expect("a socket");
    let done = b.sh("test -p //fifo && test -S /socket && cat /link && test -c /deep/null && echo yes", |config| {
        let mounts = config["mounts"].as_array_mut().expect("a list");
        for (target, source) in [("//fifo", "fifo"), ("/socket", "socket"), ("/link", "link")] {
            mounts.push(json!({"destination": target, "type": "bind", "source": b.scratch.join("host").join(source)}));
        }
        mounts.push(json!({"destination": "/deep/null", "source": "/dev/null", "options": ["bind", "rprivate"]}));
    });
    assert_eq!(done.out(), "textyes");
}

#[test]
fn default_devices_are_there() {
    let b = Bundles::new();
    let script = "for d in null zero full random urandom tty; do test -c /dev/$d || echo no $d; done; for l in fd stdin ptmx; do readlink /dev/$l; done; \
                  echo x >/dev/null; head -c 2 /dev/zero | wc -c; ls /dev/shm /dev/mqueue";
    let all = "/proc/self/fd\n/proc/self/fd/0\npts/ptmx\n2\n/dev/mqueue:\n\n/dev/shm:";
    let sorted = |out: String| out.replace("/dev/shm:\n\n/dev/mqueue:", "/dev/mqueue:\n\n/dev/shm:");
    assert_eq!(sorted(b.sh(script, |_| {}).out()), all);
    // Without a tmpfs on /dev they are bound on files of the root filesystem, twice without harm.
    for _ in 0..2 {
        let done = b.sh("test -c /dev/null && test -c /dev/urandom && echo yes", |config| config["mounts"] = json!([]));
        assert_eq!(done.out(), "yes");
    }
}

/// CVE-2025-31133 and CVE-2025-52565 are of this kind.
#[test]
fn links_in_the_place_of_devices_are_refused() {
    let b = Bundles::new();
    b.make(|config| config["mounts"] = json!([]));
    std::os::unix::fs::symlink("/etc/passwd", b.scratch.join("b/rootfs/dev/null")).expect("a link");
    let done = b.scratch.run(["d-enter", "b", "true"]).fails(125);
    done.expect(done.err().contains("/dev"), "/dev in the error");
}

#[test]
fn namespaces_are_new_or_shared_as_listed() {
    let b = Bundles::new();
    let own = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).expect("a namespace").display().to_string();
    let script = "for n in pid ipc uts cgroup net; do readlink /proc/self/ns/$n; done";
    let kinds = ["pid", "ipc", "uts", "cgroup", "net"];
    let listed = |config: &mut Value, list: &[&str]| {
        config["linux"]["namespaces"] = list.iter().map(|kind| json!({"type": kind})).collect();
    };
    let all = b.sh(script, |_| {}).out();
    let few = b.sh(script, |config| listed(config, &["user", "mount", "ipc"])).out();
    // Without a list all are new.
    let none = b.sh(script, |config| config["linux"] = json!({})).out();
    for (index, kind) in kinds.iter().enumerate() {
        let line = |out: &str| out.lines().nth(index).unwrap_or_default().to_owned();
        assert!(line(&all) != own(kind) && line(&none) != own(kind), "{kind} is new: {all}");
        assert_eq!(line(&few) == own(kind), *kind != "ipc", "{kind} is shared: {few}");
    }
}

#[test]
fn id_mappings_are_those_of_the_bundle() {
    let b = Bundles::new();
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let single = |id: u32| json!([{"containerID": 33, "hostID": id, "size": 1}]);
    let done = b.sh("cat /proc/self/uid_map; id -u", |config| {
        config["process"]["user"] = json!({"uid": 33, "gid": 33});
        config["linux"]["uidMappings"] = single(uid);
        config["linux"]["gidMappings"] = single(gid);
    });
    let words: Vec<String> = done.out().split_whitespace().map(str::to_owned).collect();
    assert_eq!(words, ["33".to_owned(), uid.to_string(), "1".to_owned(), "33".to_owned()]);
}

#[test]
fn paths_are_masked_and_read_only() {
    let b = Bundles::new();
    let script = "cat /etc/secret /proc/cpuinfo; ls /hidden; touch /etc/locked/x /proc/sys/kernel/hostname 2>&1; cat /etc/passwd | head -1";
    let done = b.sh(script, |config| {
        for file in ["etc/secret", "hidden/file", "etc/locked/file"] {
            b.scratch.write(Path::new("b/rootfs").join(file), "secret");
        }
        config["linux"]["maskedPaths"] = json!(["/etc/secret", "/proc/cpuinfo", "/hidden", "/not/there"]);
        config["linux"]["readonlyPaths"] = json!(["/etc/locked", "/proc/sys"]);
    });
    let first = "touch: /etc/locked/x: Read-only file system\n";
    done.expect(
        done.out().starts_with(first) && done.out().ends_with("root:x:0:0:root:/root:/bin/sh"),
        "nothing but the errors",
    );
    b.scratch.run(["d-enter", "--unmask", "/etc/secret", "b", "cat", "/etc/secret"]).ok().out_has("secret");
}

#[test]
fn the_system_call_filter_is_the_bundles() {
    let b = Bundles::new();
    let seccomp = |config: &mut Value| {
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
        });
    };
    let done = b.sh("mkdir /x 2>&1; grep Seccomp: /proc/self/status", seccomp);
    done.out_has("No space left on device").out_has("Seccomp:\t2");
    b.scratch.run(["d-enter", "--seccomp", "none", "b", "mkdir", "/x"]).ok();
    b.refused("seccomp", |config| config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_NOTIFY"}));
}

#[test]
fn host_names_and_sysctls() {
    let b = Bundles::new();
    let done = b.sh(
        "hostname; cat /proc/sys/kernel/domainname /proc/sys/net/ipv4/ip_forward /proc/sys/fs/mqueue/msg_max",
        |config| {
            config["hostname"] = "box".into();
            config["domainname"] = "example.org".into();
            config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "fs.mqueue.msg_max": "17"});
        },
    );
    assert_eq!(done.out(), "box\nexample.org\n1\n17");
    b.refused("kernel.panic", |config| config["linux"]["sysctl"] = json!({"kernel.panic": "1"}));
}

#[test]
fn the_command_line_goes_over_a_bundle() {
    let b = Bundles::new();
    b.make(|config| config["process"]["env"] = json!(["PATH=/bin", "A=1", "B=1"]));
    let options = [
        "-e",
        "A=2",
        "-w",
        "/etc",
        "-u",
        "web",
        "--hostname",
        "other",
        "--tmpfs",
        "/scratch:mode=1777",
        "--umask",
        "077",
        "--read-only",
    ];
    let script = "echo $A $B; pwd; id -un; hostname; umask; touch /scratch/x && touch /x 2>&1; grep -c . /etc/hosts";
    let done =
        b.scratch.run(["d-enter"]).args(options).args(["--add-host", "a:1.2.3.4", "b", "sh", "-c", script]).done();
    assert!(done.out().starts_with("2 1\n/etc\nweb\nother\n0077\ntouch: /x: Read-only file system\n"), "{done}");
    b.scratch.run(["d-enter", "--ephemeral", "b", "touch", "/y"]).ok();
    assert!(!b.scratch.join("b/rootfs/y").exists());
    b.scratch.run(["d-enter", "--no-tmpfs", "b", "true"]).fails(125);
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    let b = Bundles::new();
    b.refused("hooks.prestart", |c| c["hooks"] = json!({"prestart": [{"path": "/bin/true"}]}));
    b.refused("process.apparmorProfile", |c| c["process"]["apparmorProfile"] = "x".into());
    b.refused("process.selinuxLabel", |c| c["process"]["selinuxLabel"] = "x".into());
    b.refused("linux.intelRdt", |c| c["linux"]["intelRdt"] = json!({"closID": "x"}));
    b.refused("linux.devices[0]", |c| {
        c["linux"]["devices"] = json!([{"path": "/dev/kvm", "type": "c", "major": 10, "minor": 232}]);
    });
    b.refused("mounts[0]", |c| c["mounts"] = json!([{"destination": "/x", "type": "ext4", "source": "/dev/sda"}]));
    b.refused("linux.namespaces[0]", |c| c["linux"]["namespaces"] = json!([{"type": "time"}]));
    b.refused("process.user.uid", |c| c["process"]["user"]["uid"] = "root".into());
    b.refused("root.path", |c| c["root"] = json!({}));
    b.refused("ociVersion", |c| c["ociVersion"] = "0.1".into());
    b.refused("hostname", |c| {
        c["hostname"] = "x".into();
        c["linux"]["namespaces"] = json!([{"type": "mount"}]);
    });
    // And what says nothing, or what nobody knows, is none of our business.
    b.sh("true", |c| {
        c["hooks"] = json!({"prestart": []});
        c["annotations"] = json!({"org.example": "x"});
        c["org.example.extension"] = json!({"x": 1});
        c["linux"]["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    });
}

/// What is seen inside, to be compared.
const LOOK: &str = "id -u; id -g; hostname; pwd; umask; ulimit -n; env | grep -v SHLVL | sort; touch /ro 2>&1; ls /mnt 2>&1; ls /dev/pts; \
                    grep -E 'Cap|NoNew|Seccomp:' /proc/self/status; cut -d ' ' -f 2-3 /proc/mounts | sort -u | grep -E '^/(tmp|run|sys|proc|dev/shm|mnt) '";

#[test]
fn a_printed_config_runs_the_same_under_other_runtimes() {
    let b = Bundles::new();
    for runtime in ["crun", "runc"] {
        if !have(runtime) {
            return skip(&format!("{runtime} is not installed"));
        }
    }
    busybox_rootfs(&b.scratch.join("c/rootfs"));
    b.scratch
        .write("c/config.json", json!({"Cmd": ["sh", "-c", LOOK], "Env": ["A=1"], "WorkingDir": "/var"}).to_string());
    b.scratch.write("host/file", "");
    fs::create_dir_all(b.scratch.join("state")).expect("a folder");
    for options in [
        "--hostname box --umask 027 --ulimit nofile=100:200",
        "-v ./host:/mnt:ro --read-only --ulimit nofile=99 -e B=2 --cap-drop ALL --no-new-privs",
        "-u 33:33 --ulimit nofile=98 --cap-add NET_RAW --seccomp none --net host --tmpfs /mnt:size=1m",
    ] {
        for runtime in ["crun", "runc"] {
            let script = format!(
                "mkdir -p p; d-enter -q --print-oci --no-fakeroot {options} c >p/config.json; \
                 d-enter -q --no-fakeroot {options} c >ours; {runtime} --root \"$PWD/state\" run -b p x >theirs; \
                 d-enter -q p >again; diff ours theirs; diff ours again"
            );
            let done = b.with_cgroup2(&script).ok();
            done.silent();
        }
    }
}

#[test]
fn a_printed_config_is_printed_alike_again() {
    let b = Bundles::new();
    let dir = b.make(|config| {
        config["hostname"] = "box".into();
        config["process"]["capabilities"] =
            json!({"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"]});
        config["linux"]["maskedPaths"] = json!(["/proc/kcore"]);
        config["linux"]["seccomp"] =
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]});
    });
    let first = run(["d-enter", "--print-oci"]).arg(&dir).ok().out();
    fs::write(dir.join("config.json"), &first).expect("config.json");
    assert_eq!(run(["d-enter", "--print-oci"]).arg(&dir).ok().out(), first);
    let config: Value = serde_json::from_str(&first).expect("JSON");
    assert_eq!(config["root"]["path"], dir.join("rootfs").to_str().expect("UTF-8"));
    assert_eq!(config["linux"]["seccomp"]["syscalls"][0]["errnoRet"], 1);
    // An image's directory says what its OCI config leaves out, and makes nothing.
    let names = b.scratch.names("");
    let done = b.scratch.run(["d-enter", "--print-oci", "b/rootfs"]).ok();
    done.expect(done.err().contains("/etc/hosts"), "the files that are left out");
    assert_eq!(b.scratch.names(""), names);
}

/// crun-tests.md does not name what is gone.
#[test]
fn the_table_of_cruns_tests_names_tests_that_exist() {
    macro_rules! sources {
        ($($path:literal)*) => { [$(($path, include_str!($path))),*] };
    }
    let sources = sources!(
        "../enter/src/oci/json.rs" "../enter/src/oci/mounts.rs" "../enter/src/oci/resources.rs" "../enter/src/oci/tests.rs"
        "../enter/src/rlimit.rs" "../enter/src/terminal.rs" "attacks.rs" "check.rs" "oci.rs" "seccomp.rs"
        "enter/arguments.rs" "enter/command.rs" "enter/files.rs" "enter/identity.rs" "enter/init.rs" "enter/leftovers.rs"
        "enter/monitoring.rs" "enter/network.rs" "enter/process.rs" "enter/security.rs" "enter/terminal.rs"
        "join/network.rs" "join/rights.rs" "join/running.rs" "limits.rs"
    );
    let table = include_str!("crun-tests.md");
    let named: Vec<(&str, &str)> =
        table.split('`').skip(1).step_by(2).filter_map(|text| text.split_once(".rs: ")).collect();
    assert!(named.len() > 50);
    for (path, test) in named {
        let source = sources.iter().find(|(p, _)| p.strip_suffix(".rs") == Some(path));
        let exists = source.is_some_and(|(_, text)| text.contains(&format!("fn {test}()")));
        assert!(exists, "{path}.rs: {test}");
    }
}
