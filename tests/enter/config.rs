//! config.json: keys, types, precedence.

use std::fs;

use serde_json::{Value, json};

use crate::place::{Place, under_both_maps};

#[test]
fn a_flag_beats_a_key_beats_dockers_key_beats_the_default() {
    under_both_maps(|place| {
        let script = "echo $(hostname) $PWD $(id -u)";
        place.sh("", script).ok().prints("box / 0");
        place.config(json!({"Hostname": "image", "WorkingDir": "/etc", "User": "web"}));
        place.sh("", script).ok().prints("image /etc 33");
        place.config(json!({"Hostname": "image", "WorkingDir": "/etc", "User": "web",
                            "hostname": "key", "workdir": "/bin", "user": "0"}));
        place.sh("", script).ok().prints("key /bin 0");
        place.sh("--hostname flag -w /root -u web", script).ok().prints("flag /root 33");
    });
}

#[test]
fn a_key_beats_a_variable() {
    let place = Place::new("single");
    let net = |options: &str, variable: &str| {
        let options: Vec<&str> = options.split_whitespace().chain(["--dry-run"]).collect();
        let done = place.enter(&options, &[]).env("D_NET", variable).ok();
        serde_json::from_slice::<Value>(&done.stdout).expect("JSON")["net"].to_string()
    };
    assert!(net("", "").contains("none"));
    assert!(net("", "host").contains("host"));
    assert!(net("--net none", "host").contains("none"));
    place.config(json!({"net": true}));
    assert!(net("", "host").contains("user"));
    assert!(net("--net host", "none").contains("host"));
    place.config(json!({"net": false}));
    assert!(net("", "host").contains("none"));
}

#[test]
fn the_map_follows_the_same_order() {
    let place = Place::new("single");
    let lines = |options: &[&str], variable: &str| {
        let cmd = place.scratch.run(["d-enter"]).args(options).args(["box", "sh", "-c", "wc -l </proc/self/uid_map"]);
        cmd.env("D_MAP", variable).ok().out().trim().to_owned()
    };
    assert_eq!(lines(&[], "single"), "1");
    assert_ne!(lines(&[], "subid"), "1");
    assert_eq!(lines(&["--map", "single"], "subid"), "1");
    place.config(json!({"map": "single"}));
    assert_eq!(lines(&[], "subid"), "1");
    // The recorded map binds.
    let done = place.scratch.run(["d-enter", "--map", "subid", "box", "true"]).fails(125);
    done.err_has("d-unpack").err_has("--map subid").err_has("--replace");
    place.scratch.run(["d-enter", "box", "true"]).env("D_MAP", "wide").ok();
    place.config(json!({}));
    place.scratch.run(["d-enter", "box", "true"]).env("D_MAP", "wide").fails(125).err_has("D_MAP");
}

#[test]
fn keys_are_the_long_options() {
    under_both_maps(|place| {
        place.config(json!({
            "env": ["A=key"], "umask": "077", "ulimit": ["nofile=64:128"], "tmpfs": ["/scratch:size=1m"],
            "read-only": true, "cap-drop": ["ALL"], "no-new-privs": true, "add-host": ["name:1.2.3.4"],
            "ro-bind": [["/etc/hostname", "/hn"]], "share": ["uts"], "workdir": "/scratch", "unmask": ["/proc/keys"],
            "sysctl": ["fs.mqueue.msg_max=5"], "tty": "never", "proc": "new", "seccomp": "none", "groups": "image",
            "dns": ["9.9.9.9"], "no-tmpfs": false, "die-with-parent": false, "entrypoint": "/bin/sh", "quiet": false,
        }));
        fs::create_dir(place.rootfs("scratch")).expect("a folder");
        fs::write(place.rootfs("hn"), "").expect("a file");
        fs::write(place.rootfs("etc/resolv.conf"), "").expect("a file");
        fs::write(place.rootfs("etc/hosts"), "").expect("a file");
        fs::write(place.rootfs("etc/hostname"), "").expect("a file");
        let script = "echo $A $(umask) $(ulimit -n) $PWD; grep -c '^CapEff:\t0*$' /proc/self/status; \
                      grep NoNewPrivs /proc/self/status; grep name /etc/hosts; grep -c /hn /proc/self/mountinfo; \
                      cat /proc/sys/fs/mqueue/msg_max /etc/resolv.conf; touch /x || echo ro";
        let done = place.enter(&[], &["-c", script]).ok();
        for line in ["key 0077 64 /scratch", "1", "NoNewPrivs:\t1", "1.2.3.4\tname", "5", "nameserver 9.9.9.9", "ro"] {
            done.expect(done.out().lines().any(|l| l == line), line);
        }
    });
}

