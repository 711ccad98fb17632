//! Ports of the host that lead inside.

use std::net::{TcpListener, TcpStream, UdpSocket};

use d_tests::{Scratch, eventually, free_port, have, run, skip};

use crate::{Namespace, noise, tcp_echo, udp_echo};

/// The ways to forward, as options.
const WAYS: [&[&str]; 3] = [&["--forward", "slirp"], &["--forward", "builtin"], &["--backend", "pasta"]];

/// `n` consecutive ports of the host that are free now, for both transports.
fn free_range(n: u16) -> u16 {
    (0..100)
        .map(|_| free_port())
        .filter(|first| first.checked_add(n).is_some())
        .find(|first| {
            (*first..first + n)
                .all(|port| TcpListener::bind(("0.0.0.0", port)).is_ok() && UdpSocket::bind(("0.0.0.0", port)).is_ok())
        })
        .expect("free ports in a row")
}

#[track_caller]
fn echo(proto: &str, address: &str, bytes: &[u8]) {
    match proto {
        "tcp" => tcp_echo(address, bytes),
        _ => udp_echo(address, bytes, 1000),
    }
}

#[test]
fn every_form_of_a_forward_leads_to_its_port() {
    if !have("pasta") {
        return skip("no pasta");
    }
    for way in WAYS {
        for proto in ["tcp", "udp"] {
            let ns = Namespace::new();
            let first = free_range(7);
            let port = |n: u16| first + n;
            let specs = [
                format!("{0}:{0}/{proto}", port(0)),
                format!("{}-{}:{0}-{1}/{proto}", port(1), port(2)),
                format!("{}:9003/{proto}", port(3)),
                format!("{}-{}:9004-9005/{proto}", port(4), port(5)),
                format!("127.0.0.3:{}:9006/{proto}", port(6)),
            ];
            let netup = ns.connected(way.iter().copied().chain(specs.iter().flat_map(|spec| ["-p", spec])));
            let targets = [port(0), port(1), port(2), 9003, 9004, 9005, 9006];
            let servers: Vec<_> = targets.iter().map(|target| ns.echo(proto, *target)).collect();
            for n in 0..6 {
                echo(proto, &format!("127.0.0.1:{}", port(n)), format!("{way:?} {proto} {n}").as_bytes());
            }
            echo(proto, &format!("127.0.0.3:{}", port(6)), b"a bound address");
            let list = ns.netup(["--list", &ns.pid()]).ok().out();
            let hosts: Vec<&str> = list.lines().map(|line| line.split(' ').nth(2).unwrap()).collect();
            assert_eq!(hosts.len(), 7, "{list}");
            assert_eq!(hosts[6], format!("127.0.0.3:{}", port(6)));
            drop((servers, netup));
        }
    }
}

#[test]
fn a_hundred_mebibytes_arrive_byte_for_byte() {
    if !have("pasta") {
        return skip("no pasta");
    }
    let bytes = noise(100 << 20);
    for way in WAYS {
        let ns = Namespace::new();
        let netup = ns.connected(way.iter().chain(&["-p", "7007", "-p", "7007/udp"]));
        let list = ns.netup(["--list", &ns.pid()]).ok().out();
        let host = |proto: &str| {
            let line = list.lines().find(|line| line.split(' ').nth(1) == Some(proto)).unwrap();
            line.split(' ').nth(2).unwrap().to_owned()
        };
        let servers = [ns.echo("tcp", 7007), ns.echo("udp", 7007)];
        tcp_echo(&host("tcp"), &bytes);
        udp_echo(&host("udp"), &bytes, 32 << 10);
        drop((servers, netup));
    }
}

