//! The library, `d_enter::Sandbox`: used by a program with one thread, as its users are; so this test has no harness.

use std::fs;
use std::os::fd::AsFd;

use d_common::sys::{SignalSet, ignored_signals};
use d_enter::Sandbox;
use d_tests::{Scratch, busybox_rootfs};

type Test = fn(&Scratch, &Sandbox);

fn main() {
    // tests/runner asks every test binary for its list; this one is the whole of it.
    if std::env::args().any(|arg| arg == "--list") {
        return;
    }
    let scratch = Scratch::new();
    busybox_rootfs(&scratch.join("c/rootfs"));
    scratch.write("c/config.json", r#"{"Cmd": ["sh", "-c", "exit 3"]}"#);
    let sandbox = Sandbox::new(scratch.join("c"));
    let tests: [(&str, Test); 6] = [
        ("the command's exit code comes back", exit_codes),
        ("builder methods reach the command", methods),
        ("config.json and OCI bundles count", configs),
        ("failures are errors and nothing is printed", failures),
        ("the process is left as it was", state),
        ("threads are refused", threads),
    ];
    for (name, test) in tests {
        test(&scratch, &sandbox);
        println!("test {name} ... ok");
    }
}

fn exit_codes(_: &Scratch, sandbox: &Sandbox) {
    let code = |script: &str| sandbox.clone().command(["sh", "-c", script]).run().unwrap().code();
    assert_eq!((code("exit 0"), code("exit 42"), code("kill -TERM $$")), (Some(0), Some(42), Some(143)));
    assert!(sandbox.clone().command(["true"]).run().unwrap().success());
}

fn methods(scratch: &Scratch, sandbox: &Sandbox) {
    let out = scratch.join("out");
    fs::create_dir(&out).unwrap();
    scratch.write("in/file", "from outside");
    let script = "{ cat /in/file; echo $A $HOME; pwd; id -u; hostname; ls /sys/class/net; tty; } >/out/seen; touch /changed; ! touch /in/x 2>/dev/null";
    let status = sandbox
        .clone()
        .volume(format!("{}:/out", out.display()))
        .ro_bind(scratch.join("in"), "/in")
        .env("A", "b c")
        .workdir("/var")
        .user("web")
        .ephemeral()
        .options(["--hostname=box", "--umask=077"])
        .unwrap()
        .command(["sh", "-c", script]);
    // The folder is root's inside.
    let status = status.user("0").run().unwrap();
    let seen = fs::read_to_string(out.join("seen")).unwrap();
    assert!(status.success(), "{status}: {seen}");
    assert!(seen.starts_with("from outsideb c /root\n/var\n0\nbox\nlo\n"), "{seen}");
    assert!(!scratch.join("c/rootfs/changed").exists());
}

fn configs(scratch: &Scratch, sandbox: &Sandbox) {
    assert_eq!(sandbox.run().unwrap().code(), Some(3));
    busybox_rootfs(&scratch.join("b/rootfs"));
    let config = r#"{"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "process": {"args": ["sh", "-c", "exit 5"], "cwd": "/"}}"#;
    scratch.write("b/config.json", config);
    assert_eq!(Sandbox::new(scratch.join("b")).run().unwrap().code(), Some(5));
}

fn failures(scratch: &Scratch, sandbox: &Sandbox) {
    // What it would print is caught in a file.
    let file = fs::File::create(scratch.join("stderr")).unwrap();
    let saved = rustix::io::dup(rustix::stdio::stderr()).unwrap();
    rustix::stdio::dup2_stderr(file.as_fd()).unwrap();
    let missing = sandbox.clone().command(["no-such-command"]).run();
    let denied = sandbox.clone().command(["/etc/passwd"]).run();
    let nowhere = Sandbox::new(scratch.join("nowhere")).run();
    let nonsense = sandbox.clone().volume("relative:path").run();
    rustix::stdio::dup2_stderr(saved.as_fd()).unwrap();
    for (result, code, word) in [
        (missing, 127, "no-such-command"),
        (denied, 126, "/etc/passwd"),
        (nowhere, 125, "nowhere"),
        (nonsense, 125, "relative:path"),
    ] {
        let error = result.unwrap_err();
        assert!(d_enter::exit_code(&error) == code && error.to_string().contains(word), "{error:#}");
    }
    assert_eq!(fs::read_to_string(scratch.join("stderr")).unwrap(), "");
}

fn state(_: &Scratch, sandbox: &Sandbox) {
    const CHLD: i32 = 17;
    const USR1: i32 = 10;
    SignalSet::empty().with(USR1).block().unwrap();
    d_common::sys::ignore_signal(CHLD);
    let look = || {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let lines =
            status.lines().filter(|l| ["SigBlk", "SigIgn", "SigCgt", "Umask"].iter().any(|key| l.starts_with(key)));
        let state: Vec<String> = lines.map(str::to_owned).collect();
        let fds = fs::read_dir("/proc/self/fd").unwrap().count();
        (state, fds, std::env::current_dir().unwrap(), std::env::vars_os().collect::<Vec<_>>(), ignored_signals())
    };
    let before = look();
    assert!(sandbox.clone().options(["--die-with-parent"]).unwrap().command(["true"]).run().unwrap().success());
    assert!(sandbox.clone().command(["no-such-command"]).run().is_err());
    assert_eq!(look(), before);
    assert!(before.4.contains(&CHLD) && before.0.iter().any(|l| l.ends_with("200")), "{before:?}");
    assert_eq!(rustix::process::parent_process_death_signal().unwrap(), None);
}

fn threads(_: &Scratch, sandbox: &Sandbox) {
    let sandbox = sandbox.clone();
    let error = std::thread::spawn(move || sandbox.run().unwrap_err().to_string()).join().unwrap();
    assert!(error.contains("thread"), "{error}");
}
