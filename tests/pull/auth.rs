//! Tokens, redirects, and where credentials may go.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use d_tests::Scratch;
use d_tests::badregistry::{BadRegistry, Request, Response};
use d_tests::store::Store;

use crate::image;

/// alice:s3cret in base64.
const AUTH: &str = "YWxpY2U6czNjcmV0";

/// A registry that asks for `Bearer TOKEN`, with itself as the realm.
fn guarded(store: Store, challenge: &'static str, token_answer: &'static str) -> BadRegistry {
    BadRegistry::start(move |r| {
        if r.path.starts_with("/token") {
            return Response::ok(token_answer);
        }
        if r.header("authorization") == Some("Bearer T") {
            return store.answer(r);
        }
        let host = r.header("host").unwrap_or_default();
        Response::status(401).header("WWW-Authenticate", &challenge.replace("HOST", host))
    })
}

fn has_credentials(request: &Request) -> bool {
    request.header("authorization").is_some_and(|a| a.starts_with("Basic"))
}

#[test]
fn tokens_are_fetched_however_the_challenge_is_written() {
    for (challenge, answer) in [
        (r#"Bearer realm="http://HOST/token",service="s",scope="repository:x:pull""#, r#"{"token":"T"}"#),
        (
            r#"bearer scope=repository:x:pull , service=s , realm=http://HOST/token"#,
            r#"{"access_token":"T","expires_in":9}"#,
        ),
        (r#"Negotiate, Basic realm="b", Bearer Realm = "http://HOST/token""#, r#"{"token":"","access_token":"T"}"#),
    ] {
        let (scratch, bad) = (Scratch::new(), guarded(Store::of(&image(&[9])), challenge, answer));
        scratch.run(["d-pull", &bad.image("x")]).ok();
        assert_eq!(bad.count("/token"), 1, "one token for all requests: {:?}", bad.requests());
        let token = bad.requests().into_iter().find(|r| r.path.starts_with("/token")).unwrap();
        assert!(token.path.contains("scope=repository%3Ax%3Apull"), "{}", token.path);
        assert!(!has_credentials(&token));
    }
}

#[test]
fn several_scopes_are_all_asked_for() {
    let challenge = r#"Bearer realm="http://HOST/token?x=1",scope="repository:y:pull registry:catalog:*""#;
    let (scratch, bad) = (Scratch::new(), guarded(Store::of(&image(&[9])), challenge, r#"{"token":"T"}"#));
    scratch.run(["d-pull", "--digest", &bad.image("x")]).ok();
    let token = bad.requests().into_iter().find(|r| r.path.starts_with("/token")).unwrap().path;
    for part in ["x=1", "repository%3Ay%3Apull", "registry%3Acatalog%3A*", "repository%3Ax%3Apull"] {
        assert!(token.contains(part), "{token}");
    }
}

#[test]
fn a_token_that_expires_in_mid_pull_is_renewed() {
    let store = Store::of(&image(&[1000, 2000, 3000]));
    let issued = Arc::new(AtomicUsize::new(0));
    let bad = BadRegistry::start(move |r| {
        if r.path.starts_with("/token") {
            let n = issued.fetch_add(1, Ordering::SeqCst) + 1;
            return Response::ok(format!(r#"{{"token":"T{n}"}}"#));
        }
        // The first is good for manifests alone.
        let good = match r.header("authorization") {
            Some("Bearer T1") => !r.path.contains("/blobs/"),
            Some("Bearer T2") => true,
            _ => false,
        };
        let challenge = format!(r#"Bearer realm="http://{}/token""#, r.header("host").unwrap_or_default());
        if good { store.answer(r) } else { Response::status(401).header("WWW-Authenticate", &challenge) }
    });
    let scratch = Scratch::new();
    scratch.run(["d-pull", &bad.image("x")]).ok();
    assert_eq!(bad.count("/token"), 2);
}

#[test]
fn identity_tokens_are_posted() {
    let challenge = r#"Bearer realm="http://HOST/token",service="s""#;
    let (scratch, bad) = (Scratch::new(), guarded(Store::of(&image(&[9])), challenge, r#"{"access_token":"T"}"#));
    let auths = format!(r#"{{"auths":{{"{}":{{"identitytoken":"refresh"}}}}}}"#, bad.host());
    let file = scratch.write("auth.json", auths);
    scratch.run(["d-pull", "--authfile"]).arg(file).arg(bad.image("x")).ok();
    let token = bad.requests().into_iter().find(|r| r.path.starts_with("/token")).unwrap();
    assert_eq!((token.method.as_str(), token.header("authorization")), ("POST", None));
    assert!(!token.path.contains("refresh"), "a secret in the URL: {}", token.path);
}

#[test]
fn credentials_go_to_the_token_service_and_never_to_another_host() {
    let other = BadRegistry::start({
        let store = Store::of(&image(&[5000]));
        move |r| store.answer(r)
    });
    let store = Store::of(&image(&[5000]));
    let elsewhere = other.host();
    let bad = BadRegistry::start(move |r| {
        let host = r.header("host").unwrap_or_default().to_owned();
        if r.path.starts_with("/token") {
            return if has_credentials(r) { Response::ok(r#"{"token":"T"}"#) } else { Response::status(401) };
        }
        if r.header("authorization") != Some("Bearer T") {
            let challenge = format!(r#"Bearer realm="http://{host}/token""#);
            return Response::status(401).header("WWW-Authenticate", &challenge);
        }
        if r.path.contains("/blobs/") {
            return Response::status(307).header("Location", &format!("http://u:p@{elsewhere}{}?sig=1", r.path));
        }
        store.answer(r)
    });
    let scratch = Scratch::new();
    let name = bad.image("x");
    scratch.run(["d-pull", &name]).fails(77).err_has("no credentials for");
    scratch.write("home/.docker/config.json", format!(r#"{{"auths":{{"{}":{{"auth":"{AUTH}"}}}}}}"#, bad.host()));
    let done = scratch.run(["d-pull", "-vv", &name]).ok();
    for secret in ["s3cret", AUTH, "Bearer T", "sig=1"] {
        done.expect(!done.err().contains(secret), "no secret in the messages");
    }
    assert!(other.count("/blobs/") >= 2);
    assert!(other.requests().iter().all(|r| r.header("authorization").is_none()), "{:?}", other.requests());
}

#[test]
fn the_challenge_of_a_host_redirected_to_gets_nothing() {
    let evil = BadRegistry::start(|r| {
        let realm = format!(r#"Bearer realm="http://{}/token""#, r.header("host").unwrap_or_default());
        if r.path.starts_with("/token") {
            return Response::ok(r#"{"token":"T"}"#);
        }
        Response::status(401).header("WWW-Authenticate", &realm)
    });
    let (store, elsewhere) = (Store::of(&image(&[9])), evil.host());
    let bad = BadRegistry::start(move |r| match r.path.contains("/blobs/") {
        true => Response::status(302).header("Location", &format!("http://{elsewhere}/x")),
        false => store.answer(r),
    });
    let scratch = Scratch::new();
    scratch.write("home/.docker/config.json", format!(r#"{{"auths":{{"{}":{{"auth":"{AUTH}"}}}}}}"#, bad.host()));
    scratch.run(["d-pull", &bad.image("x")]).code(77);
    assert_eq!(evil.count("/token"), 0);
}

#[test]
fn a_realm_without_tls_is_told_nothing() {
    let seen = Arc::new(Mutex::new(0));
    let proxy = BadRegistry::start({
        let seen = seen.clone();
        move |_| {
            *seen.lock().unwrap() += 1;
            Response::ok(r#"{"token":"T"}"#)
        }
    });
    let challenge = r#"Bearer realm="http://auth.example.invalid/token""#;
    let (scratch, bad) = (Scratch::new(), guarded(Store::of(&image(&[9])), challenge, ""));
    scratch.write("home/.docker/config.json", format!(r#"{{"auths":{{"{}":{{"auth":"{AUTH}"}}}}}}"#, bad.host()));
    let pull = |more: &[&str]| {
        let run = scratch.run(["d-pull", "--digest", &bad.image("x")]).args(more);
        // Everything that is not on loopback would go through this.
        run.env("http_proxy", format!("http://{}", proxy.host())).env("no_proxy", "127.0.0.1")
    };
    pull(&[]).fails(76).err_has("not https");
    assert_eq!(*seen.lock().unwrap(), 0);
    pull(&["--insecure"]).ok();
    assert_eq!(*seen.lock().unwrap(), 1);
}

#[test]
fn helpers_are_asked_and_broken_ones_do_no_harm() {
    let store = Store::of(&image(&[9]));
    let bad = BadRegistry::start(move |r| match r.header("authorization") {
        Some("Basic YWxpY2U6czNjcmV0") => store.answer(r),
        _ if r.path.contains("public") => store.answer(r),
        _ if r.path == "/v2/" => Response::ok("{}"),
        _ => Response::status(401).header("WWW-Authenticate", r#"Basic realm="x""#),
    });
    let scratch = Scratch::new();
    let helper = |script: &str| {
        let path = scratch.write("bin/docker-credential-test", format!("#!/bin/sh\n{script}\n"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    let path = format!("{}:{}", scratch.join("bin").display(), d_tests::PATH);
    let pull = |name: &str| scratch.run(["d-pull", "--digest", &bad.image(name)]).env("PATH", &path);
    for key in [format!(r#"{{"credHelpers":{{"{}":"test"}}}}"#, bad.host()), r#"{"credsStore":"test"}"#.to_owned()] {
        scratch.write("home/.docker/config.json", key);
        helper(&format!(
            r#"test "$1" = get && test "$(cat)" = {} && echo '{{"ServerURL":"x","Username":"alice","Secret":"s3cret"}}'"#,
            bad.host()
        ));
        pull("private").ok();
        helper("echo the store is locked; echo more; exit 7");
        pull("private").code(77).err_has("docker-credential-test failed, exit status: 7: the store is locked");
        helper("echo no display >&2; exit 1");
        pull("private").code(77).err_has("failed, exit status: 1: no display");
        for broken in ["exit 1", "echo rubbish", "kill -9 $$"] {
            helper(broken);
            let done = pull("private").code(77);
            done.err_has("warning: going on without credentials").err_has("docker-credential-test");
            pull("public").ok().silent();
        }
        helper("echo credentials not found in native keychain; exit 1");
        let done = pull("private").fails(77);
        done.expect(!done.err().contains("warning"), "no warning");
        std::fs::remove_file(scratch.join("bin/docker-credential-test")).unwrap();
        pull("private").code(77).err_has("is not in PATH");
    }
}

#[test]
fn refusals_have_their_codes() {
    for (status, code) in [(401, 77), (403, 77), (404, 66), (400, 76), (418, 76), (500, 75), (429, 75)] {
        let bad = BadRegistry::start(move |r| match r.path.as_str() {
            "/v2/" => Response::ok("{}"),
            _ => Response { status, ..Response::ok(r#"{"errors":[{"code":"X","message":"some\u001b[31m words"}]}"#) },
        });
        let scratch = Scratch::new();
        let done = scratch.run(["d-pull", &bad.image("x")]).fails(code);
        done.expect(!done.err().contains('\u{1b}'), "no escapes");
        assert_eq!(scratch.names("cache"), [""; 0], "nothing is left behind");
    }
    for answer in ["", "{}", "<html>", r#"{"token":1}"#] {
        let answer: &'static str = answer;
        let bad = guarded(Store::of(&image(&[9])), r#"Bearer realm="http://HOST/token""#, answer);
        Scratch::new().run(["d-pull", &bad.image("x")]).fails(76).err_has("gives no token");
    }
}

#[test]
fn a_token_service_that_fails_breaks_the_protocol() {
    let with = |challenge: &'static str| guarded(Store::of(&image(&[9])), challenge, r#"{"token":"T"}"#);
    for challenge in [r#"Bearer realm="not a url""#, "Bearer service=x", r#"Bearer realm="ftp:x""#] {
        Scratch::new().run(["d-pull", &with(challenge).image("x")]).fails(76).err_has("realm");
    }
    Scratch::new().run(["d-pull", &with(r#"Bearer realm="/token""#).image("x")]).ok();
    let bad = with(r#"Bearer realm="http://HOST/none""#);
    Scratch::new().run(["d-pull", &bad.image("x")]).code(77);
    let bad = BadRegistry::start(|r| match r.path.starts_with("/token") {
        true => Response::status(404),
        false => {
            let realm = format!(r#"Bearer realm="http://{}/token""#, r.header("host").unwrap_or_default());
            Response::status(401).header("WWW-Authenticate", &realm)
        }
    });
    Scratch::new().run(["d-pull", &bad.image("x")]).fails(76).err_has("gives no token").err_has("404");
}

#[test]
fn an_entry_that_cannot_be_read_is_a_warning() {
    let bad = guarded(Store::of(&image(&[9])), "Basic realm=x", "");
    for auth in ["!!!", "bm9jb2xvbg=="] {
        let scratch = Scratch::new();
        let file = scratch.write("a.json", format!(r#"{{"auths":{{"{}":{{"auth":"{auth}"}}}}}}"#, bad.host()));
        let done = scratch.run(["d-pull", "--authfile"]).arg(&file).arg(bad.image("x")).fails(77);
        done.err_has(&format!("the entry of {} in {} is broken", bad.host(), file.display()));
        done.expect(!done.err().contains(auth), "nothing of the entry");
    }
}