#[test]
fn wrong_types_name_the_key() {
    let place = Place::new("single");
    for (key, value) in [
        ("Hostname", json!(5)),
        ("WorkingDir", json!(["/"])),
        ("Env", json!("A=1")),
        ("Env", json!([1])),
        ("Volumes", json!(7)),
        ("Volumes", json!({"relative": {}})),
        ("Entrypoint", json!("/bin/sh")),
        ("Cmd", json!("sh")),
        ("Cmd", json!([["sh"]])),
        ("User", json!(0)),
        ("StopSignal", json!(9)),
        ("StopSignal", json!("SIGWHAT")),
        ("ExposedPorts", json!("80/tcp")),
        ("net", json!(5)),
        ("net", json!(["user"])),
        ("net", json!("bridge")),
        ("fakeroot", json!("yes")),
        ("fakeroot", json!(1)),
        ("publish", json!({"80": 1})),
        ("publish", json!("8080:80")),
        ("publish", json!(true)),
        ("memory", json!(true)),
        ("memory", json!(["512M"])),
        ("tmpfs", json!("/scratch")),
        ("tmpfs", json!([5])),
        ("hostname", json!(5)),
        ("hostname", json!(true)),
        ("workdir", json!(5)),
        ("user", json!(true)),
        ("user", json!({})),
        ("env", json!("A=1")),
        ("env", json!({"A": "1"})),
        ("volume", json!(true)),
        ("volume", json!("/x:/y")),
        ("bind", json!(["/a", "/b"])),
        ("map", json!(1)),
        ("map", json!("wide")),
        ("read-only", json!("true")),
        ("umask", json!(22)),
        ("umask", json!("9")),
        ("tty", json!(1)),
        ("entrypoint", json!(["/bin/sh"])),
        ("share", json!("everything")),
        ("seccomp", json!(false)),
        ("cap-add", json!("SYS_ADMIN")),
        ("ephemeral", json!([])),
        ("dns", json!("1.1.1.1")),
    ] {
        place.config(json!({key: value}));
        let done = place.enter(&[], &["true"]).fails(125);
        done.expect(done.err().contains(key), &format!("the key {key} for {value}"));
    }
    for text in ["", "{", "[]", "null", "\"x\"", "{\"a\":1}x"] {
        place.scratch.write("box/config.json", text);
        place.enter(&[], &["true"]).fails(125).err_has("config.json");
    }
}

#[test]
fn what_contradicts_itself() {
    let place = Place::new("single");
    place.config(json!({"net": "host"}));
    assert!(place.plan("-p 8080:80")["net"].get("user").is_some(), "a flag goes over a key");
    place.sh("-P --net none", "true").fails(125).err_has("--publish");
    place.config(json!({"publish": ["1:1", "none"]}));
    place.sh("", "echo no ports").ok().prints("no ports");
    place.config(json!({"fakeroot": true}));
    place.sh("-u web", "id -u").ok().prints("33");
    for option in ["-v .:/", "--tmpfs /", "-v .:/.", "-v data:/"] {
        place.sh(option, "true").fails(125);
    }
}

#[test]
fn a_config_that_is_no_file() {
    let place = Place::new("single");
    place.outside("rm box/config.json; mkfifo box/config.json").ok();
    place.enter(&[], &["true"]).fails(125).err_has("config.json is no file");
}

#[test]
fn what_belongs_to_one_call_is_no_key() {
    let place = Place::new("single");
    for key in ["join", "check", "dry-run", "print-oci", "pid-file", "verbose", "status-fd", "ready-fd", "block-fd"] {
        place.config(json!({key: "1"}));
        place.enter(&[], &["true"]).fails(125).err_has(key);
    }
}

#[test]
fn unknown_keys_are_kept_and_ignored() {
    under_both_maps(|place| {
        let text = r#"{"unknown": [1, {"x": null}], "Labels": {"a": "b"}, "Shell": 5, "help": 1, "version": true, "Memory": "x"}"#;
        place.scratch.write("box/config.json", text);
        place.enter(&[], &["echo", "x"]).ok().prints("x");
        assert_eq!(fs::read_to_string(place.dir().join("config.json")).expect("config.json"), text);
    });
}

#[test]
fn dockers_nulls_and_empty_strings_say_nothing() {
    under_both_maps(|place| {
        place.config(
            json!({"Hostname": "", "WorkingDir": "", "User": "", "Env": null, "Volumes": null, "Entrypoint": null,
                            "Cmd": null, "StopSignal": "", "ExposedPorts": null}),
        );
        place.sh("", "echo $(hostname) $PWD $(id -u)").ok().prints("box / 0");
    });
}

#[test]
fn lists_add_and_the_later_wins() {
    under_both_maps(|place| {
        place.config(json!({"Env": ["A=image", "B=image", "C=image"], "env": ["B=key", "C=key"]}));
        place.sh("-e C=flag -e D=1 -e D=2", "echo $A $B $C $D").ok().prints("image key flag 2");
        place.scratch.write("one/f", "one");
        place.scratch.write("two/f", "two");
        place.config(json!({"Volumes": {"./one:/image": {}}, "volume": ["./one:/key", "./one:/both"]}));
        let cat = "for d in image key both flag; do cat /$d/f 2>/dev/null || echo none; echo; done";
        place.sh("-v ./two:/both -v ./two:/flag", cat).ok().prints("one\none\ntwo\ntwo");
        place.sh("--volume none -v ./two:/flag", cat).ok().prints("none\n\nnone\n\nnone\n\ntwo");
    });
}

#[test]
fn dockers_volumes_take_a_source_here() {
    under_both_maps(|place| {
        place.scratch.write("src/f", "f");
        place.config(json!({"Volumes": {"./src:/dst:ro": {}, "/kept": {}}}));
        place.sh("", "cat /dst/f; touch /dst/x 2>/dev/null || echo ' ro'; touch /kept/x").ok().prints("f ro");
        assert_eq!(place.scratch.names("box/volumes/kept"), ["x"]);
    });
}

#[test]
fn publish_none_empties_its_list() {
    let place = Place::new("single");
    place.config(json!({"publish": ["18080:80"]}));
    assert_eq!(place.plan("")["publish"], json!(["18080:80"]));
    assert_eq!(place.plan("-p 18081:81")["publish"], json!(["18080:80", "18081:81"]));
    assert_eq!(place.plan("--publish none -p 18081:81")["publish"], json!(["18081:81"]));
    let plan = place.plan("--publish none");
    assert_eq!(plan["publish"], json!([]));
    assert!(plan["net"].to_string().contains("none"), "{}", plan["net"]);
    // The later wins per port of the host.
    assert_eq!(place.plan("-p 18080:81")["publish"], json!(["18080:81"]));
}
