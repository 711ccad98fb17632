//! The whole chain on real input: registry -> cache -> container directory -> process -> network, as an ordinary user.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use d_tests::{Registry, Scratch, alive, children, eventually, free_port, run};
use rustix::process::Signal;

/// Every id map that an ordinary user can have.
const MAPS: [&str; 2] = ["subid", "single"];

/// A scratch folder with `NAME` unpacked in `./box`.
fn unpacked(image: &str, map: &str) -> Scratch {
    let registry = Registry::images();
    let scratch = Scratch::new();
    let script = format!("d-unpack --map {map} \"$(d-pull {})\" ./box", registry.image(image));
    scratch.sh(&script).ok().prints(&scratch.join("box").display().to_string());
    scratch
}

/// What a web server at a port of the loopback address answers to `GET /`, if anything.
fn fetch(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    (!answer.is_empty()).then_some(answer)
}

#[test]
fn one_line_runs_debian_and_what_layers_deleted_is_gone() {
    let registry = Registry::images();
    for (tag, map) in [("12", "subid"), ("zstd", "single")] {
        let scratch = Scratch::new();
        let script = "id -u; cat /etc/os-release; ls /etc/skel /opt/two; ls -d /etc/issue /etc/issue.net /usr/share/doc/apt; three";
        let line = format!(
            "d-enter \"$(d-unpack --map {map} \"$(d-pull {})\" ./deb)\" -- sh -c '{script}'",
            registry.image(&format!("debian:{tag}"))
        );
        let done = scratch.sh(&line).ok();
        done.expect(done.out().starts_with("0\n"), "uid 0 first");
        done.out_has("ID=debian").out_has("/etc/skel:\nonly-this\n").out_has("/opt/two:\nkept\n");
        done.out_has("/etc/issue.net\n").err_has("/etc/issue'").err_has("/usr/share/doc/apt'");
        done.expect(done.out().ends_with("\nthree"), "what the last layer added");
    }
}

#[test]
fn the_second_pull_downloads_nothing() {
    let registry = Registry::images();
    let scratch = Scratch::new();
    let image = registry.image("busybox");
    let first = scratch.run(["d-pull", &image]).ok();
    let blobs = scratch.cache().join("blobs/sha256");
    let before: Vec<_> = scratch.names("cache/d-utils/blobs/sha256");
    let stamp = |name: &String| std::fs::metadata(blobs.join(name)).and_then(|m| m.modified()).expect("a blob's mtime");
    let times: Vec<_> = before.iter().map(stamp).collect();
    scratch.run(["d-pull", &image]).ok().prints(&first.out());
    assert_eq!(before, scratch.names("cache/d-utils/blobs/sha256"));
    assert_eq!(times, before.iter().map(stamp).collect::<Vec<_>>());
    drop(registry);
    scratch.run(["d-pull", "--offline", &image]).ok().prints(&first.out());
}

#[test]
fn a_pipe_unpacks_while_the_download_runs() {
    let registry = Registry::images();
    for (tag, map) in [("zstd", "subid"), ("12", "single")] {
        let scratch = Scratch::new();
        let pipe = format!("d-pull -o - {} | d-unpack --map {map} - ./deb", registry.image(&format!("debian:{tag}")));
        scratch.sh(&pipe).ok().prints(&scratch.join("deb").display().to_string());
        scratch.run(["d-enter", "./deb", "three"]).ok().prints("three");
    }
}

#[test]
fn a_failed_pull_before_the_pipe_is_no_image() {
    let registry = Registry::images();
    let scratch = Scratch::new();
    let pipe = format!("d-pull -q -o - {} | d-unpack - ./box", registry.image("absent"));
    let done = scratch.sh(&pipe).code(65);
    done.expect(done.errors().len() == 2, "one line of each tool");
    assert_eq!(scratch.names(""), ["cache", "home"]);
}

#[test]
fn apt_get_installs_a_package() {
    let scratch = unpacked("debian:12", "subid");
    let script = "apt-get update && apt-get install -y hello && hello";
    let done = scratch.run(["d-enter", "-n", "./box", "--", "sh", "-c", script]).timeout(Duration::from_secs(300)).ok();
    done.expect(done.out().lines().any(|l| l == "Hello, world!"), "hello's greeting");
}

