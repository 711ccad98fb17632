//! What the network inside looks like, and where it leads.

use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use d_tests::{Scratch, have, skip};

use crate::{Namespace, SOON};

#[test]
fn addresses_follow_the_cidr() {
    if !have("pasta") {
        return skip("no pasta");
    }
    let ns = Namespace::new();
    for backend in ["slirp4netns", "pasta"] {
        let show = |args: &[&str]| {
            let script = "ip -4 -o addr show tap0 | grep -o 'inet [0-9./]*'; ip -o link show tap0 | grep -o 'mtu [0-9]*'; \
                ip route show default | grep -o 'via [0-9.]*'; grep nameserver /etc/resolv.conf";
            ns.netup(["--backend", backend]).args(args).args(["--", "sh", "-c", script]).ok().out()
        };
        assert_eq!(show(&[]), "inet 10.0.2.100/24\nmtu 65520\nvia 10.0.2.2\nnameserver 10.0.2.3", "{backend}");
        assert_eq!(
            show(&["--cidr", "192.168.77.128/25", "--mtu", "1400"]),
            "inet 192.168.77.228/25\nmtu 1400\nvia 192.168.77.130\nnameserver 192.168.77.131",
            "{backend}"
        );
    }
}

#[test]
fn ipv6_is_connected_on_demand() {
    let ns = Namespace::new();
    let script = "for i in $(seq 100); do ip -6 addr show tap0 | grep -q fd00: && exit 0; sleep 0.1; done; exit 1";
    ns.netup(["--ipv6", "--", "sh", "-c", script]).ok();
    ns.netup(["--", "sh", "-c", "! ip -6 addr show tap0 | grep -q fd00:"]).ok();
}

#[test]
fn the_hosts_loopback_is_closed_unless_asked_for() {
    let ns = Namespace::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            use std::io::Write;
            let mut stream = stream;
            let _ = stream.write_all(b"the host's loopback\n");
        }
    });
    let ask = |address: &str| format!("TCP:{address}:{port},connect-timeout=3");
    for address in ["10.0.2.2", "10.0.2.3"] {
        let done = ns.netup(["--", "socat", "-", &ask(address)]).done();
        done.expect(done.code() != 0 && done.stdout.is_empty(), "no way to the host's loopback");
    }
    ns.netup(["--allow-host-loopback", "--", "socat", "-", &ask("10.0.2.2")]).ok().prints("the host's loopback");
}

#[test]
fn the_hosts_loopback_is_closed_to_what_is_bound_to_the_device() {
    for backend in ["slirp4netns", "pasta"] {
        if !have(backend) {
            return skip("no pasta");
        }
        let ns = Namespace::new();
        let _netup = ns.connected(["--backend", backend, "--ipv6"]);
        for (family, loopback) in [("UDP4", "127.0.0.1"), ("UDP4", "127.255.0.1"), ("UDP6", "[::1]")] {
            let host = UdpSocket::bind(format!("{loopback}:0")).unwrap();
            host.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            let to = format!("{family}:{loopback}:{},so-bindtodevice=tap0", host.local_addr().unwrap().port());
            // Sent or not: it does not come out.
            ns.inside(["sh", "-c", &format!("echo x | socat -u - {to}")]).wait(SOON);
            assert!(host.recv(&mut [0; 9]).is_err(), "{backend}: {to} reaches the host's");
        }
    }
}

/// A name server as systemd-resolved has one: on 127.0.0.53, and nowhere else. It knows one name.
const STUB: &str = r#"
use IO::Socket::INET;
my $s = IO::Socket::INET->new(LocalAddr => "127.0.0.53", LocalPort => 53, Proto => "udp") or die "$@";
print "up\n"; close STDOUT;
while (my $from = $s->recv(my $q, 512)) {
    my $end = index($q, "\0", 12);
    my $question = substr($q, 12, $end - 12 + 5);
    my $a = unpack("n", substr($question, -4, 2)) == 1 && $question =~ /^\x04stub\x04test/;
    my $answer = $a ? pack("nnnNnC4", 0xc00c, 1, 1, 60, 4, 192, 0, 2, 7) : "";
    $s->send(substr($q, 0, 2) . pack("nnnnn", 0x8180, 1, $a ? 1 : 0, 0, 0) . $question . $answer, 0, $from);
}
"#;

