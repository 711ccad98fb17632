//! The command line: operands, options, and what docker's users type.

use d_tests::run;

use crate::place::{Place, under_both_maps};

#[test]
fn an_empty_operand_is_a_command_that_failed() {
    for command in [&[][..], &["true"][..]] {
        let done = run(["d-enter", ""]).args(command).fails(125);
        done.err_has("DIR is empty: the command that should print it failed");
    }
    let place = Place::new("single");
    place.outside("d-enter \"$(false)\" true").fails(125).err_has("is empty");
}

#[test]
fn usage_errors_are_one_line_and_125() {
    for line in [
        "",
        "--no-such-option box",
        "--hostn x box",
        "--tty sometimes box",
        "--proc old box",
        "--map wide box",
        "--groups none box",
        "--share net box",
        "--umask 8 box",
        "--ulimit files=1 box",
        "--net bridge box",
        "--status-fd x box",
        "--status-fd 99 box",
        "--keep-fd 99 box",
        "--sysctl a box",
        "--sysctl kernel.panic=1 box",
        "--cap-add NOPE box",
        "--seccomp /nonexistent box",
        "--env-file /nonexistent box",
        "--bind onlyone",
        "--ephemeral=x box",
        "--volume relative:dst box",
        "--volume /x:/y:bogus box",
        "--tmpfs relative box",
        "--device relative box",
        "--dns x box",
        "--add-host x box",
        "-w relative box",
        "-e =x box",
        "-u nobody-there box",
        "-u 0:nogroup-there box",
    ] {
        let place = Place::new("single");
        place.scratch.run(["d-enter"]).args(line.split_whitespace()).fails(125);
    }
}

#[test]
fn what_cannot_be_entered_is_named() {
    let place = Place::new("single");
    place.scratch.write("file", "");
    place.scratch.write("empty/x", "");
    for (dir, word) in [("missing", "missing"), ("file", "not a directory"), ("empty", "config.json")] {
        place.scratch.run(["d-enter", dir, "true"]).fails(125).err_has(word);
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    run(["d-enter", "--help"]).ok().silent().out_has("--volume");
    run(["d-enter", "-h"]).ok().silent().out_has("--volume");
    run(["d-enter", "--version"]).ok().silent().out_has("d-enter ");
    run(["d-enter", "--completions", "bash"]).ok().silent().out_has("d-enter");
}

#[test]
fn dockers_options_are_answered_with_our_way() {
    let place = Place::new("single");
    for (line, word) in [
        ("-d box", "&"),
        ("--detach box", "&"),
        ("--name x box", "DIR"),
        ("--name=x box", "DIR"),
        ("--privileged box", "--cap-add"),
        ("-h name box", "use --hostname"),
    ] {
        let done = place.scratch.run(["d-enter"]).args(line.split_whitespace()).fails(125);
        done.expect(done.err().to_lowercase().contains(&word.to_lowercase()), word);
    }
    // Of the command they are its own.
    place.enter(&[], &["echo", "-d", "--name", "x", "-h"]).ok().prints("-d --name x -h");
}

#[test]
fn what_follows_dir_is_the_commands() {
    under_both_maps(|place| {
        for (command, printed) in [
            (&["echo", "-e", "A=1", "--net", "host"][..], "A=1 --net host"),
            (&["--", "echo", "x"], "x"),
            (&["echo", "--", "x"], "-- x"),
            (&["--", "printf", "%s,", "--", "x"], "--,x,"),
        ] {
            place.enter(&[], command).ok().prints(printed);
        }
        place.enter(&[], &["--", "--"]).fails(127);
    });
}

#[test]
fn values_may_follow_an_equals_sign() {
    let place = Place::new("single");
    place
        .sh("--hostname=one -eA=1 --env=B=2 --workdir=/etc -u0", "echo $(hostname) $A $B $PWD")
        .ok()
        .prints("one 1 2 /etc");
    // Of an option given twice the last one counts.
    place.sh("--hostname one --hostname two", "hostname").ok().prints("two");
}

#[test]
fn dockers_letters_keep_their_meaning() {
    under_both_maps(|place| {
        let done = place.sh("-i --rm -e A=1 -w /tmp -u 0 -v /d -m 1g", "true").done();
        // Limits depend on the machine: either they hold, or one line says what is missing.
        assert!(done.code() == 0 || (done.code() == 125 && done.errors().len() == 1), "{done}");
        place.enter(&["-it"], &["tty"]).ok().out_has("/dev/pts/0");
        place.enter(&["-i", "-t"], &["echo", "x"]).ok().out_has("x");
    });
}

#[test]
fn a_bare_root_filesystem_is_accepted() {
    under_both_maps(|place| {
        std::fs::remove_file(place.dir().join("config.json")).expect("config.json");
        std::fs::rename(place.rootfs(""), place.scratch.join("bare")).expect("the rootfs");
        place.scratch.run(["d-enter", "--map", place.map, "bare", "echo", "x"]).ok().prints("x");
        // Its command is a shell.
        place.scratch.run(["d-enter", "--map", place.map, "bare"]).stdin("echo from $0").ok().out_has("from");
        // Nothing is added to it but mount points.
        let names = place.scratch.names("bare");
        assert!(!names.contains(&"volumes".to_owned()) && !names.contains(&"config.json".to_owned()), "{names:?}");
    });
}

#[test]
fn quiet_leaves_errors_only() {
    let place = Place::new("single");
    place.config(serde_json::json!({"Env": ["A=1"]}));
    place.scratch.run(["d-enter", "-q", "--map", "single", "box", "true"]).ok().silent();
    place.scratch.run(["d-enter", "-q", "--map", "single", "box", "/nope"]).fails(127);
}

#[test]
fn verbose_explains_on_stderr() {
    let place = Place::new("single");
    let done = place.enter(&["--verbose", "-v", ".:/mine"], &["echo", "x"]).ok();
    done.prints("x");
    for word in ["map single", "user 0:0", "network none", "mount on /mine", "runs echo x"] {
        done.err_has(word);
    }
    let more = place.enter(&["--verbose", "--verbose"], &["true"]).ok();
    more.expect(more.err().contains("namespaces"), "its steps");
}

#[test]
fn the_machine_is_checked() {
    let done = run(["d-enter", "--check"]).done();
    done.out_has("user").expect(done.stderr.is_empty(), "nothing on stderr");
    let done = run(["d-enter", "--check", "--json"]).done();
    for line in done.out().lines() {
        serde_json::from_str::<serde_json::Value>(line).expect("a JSON line");
    }
}
