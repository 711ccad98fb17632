//! Terminals, driven through tmux as a person would.

use std::path::PathBuf;
use std::time::Duration;

use d_tests::{Cmd, eventually};
use rustix::process::Signal;

use crate::place::{Place, under_both_maps};

const SOON: Duration = Duration::from_secs(15);

/// A shell in a terminal of 80 columns and 24 rows.
struct Screen<'a> {
    place: &'a Place,
    socket: PathBuf,
}

impl<'a> Screen<'a> {
    #[track_caller]
    fn open(place: &'a Place) -> Self {
        let screen = Self { place, socket: place.scratch.join("tmux") };
        let path = std::env::join_paths([d_tests::bin_dir(), "/usr/bin".into(), "/bin".into()]).expect("a PATH");
        screen
            .tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", "env", "PS1=$ "])
            .arg(format!("PATH={}", path.display()))
            .args([&format!("MAP={}", place.map), "bash", "--norc", "--noprofile"])
            .ok();
        screen.see("$");
        screen
    }

    fn tmux(&self, args: &[&str]) -> Cmd {
        self.place.scratch.run(["tmux", "-S"]).arg(&self.socket).args(args).env("TERM", "xterm")
    }

    fn line(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]).ok();
        self.key("Enter");
    }

    fn key(&self, key: &str) {
        self.tmux(&["send-keys", key]).ok();
    }

    fn text(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-S", "-200"]).ok().out()
    }

    /// Waits for `line` in a line of the screen that was not typed.
    #[track_caller]
    fn see(&self, line: &str) {
        let typed = |l: &str| l.starts_with("$ ") && l.contains("d-enter") || l.contains("echo ");
        let seen = eventually(SOON, || self.text().lines().any(|l| l.contains(line) && !typed(l)));
        assert!(seen, "no {line:?} on the screen under {}:\n{}", self.place.map, self.text());
    }

    fn clear(&self) {
        self.line("clear");
        std::thread::sleep(Duration::from_millis(300));
        self.tmux(&["clear-history"]).ok();
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]).done();
    }
}

#[test]
fn a_shell_with_job_control() {
    under_both_maps(|place| {
        let screen = Screen::open(place);
        screen.line("stty -g >before");
        screen.line("d-enter --map $MAP -e PS1='in$ ' box sh");
        screen.see("in$");
        screen.line("tty; echo TERM-$TERM");
        screen.see("/dev/pts/0");
        screen.see("TERM-");
        screen.line("stty size");
        screen.see("24 80");
        // Ctrl-C ends the foreground job alone.
        screen.line("printf 'st%sed\\n' art; sleep 1000");
        screen.see("started");
        std::thread::sleep(Duration::from_millis(300));
        screen.key("C-c");
        screen.line("echo code-$?");
        screen.see("code-130");
        // Ctrl-Z stops it, fg continues it.
        screen.line("printf 'be%sun\\n' g; sleep 999");
        screen.see("begun");
        std::thread::sleep(Duration::from_millis(300));
        screen.key("C-z");
        screen.see("[1]+  Stopped");
        screen.line("jobs | sed s/^/jobs/");
        screen.see("jobs[1]");
        screen.line("fg");
        std::thread::sleep(Duration::from_millis(300));
        screen.key("C-c");
        screen.line("echo back");
        screen.see("back");
        assert!(!screen.text().contains("can't access tty"), "{}", screen.text());
        // Resizing.
        screen.tmux(&["resize-window", "-x", "100", "-y", "30"]).ok();
        assert!(
            eventually(SOON, || {
                screen.line("stty size");
                std::thread::sleep(Duration::from_millis(200));
                screen.text().contains("30 100")
            }),
            "{}",
            screen.text()
        );
        // Ctrl-D ends the shell; the terminal is as it was.
        screen.key("C-d");
        // What is typed while a shell ends is lost, here as anywhere.
        std::thread::sleep(Duration::from_millis(300));
        screen.line("stty -g >after; cmp before after && echo equal");
        screen.see("equal");
    });
}

