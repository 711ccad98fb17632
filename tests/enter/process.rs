//! Environment, working directory, limits, descriptors, signals' dispositions of the command.

use std::fs;

use serde_json::json;

use crate::place::{Place, under_both_maps};

#[test]
fn the_environment_starts_empty() {
    under_both_maps(|place| {
        let done = place.enter(&[], &["env"]).env("SECRET", "x").env("LD_PRELOAD", "").env("TERM", "vt220").ok();
        let mut lines: Vec<String> = done.out().lines().map(str::to_owned).collect();
        lines.retain(|l| !l.starts_with("APT_CONFIG="));
        lines.sort();
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        assert_eq!(lines, ["HOME=/root", path, "TERM=vt220", "container=d-enter"]);
    });
}

#[test]
fn variables_from_image_files_and_options() {
    under_both_maps(|place| {
        place.scratch.write("env", "# comment\nFILE=1\n\nB=file\nQ=\"quoted\"\nHOSTVAR\nNOTSET\nE=\nX=a=b\n");
        place.config(json!({"Env": ["A=image", "B=image", "HOME=/image", "SECRET"]}));
        let done = place
            .enter(
                &["--env-file", "env", "-e", "C=1", "--env=D=a b", "-e", "HOSTVAR2", "-e", "UNSET", "-e", "C=2"],
                &["env"],
            )
            .env("HOSTVAR", "h1")
            .env("HOSTVAR2", "h2")
            .env("SECRET", "s")
            .ok();
        let text = done.out();
        for line in [
            "A=image",
            "B=file",
            "HOME=/image",
            "FILE=1",
            "Q=\"quoted\"",
            "HOSTVAR=h1",
            "HOSTVAR2=h2",
            "C=2",
            "D=a b",
            "E=",
            "X=a=b",
        ] {
            done.expect(text.lines().any(|l| l == line), line);
        }
        for name in ["SECRET", "UNSET", "NOTSET"] {
            done.expect(!text.lines().any(|l| l.starts_with(name)), &format!("no {name}"));
        }
        // Options beat the file wherever they stand.
        place.sh("-e B=option --env-file env", "echo $B").ok().prints("option");
    });
}

#[test]
fn the_working_directory() {
    under_both_maps(|place| {
        place.sh("", "pwd").ok().prints("/");
        place.sh("-w /etc", "pwd").ok().prints("/etc");
        // From the image it is made.
        place.config(json!({"WorkingDir": "/srv/app"}));
        place.sh("", "pwd; touch x").ok().prints("/srv/app");
        assert!(place.rootfs("srv/app/x").exists());
        place.config(json!({"WorkingDir": "/srv/web", "User": "web"}));
        place.sh("", "touch x; stat -c %u .").ok().prints("33");
        // From the flag it must be there.
        place.enter(&["-w", "/no/such"], &["true"]).fails(125).err_has("/no/such");
        place.enter(&["-w", "/etc/passwd"], &["true"]).fails(125).err_has("/etc/passwd");
        place.config(json!({"workdir": "/no/such"}));
        place.enter(&[], &["true"]).fails(125).err_has("/no/such");
        place.config(json!({}));
        // A link is followed inside.
        std::os::unix::fs::symlink("/../../../etc", place.rootfs("link")).expect("a link");
        place.sh("-w /link", "pwd -P").ok().prints("/etc");
        // CVE-2024-21626: a leaked descriptor is no way out.
        place.enter(&["-w", "/proc/self/fd/3"], &["true"]).fails(125);
        place.outside("d-enter --map $MAP -w /proc/self/fd/3 box true 3</etc").fails(125);
        place.outside("d-enter --map $MAP --keep-fd 3 -w /proc/self/fd/3 box true 3</etc").fails(125);
    });
}

#[test]
fn masks_and_limits() {
    under_both_maps(|place| {
        place.sh("", "umask; touch /f; stat -c %a /f").env("x", "").ok().prints("0022\n644");
        place.outside("umask 077; d-enter --map $MAP box sh -c umask").ok().prints("0022");
        place.sh("--umask 027", "umask").ok().prints("0027");
        place.sh("--ulimit nofile=100:200", "ulimit -n; ulimit -Hn").ok().prints("100\n200");
        place.sh("--ulimit nofile=100", "ulimit -n; ulimit -Hn").ok().prints("100\n100");
        place
            .sh("--ulimit core=0 --ulimit nproc=50:60", "ulimit -c; grep 'Max processes' /proc/self/limits")
            .ok()
            .out_has("50                   60");
        place.sh("--ulimit core=0", "cat /proc/self/limits | grep core").ok().out_has(" 0 ");
        place.enter(&["--ulimit", "nofile=99999999999"], &["true"]).fails(125).err_has("nofile");
    });
}

