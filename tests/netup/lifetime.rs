//! Who ends with whom, and what is left: nothing.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use d_tests::{alive, children, eventually, have, run, skip};
use rustix::process::{Pid, Signal, kill_process};

use crate::{Namespace, SOON, all_gone, helpers};

fn kill(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

#[test]
fn it_ends_with_its_target() {
    let ns = Namespace::new();
    let netup = ns.connected(["-p", "7007", "-p", "7007/udp"]);
    let helpers = helpers(&netup);
    assert_eq!(helpers.len(), 2, "the gate and slirp4netns");
    ns.holder.signal(Signal::KILL);
    let done = netup.wait(SOON);
    done.expect(done.code() == 0, "exit code 0").silent();
    all_gone(&helpers);
    assert!(ns.runtime_files().is_empty());
}

#[test]
fn a_signal_ends_it_with_128_and_its_number() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let ns = Namespace::new();
        let netup = ns.connected::<&str>([]);
        let helpers = helpers(&netup);
        netup.signal(signal);
        let done = netup.wait(SOON);
        done.expect(done.status.code() == Some(code), &format!("exit code {code}"));
        all_gone(&helpers);
        assert!(ns.runtime_files().is_empty());
    }
}

#[test]
fn its_device_goes_with_it() {
    let ns = Namespace::new();
    // What fails when the network is up already, too.
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let forward = format!("{}:80", busy.local_addr().unwrap().port());
    ns.netup(["-p", &forward, &ns.pid()]).fails(73);
    let has_device = || ns.inside(["ip", "link", "show", "tap0"]).wait(SOON).status.success();
    assert!(!has_device());
    for signal in [Signal::TERM, Signal::KILL] {
        let netup = ns.connected::<&str>([]);
        assert!(has_device());
        let helpers = helpers(&netup);
        netup.signal(signal);
        netup.wait(SOON);
        all_gone(&helpers);
        assert!(!has_device(), "after {signal:?}");
    }
}

#[test]
fn killed_it_takes_its_helpers_and_files_along() {
    for backend in ["slirp4netns", "pasta"] {
        if !have(backend) {
            return skip("no pasta");
        }
        let ns = Namespace::new();
        let netup = ns.connected(["--backend", backend, "-p", "7007/udp"]);
        let helpers = helpers(&netup);
        assert!(helpers.len() >= 2, "{helpers:?}");
        assert_eq!(ns.runtime_files(), [format!("{}.sock", ns.pid())]);
        netup.signal(Signal::KILL);
        netup.wait(SOON);
        all_gone(&helpers);
        assert!(eventually(SOON, || ns.runtime_files().is_empty()), "{:?}", ns.runtime_files());
        // And it can be had again.
        ns.connected::<&str>([]);
    }
}

#[test]
fn leftovers_of_the_dead_are_removed_and_sockets_of_the_living_are_not() {
    let (ns, other) = (Namespace::new(), Namespace::new());
    let _netup = ns.connected::<&str>([]);
    // What remains when the gate is killed with the rest, as at the end of a pid namespace.
    let dir = ns.scratch.join("d-netup");
    drop(std::os::unix::net::UnixListener::bind(dir.join("999999.sock")).unwrap());
    std::fs::create_dir(dir.join("999999.slirp")).unwrap();
    ns.netup(["--", "true"]).ok();
    assert_eq!(ns.runtime_files(), [format!("{}.sock", ns.pid())]);
    let _second = other.netup(["--ready-fd", "1", &other.pid()]).env("XDG_RUNTIME_DIR", ns.scratch.path()).spawn();
    assert!(eventually(SOON, || ns.runtime_files().len() == 2));
    ns.netup(["--list", &ns.pid()]).ok();
}

#[test]
fn a_gate_that_was_killed_leaves_nothing_in_the_way() {
    for backend in ["slirp4netns", "pasta"] {
        if !have(backend) {
            return skip("no pasta");
        }
        let ns = Namespace::new();
        let netup = ns.connected(["--backend", backend]);
        let helpers = helpers(&netup);
        kill(crate::helper(&netup, "d-netup"), Signal::KILL);
        let done = netup.wait(SOON);
        done.expect(done.code() == 69, "exit code 69").err_has("the gate process died");
        all_gone(&helpers);
        assert!(ns.runtime_files().is_empty(), "{:?}", ns.runtime_files());
        ns.connected(["--backend", backend]);
    }
}

#[test]
fn a_helper_that_dies_is_not_missed_in_silence() {
    for backend in ["slirp4netns", "pasta"] {
        if !have(backend) {
            return skip("no pasta");
        }
        let ns = Namespace::new();
        let netup = ns.connected(["--backend", backend]);
        let helpers = helpers(&netup);
        let comm = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let helper = helpers.iter().find(|pid| comm(**pid).trim() != "d-netup").expect("the backend's process");
        kill(*helper, Signal::KILL);
        let done = netup.wait(SOON);
        done.expect(done.code() == 69, "exit code 69").err_has("was killed by signal 9");
        all_gone(&helpers);
        assert!(alive(ns.holder.pid()), "the target lives on");
        assert!(ns.runtime_files().is_empty());
    }
}

