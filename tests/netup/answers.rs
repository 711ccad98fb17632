//! What it says on a machine that lacks something, and of itself.

use std::os::unix::fs::PermissionsExt;

use d_tests::Scratch;

use crate::Namespace;

#[test]
fn check_reports_what_there_is() {
    let scratch = Scratch::new();
    let done = scratch.run(["d-netup", "--check"]).ok();
    for row in ["yes namespaces", "yes tun", "yes slirp4netns "] {
        done.out_has(row);
    }
    let json = scratch.run(["d-netup", "--check", "--json"]).ok().out();
    for line in json.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(row["check"].is_string() && row["ok"].is_boolean() && row["found"].is_string(), "{line}");
    }
    let nothing = scratch.write("bin/README", "");
    let path = nothing.parent().unwrap();
    scratch.run(["d-netup", "--check"]).env("PATH", path).code(69).out_has("no  slirp4netns ");
}

#[test]
fn a_missing_backend_is_named_with_its_package() {
    let ns = Namespace::new();
    let path = ns.scratch.join("home");
    ns.netup([ns.pid()]).env("PATH", &path).fails(69).err_has("package slirp4netns").err_has("package passt");
    ns.netup(["--backend", "slirp4netns", &ns.pid()]).env("PATH", &path).fails(69).err_has("package slirp4netns");
    ns.netup(["--backend", "pasta", &ns.pid()]).env("PATH", &path).fails(69).err_has("package passt");
    ns.netup(["--", "true"]).env("PATH", &path).fails(125).err_has("package slirp4netns");
}

#[test]
fn an_old_slirp4netns_is_told_from_a_broken_one() {
    let ns = Namespace::new();
    let fake = |script: &str| {
        let path = ns.scratch.write("bin/slirp4netns", format!("#!/bin/sh\n{script}\n"));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        let path = format!("{}:{}", path.parent().unwrap().display(), d_tests::PATH);
        ns.netup([ns.pid()]).env("PATH", path).fails(69)
    };
    let done = fake("echo \"slirp4netns: unrecognized option '--enable-seccomp'\" >&2; exit 1");
    done.err_has("is too old: it has no --enable-seccomp (version 0.4.0 or later is needed)");
    fake("echo 'something else is wrong' >&2; exit 3")
        .err_has("slirp4netns ended with code 3: something else is wrong");
    fake("kill -KILL $$").err_has("slirp4netns was killed by signal 9");
    assert!(ns.runtime_files().is_empty());
}

#[test]
fn where_the_sandbox_cannot_be_made_it_is_left_out() {
    let ns = Namespace::new();
    // Fails as slirp4netns does where the outer container forbids mounts, and else is slirp4netns.
    let script = "case \"$*\" in *--enable-sandbox*) echo 'cannot remount / private' >&2; echo 'create_sandbox failed' >&2; \
        exit 1;; esac; exec /usr/bin/slirp4netns \"$@\"";
    let fake = ns.scratch.write("bin/slirp4netns", format!("#!/bin/sh\n{script}\n"));
    std::fs::set_permissions(&fake, PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", fake.parent().unwrap().display(), d_tests::PATH);
    let done = ns.netup(["--", "true"]).env("PATH", path).ok();
    done.err_has("warning: slirp4netns runs without its sandbox")
        .expect(done.err().lines().count() == 1, "one warning");
}

#[test]
fn a_missing_tun_device_has_a_remedy() {
    let scratch = Scratch::new();
    let script = "mount -t tmpfs none /dev/net; d-netup -- true";
    let cmd = scratch.run(["unshare", "-Urm", "sh", "-c", script]).env("XDG_RUNTIME_DIR", scratch.path());
    cmd.fails(125).err_has("/dev/net/tun is missing (as root: modprobe tun");
}

#[test]
fn messages_are_one_line_and_codes_are_those_of_the_table() {
    let ns = Namespace::new();
    for args in [&["--lis", "1"][..], &["--mtu", "x", "1"], &["--cidr", "10.0.2.5/24", "1"], &["x"], &[], &["1", "2"]] {
        ns.netup(args).fails(64).prints("");
    }
    ns.netup(["--help"]).ok().out_has("--publish");
    ns.netup(["--version"]).ok().out_has("d-netup ");
    for shell in ["bash", "zsh", "fish"] {
        ns.netup(["--completions", shell]).ok().out_has("publish");
    }
}

#[test]
fn somebody_elses_runtime_directory_is_not_used() {
    let ns = Namespace::new();
    let dir = ns.scratch.join("open");
    std::fs::create_dir_all(dir.join("d-netup")).unwrap();
    std::fs::set_permissions(dir.join("d-netup"), PermissionsExt::from_mode(0o777)).unwrap();
    ns.netup([ns.pid()]).env("XDG_RUNTIME_DIR", &dir).fails(73).err_has("mode 0700");
}
