//! Lock files, tags, raw documents, mirrors, progress, and wrong usage.

use std::fs;
use std::time::{Duration, UNIX_EPOCH};

use d_common::digest::Digest;
use d_tests::badregistry::{BadRegistry, Response};
use d_tests::store::Store;
use d_tests::{Scratch, run};

use crate::{image, manifest_of};

fn serve(store: Store) -> BadRegistry {
    BadRegistry::start(move |r| store.answer(r))
}

#[test]
fn wrong_usage_is_64_and_one_line() {
    let scratch = Scratch::new();
    for args in [
        &[][..],
        &[""],
        &["."],
        &["./x"],
        &["/x"],
        &["Alpine"],
        &["a:b:c"],
        &["alpine", ""],
        &["--no-such-option"],
        &["--plat", "linux/amd64", "alpine"],
        &["--platform", "amd64", "alpine"],
        &["-j", "0", "alpine"],
        &["--pull", "sometimes", "alpine"],
        &["--list", "alpine"],
        &["alpine", "debian", "-o", "x"],
    ] {
        scratch.run(["d-pull"]).args(args).fails(64).prints("");
    }
    scratch.run(["d-pull", "./x"]).fails(64).err_has(r#"d-unpack "$(d-pull REF)" DIR"#);
    scratch.run(["d-pull", ""]).fails(64).err_has("REF is empty: the command that should print it failed");
    scratch.run(["d-pull", "alpine"]).env("D_PLATFORM", "nonsense").fails(64).err_has("D_PLATFORM");
    scratch.run(["d-pull", "--help"]).ok().silent().out_has("--write-lock");
    scratch.run(["d-pull", "--version"]).ok().out_has("d-pull 0");
    scratch.run(["d-pull", "--completions", "bash"]).ok().out_has("--write-lock");
    assert_eq!(scratch.names("cache"), [""; 0]);
}

#[test]
fn lock_files_pin_images() {
    let (scratch, bad) = (Scratch::new(), serve(Store::of(&image(&[100])).image("b", &image(&[200]))));
    let (a, b) = (bad.image("x:latest"), bad.image("x:b"));
    let paths = scratch.run(["d-pull", "--write-lock", "images.lock", &a, &b]).ok().out();
    let lock = fs::read_to_string(scratch.join("images.lock")).unwrap();
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let line = |name: &str, image| format!("{name} linux/{arch} {}\n", manifest_of(&image));
    assert_eq!(lock, line(&a, image(&[100])) + &line(&b, image(&[200])));
    let old = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    fs::File::open(scratch.join("images.lock")).unwrap().set_modified(old).unwrap();
    scratch.run(["d-pull", "--write-lock", "images.lock", &a, &b]).ok();
    assert_eq!(fs::metadata(scratch.join("images.lock")).unwrap().modified().unwrap(), old);
    // A failure leaves the file as it was.
    scratch.run(["d-pull", "--write-lock", "images.lock", &a, &bad.image("x:none")]).code(66);
    assert_eq!(fs::read_to_string(scratch.join("images.lock")).unwrap(), lock);

    // Whatever the tags are by now.
    let moved = serve(Store::of(&image(&[300])).image("b", &image(&[200])).image("old", &image(&[100])));
    scratch.write("moved.lock", lock.replace(&bad.host(), &moved.host()));
    scratch.run(["d-pull", "--cache", "new", "--locked", "moved.lock"]).ok();
    assert_eq!(moved.count("manifests/latest"), 0);
    drop(bad);
    scratch.run(["d-pull", "--locked", "images.lock"]).ok().prints(&paths);
    scratch.run(["d-pull", "--locked", "images.lock", &b]).ok().prints(paths.lines().last().unwrap());
    scratch.run(["d-pull", "--locked", "images.lock", "alpine"]).fails(66).err_has("images.lock");
    scratch.run(["d-pull", "--locked", "none.lock"]).fails(66);
    scratch.write("bad.lock", "alpine latest\n");
    scratch.run(["d-pull", "--locked", "bad.lock"]).fails(65).err_has("bad.lock:1");
}

#[test]
fn a_lock_file_may_be_a_pipe_or_a_descriptor() {
    let (scratch, bad) = (Scratch::new(), serve(Store::of(&image(&[100]))));
    let name = bad.image("x:latest");
    let line = format!(
        "{name} linux/{} {}",
        if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        manifest_of(&image(&[100]))
    );
    let path = scratch.run(["d-pull", &name]).ok().out();
    let both = format!("{path}\n{line}");
    let sh = |script: &str| scratch.sh(&script.replace("NAME", &name)).timeout(Duration::from_secs(20)).ok().out();
    assert_eq!(sh("d-pull --write-lock /dev/stdout NAME | cat"), both);
    assert_eq!(sh("mkfifo fifo; cat fifo & d-pull --write-lock fifo NAME >/dev/null; wait"), line);
    // What was written to the file before stays.
    assert_eq!(sh("d-pull --write-lock /dev/stdout NAME >out; cat out"), both);
}

#[test]
fn an_option_given_twice_is_what_it_was_last() {
    let (scratch, bad) = (Scratch::new(), serve(Store::of(&image(&[100]))));
    let done = scratch.run(["d-pull", "-q", "-q", "-j2", "-j", "3", "--platform", "a/b", "--platform=linux/s390x"]);
    done.arg(bad.image("x")).fails(66).err_has("linux/s390x");
    scratch.run(["d-pull", "--cache", "/proc/x", "--cache", "c", "--json", "--json", &bad.image("x")]).ok();
    assert!(scratch.join("c/index.json").exists());
}

#[test]
fn what_needs_a_registry_is_no_offline_result() {
    let scratch = Scratch::new();
    for offline in ["--offline", "--pull=never"] {
        scratch.run(["d-pull", offline, "--list-tags", "alpine"]).fails(64).prints("").err_has("--list-tags");
    }
}

#[test]
fn a_date_or_a_path_that_cannot_be_meant_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let (scratch, bad) = (Scratch::new(), serve(Store::of(&image(&[100]))));
    let pull = |args: &[&str]| scratch.run(["d-pull", &bad.image("x")]).args(args);
    pull(&["-o", "a.tar"]).env("SOURCE_DATE_EPOCH", "x").fails(64).err_has("SOURCE_DATE_EPOCH");
    pull(&[]).env("SOURCE_DATE_EPOCH", "x").ok();
    pull(&["-o", "a.tar"]).env("SOURCE_DATE_EPOCH", "86400").ok();
    let cache = scratch.join(std::ffi::OsStr::from_bytes(b"not\xff").to_string_lossy().as_ref());
    let cache = cache.with_file_name(std::ffi::OsStr::from_bytes(b"not\xff"));
    let done = pull(&["--json"]).env("D_CACHE", &cache).fails(64);
    done.prints("").err_has("not UTF-8");
    pull(&[]).env("D_CACHE", &cache).ok();
}