#[test]
fn an_exit_descriptor_ends_it() {
    let ns = Namespace::new();
    let script = format!("sleep 1 | d-netup --exit-fd 0 {}; echo $?", ns.pid());
    ns.scratch.sh(&script).env("XDG_RUNTIME_DIR", ns.scratch.path()).ok().prints("0");
    ns.netup(["--exit-fd", "77", &ns.pid()]).fails(64).err_has("--exit-fd 77: not an open descriptor");
    ns.netup(["--exit-fd", "0", &ns.pid()]).fails(64).err_has("--exit-fd 0: neither a pipe nor a socket");
}

#[test]
fn descriptors_that_are_not_open_are_refused_in_the_background_too() {
    let ns = Namespace::new();
    for fd in 3..8 {
        let words = format!("--ready-fd {fd}: not an open descriptor");
        ns.netup(["--background", "--ready-fd", &fd.to_string(), &ns.pid()]).fails(64).prints("").err_has(&words);
    }
}

#[test]
fn in_the_background_it_prints_its_pid_and_lets_go() {
    let ns = Namespace::new();
    let started = Instant::now();
    let out = ns.netup(["--background", "-p", "7007", &ns.pid()]).ok().out();
    assert!(started.elapsed() < SOON);
    let (pid, port) = out.split_once('\n').unwrap();
    let pid: u32 = pid.parse().unwrap();
    assert!(alive(pid) && port.starts_with("1 tcp 127.0.0.1:"), "{out}");
    let helpers = children(pid);
    let _server = ns.echo("tcp", 7007);
    crate::tcp_echo(port.split(' ').nth(2).unwrap(), b"behind the scenes");
    ns.holder.signal(Signal::KILL);
    all_gone(&[pid]);
    all_gone(&helpers);
    assert!(ns.runtime_files().is_empty());
    // What fails is told by the code of the caller.
    ns.netup(["--background", "999999999"]).fails(66);
}

#[test]
fn in_the_background_it_holds_nothing_of_the_callers_but_what_it_is_to_watch() {
    let ns = Namespace::new();
    let script = format!(
        "exec 9>lock; flock 9; mkfifo watched; sleep 100 >watched 9>&- & writer=$!
        d-netup --background --exit-fd 0 {pid} <watched
        exec 9>&-; flock -n lock true; echo unlocked $?
        sleep 0.3; d-netup --list {pid}; echo served $?
        kill $writer; while d-netup --list {pid} 2>&-; do sleep 0.1; done; echo over",
        pid = ns.pid()
    );
    let done = ns.scratch.sh(&script).env("XDG_RUNTIME_DIR", ns.scratch.path()).ok();
    done.out_has("unlocked 0\nserved 0\nover");
}

#[test]
fn the_service_manager_is_told() {
    let ns = Namespace::new();
    let path = ns.scratch.join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(SOON)).unwrap();
    let _netup = ns.netup([ns.pid()]).env("NOTIFY_SOCKET", &path).spawn();
    let mut buffer = [0; 100];
    let n = manager.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..n], b"READY=1\n");
}

#[test]
fn a_namespace_that_is_only_being_made_is_waited_for() {
    let ns = Namespace::new();
    // $! of a command that makes its namespace later, itself.
    let late = run(["sh", "-c", "sleep 0.3; exec unshare -Urn sleep 600"]).spawn();
    let mut netup = ns.netup(["--ready-fd", "1", &late.pid().to_string()]).spawn();
    netup.wait_out("READY=1");
    ns.netup(["--list", &late.pid().to_string()]).ok();
}

#[test]
fn a_process_that_went_on_to_a_user_namespace_without_a_map_is_served() {
    let ns = Namespace::new();
    let deep = run(["unshare", "-Urn", "unshare", "-U", "sleep", "600"]).spawn();
    let is_there = || std::fs::read_to_string(format!("/proc/{}/comm", deep.pid())).is_ok_and(|c| c.trim() == "sleep");
    assert!(eventually(SOON, is_there));
    let mut netup = ns.netup(["--ready-fd", "1", &deep.pid().to_string()]).spawn();
    netup.wait_out("READY=1");
    // One that nobody can be anybody in is another matter.
    let unmapped = run(["unshare", "-Un", "sleep", "600"]).spawn();
    ns.netup([unmapped.pid().to_string()]).fails(66).err_has("has no id map");
}

#[test]
fn a_network_that_another_connects_is_left_alone() {
    let ns = Namespace::new();
    let other = ns.connected::<&str>([]);
    // Another runtime directory: this d-netup knows nothing of that one.
    let elsewhere = d_tests::Scratch::new();
    for backend in ["slirp4netns", "pasta"].into_iter().filter(|b| have(b)) {
        let second = ns.netup(["--backend", backend, &ns.pid()]).env("XDG_RUNTIME_DIR", elsewhere.path());
        second.fails(73).err_has("has a device tap0 already").err_has("end that first");
    }
    drop(other);
}

