//! Tables: what is typed and what it means, without a kernel.

use super::*;
use crate::choice::Tty;
use crate::config::Config;
use crate::directory::Filesystem;
use crate::process::pty;
use crate::terminal::Job;

fn directory(config: &str) -> Directory {
    Directory {
        name: "My Box".into(),
        path: "/c/My Box".into(),
        filesystem: Filesystem::Folder("/c/My Box/rootfs".into()),
        config: Config::parse(config.as_bytes()).unwrap(),
        is_mine: true,
        passwd: "root:x:0:0:root:/root:/bin/sh\nwww:x:33:33::/var/www:/bin/sh\n".into(),
        group: "root:x:0:\nwww:x:33:\ntape:x:26:www\n".into(),
        room_beside: true,
        has_apt: true,
        changes_user: false,
    }
}

fn facts() -> Facts {
    Facts {
        uid: 1000,
        gid: 1000,
        uid_ranges: vec![(100_000, 65_536)],
        gid_ranges: vec![(100_000, 65_536)],
        ..Facts::default()
    }
}

fn decide(config: &str, line: &str) -> Result<Plan> {
    let argv = ["d-enter"].into_iter().chain(line.split_whitespace()).map(OsString::from);
    let args = Args::from_command_line(argv).unwrap();
    let caller = Caller {
        environment: vec![("TERM".into(), "vt100".into()), ("SECRET".into(), "x".into()), ("E".into(), "e".into())],
        name: Some("ann".into()),
        ..Caller::default()
    };
    Plan::decide(args, &directory(config), &caller, &facts())
}

fn plan(config: &str, line: &str) -> Plan {
    decide(config, line).unwrap()
}

fn words(list: &[OsString]) -> Vec<&str> {
    list.iter().map(|w| w.to_str().unwrap()).collect()
}

