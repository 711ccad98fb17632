//! Where a joined command is, what it is given, and how it ends.

use std::fs;
use std::time::Duration;

use d_tests::{Cmd, Running, alive, children, eventually};
use rustix::process::Signal;

use crate::place::{Place, under_both_maps};

pub const SOON: Duration = Duration::from_secs(20);

/// A container whose command sleeps.
pub fn start(place: &Place, options: &str) -> Running {
    let mut running = place.sh(options, "echo up; exec sleep 300").env("XDG_RUNTIME_DIR", runtime(place)).spawn();
    running.wait_out("up");
    // The echo is the shell's; what is joined is the sleep.
    let slept = |pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c.starts_with(b"sleep"));
    assert!(eventually(SOON, || children(running.pid()).iter().any(slept)), "no sleep below d-enter");
    running
}

/// The runtime directory of a test.
fn runtime(place: &Place) -> std::path::PathBuf {
    let dir = place.scratch.join("runtime");
    fs::create_dir_all(&dir).expect("a runtime directory");
    dir
}

/// `d-enter --join NAME OPTIONS COMMAND`.
pub fn join(place: &Place, name: impl ToString, options: &str, command: &[&str]) -> Cmd {
    let cmd = place.scratch.run(["d-enter", "--join", &name.to_string()]).args(options.split_whitespace());
    cmd.args(command).env("XDG_RUNTIME_DIR", runtime(place))
}

/// The container's init and its command, as they are called outside.
pub fn pids(running: &Running) -> (u32, u32) {
    let all = children(running.pid());
    (all[0], all[1])
}

const NAMESPACES: [&str; 7] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];

#[test]
fn all_namespaces_by_every_name() {
    under_both_maps(|place| {
        let running = start(place, "");
        let (init, command) = pids(&running);
        let link = |name: &&str| {
            fs::read_link(format!("/proc/{command}/ns/{name}")).expect("a namespace").display().to_string()
        };
        let expected: Vec<String> = NAMESPACES.iter().map(link).collect();
        let script =
            format!("for n in {}; do readlink /proc/self/ns/$n; done; readlink /proc/self/root", NAMESPACES.join(" "));
        let dir = place.dir().display().to_string();
        for name in [running.pid().to_string(), init.to_string(), command.to_string(), dir, "box".into()] {
            let done = join(place, &name, "", &["sh", "-c", &script]).ok();
            done.prints(&format!("{}\n/", expected.join("\n")));
        }
    });
}

#[test]
fn the_command_itself_may_be_the_init() {
    under_both_maps(|place| {
        let running = start(place, "--as-pid-1");
        let command = children(running.pid())[0];
        for name in [running.pid(), command] {
            join(place, name, "", &["sh", "-c", "tr '\\0' ' ' </proc/1/cmdline"]).ok().out_has("sleep 300");
        }
    });
}

#[test]
fn environment_and_directory_are_the_running_commands() {
    under_both_maps(|place| {
        let running = start(place, "-e FOO=container -e BAR=container -w /tmp --umask 027 --ulimit nofile=99:100");
        let script = "echo $FOO $BAR $PWD $container $CALLER; pwd; umask; ulimit -Sn; ulimit -Hn";
        let joined =
            |options: &str| join(place, running.pid(), options, &["sh", "-c", script]).env("CALLER", "caller").ok();
        joined("").prints("container container /tmp d-enter\n/tmp\n0027\n99\n100");
        joined("-e BAR=joined -e CALLER -w /usr --umask 7")
            .prints("container joined /usr d-enter caller\n/usr\n0007\n99\n100");
    });
}

#[test]
fn without_a_command_a_shell() {
    let place = Place::new("single");
    let running = start(&place, "");
    join(&place, running.pid(), "", &[]).stdin("echo $((6 * 7)); exit 3\n").code(3).prints("42");
}

#[test]
fn exit_codes_are_those_of_a_command() {
    let place = Place::new("single");
    place.write("etc/text", "no program\n");
    let running = start(&place, "");
    let joined = |command: &[&str]| join(&place, running.pid(), "", command);
    joined(&["sh", "-c", "exit 7"]).code(7);
    joined(&["sh", "-c", "kill -TERM $$"]).code(143);
    joined(&["no-such-program"]).fails(127);
    joined(&["/etc/text"]).fails(126);
    joined(&["--", "echo", "-n"]).ok().prints("");
    let lines = place
        .outside("d-enter --join box --status-fd 3 sh -c 'exit 4' 3>status || cat status")
        .env("XDG_RUNTIME_DIR", runtime(&place));
    lines.ok().out_has("{\"exit-code\":4}").out_has("command-pid");
}

#[test]
fn it_ends_with_its_d_enter_and_with_the_container() {
    under_both_maps(|place| {
        let running = start(place, "");
        let (_, command) = pids(&running);
        let mut joined = join(place, running.pid(), "", &["sh", "-c", "sleep 301 & echo up; wait"]).spawn();
        joined.wait_out("up");
        let inside = children(joined.pid());
        assert_eq!(inside.len(), 3, "the process beside it, the shell, its sleep");
        joined.signal(Signal::KILL);
        assert!(eventually(SOON, || inside.iter().all(|pid| !alive(*pid))), "a joined process outlives d-enter");
        assert!(alive(command), "the container has nothing to do with that");

        let mut joined = join(place, running.pid(), "", &["sh", "-c", "echo up; exec sleep 302"]).spawn();
        joined.wait_out("up");
        running.signal(Signal::TERM);
        assert_eq!(running.wait(SOON).code(), 143);
        assert_eq!(joined.wait(SOON).code(), 137);
    });
}

#[test]
fn signals_reach_it() {
    let place = Place::new("subid");
    let running = start(&place, "");
    let mut joined = join(
        &place,
        running.pid(),
        "",
        &["sh", "-c", "trap 'echo got it; exit 5' TERM; echo up; while :; do sleep 0.1; done"],
    )
    .spawn();
    joined.wait_out("up");
    joined.signal(Signal::TERM);
    let done = joined.wait(SOON);
    assert_eq!((done.code(), done.out().as_str()), (5, "up\ngot it"));
}

#[test]
fn it_has_a_terminal_of_the_container() {
    under_both_maps(|place| {
        let running = start(place, "-u web");
        let joined = join(place, running.pid(), "-t", &["sh", "-c", "tty; stat -c %U $(tty); ls -1 /dev/pts"]).ok();
        joined.prints("/dev/pts/0\r\nweb\r\n0\r\nptmx\r");
        join(place, running.pid(), "", &["tty"]).code(1).prints("not a tty");
    });
}

#[test]
fn its_record_comes_and_goes() {
    let place = Place::new("single");
    let record = |running: &Running| runtime(&place).join("d-enter").join(running.pid().to_string());
    let first = start(&place, "");
    assert!(record(&first).exists());
    // What a killed one leaves, the next removes.
    first.signal(Signal::KILL);
    let left = record(&first);
    first.wait(SOON);
    assert!(left.exists());
    let second = start(&place, "");
    assert!(!left.exists() && record(&second).exists());
    let mine = record(&second);
    second.signal(Signal::TERM);
    second.wait(SOON);
    assert!(!mine.exists());
    // It is there before the command is: a race once, so it is tried often.
    for _ in 0..30 {
        let running = start(&place, "");
        assert!(record(&running).exists());
    }
}
