//! DIR: made at once or not at all, replaced, removed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use d_tests::tar::{Entry as E, tar};
use d_tests::{Scratch, have, skip};
use serde_json::{Value, json};

use crate::{image, tree};

/// Two images, `one` and `two`, that differ in a file and in Cmd.
fn images(scratch: &Scratch) {
    for name in ["one", "two"] {
        let image = image([vec![E::file("f", name), E::dir("d").owner(5, 5)]]).config("Cmd", json!([name]));
        image.write(&scratch.join(name));
    }
}

fn read(scratch: &Scratch, path: &str) -> String {
    fs::read_to_string(scratch.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn config(scratch: &Scratch, path: &str) -> Value {
    serde_json::from_str(&read(scratch, path)).unwrap()
}

#[test]
fn what_is_in_it() {
    let scratch = Scratch::new();
    images(&scratch);
    scratch.run(["d-unpack", "one", "c"]).ok();
    assert_eq!(scratch.names("c"), ["config.json", "image.json", "image.txt", "rootfs", "volumes"]);
    assert_eq!(fs::metadata(scratch.join("c")).unwrap().mode() & 0o7777, 0o700);
    let stamp = fs::metadata(scratch.join("c/image.txt")).unwrap().modified().unwrap();
    assert!(SystemTime::now().duration_since(stamp).unwrap_or_default() < Duration::from_secs(60));
}

#[test]
fn results_are_printed_as_asked() {
    let scratch = Scratch::new();
    images(&scratch);
    let path = scratch.join("c").to_str().unwrap().to_owned();
    let run = |option: &str| {
        let out = scratch.run(["d-unpack", option, "one", "./home/../c"]).ok().stdout;
        scratch.run(["d-unpack", "--remove", "c"]).ok();
        String::from_utf8(out).unwrap()
    };
    assert_eq!(run("-q"), format!("{path}\n"));
    assert_eq!(run("-0"), format!("{path}\0"));
    let line: Value = serde_json::from_str(&run("--json")).unwrap();
    assert_eq!((line["dir"].as_str(), line["reference"].as_str()), (Some(path.as_str()), Some("latest")));
}

#[test]
fn what_exists_is_refused_but_for_an_empty_directory() {
    let scratch = Scratch::new();
    images(&scratch);
    scratch.sh("mkdir empty full; touch full/x file; ln -s nowhere dangling").ok();
    scratch.run(["d-unpack", "one", "empty"]).ok();
    for dir in ["full", "file", "dangling", "empty", "missing/dir", "/"] {
        scratch.run(["d-unpack", "two", dir]).fails(73);
    }
    assert_eq!((read(&scratch, "empty/rootfs/f"), scratch.names("full")), ("one".to_owned(), vec!["x".to_owned()]));
    scratch.run(["d-unpack", "--replace", "two", "full"]).fails(73).err_has("no container directory");
}

#[test]
fn replacing_keeps_volumes_and_edits() {
    let scratch = Scratch::new();
    images(&scratch);
    scratch.run(["d-unpack", "--replace", "one", "c"]).ok();
    scratch.write("c/volumes/data/x", "mine");
    scratch.write("c/notes", "mine");
    scratch.write("c/rootfs/written-inside", "");
    scratch.run(["d-unpack", "--replace", "two", "c"]).ok();
    assert_eq!(tree(&scratch, "c"), "d/ f=two");
    assert_eq!((read(&scratch, "c/volumes/data/x"), read(&scratch, "c/notes")), ("mine".into(), "mine".into()));
    assert_eq!(config(&scratch, "c/config.json")["Cmd"], json!(["two"]));
    assert!(!scratch.join("c/config.json.new").exists());
    // An edited config.json stays.
    let mut edited = config(&scratch, "c/config.json");
    edited["publish"] = json!(["8080:80"]);
    scratch.write("c/config.json", edited.to_string());
    scratch.run(["d-unpack", "--replace", "one", "c"]).ok().err_has("config.json.new");
    assert_eq!(config(&scratch, "c/config.json"), edited);
    assert_eq!(config(&scratch, "c/config.json.new")["Cmd"], json!(["one"]));
    assert_eq!(tree(&scratch, "c"), "d/ f=one");
    scratch.run(["d-unpack", "--replace=all", "two", "c"]).ok();
    assert_eq!(scratch.names("c"), ["config.json", "image.json", "image.txt", "rootfs", "volumes"]);
    assert_eq!(scratch.names("c/volumes"), [""; 0]);
    assert_eq!(config(&scratch, "c/config.json")["Cmd"], json!(["two"]));
    assert!(scratch.names("").iter().all(|name| !name.contains("d-unpack")), "{:?}", scratch.names(""));
}

/// The map is d-unpack's own key: d-enter goes by it, so it follows the tree into an edited config.json too.
#[test]
fn an_edited_config_follows_the_map() {
    let scratch = Scratch::new();
    images(&scratch);
    let maps = crate::maps();
    let other = maps[0];
    let edited = |map: &str| format!("{{\n\t\"zzz\": [1,  2],\n\t\"map\": \"{map}\",\n\t\"net\": true\n}}");
    scratch.run(["d-unpack", "-q", "--map=single", "one", "c"]).ok();
    scratch.write("c/config.json", edited("single"));
    scratch.sh("chmod 600 c/config.json").ok();
    scratch.run(["d-unpack", "--map", other, "--replace", "two", "c"]).ok().err_has("config.json.new");
    assert_eq!(read(&scratch, "c/config.json"), edited(other));
    assert_eq!(config(&scratch, "c/config.json.new")["map"], json!(other));
    assert_eq!(fs::metadata(scratch.join("c/config.json")).unwrap().mode() & 0o777, 0o600);
    // Also where there is nothing else to do.
    scratch.write("c/config.json", "{ \"net\": true }");
    scratch.run(["d-unpack", "--map", other, "--replace", "-q", "two", "c"]).ok().silent();
    assert_eq!(read(&scratch, "c/config.json"), format!("{{ \"map\": \"{other}\", \"net\": true }}"));
}

#[test]
fn a_read_only_directory_gets_no_new_one() {
    if d_tests::is_root() {
        return;
    }
    let scratch = Scratch::new();
    images(&scratch);
    scratch.sh("mkdir ro; chmod 555 ro").ok();
    for map in crate::maps() {
        scratch.run(["d-unpack", "--map", map, "one", "ro/c"]).fails(73).err_has("Permission denied");
    }
    assert_eq!(scratch.names("ro"), [""; 0]);
}

#[test]
fn the_same_image_touches_the_stamp_alone() {
    let scratch = Scratch::new();
    images(&scratch);
    scratch.run(["d-unpack", "one", "c"]).ok();
    scratch.write("c/rootfs/mine", "");
    let inode = |path: &str| fs::metadata(scratch.join(path)).unwrap().ino();
    let time = || fs::metadata(scratch.join("c/image.txt")).unwrap().modified().unwrap();
    let (before, config, rootfs) = (time(), inode("c/config.json"), inode("c/rootfs"));
    std::thread::sleep(Duration::from_millis(20));
    scratch.run(["d-unpack", "--replace", "one", "c"]).ok();
    scratch.sh("(cd one; tar c oci-layout index.json blobs) | d-unpack --replace - c").ok();
    assert!(time() > before && scratch.join("c/rootfs/mine").exists());
    assert_eq!((inode("c/config.json"), inode("c/rootfs")), (config, rootfs));
    scratch.run(["d-unpack", "--replace", "--strip-setid", "one", "c"]).ok();
    assert!(!scratch.join("c/rootfs/mine").exists());
}

#[test]
fn a_directory_in_use_is_left_alone() {
    let scratch = Scratch::new();
    images(&scratch);
    scratch.run(["d-unpack", "one", "c"]).ok();
    scratch.write("script", "exec 9<c; flock -s 9; touch locked; sleep 20");
    let holder = scratch.run(["sh", "script"]).spawn();
    assert!(d_tests::eventually(Duration::from_secs(20), || scratch.join("locked").exists()));
    for args in [&["--replace", "two", "c"][..], &["--remove", "c"]] {
        scratch.run(["d-unpack"]).args(args).fails(73).err_has("in use by process");
    }
    drop(holder);
    assert_eq!(tree(&scratch, "c"), "d/ f=one");
}

#[test]
fn removing() {
    let scratch = Scratch::new();
    images(&scratch);
    for dir in ["a", "b", "c"] {
        scratch.run(["d-unpack", "one", dir]).ok();
    }
    scratch.write("c/volumes/data", "mine");
    scratch.sh("mkdir -p other/rootfs; touch other/x; mkdir empty").ok();
    scratch.run(["d-unpack", "--remove", "a", "b"]).ok().silent().prints("");
    scratch.run(["d-unpack", "--remove", "c"]).fails(73).err_has("--volumes");
    for (dir, code) in [("other", 73), ("empty", 73), ("/etc", 73), ("missing", 66)] {
        scratch.run(["d-unpack", "--remove", dir]).fails(code);
    }
    assert!(scratch.join("c/volumes/data").exists() && scratch.join("other/x").exists());
    scratch.run(["d-unpack", "--remove", "--volumes", "c"]).ok();
    assert_eq!(scratch.names(""), ["cache", "empty", "home", "one", "other", "two"]);
}

#[test]
fn what_a_killed_run_left_goes_with_the_next() {
    let scratch = Scratch::new();
    images(&scratch);
    let big = tar([E::file("big", vec![0; 4 << 20])]);
    scratch.write("big.tar", &big);
    scratch.write("script", "(head -c 3000000 big.tar; touch sent; sleep 20) | d-unpack - c");
    let run = scratch.run(["sh", "script"]).spawn();
    assert!(d_tests::eventually(Duration::from_secs(20), || {
        scratch.join("sent").exists() && scratch.names("").iter().any(|n| n.starts_with(".c.d-unpack."))
    }));
    // A live one is left alone.
    scratch.run(["d-unpack", "one", "c"]).ok();
    assert!(scratch.names("").iter().any(|n| n.starts_with(".c.d-unpack.")));
    scratch.run(["d-unpack", "--remove", "c"]).ok();
    drop(run);
    // It is dead to the next one when the kernel has closed its lock.
    let is_free = || scratch.sh("flock -n .c.d-unpack.* true").done().code() == 0;
    assert!(d_tests::eventually(Duration::from_secs(20), is_free));
    scratch.run(["d-unpack", "two", "c"]).ok();
    assert_eq!(scratch.names("").iter().filter(|n| n.starts_with('.')).count(), 0, "{:?}", scratch.names(""));
    assert_eq!(tree(&scratch, "c"), "d/ f=two");
}

#[test]
fn excluded_paths() {
    let scratch = Scratch::new();
    let layer = vec![
        E::dir("usr"),
        E::dir("usr/doc"),
        E::file("usr/doc/a", "1"),
        E::file("usr/a.pyc", "2"),
        E::file("usr/b", "3"),
        E::hard_link("usr/c", "usr/doc/a"),
        E::file("keep/doc", "4"),
    ];
    let manifest = image([layer, vec![E::file("usr/.wh.b", "")]]).write(&scratch.join("image"));
    let done = scratch.run(["d-unpack", "--exclude=/usr/doc", "--exclude", "*.pyc"]).arg(manifest).arg("c").ok();
    done.expect(!done.err().contains("hard links"), "no warning");
    assert_eq!(tree(&scratch, "c"), "keep/ keep/doc=4 usr/ usr/c=1");
}

/// The other names of an excluded file are names that nobody excluded.
#[test]
fn excluded_names_of_a_file_leave_the_others() {
    let scratch = Scratch::new();
    let first = vec![
        E::file("t", "text").mode(0o4750),
        E::hard_link("u", "t"),
        E::hard_link("a", "t"),
        E::hard_link("b", "u"),
        E::file("a2", "other"),
        E::symlink("s", "t"),
    ];
    // Its heir is replaced by the next layer, which names the file once more.
    let second = vec![E::file("a", "new"), E::file(".wh.b", ""), E::hard_link("c", "t"), E::hard_link("d", "u")];
    // Its heir is replaced by a file that gets the heir's inode number where the filesystem is quick about it.
    let third = vec![E::file("v/t", "kept"), E::hard_link("e", "v/t"), E::file("e", "new"), E::hard_link("f", "v/t")];
    let image = image([first, second, third]);
    let manifest = image.write(&scratch.join("image"));
    let run = || scratch.run(["d-unpack", "-v", "--exclude=t", "--exclude=/u"]);
    let done = run().arg(&manifest).arg("x").ok();
    done.expect(!done.err().contains("hard links"), "no warning");
    run().arg("-").arg("piped").stdin(image.archive()).ok();
    for dir in ["x", "piped"] {
        assert_eq!(tree(&scratch, dir), "a2=other a=new c=text d=text e=new f=kept s->t", "{dir}");
        let file = |name: &str| fs::symlink_metadata(scratch.join(dir).join("rootfs").join(name)).unwrap();
        assert_eq!((file("c").mode() & 0o7777, file("c").ino()), (0o4750, file("d").ino()), "{dir}");
    }
}

#[test]
fn bounds() {
    let scratch = Scratch::new();
    let manifest =
        image([vec![E::file("a", "x".repeat(5000)), E::file("b", "x".repeat(5000))]]).write(&scratch.join("image"));
    let before = scratch.names("");
    let run = |option: &str| scratch.run(["d-unpack", option]).arg(&manifest).arg("c");
    run("--max-size=9000").fails(65).err_has("--max-size");
    run("--max-size=9K").fails(65).err_has("--max-size");
    run("--max-files=1").fails(65).err_has("--max-files");
    run("--max-size=nonsense").fails(64);
    assert_eq!(scratch.names(""), before);
    run("--max-size=10000").arg("--max-files=2").ok();
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    let scratch = Scratch::new();
    scratch.write("big.tar", tar([E::file("big", vec![7; 4 << 20])]));
    let script = "mkdir m; mount -t tmpfs -o size=2M t m; d-unpack -q big.tar m/c; echo $? $(ls -A m)";
    let done = scratch.run(["unshare", "--map-root-user", "--mount", "sh", "-c", script]).ok();
    done.prints("73").err_has("No space left on device");
}

#[test]
fn the_current_directory_can_become_one() {
    let scratch = Scratch::new();
    images(&scratch);
    scratch.sh("mkdir e; cd e; d-unpack -q ../one .").ok().prints(scratch.join("e").to_str().unwrap());
    assert_eq!(tree(&scratch, "e"), "d/ f=one");
}

#[test]
fn without_any_user_namespace_it_works_with_one_warning() {
    let scratch = Scratch::new();
    let layer = vec![
        E::dir("locked").mode(0o000),
        E::file("locked/in", "1").mode(0o400),
        E::dir("ro").mode(0o555),
        E::file("ro/f", "2"),
        E::symlink("l", "locked"),
        E::file("l/via", "3"),
        E::file("suid", "").mode(0o4755).owner(7, 7),
    ];
    image([layer, vec![E::file("ro/.wh.f", ""), E::file("ro/g", "4")]]).write(&scratch.join("image"));
    // Root of a namespace in which no further one can be made, without any capability.
    let script = "echo 0 > /proc/sys/user/max_user_namespaces; drop='setpriv --bounding-set=-all --inh-caps=-all'
        $drop d-unpack image c; find c/rootfs -mindepth 1 -printf '%P %m\n' | sort; $drop d-unpack --remove c && ! test -e c";
    let done = scratch.run(["unshare", "--map-root-user", "sh", "-ec", script]).ok();
    done.out_has("l 777\nlocked 0\nlocked/in 400\nlocked/via 644\nro 555\nro/g 644\nsuid 4755");
    let unpacking: Vec<String> = done.err().lines().map(str::to_owned).collect();
    done.expect(unpacking.iter().filter(|l| l.contains("warning")).count() == 2, "one warning a command");
}

#[test]
fn without_any_user_namespace_locked_directories_are_bounded() {
    let scratch = Scratch::new();
    let deep = vec!["d".repeat(250); 14].join("/");
    let locked = (0..8000).map(|n| E::dir(format!("{deep}/{n}")).mode(0o000));
    image([locked.collect::<Vec<_>>()]).write(&scratch.join("image"));
    let script = "echo 0 > /proc/sys/user/max_user_namespaces
        exec setpriv --bounding-set=-all --inh-caps=-all d-unpack -q image c";
    let done = scratch.run(["unshare", "--map-root-user", "sh", "-ec", script]).fails(65);
    done.err_has("lock their owner out");
    assert!(!scratch.join("c").exists());
}

#[test]
fn the_check_reports_each_map() {
    let scratch = Scratch::new();
    let done = scratch.run(["d-unpack", "--check"]).ok();
    done.out_has("map-single").out_has("map-subid");
    for line in scratch.run(["d-unpack", "--check", "--json"]).ok().out().lines() {
        let item: Value = serde_json::from_str(line).unwrap();
        assert!(item["check"].is_string() && item["ok"].is_boolean(), "{line}");
    }
}

/// Killed before any of its renames, a replacement leaves a container that is the old one, the new one, or one that d-enter refuses;
/// and the next one gives what it should, with all that is the user's.
#[test]
fn a_killed_replacement_is_finished_by_the_next() {
    if !have("strace") {
        return skip("no strace");
    }
    let scratch = Scratch::new();
    images(&scratch);
    for is_edited in [false, true] {
        let cmd = |expected: &str| json!([if is_edited { "mine" } else { expected }]);
        let mut kills = 0;
        loop {
            scratch.run(["d-unpack", "-q", "--map=single", "one", "c"]).ok();
            scratch.write("c/volumes/data/x", "mine");
            scratch.write("c/notes", "mine");
            if is_edited {
                scratch.write("c/config.json", r#"{"Cmd": ["mine"], "map": "single"}"#);
            }
            let inject = format!("inject=renameat,renameat2:signal=KILL:when={}", kills + 1);
            let strace = ["strace", "-qq", "-o", "/dev/null", "-e", &inject];
            let done = scratch.run(strace).args(["d-unpack", "-q", "--map=single", "--replace", "two", "c"]).done();
            if done.code() == 0 {
                scratch.run(["d-unpack", "--remove", "--volumes", "c"]).ok();
                break;
            }
            kills += 1;
            let is = read(&scratch, "c/rootfs/f");
            if scratch.join("c/.next/image.txt").exists() {
                scratch.run(["d-enter", "c"]).fails(125).err_has("half replaced");
            } else {
                assert_eq!(config(&scratch, "c/config.json")["Cmd"], cmd(&is), "killed at {kills}");
                assert_eq!(config(&scratch, "c/image.json")["config"]["Cmd"], json!([is]), "killed at {kills}");
            }
            let next = if kills % 2 == 0 { "one" } else { "two" };
            scratch.run(["d-unpack", "-q", "--map=single", "--replace", next, "c"]).ok();
            assert_eq!(tree(&scratch, "c"), format!("d/ f={next}"), "killed at {kills}");
            assert_eq!(config(&scratch, "c/config.json")["Cmd"], cmd(next), "killed at {kills}");
            assert_eq!(config(&scratch, "c/image.json")["config"]["Cmd"], json!([next]), "killed at {kills}");
            assert_eq!((read(&scratch, "c/volumes/data/x"), read(&scratch, "c/notes")), ("mine".into(), "mine".into()));
            let hidden = |dir: &str| scratch.names(dir).into_iter().filter(|n| n.starts_with('.')).collect::<Vec<_>>();
            assert_eq!((hidden(""), hidden("c")), (vec![], vec![]), "killed at {kills}");
            scratch.run(["d-unpack", "--remove", "--volumes", "c"]).ok();
        }
        assert!(kills > 5, "{kills} renames are too few to be all");
    }
}

#[test]
fn a_tree_of_subordinate_ids_is_deleted_under_a_single_map_or_not_touched() {
    if crate::lacks_owners(&[]) {
        return;
    }
    let scratch = Scratch::new();
    images(&scratch);
    for option in ["--replace", "--replace=all"] {
        scratch.run(["d-unpack", "--map=subid", "one", "c"]).ok();
        scratch.run(["d-unpack", "--map=single", option, "two", "c"]).ok().silent();
        assert_eq!(
            (tree(&scratch, "c"), scratch.names("").iter().any(|n| n.starts_with('.'))),
            ("d/ f=two".into(), false)
        );
        scratch.run(["d-unpack", "--remove", "c"]).ok();
    }
    scratch.run(["d-unpack", "--map=subid", "one", "c"]).ok();
    scratch.sh("mkdir p; ln -s \"$(command -v d-unpack)\" p/").ok();
    scratch.sh("PATH=$PWD/p d-unpack --remove c").fails(69).err_has("subordinate ids").err_has("newuidmap");
    assert_eq!((tree(&scratch, "c"), scratch.names("").iter().any(|n| n.starts_with('.'))), ("d/ f=one".into(), false));
    scratch.run(["d-unpack", "--remove", "c"]).ok();
    // What a run could not delete goes with the same command.
    scratch.sh("mkdir -p .c.d-unpack.1-removed/rootfs").ok();
    scratch.run(["d-unpack", "--remove", "c"]).ok();
    assert!(!scratch.join(".c.d-unpack.1-removed").exists());
    scratch.run(["d-unpack", "--remove", "c"]).fails(66);
}

#[test]
fn failures_come_in_the_order_of_the_operands() {
    let scratch = Scratch::new();
    images(&scratch);
    scratch.run(["d-unpack", "one", "c"]).ok();
    scratch.run(["mkdir", "other"]).ok();
    let done = scratch.run(["d-unpack", "--remove", "first", "c", "other", "last"]).code(66);
    let places = ["first", "other", "last"].map(|name| done.err().find(name));
    done.expect(places.is_sorted() && places[0].is_some(), "first, other, last");
    assert!(!scratch.join("c").exists());
    let done = scratch.run(["d-unpack", "--remove", "/"]).fails(73);
    done.expect(!done.err().contains("create"), "not a word of creating");
}

#[test]
fn a_limit_of_file_sizes_is_told() {
    let scratch = Scratch::new();
    scratch.write("big.tar", tar([E::file("big", vec![0; 1 << 20])]));
    scratch.sh("ulimit -f 100; d-unpack big.tar c").fails(73).err_has("File too large");
    scratch.sh("ulimit -f 100; d-unpack - c < big.tar").fails(73).err_has("File too large");
}