#[test]
fn no_descriptor_is_passed_on_but_those_to_keep() {
    under_both_maps(|place| {
        let list = "ls /proc/self/fd | tr '\\n' ' '";
        // 3 is ls's own.
        place.outside(&format!("exec 5<box 7>x 9<x; d-enter --map $MAP box sh -c \"{list}\"")).ok().prints("0 1 2 3 ");
        place.outside(&format!("exec 5<box/config.json 7>x; d-enter --map $MAP --keep-fd 5 --keep-fd 7 box sh -c \"cat <&5; echo y >&7; {list}\"; cat x"))
            .ok()
            .prints("{}0 1 2 3 5 7 y");
        place.outside("d-enter --map $MAP --keep-fd 0 --keep-fd 1 box echo x").ok().prints("x");
        // PID 1 holds none either.
        let script = "for p in /proc/[0-9]*; do ls $p/fd 2>/dev/null | wc -l; done | sort -n | tail -1";
        place.outside(&format!("exec 5<box; d-enter --map $MAP box sh -c '{script}'")).ok();
        place.outside("d-enter --map $MAP -t box ls /proc/self/fd | tr -d '\\r\\n ' | tail -c 4").ok().prints("0123");
    });
}

#[test]
fn dispositions_and_masks_of_signals_are_reset() {
    under_both_maps(|place| {
        // 32 and 33 are the C library's own; its posix_spawn(3) hands them on ignored.
        let sets = |done: d_tests::Done| -> Vec<u64> {
            let hex = done.out().lines().map(|l| u64::from_str_radix(l, 16).expect("a number")).collect::<Vec<_>>();
            hex.into_iter().map(|set| set & 0x7fff_ffff).collect()
        };
        let show = "sed -n 's/^Sig\\(Blk\\|Ign\\):.//p' /proc/self/status";
        assert_eq!(sets(place.outside(&format!("d-enter --map $MAP box {show}")).ok()), [0, 0]);
        // What the caller ignores stays ignored (nohup), but for SIGPIPE, which languages ignore by themselves.
        let done = place.outside(&format!("trap '' PIPE USR1; d-enter --map $MAP box {show}")).ok();
        assert_eq!(sets(done), [0, 1 << 9]);
        // A command in a pipe ends when its reader does.
        let done = place.outside("d-enter --map $MAP box yes | head -n 1").ok();
        done.prints("y");
        // nohup holds inside.
        place.outside("nohup d-enter --map $MAP box sh -c 'kill -HUP $$; echo alive' 2>/dev/null").ok().prints("alive");
    });
}

#[test]
fn the_callers_keys_are_not_readable() {
    if !d_tests::have("keyctl") {
        return d_tests::skip("keyctl(1) is missing (Debian package: keyutils)");
    }
    under_both_maps(|place| {
        // The host's keyctl, run inside, where it has neither a filter nor a masked /proc/keys before it.
        let libraries = ["/usr", "/lib", "/lib64"].iter().filter(|d| std::path::Path::new(d).exists());
        let mounts: String = libraries.map(|d| format!("-v {d}:{d}:ro ")).collect();
        let script = format!(
            "id=$(keyctl add user d-tests secret @s); keyctl print $id; \
             d-enter --map {} --seccomp none {mounts} box /usr/bin/keyctl print $id && echo readable || echo closed",
            place.map
        );
        let done = place.scratch.run(["keyctl", "session", "-", "sh", "-c", &script]).ok();
        let out = done.out();
        done.expect(out.lines().eq(["secret", "closed"]), "the key outside alone");
    });
}

#[test]
fn stdout_opens_for_another_user() {
    let place = Place::new("subid");
    place
        .outside("d-enter --map subid -u web box sh -c 'echo x >/dev/stdout; echo y >/dev/stderr' 2>&1 | cat")
        .ok()
        .prints("x\ny");
    // Regular files are never given away.
    place.outside("d-enter --map subid -u web box sh -c 'echo x' >file; stat -c %u file; id -u; cat file").ok();
    let done = place.outside("d-enter --map subid -u web box true >file; [ $(stat -c %u file) = $(id -u) ]").ok();
    done.silent();
    place.enter(&["-t", "-u", "web"], &["sh", "-c", "echo x >/dev/stdout; echo y >/dev/tty"]).ok().prints("x\r\ny\r");
}

#[test]
fn time_zone_and_locale_come_by_request_only() {
    let place = Place::new("single");
    place.sh("-e TZ -e LANG", "echo $TZ $LANG").env("TZ", "UTC-3").ok().prints("UTC-3 C.UTF-8");
    assert!(fs::metadata(place.rootfs("etc/localtime")).is_err());
}