#[test]
fn a_hundred_mebibytes_one_way() {
    for way in [&["--forward", "slirp"], &["--forward", "builtin"]] {
        let ns = Namespace::new();
        let mut netup = ns.connected(way.iter().chain(&["-p", "7007", "-p", "7008"]));
        netup.wait_out(" 7008\n");
        let out = netup.out();
        let host = |n: usize| out.lines().nth(n).unwrap().split(' ').nth(2).unwrap().to_owned();
        let bytes = noise(100 << 20);
        let file = ns.scratch.write("noise", &bytes);
        let from = format!("OPEN:{},rdonly", file.display());
        let sink = ns.scratch.join("sink");
        let to = format!("OPEN:{},creat,trunc,wronly", sink.display());
        let source = ns.inside(["socat", "-u", &from, "TCP-LISTEN:7007"]);
        let drain = ns.inside(["socat", "-u", "TCP-LISTEN:7008", &to]);
        // The listening end is there when the second connection attempt succeeds; a forward without a server just closes.
        let copy = |address: String| {
            let address = format!("TCP:{address}");
            run(["socat", "-u", &address, "-"]).done().stdout
        };
        let mut received = Vec::new();
        eventually(crate::SOON, || {
            received = copy(host(0));
            !received.is_empty()
        });
        assert!(received == bytes, "{way:?}: {} bytes of {} came out", received.len(), bytes.len());
        let sent = eventually(crate::SOON, || {
            let address = format!("TCP:{}", host(1));
            run(["socat", "-u", &from, &address]).done();
            std::fs::metadata(&sink).is_ok_and(|m| m.len() > 0)
        });
        assert!(sent, "{way:?}: nothing went in");
        drain.wait(crate::SOON).expect(std::fs::read(&sink).unwrap() == bytes, "all bytes inside");
        source.wait(crate::SOON);
    }
}

#[test]
fn two_hundred_connections_at_once() {
    let ns = Namespace::new();
    let mut netup = ns.connected(["--forward", "builtin", "-p", "7007"]);
    netup.wait_out(" 7007\n");
    let host = netup.out().split(' ').nth(2).unwrap().to_owned();
    let _server = ns.echo("tcp", 7007);
    let open: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(&host).unwrap()).collect();
    std::thread::scope(|scope| {
        for (n, mut stream) in open.into_iter().enumerate() {
            let bytes = noise(50_000 + n);
            scope.spawn(move || {
                use std::io::{Read, Write};
                stream.set_read_timeout(Some(crate::SOON)).unwrap();
                stream.set_write_timeout(Some(crate::SOON)).unwrap();
                let mut answer = vec![0; bytes.len()];
                // All are sent before any is read: the relay must wait with what does not go on.
                stream.write_all(&bytes).unwrap();
                stream.read_exact(&mut answer).unwrap();
                assert!(answer == bytes, "connection {n}");
            });
        }
    });
}

