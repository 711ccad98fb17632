//! Networks: none, user, host, ports.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
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
