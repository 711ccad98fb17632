//! Bad weather: retries, cut and silent connections, ranges, and bodies that are not what was announced.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use d_common::digest::{Algorithm, Digest};
use d_tests::Scratch;
use d_tests::badregistry::{BadRegistry, Request, Response};
use d_tests::store::Store;

use crate::{blob, image, noise};

const SIZE: usize = 300_000;

/// A registry whose answers for blobs of that size pass through `spoil`, which is told how many came before.
fn spoiled(spoil: impl Fn(usize, &Request, Response) -> Response + Send + Sync + 'static) -> BadRegistry {
    let store = Store::of(&image(&[SIZE]));
    let name = layer().to_string();
    let count = AtomicUsize::new(0);
    BadRegistry::start(move |r| {
        let answer = store.answer(r);
        if !r.path.ends_with(&name) {
            return answer;
        }
        spoil(count.fetch_add(1, Ordering::SeqCst), r, answer)
    })
}

fn layer() -> Digest {
    Digest::of(&noise(SIZE, 1))
}

/// The ranges of the requests for the layer.
fn ranges(bad: &BadRegistry) -> Vec<Option<String>> {
    let name = layer().to_string();
    bad.requests().iter().filter(|r| r.path.ends_with(&name)).map(|r| r.header("range").map(str::to_owned)).collect()
}

#[track_caller]
fn pulls(bad: &BadRegistry) -> Scratch {
    let scratch = Scratch::new();
    scratch.run(["d-pull", &bad.image("x")]).ok().silent();
    assert_eq!(Digest::of(&fs::read(blob(&scratch, &layer())).unwrap()), layer());
    assert_eq!(scratch.names("cache/d-utils/.d-pull/partial"), [""; 0]);
    scratch
}

#[test]
fn a_cut_body_is_continued_where_it_was_cut() {
    let bad = spoiled(|n, _, answer| if n < 3 { answer.cut(70_000) } else { answer });
    pulls(&bad);
    let want = [None, Some("bytes=70000-"), Some("bytes=140000-"), Some("bytes=210000-")];
    assert_eq!(ranges(&bad), want.map(|r| r.map(str::to_owned)));
}

#[test]
fn a_partial_blob_is_continued_by_the_next_run() {
    let bad = spoiled(|n, _, answer| {
        if n == 0 {
            answer.cut(70_000)
        } else if n < 10 {
            answer.cut(0)
        } else {
            answer
        }
    });
    let scratch = Scratch::new();
    scratch.run(["d-pull", &bad.image("x")]).fails(75).err_has("cut");
    assert_eq!(scratch.names("cache/d-utils/.d-pull/partial").len(), 1);
    assert!(scratch.run(["d-pull", "--list"]).ok().out().is_empty(), "no name before it is whole");
    let before = ranges(&bad).len();
    // Let it be well from now on.
    while ranges(&bad).len() < 10 {
        scratch.run(["d-pull", &bad.image("x")]).code(75);
    }
    assert!(before > 1);
    scratch.run(["d-pull", &bad.image("x")]).ok();
    assert_eq!(ranges(&bad)[1..], vec![Some("bytes=70000-".to_owned()); 10][..]);
    scratch.run(["d-pull", "--fsck"]).ok();
}

#[test]
fn servers_without_ranges_are_borne() {
    let whole = || Response::ok(noise(SIZE, 1));
    let with_range =
        |status: u16, range: &str| Response { status, ..Response::ok(&b"xyz"[..]) }.header("Content-Range", range);
    type Spoil = Box<dyn Fn() -> Response + Send + Sync>;
    let cases: [Spoil; 5] = [
        Box::new(whole),
        Box::new(|| Response::status(416)),
        Box::new(move || with_range(206, "bytes 5-7/300000")),
        Box::new(move || with_range(206, "rubbish")),
        Box::new(|| Response { status: 206, ..Response::ok(&b"xyz"[..]) }),
    ];
    for case in cases {
        let bad = spoiled(move |n, r, answer| match n {
            0 => answer.cut(70_000),
            _ if r.header("range").is_some() => case(),
            _ => answer,
        });
        pulls(&bad);
        assert!(ranges(&bad).contains(&Some("bytes=70000-".to_owned())));
    }
}

