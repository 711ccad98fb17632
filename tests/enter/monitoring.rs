//! --status-fd, --ready-fd, --block-fd, --pid-file, --dry-run, NOTIFY_SOCKET.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use d_tests::eventually;
use serde_json::{Value, json};

use crate::place::{Place, under_both_maps};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn status_lines_have_bubblewraps_names_and_ours() {
    under_both_maps(|place| {
        for (script, code) in [("exit 7", 7), ("kill -9 $$", 137)] {
            let done =
                place.outside(&format!("d-enter --map $MAP --status-fd 3 box sh -c '{script}' 3>status")).code(code);
            done.silent();
            let lines: Vec<Value> = fs::read_to_string(place.scratch.join("status"))
                .expect("status")
                .lines()
                .map(|l| serde_json::from_str(l).expect("a JSON line"))
                .collect();
            let member = |name: &str| lines.iter().find_map(|l| l.get(name)).cloned().unwrap_or_default();
            assert_eq!(member("exit-code"), json!(code), "{lines:?}");
            assert!(member("child-pid").as_i64().is_some_and(|p| p > 1), "{lines:?}");
            for name in ["net-namespace", "pid-namespace", "mnt-namespace", "ipc-namespace", "uts-namespace"] {
                assert!(member(name).as_u64().is_some(), "{name} in {lines:?}");
            }
        }
    });
}

#[test]
fn the_namespaces_reported_are_the_containers() {
    let place = Place::new("single");
    let done = place.outside("d-enter --map $MAP --status-fd 3 box readlink /proc/self/ns/net 3>status").ok();
    let status = fs::read_to_string(place.scratch.join("status")).expect("status");
    let inode = done.out().replace("net:[", "").replace(']', "");
    assert!(status.contains(&inode), "{inode} in {status}");
}

#[test]
fn the_pid_file_has_the_commands_pid_as_long_as_it_runs() {
    under_both_maps(|place| {
        let script = "d-enter --map $MAP --pid-file pid box sh -c 'echo $$; exec sleep 100' & while [ ! -s pid ]; do sleep 0.02; done; sleep 0.2; \
                      tr '\\0' ' ' </proc/$(cat pid)/cmdline; kill $(cat pid); wait $! || echo $?; [ ! -e pid ]";
        place.outside(script).ok().prints("2\nsleep 100 143");
        place.enter(&["--pid-file", "/no/such/folder/pid"], &["true"]).fails(125).err_has("/no/such/folder/pid");
    });
}

#[test]
fn stdout_can_carry_status_and_the_commands_output() {
    let place = Place::new("single");
    let done = place.enter(&["--status-fd", "1", "--ready-fd", "1"], &["echo", "from the command"]).ok();
    done.silent().out_has("from the command").out_has("READY").out_has("\"exit-code\":0");
}

#[test]
fn ready_is_one_line_when_the_command_runs() {
    under_both_maps(|place| {
        place.outside("d-enter --map $MAP --ready-fd 3 box true 3>ready; wc -l <ready").ok().prints("1");
        // Nothing when it cannot be.
        place.outside("d-enter --map $MAP --ready-fd 3 box /nope 3>ready || wc -c <ready").ok().prints("0");
    });
}

#[test]
fn it_waits_for_block_fd() {
    under_both_maps(|place| {
        let script = "mkfifo gate; d-enter --map $MAP --block-fd 3 box sh -c 'echo ran' 3<gate & exec 4>gate; sleep 0.5; echo waited; echo >&4; wait $!";
        place.outside(script).ok().prints("waited\nran");
        let script = "d-enter --map $MAP --block-fd 3 box sh -c 'echo ran' 3<gate & exec 4>gate; sleep 0.3; echo waited; exec 4>&-; wait $!";
        place.outside(script).ok().prints("waited\nran");
    });
}

#[test]
fn a_signal_ends_what_waits_for_block_fd() {
    under_both_maps(|place| {
        for (signal, code) in [("TERM", 143), ("HUP", 129)] {
            let script = format!(
                "rm -f gate; mkfifo gate; d-enter --map $MAP --block-fd 3 box touch /ran 3<gate & exec 4>gate; \
                 sleep 0.5; kill -{signal} $!; wait $!"
            );
            place.outside(&script).code(code);
            assert!(!place.rootfs("ran").exists());
        }
    });
}

#[test]
fn a_reader_that_is_gone_ends_nothing() {
    under_both_maps(|place| {
        for option in ["status-fd", "ready-fd"] {
            let script = format!(
                "mkfifo {option}; true <{option} & exec 3>{option}; wait; d-enter --map $MAP --{option} 3 box sh -c 'exit 4'"
            );
            place.outside(&script).code(4);
        }
    });
}

#[test]
fn what_cannot_be_printed_is_an_error() {
    let place = Place::new("single");
    for what in ["--dry-run box", "--print-oci box", "--check", "--check --json", "--help", "--completions bash"] {
        place.outside(&format!("d-enter {what} >/dev/full")).fails(125).err_has("cannot write to stdout");
        place.outside(&format!("d-enter {what} >&-")).fails(125).err_has("cannot write to stdout");
    }
}

#[test]
fn a_service_manager_is_told() {
    let place = Place::new("single");
    let path = place.scratch.join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(SOON)).expect("a timeout");
    place.enter(&[], &["sh", "-c", "echo ${NOTIFY_SOCKET-unset}"]).env("NOTIFY_SOCKET", &path).ok().prints("unset");
    let mut buffer = [0; 64];
    let n = socket.recv(&mut buffer).expect("a message");
    assert!(buffer[..n].starts_with(b"READY=1"));
}

#[test]
fn a_dry_run_prints_the_plan_and_does_nothing() {
    under_both_maps(|place| {
        place.config(json!({"Cmd": ["echo", "never"], "Env": ["A=1"]}));
        let plan = place.plan("--hostname h -v new:/new -p 18080:80 -w /srv");
        let text = plan.to_string();
        for word in ["\"echo\"", "never", "A=1", "\"h\"", "18080:80", "/new", "/srv"] {
            assert!(text.contains(word), "{word} in {text}");
        }
        assert_eq!(place.scratch.names("box"), ["config.json", "rootfs"]);
        place.enter(&["--dry-run", "-u", "nobody-there"], &[]).fails(125);
    });
}

#[test]
fn dir_is_free_again_at_the_end() {
    let place = Place::new("single");
    place.sh("", "true").ok();
    assert!(eventually(SOON, || place.outside("flock -n -x box true").done().code() == 0));
    assert_eq!(place.scratch.names("box"), ["config.json", "rootfs"]);
}
