//! Networks: none, user, host, ports.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::Duration;

use d_tests::{eventually, free_port};
use rustix::process::Signal;
use serde_json::json;

use crate::place::{Place, under_both_maps};

#[test]
fn without_a_network_there_is_lo_and_it_is_up() {
    under_both_maps(|place| {
        for options in ["", "--net none", "--net=none"] {
            place
                .sh(options, "ls /sys/class/net; ip -4 addr show lo | grep -c 127.0.0.1; ip route | wc -l")
                .ok()
                .prints("lo\n1\n0");
        }
        // The host's loopback is not reached.
        let host = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = host.local_addr().expect("an address").port();
        place.sh("", &format!("nc -w 2 127.0.0.1 {port} </dev/null")).code(1);
        place.sh("--net host", &format!("grep -ic ':{port:04X} ' /proc/net/tcp")).ok();
    });
}

#[test]
fn abstract_sockets_of_the_host_are_out_of_reach() {
    let name = format!("d-tests-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let _listener = UnixListener::bind_addr(&address).expect("an abstract socket");
    let place = Place::new("single");
    place.sh("", &format!("grep -c {name} /proc/net/unix")).code(1).prints("0");
    place.sh("--net host", &format!("grep -c {name} /proc/net/unix")).ok().prints("1");
}

#[test]
fn a_user_network_has_an_interface_a_resolver_and_a_name() {
    under_both_maps(|place| {
        for options in ["--net user", "-n", "--net=user:mtu=1500"] {
            let done = place.sh(options, "ls /sys/class/net; grep nameserver /etc/resolv.conf; grep box /etc/hosts; ip route | grep -c default").ok();
            let lines = ["lo", "tap0", "nameserver 10.0.2.3", "10.0.2.100\tbox", "1"];
            for line in lines {
                done.expect(done.out().lines().any(|l| l == line), line);
            }
        }
        place.sh("--net user:mtu=1500", "cat /sys/class/net/tap0/mtu").ok().prints("1500");
        place
            .sh(
                "--net user:cidr=10.9.8.0/24",
                "grep nameserver /etc/resolv.conf; ip addr show tap0 | grep -c 10.9.8.100",
            )
            .ok()
            .prints("nameserver 10.9.8.3\n1");
        place.sh("--net user --dns 9.9.9.9", "grep nameserver /etc/resolv.conf").ok().prints("nameserver 9.9.9.9");
        place.enter(&["--net", "user:no-such-option"], &["true"]).fails(125);
        place.config(json!({"net": true}));
        place.sh("", "ls /sys/class/net").ok().prints("lo\ntap0");
    });
}

#[test]
fn low_ports_and_ping_need_no_privilege_inside() {
    under_both_maps(|place| {
        for options in ["-u web -n", "-u 0 -n", "-u 1234:5678 -n"] {
            place.sh(options, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start").ok().prints("0");
        }
        place.sh("-u web -n", "nc -l -p 80 -w 1 </dev/null & sleep 0.2; kill -0 $!").ok();
        // ping(8) for all groups that are mapped. (busybox's own knows raw sockets only.)
        let range = place.sh("-n -u web", "cat /proc/sys/net/ipv4/ping_group_range; cat /proc/self/gid_map").ok().out();
        let rows: Vec<Vec<u32>> =
            range.lines().map(|l| l.split_whitespace().map(|n| n.parse().expect("a number")).collect()).collect();
        let last = rows[1..].iter().map(|r| r[0] + r[2] - 1).max().expect("a map");
        assert_eq!(rows[0], [rows[1][0], last], "{range}");
    });
}

#[test]
fn sysctls_of_its_own_namespaces_can_be_set() {
    under_both_maps(|place| {
        place
            .sh(
                "--sysctl net.ipv4.ip_forward=1 --sysctl fs.mqueue.msg_max=7",
                "cat /proc/sys/net/ipv4/ip_forward /proc/sys/fs/mqueue/msg_max",
            )
            .ok()
            .prints("1\n7");
        place
            .sh(
                "-n --sysctl net.ipv4.ip_unprivileged_port_start=80",
                "cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
            )
            .ok()
            .prints("80");
        place.sh("--sysctl net.ipv4.ping_group_range=0_0".replace('_', " ").as_str(), "true").done();
        place.enter(&["--sysctl", "net.ipv4.no_such=1"], &["true"]).fails(125).err_has("no_such");
        for options in [&["--sysctl", "kernel.panic=1"][..], &["--net", "host", "--sysctl", "net.ipv4.ip_forward=1"]] {
            place.enter(options, &["true"]).fails(125);
        }
    });
}

#[test]
fn ports_are_forwarded() {
    under_both_maps(|place| {
        place.scratch.write("box/rootfs/www/index.html", "served inside\n");
        let port = free_port();
        let mut running = place
            .enter(&["-p", &format!("{port}:80")], &["sh", "-c", "httpd -f -p 80 -h /www & echo up; wait"])
            .spawn();
        running.wait_out("up");
        let get = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(("127.0.0.1", port))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        assert!(
            eventually(Duration::from_secs(10), || get().is_ok_and(|t| t.contains("served inside"))),
            "{}",
            running.err()
        );
        // The port is taken.
        place.enter(&["-p", &format!("{port}:80")], &["true"]).fails(125).err_has(&port.to_string());
        running.signal(Signal::TERM);
        running.wait(Duration::from_secs(10));
        assert!(eventually(Duration::from_secs(3), || TcpStream::connect(("127.0.0.1", port)).is_err()));
    });
}

#[test]
fn publishing_implies_a_user_network_and_contradicts_the_others() {
    let place = Place::new("single");
    assert!(place.plan("-p 8080:80")["net"].to_string().contains("user"));
    for net in ["none", "host", "ns:/proc/self/ns/net"] {
        place.enter(&["--net", net, "-p", "8080:80"], &["true"]).fails(125).err_has("publish");
        place.config(json!({"ExposedPorts": {"80/tcp": {}}}));
        place.enter(&["--net", net, "-P"], &["true"]).fails(125);
        place.config(json!({"publish": ["8080:80"]}));
        place.enter(&["--net", net], &["true"]).fails(125).err_has("publish");
        // Also where there is no port at all.
        place.config(json!({}));
        place.enter(&["--net", net, "-P"], &["true"]).fails(125).err_has("publish");
    }
    place.enter(&["-p", "nonsense"], &["true"]).fails(125);
    // All exposed ports, each from a free one of the host.
    place.config(json!({"ExposedPorts": {"80/tcp": {}, "53/udp": {}}}));
    let plan = place.plan("-P");
    assert!(
        plan["net"].to_string().contains("user") && plan["publish"].as_array().is_some_and(|p| p.len() == 2),
        "{plan}"
    );
    place.outside("d-enter --map $MAP -P --status-fd 3 box true 3>status && cat status").ok().out_has("80");
}

#[test]
fn a_missing_helper_is_one_line() {
    let place = Place::new("single");
    let done = place.enter(&["-n"], &["true"]).env("D_NETUP", "/no/such/d-netup").fails(125);
    done.err_has("/no/such/d-netup");
}

#[test]
fn nothing_of_the_network_is_left() {
    let place = Place::new("single");
    let script = "d-enter --map single -n box sleep 100 & pid=$!; sleep 1; pgrep -P $pid -a; kill $pid; wait $pid || echo code $?";
    let done = place.outside(script).ok();
    done.out_has("d-netup").out_has("code 143");
    let pids: Vec<u32> = done.out().lines().filter_map(|l| l.split(' ').next()?.parse().ok()).collect();
    assert!(eventually(Duration::from_secs(3), || !pids.iter().any(|p| d_tests::alive(*p))), "{done}");
}

#[test]
fn a_signal_ends_it_while_it_waits_for_d_netup() {
    let place = Place::new("single");
    let script = place.scratch.write("nobody", "#!/bin/sh\necho $$ >started\nexec sleep 100\n");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129), (Signal::QUIT, 131)] {
        let _ = std::fs::remove_file(place.scratch.join("started"));
        let running = place.enter(&["-n"], &["true"]).env("D_NETUP", &script).spawn();
        let started = || std::fs::read_to_string(place.scratch.join("started")).unwrap_or_default();
        assert!(eventually(Duration::from_secs(10), || started().ends_with('\n')));
        running.signal(signal);
        let done = running.wait(Duration::from_secs(3));
        done.expect(done.status.code() == Some(code), &format!("exit code {code}")).silent();
        assert!(!d_tests::alive(started().trim().parse().expect("a pid")));
    }
}