#[test]
fn the_relay_passes_on_each_end_and_a_refusal() {
    use std::io::{Read, Write};
    let ns = Namespace::new();
    let mut netup = ns.connected(["--forward", "builtin", "-p", "7007", "-p", "7008"]);
    netup.wait_out(" 7008\n");
    let out = netup.out();
    let host = |n: usize| out.lines().nth(n).unwrap().split(' ').nth(2).unwrap().to_owned();
    // Nobody listens on 7008: the connection ends, and quickly.
    let mut stream = TcpStream::connect(host(1)).unwrap();
    stream.set_read_timeout(Some(crate::SOON)).unwrap();
    let mut answer = Vec::new();
    let refused = stream.read_to_end(&mut answer);
    assert!(answer.is_empty() && refused.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
    // sort answers only when it has seen the end of its input.
    let _server = ns.inside(["socat", "TCP-LISTEN:7007,fork,reuseaddr", "EXEC:sort"]);
    let sorted = eventually(crate::SOON, || {
        let mut stream = TcpStream::connect(host(0)).unwrap();
        stream.set_read_timeout(Some(crate::SOON)).unwrap();
        let mut answer = String::new();
        let sent = stream.write_all(b"b\na\n").and_then(|()| stream.shutdown(std::net::Shutdown::Write));
        sent.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer == "a\nb\n"
    });
    assert!(sorted);
}

#[test]
fn a_server_inside_never_sees_its_own_loopback_as_the_client() {
    let ns = Namespace::new();
    for way in [&["--forward", "slirp"][..], &["--forward", "builtin"]] {
        let mut netup = ns.connected(way.iter().chain(&["-p", "7007"]));
        netup.wait_out(" 7007\n");
        let host = netup.out().split(' ').nth(2).unwrap().to_owned();
        let _server = ns.inside(["socat", "TCP-LISTEN:7007,fork,reuseaddr", "SYSTEM:echo $SOCAT_PEERADDR"]);
        let mut peer = String::new();
        eventually(crate::SOON, || {
            peer = run(["socat", "-", &format!("TCP:{host}")]).done().out();
            !peer.is_empty()
        });
        assert!(peer.starts_with("10.0.2."), "{way:?}: {peer:?}");
        netup.signal(rustix::process::Signal::TERM);
        netup.wait(crate::SOON);
    }
}

#[test]
fn forwards_are_listed_added_and_removed_while_it_runs() {
    let ns = Namespace::new();
    let port = free_range(4);
    let _netup = ns.connected(["-p", &format!("{port}:80"), "-p", &format!("0.0.0.0:{port}:53/udp")]);
    let pid = ns.pid();
    let list = || ns.netup(["--list", &pid]).ok().out();
    assert_eq!(list(), format!("1 tcp 127.0.0.1:{port} 80\n2 udp 0.0.0.0:{port} 53"));
    let spec = format!("{}-{}:8001-8002", port + 1, port + 2);
    let added = format!("3 tcp 127.0.0.1:{} 8001\n4 tcp 127.0.0.1:{} 8002", port + 1, port + 2);
    ns.netup(["--add", &spec, &pid]).ok().prints(&added);
    ns.netup(["--remove", "1", "--remove", "2", &pid]).ok().prints("").silent();
    assert_eq!(list(), added);
    let json = ns.netup(["--list", "--json", &pid]).ok().out();
    let first: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    let expected = serde_json::json!({
        "id": 3, "proto": "tcp", "host_addr": "127.0.0.1", "host_port": port + 1, "guest_addr": "10.0.2.100",
        "guest_port": 8001,
    });
    assert_eq!(first, expected);
    assert_eq!(ns.netup(["--list", "-0", &pid]).ok().out().matches('\0').count(), 2);
    // What was removed can be had again, by its next id.
    ns.netup(["--add", &format!("{port}:80"), &pid]).ok().prints(&format!("5 tcp 127.0.0.1:{port} 80"));
    let _server = ns.echo("tcp", 80);
    tcp_echo(&format!("127.0.0.1:{port}"), b"added");
    ns.netup(["--remove", "5", &pid]).ok();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "a removed forward still listens");
}

#[test]
fn all_forwards_or_none() {
    let ns = Namespace::new();
    let first = free_range(3);
    let busy = TcpListener::bind(("127.0.0.1", first + 2)).unwrap();
    let range = format!("{first}-{}:80-82", first + 2);
    let words = format!("d-netup: cannot forward 127.0.0.1:{}/tcp: the port is in use", first + 2);
    ns.netup(["-p", &range, &ns.pid()]).fails(73).prints("").err_has(&words);
    assert!(ns.runtime_files().is_empty());
    for way in [&["--forward", "slirp"][..], &["--forward", "builtin"]] {
        let netup = ns.connected(way);
        ns.netup(["--add", &range, &ns.pid()]).fails(73).prints("").err_has(&words);
        ns.netup(["--add", "80:80", &ns.pid()]).fails(77);
        ns.netup(["--list", &ns.pid()]).ok().prints("");
        assert!(TcpStream::connect(("127.0.0.1", first)).is_err(), "{way:?}: one of the range was opened");
        netup.signal(rustix::process::Signal::TERM);
        netup.wait(crate::SOON);
    }
    drop(busy);
}

#[test]
fn a_free_port_is_chosen_and_printed() {
    let ns = Namespace::new();
    let specs = ["7000", ":7001", "127.0.0.2::7002", "7003-7004/udp"];
    let mut netup = ns.connected(specs.iter().flat_map(|spec| ["-p", spec]));
    netup.wait_out("READY=1");
    let out = netup.out();
    let fields: Vec<Vec<&str>> = out.lines().map(|line| line.split(' ').collect()).collect();
    let [a, b, c, d, e, ready] = fields.as_slice() else { panic!("{out}") };
    assert_eq!((a[0], a[1], a[3], ready[0]), ("1", "tcp", "7000", "READY=1"));
    assert!(c[2].starts_with("127.0.0.2:"), "{out}");
    assert_eq!((d[1], d[3], e[3]), ("udp", "7003", "7004"));
    let ports: std::collections::HashSet<&str> = [a, b].iter().map(|f| f[2]).collect();
    assert_eq!(ports.len(), 2, "{out}");
    let _server = ns.echo("tcp", 7001);
    tcp_echo(b[2], b"chosen");
}