#[test]
fn a_published_port_reaches_the_server_and_nothing_stays() {
    for map in MAPS {
        let scratch = unpacked("busybox", map);
        let port = free_port();
        let publish = format!("{port}:8080");
        let server =
            scratch.run(["d-enter", "-p", &publish, "./box", "httpd", "-f", "-p", "8080", "-h", "/var/www"]).spawn();
        let mut answer = None;
        eventually(Duration::from_secs(20), || {
            answer = fetch(port);
            answer.is_some()
        });
        let answer = answer.unwrap_or_else(|| panic!("no answer on port {port}: {}", server.err()));
        assert!(answer.contains("Served from a container."), "{answer}");
        let started = children(server.pid());
        let names: Vec<_> =
            started.iter().filter_map(|p| std::fs::read_to_string(format!("/proc/{p}/comm")).ok()).collect();
        assert!(names.iter().any(|n| n.trim() == "slirp4netns"), "{names:?}");
        server.signal(Signal::TERM);
        let done = server.wait(Duration::from_secs(20));
        done.expect(done.code() == 143, "exit code 143");
        assert!(eventually(Duration::from_secs(5), || !started.iter().any(|p| alive(*p))), "left behind: {names:?}");
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "port {port} is still open");
    }
}

#[test]
fn inside_only_the_container_is_seen() {
    for map in MAPS {
        let scratch = unpacked("busybox", map);
        let marker = run(["sleep", "54321"]).spawn();
        let inside = |script: &str| scratch.run(["d-enter", "./box", "sh", "-c", script]);

        let processes = inside("ps -o pid,args").ok();
        processes.expect(!processes.out().contains("54321"), "no process of the host");
        processes.expect(processes.out().lines().count() <= 4, "init, the shell and ps alone");

        inside("ls /dev")
            .ok()
            .prints("core\nfd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero");
        inside("hostname").ok().prints("box");

        let environment = inside("env; tr '\\0' '\\n' </proc/1/environ").env("CALLERS_SECRET", "x");
        let environment = environment.done();
        environment.expect(!environment.out().contains("CALLERS_SECRET"), "nothing of the caller's environment");
        environment.out_has("container=d-enter");

        // ls itself opens the folder, as 3.
        let open = scratch.sh("exec 7</etc/passwd 9>/dev/null; exec d-enter ./box ls /proc/self/fd");
        open.ok().prints("0\n1\n2\n3");
        assert!(alive(marker.pid()));
    }
}

#[test]
fn kill_of_d_enter_ends_everything_inside() {
    for map in MAPS {
        let scratch = unpacked("busybox", map);
        let mut enter =
            scratch.run(["d-enter", "./box", "sh", "-c", "sleep 5432 & sleep 5433 & echo up; wait"]).spawn();
        enter.wait_out("up");
        let inside = children(enter.pid());
        assert!(inside.len() >= 4, "init, sh, sleep, sleep: {inside:?}");
        enter.signal(Signal::KILL);
        assert!(eventually(Duration::from_secs(5), || !inside.iter().any(|p| alive(*p))), "some of {inside:?} live on");
        enter.wait(Duration::from_secs(5));
        // Its lock on the directory went with it.
        scratch.run(["d-unpack", "--remove", "./box"]).ok();
        assert_eq!(scratch.names(""), ["cache", "home"]);
    }
}

#[test]
fn term_reaches_the_command_and_exit_codes_arrive() {
    let scratch = unpacked("busybox", "single");
    let trap = "trap 'echo caught; exit 7' TERM; echo up; while :; do sleep 0.05; done";
    let mut enter = scratch.run(["d-enter", "./box", "sh", "-c", trap]).spawn();
    enter.wait_out("up");
    enter.signal(Signal::TERM);
    let done = enter.wait(Duration::from_secs(10));
    done.expect(done.code() == 7, "the command's own code");
    done.prints("up\ncaught");

    for (command, code) in [("exit 42", 42), ("kill -9 $$", 137), ("true", 0)] {
        scratch.run(["d-enter", "./box", "sh", "-c", command]).code(code);
    }
    scratch.run(["d-enter", "./box", "no-such-command"]).fails(127);
    scratch.run(["d-enter", "./box", "/etc/passwd"]).fails(126);
    scratch.run(["d-enter", "./absent", "true"]).fails(125);
    scratch.run(["d-enter", "--no-such-option", "./box"]).fails(125);
}

#[test]
fn skopeo_and_umoci_read_the_cache() {
    let registry = Registry::images();
    let scratch = Scratch::new();
    let image = registry.image("busybox");
    scratch.run(["d-pull", &image]).ok();
    let name = format!("{}:{image}:latest", scratch.cache().display());
    scratch.run(["skopeo", "inspect", &format!("oci:{name}")]).ok().out_has("\"Layers\"");
    scratch.run(["umoci", "unpack", "--rootless", "--image", &name, "bundle"]).ok();
    assert!(scratch.join("bundle/rootfs/bin/busybox").is_file());
}