#[test]
fn tags_come_page_by_page() {
    let bad = BadRegistry::start(|r| {
        let host = r.header("host").unwrap_or_default();
        match r.path.as_str() {
            "/v2/" => Response::ok("{}"),
            "/v2/a/b/tags/list" => Response::ok(r#"{"name":"a/b","tags":["1","2"]}"#)
                .header("Link", "</v2/a/b/tags/list?last=2&n=2>; rel=\"next\""),
            "/v2/a/b/tags/list?last=2&n=2" => Response::ok(r#"{"tags":["3\u001b[1m x"]}"#)
                .header("Link", &format!("<http://{host}/v2/a/b/tags/list?last=3&n=2>; rel=next")),
            "/v2/a/b/tags/list?last=3&n=2" => Response::ok(r#"{"tags":null}"#),
            "/v2/loop/tags/list" => Response::ok(r#"{"tags":[]}"#).header("Link", "</v2/loop/tags/list?x>; rel=next"),
            "/v2/loop/tags/list?x" => Response::ok(r#"{"tags":[]}"#).header("Link", "</v2/loop/tags/list?x>; rel=next"),
            "/v2/broken/tags/list" => Response::ok("[]"),
            "/v2/links/tags/list" => Response::ok(r#"{"tags":["1"]}"#)
                .header("Link", "<https://docs/>; rel=help")
                .header("Link", "</v2/links/tags/list?last=1,2>; title=\"a, b\"; rel=\"last next\""),
            "/v2/links/tags/list?last=1,2" => Response::ok(r#"{"tags":["2"]}"#),
            "/v2/half/tags/list" => Response::ok(r#"{"tags":["1"]}"#).header("Link", "<?last=1>; rel=next"),
            _ => Response::status(404),
        }
    });
    let scratch = Scratch::new();
    scratch.run(["d-pull", "--list-tags", &bad.image("links")]).ok().prints("1\n2");
    // Nothing of a list that is not all there.
    scratch.run(["d-pull", "--list-tags", &bad.image("half")]).fails(66).prints("");
    scratch.run(["d-pull", "--list-tags", &bad.image("a/b")]).ok().prints("1\n2\n3?[1m?x");
    scratch.run(["d-pull", "--list-tags", "-0", &bad.image("a/b:tag")]).ok().prints("1\x002\x003?[1m?x\0");
    scratch.run(["d-pull", "--list-tags", "--json", &bad.image("a/b")]).ok().out_has(r#""tag":"1"}"#);
    scratch.run(["d-pull", "--list-tags", &bad.image("loop")]).fails(76);
    scratch.run(["d-pull", "--list-tags", &bad.image("broken")]).fails(76);
    scratch.run(["d-pull", "--list-tags", &bad.image("none")]).fails(66);
    assert_eq!(scratch.names("cache"), [""; 0]);
}

#[test]
fn documents_are_printed_as_they_are() {
    let image = image(&[100_000]);
    let blobs = image.blobs();
    let (config, manifest) = (&blobs[1].1, &blobs[2]);
    let (scratch, bad) = (Scratch::new(), serve(Store::of(&image)));
    let name = bad.image("x");
    scratch.run(["d-pull", "--digest", &name]).ok().prints(&manifest.0.to_string());
    assert_eq!(&scratch.run(["d-pull", "--manifest", &name]).ok().stdout, &manifest.1);
    assert_eq!(&scratch.run(["d-pull", "--config", &name]).ok().stdout, config);
    assert_eq!(scratch.names("cache"), [""; 0], "nothing is pulled");
    assert_eq!(bad.count(&blobs[0].0.to_string()), 0);
    scratch.run(["d-pull", "--offline", "--digest", &name]).fails(66);
    scratch.run(["d-pull", &name]).ok();
    for option in ["--digest", "--manifest", "--config"] {
        let online = scratch.run(["d-pull", option, &name]).ok().stdout;
        assert_eq!(scratch.run(["d-pull", "--offline", option, &name]).ok().stdout, online);
    }
}

#[test]
fn mirrors_are_asked_first_and_may_fail() {
    let store = Store::of(&image(&[100])).image("extra", &image(&[100, 200]));
    let (origin, mirror, broken) = (serve(store.clone()), serve(Store::of(&image(&[100]))), serve(Store::new()));
    let name = origin.image("a/x");
    let scratch = Scratch::new();
    scratch.run(["d-pull", "--mirror", &format!("{}/cache", mirror.host()), &name]).ok().silent();
    assert!(origin.requests().is_empty());
    assert!(mirror.count("/v2/cache/a/x/blobs/") > 0);
    scratch.run(["d-pull", "--list"]).ok().out_has(&format!("{name}:latest "));
    // What it has not comes from the registry itself.
    let done = scratch.run(["d-pull", "--cache", "2", "--mirror", &broken.host(), "--mirror", &mirror.host()]);
    done.arg(origin.image("a/x:extra")).ok().err_has("trying the next source");
    assert!(origin.count("/blobs/") > 0);

    let conf = |text: &str| scratch.write("home/.config/containers/registries.conf", text);
    conf(&format!(
        "[[registry]]\nprefix = \"example.invalid/team\"\nlocation = \"{}/a\"\n[[registry.mirror]]\nlocation = \"{}/m\"\n",
        origin.host(),
        mirror.host()
    ));
    scratch.run(["d-pull", "--cache", "3", "example.invalid/team/x"]).ok();
    assert!(mirror.count("/v2/m/x/manifests/") > 0);
    scratch.run(["d-pull", "--cache", "3", "--list"]).ok().out_has("example.invalid/team/x:latest ");
    conf("[[registry]]\nlocation = \"example.invalid\"\nblocked = true\n");
    scratch.run(["d-pull", "example.invalid/x"]).fails(77).err_has("blocked by");
    conf("\nrubbish ===");
    let done = scratch.run(["d-pull", &name]).fails(65);
    done.err_has("registries.conf: line 2: ").expect(!done.err().contains(['?', '|']), "no picture");
    scratch.run(["d-pull", "--mirror", "bad host/x y", &name]).fails(64).err_has("--mirror");
}

#[test]
fn a_mirror_that_fails_costs_a_moment_and_one_warning() {
    let origin = serve(Store::of(&image(&[100, 200, 300])));
    let (empty, ill) = (serve(Store::new()), BadRegistry::start(|_| Response::status(500)));
    for mirror in ["127.0.0.1:1".to_owned(), empty.host(), ill.host()] {
        let scratch = Scratch::new();
        let done = scratch.run(["d-pull", "--mirror", &mirror, &origin.image("x")]).ok();
        done.err_has("trying the next source").expect(done.err().lines().count() == 1, "one warning");
        done.expect(!done.err().contains("--list-tags"), "no advice that is not for mirrors");
        done.expect(done.took < Duration::from_secs(3), "a moment");
    }
    assert_eq!(empty.requests().iter().filter(|r| r.path != "/v2/").count(), 1);
}

#[test]
fn verbose_says_who_is_asked_and_for_what() {
    let image = image(&[100]);
    let store = Store::of(&image);
    let bad = BadRegistry::start(move |r| match r.header("authorization") {
        Some("Basic YWxpY2U6czNjcmV0") => store.answer(r),
        _ => Response::status(401).header("WWW-Authenticate", "Basic realm=x"),
    });
    let scratch = Scratch::new();
    let file = scratch.write("auth.json", format!(r#"{{"auths":{{"{}":{{"auth":"YWxpY2U6czNjcmV0"}}}}}}"#, bad.host()));
    let done = scratch.run(["d-pull", "-v", &bad.image("x")]).env("REGISTRY_AUTH_FILE", &file).ok();
    done.err_has(&format!("asking {} at http://{0}/v2/", bad.host()));
    done.err_has(&format!("credentials for {}: those of {}", bad.host(), file.display()));
    done.err_has(&format!("{} is {} for linux/", bad.image("x:latest"), manifest_of(&image)));
    done.err_has(&format!("fetching blob {}, 100 bytes, from {}", image.blobs()[0].0, bad.image("x")));
    done.expect(!done.err().contains("s3cret") && !done.err().contains("YWxp"), "no secret");
}

#[test]
fn progress_is_on_stderr_and_as_asked_for() {
    let bad = serve(Store::of(&image(&[100_000])));
    let layer = Digest::of(&crate::noise(100_000, 1)).to_string();
    let pull = |args: &[&str]| {
        let scratch = Scratch::new();
        let done = scratch.run(["d-pull", &bad.image("x")]).args(args).ok();
        assert_eq!(done.out().lines().count(), 1, "{done}");
        done
    };
    pull(&[]).silent();
    pull(&["--progress=none"]).silent();
    pull(&["-q", "--progress=plain"]).silent();
    pull(&["-q", "--progress=json"]).silent();
    let plain = pull(&["--progress", "plain"]);
    assert_eq!(plain.err().lines().filter(|l| l.contains(&layer)).count(), 1, "{plain}");
    let json = pull(&["--progress=json"]);
    for line in json.err().lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        assert!(value["blob"].is_string() && value["current"].is_u64() && value["total"].is_u64());
    }
    json.err_has(&format!(r#"{{"blob":"{layer}","status":"done","current":100000,"total":100000}}"#));
}

#[test]
fn bars_are_for_terminals() {
    let store = Store::of(&image(&[3_000_000]));
    // Slow enough to be seen.
    let bad = BadRegistry::start(move |r| match (r.header("range"), r.path.contains("/blobs/")) {
        (None, true) => store.answer(r).cut(1_000_000),
        _ => store.answer(r),
    });
    let (scratch, name) = (Scratch::new(), bad.image("x"));
    let script = |options: &str| {
        fs::remove_dir_all(scratch.join("cache")).unwrap();
        scratch.run(["script", "-qec", &format!("d-pull {options} {name} >out"), "log"]).env("TERM", "xterm").ok();
        assert_eq!(fs::read_to_string(scratch.join("out")).unwrap().lines().count(), 1);
        fs::read_to_string(scratch.join("log")).unwrap()
    };
    let short = &Digest::of(&crate::noise(3_000_000, 1)).hex()[..12].to_owned();
    let log = script("");
    assert!(log.contains(short) && log.contains("MiB/"), "{log:?}");
    assert!(!script("-q").contains(short));
    assert!(!script("--progress=none").contains(short));
}

#[test]
fn check_reports_and_says_what_to_do() {
    let scratch = Scratch::new();
    scratch.run(["d-pull", "--check"]).ok().out_has("cache");
    let done = scratch.run(["d-pull", "--check", "--json"]).ok();
    for line in done.out().lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(value["check"].is_string() && value["ok"].is_boolean());
    }
    scratch.run(["d-pull", "--check", "--cache", "/proc/x"]).fails(69).out_has("remedy: ");
}

#[test]
fn a_cached_image_costs_no_tls_client() {
    let (scratch, bad) = (Scratch::new(), serve(Store::of(&image(&[100]))));
    scratch.run(["d-pull", &bad.image("x")]).ok();
    let trace = scratch.join("trace");
    run(["strace", "-f", "-o"])
        .arg(&trace)
        .arg(d_tests::bin("d-pull"))
        .args(["--offline", &bad.image("x"), "--cache"])
        .arg(scratch.cache())
        .ok();
    let trace = fs::read_to_string(trace).unwrap();
    for what in ["ca-certificates.crt", "clone", "socket("] {
        assert!(!trace.contains(what), "{what} in\n{trace}");
    }
}

#[test]
fn check_says_what_the_cache_and_the_authorities_are() {
    let scratch = Scratch::new();
    scratch.write("file", "");
    let done = scratch.run(["d-pull", "--check", "--cache", "file"]).code(69);
    done.out_has("file is no folder");
    if fs::exists("/etc/ssl/certs/ca-certificates.crt").unwrap() {
        let check = |file: &str| scratch.run(["d-pull", "--check"]).env("SSL_CERT_FILE", file).done();
        check("")
            .out_has(" certificate authorities")
            .expect(!check("").out().contains("no certificate"), "the system's");
        check("/nowhere").out_has("no certificate authorities");
    }
}

#[test]
fn a_closed_stdout_is_no_success() {
    let (scratch, bad) = (Scratch::new(), serve(Store::of(&image(&[100]))));
    let name = bad.image("x");
    for args in ["", "-o -", "--digest", "--manifest"] {
        scratch.sh(&format!("d-pull {args} {name} >&-")).fails(74).err_has("cannot write to stdout");
    }
    // Said once, and nothing more is done for nobody to see.
    let bad = serve(Store::of(&image(&[100])).image("b", &image(&[200])));
    let both = format!("{} {}", bad.image("x"), bad.image("x:b"));
    for (lost, code) in [(">&-", 74), (">/dev/full", 73)] {
        for args in ["--expire=0", "--digest", "--config"] {
            let done = scratch.sh(&format!("d-pull {args} {both} {lost}")).fails(code);
            done.expect(done.err().lines().count() == 1, "one line");
        }
    }
    assert_eq!(bad.count("/manifests/b"), 0);
    scratch.sh(&format!("d-pull -o x.tar {name} >/dev/null")).ok();
    scratch.sh(&format!("d-pull {name} 1<>/dev/null")).ok().silent();
    scratch.sh("d-netup --check >&-").fails(74);
}