#[test]
fn each_refusal_says_what_to_do() {
    let ns = Namespace::new();
    let pid = ns.pid();
    let refused = |spec: &str, code: i32, words: &str| {
        ns.netup(["-p", spec, &pid]).fails(code).err_has(words);
    };
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = udp.local_addr().unwrap().port();
    refused(&format!("{port}:53/udp"), 73, "the port is in use (ss -lnup shows by whom)");
    refused("80:80", 77, "sysctl net.ipv4.ip_unprivileged_port_start=80");
    refused("192.0.2.1:8080:80", 73, "192.0.2.1 is no address of this host");
    refused("[::1]:8080:80", 64, "slirp4netns listens on IPv4 addresses only");
    refused("0:80", 64, "0 is no port");
    refused("70000:80", 64, "70000 is no port: the highest is 65535");
    refused("a:b:c", 64, "\"a\" is not an IPv4 address");
    refused("8000-8002:80-81", 64, "3 host ports for 2 ports");
    ns.netup(["-p", "8080:80", "-p", "8080:81", &pid]).fails(64).err_has("published twice");
    let _netup = ns.connected::<&str>([]);
    ns.netup(["--remove", "7", &pid]).fails(66).err_has("there is no forward 7");
    let other = run(["sleep", "600"]).spawn();
    ns.netup(["--list", &other.pid().to_string()]).fails(66).err_has("no d-netup of this user serves");
}

#[test]
fn the_relay_listens_on_ipv6_addresses() {
    let ns = Namespace::new();
    let mut netup = ns.connected(["--forward", "builtin", "-p", "[::1]::7007", "-p", "[::1]::7007/udp"]);
    netup.wait_out("READY=1");
    let out = netup.out();
    let host = |n: usize| out.lines().nth(n).unwrap().split(' ').nth(2).unwrap().to_owned();
    let _servers = [ns.echo("tcp", 7007), ns.echo("udp", 7007)];
    tcp_echo(&host(0), b"six");
    udp_echo(&host(1), b"six", 3);
}

#[test]
fn a_long_runtime_directory_is_no_obstacle() {
    let ns = Namespace::new();
    let long = ns.scratch.join("a/rather/long/name/".repeat(12));
    std::fs::create_dir_all(&long).unwrap();
    let netup = |args: &[&str]| ns.netup(args).env("XDG_RUNTIME_DIR", &long);
    let mut running = netup(&["--ready-fd", "1", "-p", "7007", &ns.pid()]).spawn();
    running.wait_out("READY=1");
    netup(&["--list", &ns.pid()]).ok().out_has("1 tcp ");
}

#[test]
fn a_thousand_ports_are_no_more_trouble_than_one() {
    let ns = Namespace::new();
    // slirp4netns has a line to say for each.
    let _netup = ns.connected(["-p", "1-600"]);
    let added = ns.netup(["--add", "1001-1400", &ns.pid()]).ok();
    added.expect(added.out().lines().count() == 400, "400 lines");
    ns.netup(["--add", "2001-2025", &ns.pid()]).fails(73).err_has("more than 1024 forwards");
    let list = ns.netup(["--list", &ns.pid()]).ok();
    list.expect(list.out().lines().count() == 1000, "1000 lines");
}

#[test]
fn privileged_ports_are_forwarded_for_whom_they_are_not() {
    let scratch = Scratch::new();
    // A host of our own, whose root we are.
    let host = "ip link set lo up
        unshare -Urn sleep 100 & pid=$!; d-netup --background -p 81:80 $pid >pid; d-netup --list $pid; kill $pid
        unshare -Urn sleep 100 & pid=$!; d-netup --forward slirp -p 82:80 $pid || echo $?; kill $pid";
    let cmd = scratch.run(["unshare", "-Urn", "sh", "-ec", host]).env("XDG_RUNTIME_DIR", scratch.path());
    let done = cmd.ok();
    done.prints("1 tcp 127.0.0.1:81 80\n77").err_has("port 82 is privileged, and slirp4netns has no right to it");
}