#[test]
fn the_terminal_is_restored_whatever_ends_the_command() {
    under_both_maps(|place| {
        let screen = Screen::open(place);
        screen.line("stty -g >before");
        for (n, command) in
            ["true", "sh -c 'kill -9 $$'", "/nope", "sh -c 'stty raw -echo; exit 3'", "sh -c 'kill -SEGV $$'"]
                .iter()
                .enumerate()
        {
            screen
                .line(&format!("d-enter --map $MAP box {command}; stty -g >after; cmp before after && echo equal-{n}"));
            screen.see(&format!("equal-{n}"));
        }
        // SIGTERM of d-enter.
        screen.line(
            "d-enter --map $MAP --pid-file pid box sleep 1000; stty -g >after; cmp before after && echo equal-term",
        );
        let pid = place.scratch.join("pid");
        assert!(eventually(SOON, || pid.exists()));
        place.outside("kill $(ps -o ppid= -p $(ps -o ppid= -p $(cat pid)))").ok();
        screen.see("equal-term");
    });
}

#[test]
fn ctrl_c_and_ctrl_z_of_a_plain_command() {
    let place = Place::new("single");
    let screen = Screen::open(&place);
    screen.line("stty -g >before");
    screen.line("d-enter --map single box sleep 1000; echo code-$?");
    std::thread::sleep(Duration::from_millis(700));
    screen.key("C-c");
    screen.see("code-130");
    // Ctrl-Z stops d-enter as a job of the outer shell; fg brings it back.
    screen.line("d-enter --map single box sh -c 'trap \"printf caught; exit 5\" INT; while :; do sleep 0.1; done'");
    std::thread::sleep(Duration::from_millis(700));
    screen.key("C-z");
    screen.see("[1]+  Stopped");
    // As a command that is stopped by SIGTSTP.
    screen.line("echo code-$?");
    screen.see("code-148");
    screen.line("stty -g >stopped; cmp before stopped && echo equal-stopped");
    screen.see("equal-stopped");
    screen.line("fg");
    std::thread::sleep(Duration::from_millis(500));
    screen.key("C-c");
    screen.see("^Ccaught");
    screen.line("echo code-$?; stty -g >after; cmp before after && echo equal-after");
    screen.see("equal-after");
}

#[test]
fn ctrl_z_without_a_pty_stops_the_job() {
    let place = Place::new("single");
    let screen = Screen::open(&place);
    screen.line("d-enter --tty=never --map single box sh -c 'while :; do sleep 0.1; done; :'");
    std::thread::sleep(Duration::from_millis(700));
    screen.key("C-z");
    screen.see("[1]+  Stopped");
    screen.line("echo code-$?");
    screen.see("code-148");
    screen.line("fg");
    std::thread::sleep(Duration::from_millis(500));
    screen.key("C-c");
    screen.line("echo code-$?");
    screen.see("code-130");
}

#[test]
fn substitutions_and_pipes_stay_clean() {
    let place = Place::new("single");
    let screen = Screen::open(&place);
    screen.line("v=$(d-enter --map single box cat /bin/busybox | cksum); w=$(cksum <box/rootfs/bin/busybox); [ \"$v\" = \"$w\" ] && echo same-1");
    screen.see("same-1");
    screen.line("d-enter --map single box cat /bin/busybox >copy; cmp copy box/rootfs/bin/busybox && echo same-2");
    screen.see("same-2");
    screen.line("d-enter --map single box cat <box/rootfs/bin/busybox | cmp - box/rootfs/bin/busybox && echo same-3");
    screen.see("same-3");
    screen.clear();
    // No staircase where stdout goes through a pipe to the same terminal.
    screen.line("d-enter --map single box sh -c 'echo one; echo two; sleep 0.5; echo three' | cat");
    screen.see("three");
    let text = screen.text();
    assert!(text.lines().any(|l| l.trim_end() == "two") && text.lines().any(|l| l.trim_end() == "three"), "{text}");
    // What is connected, and what is not.
    screen.line(
        "d-enter --map single box sh -c 'for f in 0 1 2; do [ -t $f ] && echo $f-tty; done | cat >&2' 2>err; cat err",
    );
    screen.see("0-tty");
    screen.line("d-enter --tty=never --map single box sh -c 'readlink /proc/self/fd/0'");
    screen.line("d-enter --map single box tty </dev/null; echo done-null");
    screen.see("not a tty");
    screen.see("done-null");
}