#[test]
fn a_torn_partial_blob_is_started_anew() {
    let bad = spoiled(|_, _, answer| answer);
    let scratch = Scratch::new();
    for rubbish in [noise(1000, 7), noise(SIZE, 7), noise(SIZE + 1, 7)] {
        let name = format!("cache/d-utils/.d-pull/partial/sha256-{}", layer().hex());
        scratch.write(&name, rubbish);
        scratch.run(["d-pull", &bad.image("x")]).ok();
        assert_eq!(Digest::of(&fs::read(blob(&scratch, &layer())).unwrap()), layer());
        fs::remove_dir_all(scratch.cache()).unwrap();
    }
}

#[test]
fn what_may_pass_is_tried_again() {
    for status in [408, 429, 500, 502, 503, 504] {
        let bad = spoiled(move |n, _, answer| if n < 2 { Response::status(status) } else { answer });
        pulls(&bad);
        assert_eq!(ranges(&bad).len(), 3, "{status}");
    }
    let bad = spoiled(|n, _, answer| if n < 2 { answer.cut(0) } else { answer });
    pulls(&bad);
}

#[test]
fn retry_after_is_heeded_in_both_forms() {
    for wait in ["2", "date"] {
        let first = Arc::new(std::sync::Mutex::new(None));
        let second = first.clone();
        let bad = spoiled(move |n, _, answer| {
            if n > 0 {
                second.lock().unwrap().get_or_insert(std::time::Instant::now());
                return answer;
            }
            let header = match wait {
                "date" => {
                    let date = d_tests::run(["date", "-u", "-d", "3 seconds", "+%a, %d %b %Y %H:%M:%S GMT"]).ok();
                    date.out()
                }
                seconds => seconds.to_owned(),
            };
            Response::status(429).header("Retry-After", &header)
        });
        let scratch = Scratch::new();
        let took = scratch.run(["d-pull", &bad.image("x")]).ok().took;
        assert!(took > Duration::from_millis(1900), "{wait}: {took:?}");
        assert!(first.lock().unwrap().is_some());
    }
}

#[test]
fn silence_is_not_waited_for_for_ever() {
    let bad = spoiled(|n, _, answer| if n == 0 { answer.stall(Duration::from_secs(60)) } else { answer });
    let scratch = Scratch::new();
    let done = scratch.run(["d-pull", "--timeout", "1", &bad.image("x")]).ok();
    assert!(done.took < Duration::from_secs(20), "{done}");
}

#[test]
fn wrong_bodies_are_refused_and_leave_nothing() {
    let wrong = || noise(SIZE, 2);
    type Spoil = Box<dyn Fn(Response) -> Response + Send + Sync>;
    let cases: [(&str, Spoil); 5] = [
        ("digest", Box::new(move |_| Response::ok(wrong()))),
        ("longer", Box::new(|_| Response::ok(noise(SIZE + 1, 1)))),
        ("shorter", Box::new(|_| Response::ok(noise(SIZE - 1, 1)))),
        ("longer", Box::new(|_| Response::ok(noise(SIZE + 1, 1)).unannounced())),
        ("206", Box::new(|answer| Response { status: 206, ..answer })),
    ];
    for (word, case) in cases {
        let bad = spoiled(move |_, _, answer| case(answer));
        let scratch = Scratch::new();
        let done = scratch.run(["d-pull", &bad.image("x")]).fails(if word == "206" { 76 } else { 65 });
        done.prints("").err_has(word).err_has(&layer().to_string());
        assert!(!blob(&scratch, &layer()).exists());
        assert_eq!(scratch.names("cache/d-utils/.d-pull/partial"), [""; 0]);
        assert!(scratch.run(["d-pull", "--list"]).ok().out().is_empty());
    }
}

#[test]
fn registries_without_head_or_a_v2_page_are_borne() {
    for status in [404, 405, 500, 501] {
        let store = Store::of(&image(&[9]));
        let bad = BadRegistry::start(move |r| match (r.method.as_str(), r.path.as_str()) {
            ("HEAD", _) => Response::status(status),
            (_, "/v2/") => Response::status(404),
            _ => store.answer(r),
        });
        let scratch = Scratch::new();
        let path = scratch.run(["d-pull", &bad.image("x")]).ok().out();
        scratch.run(["d-pull", &bad.image("x")]).ok().prints(&path).silent();
        assert_eq!(bad.requests().iter().filter(|r| r.method == "HEAD").count(), 1, "HEAD was tried again");
    }
}