#[test]
fn all_ports_are_told_and_each_is_the_last_ones() {
    let place = Place::new("single");
    let port = free_port();
    let told = |options: &str| {
        let script =
            format!("d-enter --map $MAP --status-fd 3 {options} box true 3>status && jq -r '.ports[]?' status");
        let done = place.outside(&script).ok();
        (done.out(), done.err())
    };
    let (ports, _) = told(&format!("-p {port}:80"));
    assert_eq!(ports, format!("1 tcp 127.0.0.1:{port} 80"));
    let (ports, note) = told("--net user:publish=80");
    assert!(ports.ends_with(" 80") && note.ends_with(&ports), "{ports}, {note}");
    place.config(json!({"publish": [format!("{port}:80"), "81"]}));
    let (ports, note) = told(&format!("-p 0.0.0.0:{port}:82"));
    assert!(
        ports.contains(&format!(" 0.0.0.0:{port} 82")) && !ports.contains(" 80") && note.ends_with(" 81"),
        "{ports}"
    );
}

#[test]
fn its_options_are_those_of_a_network() {
    let place = Place::new("single");
    for other in ["verbose", "help", "version", "check", "completions=bash", "list", "background", "ready-fd=1", "json"]
    {
        let net = format!("user:{other}");
        place.enter(&["--net", &net], &["true"]).fails(125).err_has("is no option of a network");
    }
    let servers =
        |net: &str| place.sh(&format!("--net user:{net}"), "grep -c nameserver /etc/resolv.conf || true").ok().out();
    assert_eq!(servers("no-dns"), "0");
    assert_eq!(servers("dns=9.9.9.9,dns=8.8.8.8,no-dns"), "2");
    place.enter(&["--net", "user:dns=x"], &["true"]).fails(125).err_has("not an IP address");
}

#[test]
fn the_loss_of_its_network_is_told() {
    let place = Place::new("single");
    let script = "d-enter --map single -n box sleep 2 & sleep 1; kill -9 $(pgrep -P $! d-netup); wait $!";
    let done = place.outside(script).ok();
    done.err_has("warning: d-netup was ended by signal 9: the container has no network any more");
    done.expect(done.err().lines().count() == 1, "one line");
}

#[test]
fn the_service_manager_hears_of_the_command_alone() {
    let place = Place::new("single");
    let manager = std::os::unix::net::UnixDatagram::bind(place.scratch.join("notify")).expect("a socket");
    manager.set_nonblocking(true).expect("non-blocking");
    let path = place.scratch.join("notify");
    place.enter(&["-n"], &["/no/such/command"]).env("NOTIFY_SOCKET", &path).fails(127);
    assert!(manager.recv(&mut [0; 100]).is_err(), "READY=1, and nothing runs");
    place.enter(&["-n"], &["true"]).env("NOTIFY_SOCKET", &path).ok();
    assert!(manager.recv(&mut [0; 100]).is_ok());
    assert!(manager.recv(&mut [0; 100]).is_err(), "READY=1 twice");
}
