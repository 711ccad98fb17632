//! `d-netup -- CMD`.

use std::time::Duration;

use d_tests::eventually;
use rustix::process::Signal;

use crate::{Namespace, SOON, all_gone, helpers};

#[test]
fn a_command_is_root_in_a_network_of_its_own() {
    let ns = Namespace::new();
    let script = "id -u; id -g; ip -4 -o addr show tap0 | grep -o '10[.0-9/]*' | head -1; cat /etc/resolv.conf";
    let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let kept = host.lines().filter(|l| ["search", "domain", "options"].iter().any(|w| l.starts_with(w)));
    let kept: String = kept.map(|l| format!("{l}\n")).collect();
    let done = ns.netup(["--", "sh", "-ec", script]).ok();
    done.prints(&format!("0\n0\n10.0.2.100/24\n{kept}nameserver 10.0.2.3")).silent();
    assert_eq!(std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(), host, "the host's is untouched");
    assert!(ns.runtime_files().is_empty());
}

#[test]
fn its_streams_directory_environment_and_code_are_the_callers() {
    let ns = Namespace::new();
    let done = ns.netup(["--", "sh", "-c", "cat; pwd; echo $GREETING; exit 7"]);
    let done = done.stdin("in\n").env("GREETING", "hello").cwd("/usr").code(7);
    done.prints("in\n/usr\nhello").silent();
    ns.netup(["--", "sh", "-c", "kill -KILL $$"]).code(137);
    ns.netup(["--", "echo", "-p", "--list"]).ok().prints("-p --list");
}

#[test]
fn what_d_netup_fails_in_itself_is_125() {
    let ns = Namespace::new();
    ns.netup(["--bogus", "--", "true"]).fails(125);
    ns.netup(["-p", "0", "--", "true"]).fails(125).err_has("0 is no port");
    ns.netup(["12", "--", "true"]).fails(125).err_has("not both");
    ns.netup(["--", ""]).fails(125).err_has("CMD is empty");
    ns.netup(["-p", "80:80", "--", "true"]).fails(125).err_has("privileged");
    ns.netup(["--", "no-such-command"]).fails(127).err_has("no-such-command: command not found");
    ns.netup(["--", "/no/such/command"]).fails(127);
    ns.netup(["--", "/etc/passwd"]).fails(126).err_has("/etc/passwd: cannot execute: Permission denied");
    let script = ns.scratch.write("script", "echo no interpreter line\n");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    ns.netup([std::ffi::OsStr::new("--"), script.as_os_str()]).fails(126).err_has("#!");
    assert!(ns.runtime_files().is_empty());
}

#[test]
fn without_a_runtime_directory_it_leaves_none_for_root() {
    let scratch = d_tests::Scratch::new();
    let strangers = || std::fs::metadata("/tmp/d-utils-0").ok().map(|m| std::os::unix::fs::MetadataExt::uid(&m));
    let before = strangers();
    scratch.run(["d-netup", "--", "grep", "nameserver 10.0.2.3", "/etc/resolv.conf"]).ok();
    scratch.run(["unshare", "-Urm", "d-netup", "--", "grep", "nameserver 10.0.2.3", "/etc/resolv.conf"]).ok();
    assert_eq!(strangers(), before);
}

#[test]
fn signals_reach_it() {
    let ns = Namespace::new();
    for (signal, name) in [(Signal::TERM, "TERM"), (Signal::USR1, "USR1"), (Signal::HUP, "HUP"), (Signal::QUIT, "QUIT")]
    {
        let script = format!("trap 'echo got {name}; exit 9' {name}; echo up; while :; do sleep 0.01; done");
        let mut netup = ns.netup(["--", "sh", "-c", &script]).spawn();
        netup.wait_out("up\n");
        netup.signal(signal);
        let done = netup.wait(SOON);
        done.expect(done.code() == 9, "exit code 9").prints(&format!("up\ngot {name}"));
    }
    let mut netup = ns.netup(["--", "sh", "-c", "echo up; exec sleep 600"]).spawn();
    netup.wait_out("up\n");
    netup.signal(Signal::TERM);
    let done = netup.wait(SOON);
    done.expect(done.status.code() == Some(143), "exit code 143");
}

#[test]
fn it_dies_with_d_netup_and_with_its_network() {
    for victim in ["d-netup", "slirp4netns"] {
        let ns = Namespace::new();
        let mut netup = ns.netup(["--", "sh", "-c", "echo up; exec sleep 600"]).spawn();
        netup.wait_out("up\n");
        let all = helpers(&netup);
        assert_eq!(all.len(), 3, "the command, the gate and slirp4netns");
        if victim == "d-netup" {
            netup.signal(Signal::KILL);
            netup.wait(SOON);
        } else {
            let slirp = crate::helper(&netup, victim) as i32;
            rustix::process::kill_process(rustix::process::Pid::from_raw(slirp).unwrap(), Signal::KILL).unwrap();
            let done = netup.wait(SOON);
            done.expect(done.code() == 125, "exit code 125").err_has("slirp4netns was killed by signal 9");
        }
        all_gone(&all);
        assert!(eventually(Duration::from_secs(5), || ns.runtime_files().is_empty()));
    }
}

#[test]
fn its_ports_are_forwarded_and_asked_for_by_the_pid_of_d_netup() {
    let ns = Namespace::new();
    let server = "socat TCP-LISTEN:80,fork,reuseaddr PIPE & echo up; wait";
    let mut netup = ns.netup(["-p", "80", "--", "sh", "-c", server]).spawn();
    netup.wait_out("up\n");
    assert_eq!(netup.out(), "up\n", "stdout is the command's");
    let host = netup.err().split(' ').nth(3).unwrap().to_owned();
    assert_eq!(netup.err(), format!("d-netup: 1 tcp {host} 80\n"));
    ns.netup(["--list", &netup.pid().to_string()]).ok().out_has(&host);
    let answers = || {
        use std::io::{Read, Write};
        let Ok(mut stream) = std::net::TcpStream::connect(&host) else { return false };
        let mut answer = [0; 4];
        stream.write_all(b"ping").is_ok() && stream.read_exact(&mut answer).is_ok() && &answer == b"ping"
    };
    assert!(eventually(SOON, answers));
}

#[test]
fn its_ports_are_told_as_the_caller_wants_and_not_on_its_stdout() {
    let ns = Namespace::new();
    let done = ns.netup(["-p", "80", "--json", "--", "echo", "its"]).ok();
    done.prints("its").err_has(r#"{"id":1,"proto":"tcp","host_addr":"127.0.0.1","host_port":"#);
    ns.netup(["-p", "80", "-q", "--", "echo", "its"]).ok().prints("its").silent();
}

#[test]
fn without_a_path_programs_are_where_they_always_are() {
    let ns = Namespace::new();
    let netup = d_tests::bin("d-netup");
    let runtime = format!("XDG_RUNTIME_DIR={}", ns.scratch.path().display());
    d_tests::run(["env", "-i", &runtime])
        .arg(netup)
        .args(["--", "sh", "-c", "echo there"])
        .ok()
        .prints("there")
        .silent();
}