#[test]
fn it_is_had_again_at_once_after_a_kill() {
    let ns = Namespace::new();
    for _ in 0..15 {
        let netup = ns.connected::<&str>([]);
        netup.signal(Signal::KILL);
        netup.wait(SOON);
    }
}

#[test]
fn the_pid_of_bwrap_stands_for_its_sandbox() {
    if !have("bwrap") {
        return skip("no bwrap");
    }
    // slirp4netns's sandbox needs a user 0 in the namespace that owns the network. bwrap makes it in a second one, and has
    // root in the first, only where it must mount a devpts.
    for (more, warnings) in [(&[][..], 1), (&["--dev", "/dev"], 0)] {
        let ns = Namespace::new();
        let bwrap = run(["bwrap", "--unshare-all", "--ro-bind", "/", "/"]).args(more).args(["sleep", "600"]).spawn();
        let mut netup = ns.netup(["--ready-fd", "1", "-p", "7007", &bwrap.pid().to_string()]).spawn();
        netup.wait_out("READY=1");
        let warned = netup.err().lines().filter(|l| l.contains("runs without its sandbox")).count();
        assert_eq!(warned, warnings, "{more:?}: {}", netup.err());
        ns.netup(["--list", &bwrap.pid().to_string()]).ok().out_has("1 tcp ");
        drop(bwrap);
        let done = netup.wait(SOON);
        done.expect(done.code() == 0, "exit code 0");
    }
}

#[test]
fn several_networks_below_a_pid_are_named() {
    let ns = Namespace::new();
    let parent = run(["sh", "-c", "unshare -Urn sleep 600 & unshare -Urn sleep 600 & wait"]).spawn();
    let namespaces = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let own = namespaces(std::process::id());
    let ready = || {
        let made: Vec<u32> = children(parent.pid()).into_iter().filter(|pid| namespaces(*pid) != own).collect();
        made.len() == 2
    };
    assert!(eventually(SOON, ready));
    let pids = children(parent.pid());
    let done = ns.netup([parent.pid().to_string()]).fails(66);
    pids.iter().for_each(|pid| _ = done.err_has(&pid.to_string()));
}

#[test]
fn a_pid_without_a_network_of_its_own_is_waited_for_and_refused() {
    let ns = Namespace::new();
    let plain = run(["sleep", "600"]).spawn();
    let done = ns.netup([plain.pid().to_string()]).fails(66);
    done.err_has("is in the caller's own network namespace");
    done.expect(done.took > Duration::from_secs(4) && done.took < Duration::from_secs(10), "five seconds of patience");
}

#[test]
fn processes_that_are_not_there_or_not_mine() {
    let ns = Namespace::new();
    ns.netup(["999999999"]).fails(66).err_has("there is no process 999999999");
    ns.netup([""]).fails(64).err_has("PID is empty: the command that should print it failed");
    if !d_tests::is_root() {
        ns.netup(["1"]).fails(77).err_has("process 1");
    }
    let _netup = ns.connected::<&str>([]);
    ns.netup([ns.pid()]).fails(73).err_has("is already connected by a d-netup");
}

#[test]
fn twenty_at_once() {
    let all: Vec<Namespace> = (0..20).map(|_| Namespace::new()).collect();
    let mut running: Vec<_> =
        all.iter().map(|ns| ns.netup(["--ready-fd", "1", "-p", "7007", "-p", "7007/udp", &ns.pid()]).spawn()).collect();
    for (ns, netup) in all.iter().zip(&mut running) {
        netup.wait_out("READY=1");
        let list = ns.netup(["--list", &ns.pid()]).ok().out();
        assert_eq!(list.lines().count(), 2, "{list}");
    }
}

#[test]
fn twenty_at_once_on_one_target() {
    let ns = Namespace::new();
    let mut running: Vec<_> = (0..20).map(|_| ns.netup(["--ready-fd", "1", &ns.pid()]).spawn()).collect();
    let settled = |running: &mut Vec<d_tests::Running>| {
        running.iter_mut().map(d_tests::Running::ended).filter(|ended| !ended).count() == 1
    };
    assert!(eventually(SOON, || settled(&mut running)), "one of them serves the target");
    for mut netup in running {
        if netup.ended() {
            let done = netup.wait(SOON);
            done.expect(done.code() == 73, "exit code 73").err_has("is already connected");
        } else {
            ns.netup(["--list", &ns.pid()]).ok();
        }
    }
}

#[test]
fn it_stays_small() {
    let ns = Namespace::new();
    let netup = ns.connected(["--forward", "builtin", "-p", "7007", "-p", "7007/udp"]);
    let _servers = [ns.echo("tcp", 7007), ns.echo("udp", 7007)];
    let out = netup.out();
    crate::tcp_echo(out.lines().next().unwrap().split(' ').nth(2).unwrap(), &crate::noise(10 << 20));
    let status = std::fs::read_to_string(format!("/proc/{}/status", netup.pid())).unwrap();
    // How much of the program's file is mapped is the page cache's affair; tests/bench looks at the whole.
    let own: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .and_then(|value| value.trim().trim_end_matches(" kB").parse().ok())
        .expect("RssAnon");
    assert!(own <= 1024, "{own} kB of its own");
}