#[test]
fn a_body_that_always_ends_early_is_given_up() {
    let bad = spoiled(|_, _, _| Response::ok(noise(SIZE - 1000, 1)).unannounced());
    Scratch::new().run(["d-pull", &bad.image("x")]).fails(75);
    assert_eq!(ranges(&bad).len(), 5);
    let chunked = || {
        let body = noise(SIZE - 1000, 1);
        let mut chunks = format!("{:x}\r\n", body.len()).into_bytes();
        chunks.extend(body);
        chunks.extend(b"\r\n0\r\n\r\n");
        Response::ok(chunks).header("Transfer-Encoding", "chunked").unannounced()
    };
    let bad = spoiled(move |_, _, _| chunked());
    Scratch::new().run(["d-pull", &bad.image("x")]).fails(65).err_has("shorter");
}

#[test]
fn redirects_end() {
    let store = Store::of(&image(&[9]));
    let bad = BadRegistry::start(move |r| match r.path.contains("/blobs/") {
        true => Response::status(302).header("Location", &r.path),
        false => store.answer(r),
    });
    Scratch::new().run(["d-pull", &bad.image("x")]).fails(76).err_has("redirects more than");
    for location in ["", "file:///etc/passwd", "http://"] {
        let store = Store::of(&image(&[9]));
        let bad = BadRegistry::start(move |r| match r.path.contains("/blobs/") {
            true => Response::status(302).header("Location", location),
            false => store.answer(r),
        });
        Scratch::new().run(["d-pull", &bad.image("x")]).fails(76);
    }
}

#[test]
fn proxies_are_those_of_the_environment() {
    let store = Store::of(&image(&[9]));
    let proxy = BadRegistry::start(move |r| {
        // A proxy gets the whole URL.
        let Some(path) = r.path.strip_prefix("http://registry.invalid:5000") else { return Response::status(502) };
        store.answer(&Request { path: path.to_owned(), ..r.clone() })
    });
    let scratch = Scratch::new();
    let name = "registry.invalid:5000/x";
    scratch
        .run(["d-pull", "--insecure", name])
        .env("http_proxy", format!("http://{}", proxy.host()))
        .env("https_proxy", "http://127.0.0.1:1")
        .ok();
    assert!(proxy.count("/blobs/") > 0);
}

#[test]
fn a_foreign_https_registry_is_never_asked_without_tls() {
    let proxy = BadRegistry::start(|_| Response::status(502));
    let scratch = Scratch::new();
    scratch.run(["d-pull", "registry.invalid/x"]).env("http_proxy", format!("http://{}", proxy.host())).fails(75);
    assert!(proxy.requests().is_empty(), "{:?}", proxy.requests());
}

#[test]
fn whom_no_proxy_names_is_asked_itself() {
    let store = Store::of(&image(&[9]));
    let bad = BadRegistry::start(move |r| store.answer(r));
    let proxy = BadRegistry::start(|_| Response::status(418));
    let scratch = Scratch::new();
    let pull = |no_proxy: &str| {
        let cmd = scratch.run(["d-pull", "--digest", &bad.image("x")]).env("no_proxy", no_proxy);
        cmd.env("http_proxy", format!("http://{}", proxy.host()))
    };
    for entry in ["*", &bad.host(), "127.0.0.1", "10.0.0.0/8, 127.0.0.0/8"] {
        pull(entry).ok().silent();
    }
    assert!(proxy.requests().is_empty(), "{:?}", proxy.requests());
    pull("127.0.0.1:1").code(76);
    assert!(!proxy.requests().is_empty());
}

#[test]
fn a_proxy_that_is_at_fault_is_named() {
    let scratch = Scratch::new();
    let pull =
        |proxy: &str| scratch.run(["d-pull", "127.0.0.1:5000/x"]).env("http_proxy", proxy).env("https_proxy", proxy);
    pull("http://127.0.0.1:1").fails(75).err_has("through the proxy 127.0.0.1:1: Connection refused");
    for useless in ["garbage://", "socks5://127.0.0.1:1"] {
        pull(useless).fails(64).err_has("http_proxy");
    }
    // Who asks nobody has no use for one.
    scratch.run(["d-pull", "--list"]).env("http_proxy", "garbage://").ok();
}