#[test]
fn the_command_follows_dockers_rules() {
    let image = r#"{"Entrypoint":["/e","x"],"Cmd":["c"]}"#;
    for (config, line, expected) in [
        (image, "d", vec!["/e", "x", "c"]),
        (image, "d a -b", vec!["/e", "x", "a", "-b"]),
        (image, "--entrypoint /f d", vec!["/f"]),
        (image, "--entrypoint /f d a", vec!["/f", "a"]),
        (image, "--entrypoint= d", vec!["/bin/sh"]),
        (image, "--entrypoint= d a", vec!["a"]),
        ("{}", "d", vec!["/bin/sh"]),
        (r#"{"Cmd":["c"],"entrypoint":"/k"}"#, "d", vec!["/k"]),
    ] {
        assert_eq!(words(&plan(config, line).process.command), expected, "{config} {line}");
    }
}

#[test]
fn the_environment_starts_empty() {
    let p = plan(r#"{"Env":["PATH=/bin","A=1","SECRET"],"env":["B=k"]}"#, "-e A=2 -e E d");
    let expected = ["HOME=/root", "PATH=/bin", "TERM=vt100", "container=d-enter", "A=2", "B=k", "E=e"];
    assert_eq!(words(&p.process.environment), expected);
    assert_eq!(p.process.path, "/bin");
}

#[test]
fn users_and_maps() {
    let p = plan(r#"{"User":"www"}"#, "d");
    assert_eq!((p.process.user.uid, p.process.user.gid, p.process.groups), (33, 33, Groups::Set(vec![26])));
    assert_eq!((p.process.capabilities.effective, p.fakeroot), (0, false));
    let p = plan(r#"{"User":"www"}"#, "-u 0 d");
    assert_eq!((p.process.user.uid, p.map.kind), (0, MapChoice::Subid));
    let p = plan(r#"{"User":"www"}"#, "--map single d");
    assert_eq!((p.map.uids[0].inside, p.fakeroot, p.process.groups), (33, false, Groups::Keep));
    let p = plan("{}", "--map single d");
    assert!(p.fakeroot && p.process.no_new_privs);
    assert!(p.process.environment.iter().any(|e| e == "APT_CONFIG=/run/apt.conf.d-enter"));
    assert!(!plan("{}", "--map single --no-fakeroot d").fakeroot);
    let p = plan(r#"{"User":"www"}"#, "--map keep-id d");
    assert_eq!((p.process.user.uid, p.process.user.gid), (1000, 1000));
    assert!(p.files.iter().any(|(path, text)| path.ends_with("passwd") && text.contains("ann:x:1000:1000")));
    assert_eq!(plan("{}", "--map keep-id -u www d").process.user.uid, 33);
    assert_eq!(plan(r#"{"User":"www"}"#, "-r d").process.user.uid, 0);
}

#[test]
fn the_recorded_map_binds() {
    assert_eq!(plan(r#"{"map":"single"}"#, "d").map.kind, MapChoice::Single);
    assert_eq!(plan(r#"{"map":"single"}"#, "--map auto d").map.kind, MapChoice::Single);
    assert!(decide(r#"{"map":"single"}"#, "--map subid d").unwrap_err().to_string().contains("--replace"));
    let mut foreign = directory(r#"{"map":"subid"}"#);
    foreign.is_mine = false;
    let args = Args::from_command_line(["d-enter", "d"].map(OsString::from)).unwrap();
    assert_eq!(Plan::decide(args, &foreign, &Caller::default(), &facts()).unwrap().map.kind, MapChoice::Single);
    let args = Args::from_command_line(["d-enter", "d"].map(OsString::from)).unwrap();
    let gone = Facts { helpers_missing: Some("newuidmap is not installed".into()), ..facts() };
    assert!(Plan::decide(args, &directory(r#"{"map":"subid"}"#), &Caller::default(), &gone).is_err());
}

#[test]
fn publishing_implies_a_network() {
    assert_eq!(plan("{}", "d").net, Net::None);
    assert_eq!(plan("{}", "-p 8080:80 d").net, Net::User(vec![]));
    assert_eq!(plan(r#"{"net":true}"#, "d").net, Net::User(vec![]));
    assert_eq!(plan(r#"{"ExposedPorts":{"80/tcp":{},"53/udp":{}}}"#, "-P d").publish, ["80", "53/udp"]);
    for line in ["--net none -p 1:1 d", "--net host -p 1:1 d", "--net ns:/x -p 1:1 d"] {
        assert!(decide("{}", line).is_err(), "{line}");
    }
    assert_eq!(plan(r#"{"publish":["1:1"]}"#, "--publish none --net none d").net, Net::None);
}

#[test]
fn host_names_are_made_fit() {
    assert_eq!(plan("{}", "d").hostname, "My-Box");
    assert_eq!(plan(r#"{"Hostname":"img"}"#, "d").hostname, "img");
    assert_eq!(plan(r#"{"Hostname":"img","hostname":"key"}"#, "--hostname flag d").hostname, "flag");
}

#[test]
fn later_mounts_take_the_place_of_earlier_ones() {
    let p = plan(r#"{"Volumes":{"/data":{}},"volume":["/x:/data:ro"]}"#, "-v /y:/z d");
    let sources: Vec<String> = p.mounts.iter().map(|m| format!("{}", m.target().display())).collect();
    assert_eq!(sources, ["/data", "/z"]);
    assert!(matches!(&p.mounts[0], Mount::Bind { source, readonly: true, .. } if source.as_os_str() == "/x"));
    assert!(plan(r#"{"Volumes":{"/data":{}}}"#, "--volume none d").mounts.is_empty());
}

#[test]
fn nonsense_is_refused() {
    for line in [
        "--umask 8 d",
        "--umask 1777 d",
        "-w rel d",
        "--dns x d",
        "--sysctl kernel.panic=1 d",
        "--sysctl a d",
        "--share pid --as-pid-1 d",
        "--share uts --hostname x d",
        "--ephemeral=x d",
        "--net bridge d",
        "--cap-add NOPE d",
        "--hostname= d",
    ] {
        assert!(decide("{}", line).is_err(), "{line}");
    }
    assert!(decide(r#"{"StopSignal":"SIGWHAT"}"#, "d").is_err());
}

#[test]
fn terminals_are_for_jobs_of_theirs() {
    let caller = |terminals, job| Caller { terminals, job, ..Caller::default() };
    assert_eq!(pty(Tty::Auto, &caller([true, false, true], Job::Foreground)), [true, false, true]);
    assert_eq!(pty(Tty::Auto, &caller([true, true, true], Job::Background)), [true; 3]);
    assert_eq!(pty(Tty::Auto, &caller([true, true, true], Job::None)), [false; 3]);
    assert_eq!(pty(Tty::Auto, &caller([false, true, true], Job::Foreground)), [false; 3]);
    assert_eq!(pty(Tty::Always, &caller([false; 3], Job::None)), [true; 3]);
    assert_eq!(pty(Tty::Never, &caller([true; 3], Job::Foreground)), [false; 3]);
}