#[test]
fn names_resolve_through_a_stub_on_the_hosts_loopback() {
    let scratch = Scratch::new();
    scratch.write("stub.pl", STUB);
    scratch.write("resolv.conf", "nameserver 127.0.0.53\nsearch lan\n");
    scratch.write("nsswitch.conf", "hosts: dns\n");
    // A host of our own: a namespace with a loopback, and that resolver in its resolv.conf.
    let host = "ip link set lo up; mount --bind resolv.conf /etc/resolv.conf
        mount --bind nsswitch.conf /etc/nsswitch.conf
        touch up; perl stub.pl >up & stub=$!; until grep -q up up; do sleep 0.01; done
        d-netup -- getent ahostsv4 stub.test || echo failed
        d-netup -- cat /etc/resolv.conf
        d-netup --no-dns -- getent ahostsv4 stub.test || echo none
        kill $stub";
    let cmd = scratch.run(["unshare", "-Urnm", "sh", "-ec", host]).env("XDG_RUNTIME_DIR", scratch.path());
    let out = cmd.ok().out();
    assert!(out.starts_with("192.0.2.7 "), "{out}");
    assert!(out.ends_with("search lan\nnameserver 10.0.2.3\nnone"), "{out}");
}

#[test]
fn a_name_server_of_ones_own() {
    let ns = Namespace::new();
    let args = ["--dns", "192.0.2.1", "--dns", "2001:db8::1", "--", "grep", "nameserver", "/etc/resolv.conf"];
    ns.netup(args).ok().prints("nameserver 192.0.2.1\nnameserver 2001:db8::1");
    let four = ["--dns", "192.0.2.1", "--dns", "192.0.2.2", "--dns", "192.0.2.3", "--dns", "192.0.2.4"];
    ns.netup(four).args(["--", "true"]).fails(125).err_has("--dns: 4 name servers");
    // None of the host's, either: it may be on its loopback.
    let count = ["--no-dns", "--", "grep", "-c", "nameserver", "/etc/resolv.conf"];
    ns.netup(count).done().prints("0");
    ns.netup(["--dns", "192.0.2.1"]).args(count).ok().prints("1");
    // With PID it changes nothing, and is no error either.
    ns.connected(["--dns", "192.0.2.1"]);
}

#[test]
fn a_resolv_conf_outside_etc_costs_the_sandbox_and_a_warning() {
    let scratch = Scratch::new();
    scratch.write("stub.pl", STUB);
    scratch.write("elsewhere/resolv.conf", "nameserver 127.0.0.53\n");
    scratch.write("nsswitch.conf", "hosts: dns\n");
    let host = "ip link set lo up; mount -t tmpfs none /etc; cp nsswitch.conf /etc/
        ln -s \"$PWD/elsewhere/resolv.conf\" /etc/resolv.conf; touch /etc/ld.so.cache
        touch up; perl stub.pl >up & stub=$!; until grep -q up up; do sleep 0.01; done
        d-netup -- getent ahostsv4 stub.test; kill $stub";
    let cmd = scratch.run(["unshare", "-Urnm", "sh", "-ec", host]).env("XDG_RUNTIME_DIR", scratch.path());
    let done = cmd.ok();
    done.out_has("192.0.2.7 ").err_has("slirp4netns runs without its sandbox: /etc/resolv.conf leads to");
    done.expect(done.err().lines().count() == 1, "one warning");
}

#[test]
fn slirp4netns_runs_in_its_sandbox_with_its_filter() {
    let ns = Namespace::new();
    let netup = ns.connected::<&str>([]);
    let helper = crate::helper(&netup, "slirp4netns");
    // It is of the namespace's users, and the caller's environment is not for them.
    assert_eq!(std::fs::read_to_string(format!("/proc/{helper}/environ")).unwrap(), "");
    let status = std::fs::read_to_string(format!("/proc/{helper}/status")).unwrap();
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!(field("Seccomp:"), "2");
    assert_eq!(field("NoNewPrivs:"), "1");
    // Nothing but CAP_NET_BIND_SERVICE.
    assert_eq!(field("CapEff:"), "0000000000000400");
    let gate = crate::helper(&netup, "d-netup");
    let status = std::fs::read_to_string(format!("/proc/{gate}/status")).unwrap();
    assert!(status.contains("CapEff:\t0000000000000000") && status.contains("CapPrm:\t0000000000000000"), "{status}");
}

#[test]
fn an_outbound_address_is_passed_on() {
    let ns = Namespace::new();
    let netup = ns.connected(["--outbound-addr", "127.0.0.1"]);
    let slirp = crate::helper(&netup, "slirp4netns");
    let argv = std::fs::read_to_string(format!("/proc/{slirp}/cmdline")).unwrap();
    assert!(argv.contains("--outbound-addr=127.0.0.1"), "{argv}");
}

#[test]
fn an_outbound_interface_that_is_not_there_is_refused() {
    let ns = Namespace::new();
    for backend in ["slirp4netns", "pasta"] {
        if !have(backend) {
            return skip("no pasta");
        }
        let done = ns.netup(["--backend", backend, "--outbound-addr", "nowhere0", &ns.pid()]).fails(64);
        done.err_has("--outbound-addr \"nowhere0\": neither an address nor an interface of this host");
        ns.netup(["--backend", backend, "--outbound-addr", "203.0.113.5", &ns.pid()]).fails(64).err_has("203.0.113.5");
    }
}