#[test]
fn a_job_in_the_background_leaves_the_terminal_alone() {
    let place = Place::new("single");
    let screen = Screen::open(&place);
    screen.line("stty -g >before");
    screen.line("d-enter --map single box sh -c 'sleep 1; echo from-behind' & sleep 0.5; stty -g >during; cmp before during && echo untouched");
    screen.see("untouched");
    screen.see("from-behind");
    screen.line("wait; d-enter --map single box sh -c 'echo front'");
    screen.see("front");
}

#[test]
fn what_reads_in_the_background_is_stopped_until_it_is_in_front() {
    under_both_maps(|place| {
        let screen = Screen::open(place);
        screen.line("stty -g >before");
        screen.line("d-enter --map $MAP box sh -c 'a=$(head -n 1); echo got-$a' &");
        std::thread::sleep(Duration::from_millis(1500));
        // What is typed is the shell's.
        screen.line("printf 'mi%se\\n' n");
        screen.see("mine");
        screen.line("jobs | sed s/^/jobs/");
        screen.see("Stopped");
        screen.line("fg");
        std::thread::sleep(Duration::from_millis(500));
        screen.line("typed");
        screen.see("got-typed");
        // Brought to the front before it reads: a shell sends it nothing then.
        screen.clear();
        screen.line("d-enter --map $MAP box sh -c 'sleep 3; read a; echo late-$a' &");
        screen.line("fg");
        std::thread::sleep(Duration::from_millis(3500));
        screen.line("again");
        screen.see("late-again");
        screen.line("stty -g >after; cmp before after && echo equal");
        screen.see("equal");
    });
}

#[test]
fn the_loss_of_the_terminal_is_sighup_then_the_end() {
    let place = Place::new("single");
    let screen = Screen::open(&place);
    screen.line("d-enter --map single --pid-file pid -v .:/out box sh -c 'trap \"echo hup >/out/hup\" HUP; trap \"\" TERM INT; while :; do sleep 0.1; done'");
    let file = place.scratch.join("pid");
    assert!(eventually(SOON, || file.exists()));
    std::thread::sleep(Duration::from_millis(300));
    let pid: u32 = std::fs::read_to_string(&file).expect("pid").trim().parse().expect("a number");
    drop(screen);
    assert!(eventually(Duration::from_secs(8), || place.scratch.join("hup").exists()), "SIGHUP comes");
    assert!(eventually(Duration::from_secs(8), || !d_tests::alive(pid)), "and SIGKILL");
}

#[test]
fn full_screen_programs_work() {
    let place = Place::new("single");
    let screen = Screen::open(&place);
    screen.line("d-enter --map single box vi /etc/new; sed s/^/saw-/ box/rootfs/etc/new");
    screen.see("~");
    screen.tmux(&["send-keys", "-l", "ihello"]).ok();
    screen.see("hello");
    screen.key("Escape");
    std::thread::sleep(Duration::from_millis(500));
    screen.line(":wq");
    screen.see("saw-hello");
}

#[test]
fn always_and_never() {
    under_both_maps(|place| {
        place
            .enter(&["--tty=always"], &["sh", "-c", "[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all"])
            .ok()
            .out_has("all");
        place.enter(&["--tty=never"], &["sh", "-c", "[ -t 0 ] || [ -t 1 ] || echo none"]).ok().prints("none");
        place.enter(&["--tty=auto"], &["sh", "-c", "[ -t 0 ] || [ -t 1 ] || echo none"]).ok().prints("none");
        // What is piped in arrives, its end too.
        let done = place.enter(&["-t"], &["cat"]).stdin("typed\n").ok();
        done.out_has("typed");
        place.enter(&["-t"], &["sh", "-c", "exit 9"]).code(9);
    });
}

#[test]
fn the_callers_terminal_cannot_be_typed_into() {
    let place = Place::new("subid");
    let screen = Screen::open(&place);
    // Even without a pty the session is another one, so TIOCSTI and /dev/tty have nothing to reach.
    screen.line("d-enter --map subid --tty=never box sh -c 'echo x >/dev/tty' 2>&1 | sed s/^/said-/");
    screen.see("said-");
    let running = place.sh("", "sleep 30").spawn();
    running.signal(Signal::TERM);
    running.wait(SOON);
}
