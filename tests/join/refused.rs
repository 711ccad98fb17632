//! What cannot be joined, and why.

use crate::place::Place;
use crate::running::{join, pids, start};

#[test]
fn what_is_not_there() {
    let place = Place::new("single");
    join(&place, "box", "", &["true"]).fails(125).err_has("not in use");
    join(&place, "nowhere", "", &["true"]).fails(125).err_has("nowhere");
    join(&place, "4194304", "", &["true"]).fails(125).err_has("no such process");
    join(&place, "", "", &["true"]).fails(125).err_has("empty");
}

#[test]
fn what_is_not_ours() {
    let place = Place::new("single");
    if d_tests::is_root() {
        return d_tests::skip("root may join everything");
    }
    join(&place, "1", "", &["true"]).fails(125).err_has("another user");
    // This test itself is in no container, and what it has started neither.
    join(&place, std::process::id(), "", &["true"]).fails(125).err_has("in a container");
}

#[test]
fn what_is_not_one() {
    let place = Place::new("single");
    let (first, second) = (start(&place, ""), start(&place, ""));
    let done = join(&place, "box", "", &["true"]).fails(125);
    done.err_has("several").err_has(&first.pid().to_string()).err_has(&second.pid().to_string());
    join(&place, second.pid(), "", &["true"]).ok();
}

#[test]
fn what_a_running_container_cannot_be_given() {
    let place = Place::new("single");
    let running = start(&place, "");
    for option in [
        "--net=user",
        "--memory=1G",
        "--volume=/tmp:/x",
        "--cap-add=ALL",
        "--seccomp=none",
        "--share=pid",
        "--map=subid",
    ] {
        let name = option.split('=').next().expect("a name");
        join(&place, running.pid(), option, &["true"]).fails(125).err_has(name);
    }
    join(&place, running.pid(), "-w tmp", &["true"]).fails(125).err_has("--workdir");
    join(&place, running.pid(), "-w /nowhere", &["true"]).fails(125).err_has("/nowhere");
    join(&place, running.pid(), "-u nobody-there", &["true"]).fails(125).err_has("nobody-there");
    join(&place, running.pid(), "-u 7", &["true"]).fails(125).err_has("not mapped");
}

#[test]
fn what_is_recorded_elsewhere() {
    let place = Place::new("single");
    let running = start(&place, "");
    let (init, command) = pids(&running);
    let elsewhere = place.scratch.join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("a directory");
    for name in [running.pid().to_string(), init.to_string(), command.to_string(), "box".into()] {
        let done = join(&place, &name, "", &["true"]).env("XDG_RUNTIME_DIR", &elsewhere).fails(125);
        // The init hides itself from whoever is not its d-enter's heir.
        done.expect(["XDG_RUNTIME_DIR", "hides itself"].iter().any(|why| done.err().contains(why)), "the reason");
    }
}