#[test]
fn a_registry_without_tls_is_no_riddle() {
    let store = Store::of(&image(&[9]));
    let bad = BadRegistry::start(move |r| match r.method.as_str() {
        "GET" | "HEAD" => store.answer(r),
        _ => Response::status(400),
    });
    // This machine by an address that is not known as such.
    let name = bad.image("x").replace("127.0.0.1", "0.0.0.0");
    let scratch = Scratch::new();
    // What is no request is answered as docker-registry does.
    let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = plain.local_addr().unwrap().port();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for mut stream in plain.incoming().flatten() {
            count.fetch_add(1, Ordering::SeqCst);
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    let done = scratch.run(["d-pull", &format!("0.0.0.0:{port}/x")]).fails(76);
    done.err_has("does not speak TLS").err_has("--insecure");
    assert_eq!(connections.load(Ordering::SeqCst), 1, "it was tried again");
    scratch.run(["d-pull", "--insecure", &name]).ok();
    // That it has no TLS explains nothing where http is allowed.
    let through = scratch.run(["d-pull", "--insecure", &format!("0.0.0.0:{port}/x")]);
    through
        .env("http_proxy", "http://127.0.0.1:1")
        .fails(75)
        .err_has("through the proxy 127.0.0.1:1: Connection refused");
}

#[test]
fn a_mirror_that_is_named_with_https_is_asked_by_nothing_else() {
    let serve = || {
        let store = Store::of(&image(&[9]));
        BadRegistry::start(move |r| store.answer(r))
    };
    let (mirror, bad) = (serve(), serve());
    let pull = |scheme: &str| {
        let location = format!("{scheme}{}", mirror.host());
        Scratch::new().run(["d-pull", "--mirror", &location, &bad.image("x")]).ok();
    };
    pull("https://");
    assert_eq!((mirror.count("/v2/"), bad.count("/blobs/")), (0, 2));
    for scheme in ["", "http://"] {
        pull(scheme);
    }
    assert_eq!((mirror.count("/blobs/"), bad.count("/blobs/")), (4, 2));
}

#[test]
fn a_blob_with_the_digest_of_another_is_refused() {
    let bad = spoiled(|_, _, answer| answer.header("Docker-Content-Digest", &Digest::of(b"other").to_string()));
    Scratch::new().run(["d-pull", &bad.image("x")]).fails(65).err_has("Docker-Content-Digest");
    assert_eq!(ranges(&bad).len(), 1);
    let bad = spoiled(|_, _, answer| answer.header("Docker-Content-Digest", &layer().to_string()));
    pulls(&bad);
    // By another algorithm too, of a blob and of a config.
    let long = |bytes: &[u8]| Digest::with(Algorithm::Sha512, bytes).to_string();
    let right = long(&noise(SIZE, 1));
    let bad = spoiled(move |n, _, answer| {
        let answer = answer.header("Docker-Content-Digest", &right);
        if n < 2 { answer.cut(70_000) } else { answer }
    });
    pulls(&bad);
    let wrong = long(b"other");
    let bad = spoiled(move |_, _, answer| answer.header("Docker-Content-Digest", &wrong));
    for args in [&[][..], &["-o", "x.tar"]] {
        let scratch = Scratch::new();
        let done = scratch.run(["d-pull"]).args(args).arg(bad.image("x")).fails(65);
        done.prints("").err_has("Docker-Content-Digest is sha512:");
        assert_eq!(scratch.names("cache/d-utils/.d-pull/partial"), [""; 0]);
        assert!(!scratch.join("x.tar").exists());
    }
    let store = Store::of(&image(&[9]));
    let bad = BadRegistry::start(move |r| match r.path.contains("/blobs/") {
        true => store.answer(r).header("Docker-Content-Digest", &long(b"other")),
        false => store.answer(r),
    });
    Scratch::new().run(["d-pull", "--config", &bad.image("x")]).fails(65).err_has("Docker-Content-Digest");
}
