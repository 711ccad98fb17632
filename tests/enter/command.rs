//! What is run, and the exit code that comes of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::place::under_both_maps;

#[test]
fn exit_codes_are_the_commands_own() {
    under_both_maps(|place| {
        for code in [0, 1, 7, 64, 125, 255] {
            let done = place.sh("", &format!("exit {code}")).code(code);
            done.silent();
        }
        for (signal, code) in [("KILL", 137), ("TERM", 143), ("SEGV", 139), ("HUP", 129), ("USR1", 138)] {
            let done = place.sh("", &format!("kill -{signal} $$; sleep 5")).code(code);
            // It exits with that code, and does not die of the signal itself.
            done.expect(done.status.code().is_some(), "an exit").silent();
        }
    });
}

#[test]
fn what_cannot_be_executed_is_126() {
    under_both_maps(|place| {
        for (name, mode, text) in [
            ("data", 0o644, "no program"),
            ("nohash", 0o755, "echo never"),
            ("garbage", 0o755, "\u{1}\u{2}"),
            ("nointerp", 0o755, "#!/no/such/interpreter\n"),
        ] {
            place.write(name, text);
            fs::set_permissions(place.rootfs(name), fs::Permissions::from_mode(mode)).expect("a mode");
            place.enter(&[], &[&format!("/{name}")]).fails(126).err_has(name);
        }
        place.enter(&[], &["/etc"]).fails(126).err_has("/etc");
        // The same when it is found through PATH.
        fs::rename(place.rootfs("nohash"), place.rootfs("bin/nohash")).expect("renamed");
        fs::rename(place.rootfs("data"), place.rootfs("bin/data")).expect("renamed");
        place.enter(&[], &["nohash"]).fails(126);
        place.enter(&[], &["data"]).fails(126);
    });
}

#[test]
fn what_is_not_there_is_127() {
    under_both_maps(|place| {
        for command in ["nope", "/nope", "./nope", "/etc/passwd/nope", ""] {
            place.enter(&[], &[command]).fails(127);
        }
    });
}

#[test]
fn the_path_is_the_containers() {
    under_both_maps(|place| {
        place.write("opt/mine", "#!/bin/sh\necho mine\n");
        fs::set_permissions(place.rootfs("opt/mine"), fs::Permissions::from_mode(0o755)).expect("a mode");
        place.enter(&[], &["mine"]).fails(127);
        place.enter(&["-e", "PATH=/opt"], &["mine"]).ok().prints("mine");
        place.config(json!({"Env": ["PATH=/opt:/bin"]}));
        place.enter(&[], &["mine"]).ok().prints("mine");
        place.config(json!({}));
        // A relative program is found from the working directory.
        place.enter(&["-w", "/opt"], &["./mine"]).ok().prints("mine");
        // Nothing of the host's PATH counts.
        place.enter(&[], &["sh", "-c", "echo $PATH"]).env("PATH", "/opt:/usr/bin:/bin").ok();
        let path = place.sh("", "echo $PATH").ok().out();
        assert_eq!(path, "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    });
}

#[test]
fn arguments_are_passed_as_they_are() {
    under_both_maps(|place| {
        let words = ["a b", "$HOME", "'", "\"", "*", "", "\n", "\\", ";exit 1", "ü"];
        let done = place.enter(&[], &["printf", "[%s]"]).args(words).ok();
        done.prints(&words.map(|w| format!("[{w}]")).concat());
    });
}

#[test]
fn entrypoint_cmd_and_words() {
    under_both_maps(|place| {
        place.config(json!({"Entrypoint": ["/bin/echo", "e"], "Cmd": ["c"]}));
        place.enter(&[], &[]).ok().prints("e c");
        place.enter(&[], &["w", "-n"]).ok().prints("e w -n");
        place.enter(&["--entrypoint", "/bin/printf"], &["%s", "x"]).ok().prints("x");
        // --entrypoint drops Cmd.
        place.enter(&["--entrypoint", "echo"], &[]).ok().prints("");
        place.enter(&["--entrypoint", ""], &["echo", "w"]).ok().prints("w");
        place.enter(&["--entrypoint="], &["echo", "w"]).ok().prints("w");
        // Nothing left to run means /bin/sh.
        place.enter(&["--entrypoint="], &[]).stdin("echo shell").ok().prints("shell");
        place.config(json!({"Cmd": ["echo", "c"]}));
        place.enter(&[], &[]).ok().prints("c");
        place.enter(&[], &["echo", "w"]).ok().prints("w");
        place.config(json!({"Entrypoint": null, "Cmd": null}));
        place.enter(&[], &[]).stdin("echo shell").ok().prints("shell");
        place.config(json!({"Cmd": ["echo", "c"], "entrypoint": "/bin/printf"}));
        place.enter(&[], &["%s", "k"]).ok().prints("k");
        place.enter(&["--entrypoint", "echo"], &["flag"]).ok().prints("flag");
    });
}

#[test]
fn streams_are_passed_untouched() {
    under_both_maps(|place| {
        let bytes: Vec<u8> = (0..=255u8).cycle().take(300_000).collect();
        let done = place.enter(&[], &["cat"]).stdin(&bytes).ok();
        assert_eq!(done.stdout, bytes);
        let done = place.sh("", "echo out; echo err >&2").ok();
        assert_eq!((done.out(), done.err()), ("out".into(), "err".into()));
        // stdin that is /dev/null ends at once, also behind a pipe.
        place.outside("d-enter --map $MAP box cat </dev/null | cat").ok().prints("");
        place
            .outside("v=$(d-enter --map $MAP box cat /bin/busybox | cksum); cksum <box/rootfs/bin/busybox; echo $v")
            .ok();
        place
            .outside(
                "[ \"$(d-enter --map $MAP box cat /bin/busybox | cksum)\" = \"$(cksum <box/rootfs/bin/busybox)\" ]",
            )
            .ok();
    });
}

#[test]
fn closed_descriptors_do_no_harm() {
    under_both_maps(|place| {
        place.outside("d-enter --map $MAP box true <&- >&- 2>&-").ok();
        place.outside("d-enter --map $MAP box echo x <&-").ok().prints("x");
    });
}
