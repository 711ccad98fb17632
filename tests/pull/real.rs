//! The ordinary cases, against docker-registry.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use d_tests::{Registry, Scratch, Setup, fixture, run};

use crate::{image, manifest_of};

fn login() -> Setup {
    Setup { login: Some(("alice".into(), "s3cret".into())), ..Setup::default() }
}

fn auth(user: &str) -> &'static str {
    // base64 of alice:s3cret and of alice:wrong
    if user == "alice" { "YWxpY2U6czNjcmV0" } else { "YWxpY2U6d3Jvbmc=" }
}

#[test]
fn an_image_ends_up_in_a_cache_that_others_can_read() {
    let (scratch, registry) = (Scratch::new(), Registry::start());
    registry.push(&fixture("debian"), "latest", "debian:12");
    let name = registry.image("debian:12");
    let done = scratch.run(["d-pull", &name]).ok();
    done.silent();
    let path = std::path::PathBuf::from(done.out());
    assert!(path.starts_with(scratch.cache().join("blobs/sha256")));
    run(["jq", "-e", ".layers | length == 3"]).arg(&path).ok();
    let layout = format!("{}:{name}", scratch.cache().display());
    let digest = format!("sha256:{}", path.file_name().unwrap().to_str().unwrap());
    run(["skopeo", "inspect", &format!("oci:{layout}")]).ok().out_has(&digest);
    run(["umoci", "stat", "--image", &layout]).ok();
    run(["oci-image-tool", "validate", "--type", "image", "--ref", &format!("name={name}")]).arg(scratch.cache()).ok();
    scratch.run(["d-pull", "--fsck"]).ok().prints("");
    scratch.run(["d-pull", "--offline", &name]).ok().prints(&done.out());
}

#[test]
fn results_come_in_the_order_of_operands_and_failures_do_not_stop_the_others() {
    let (scratch, registry) = (Scratch::new(), Registry::start());
    registry.push(&fixture("busybox"), "latest", "a");
    registry.push(&fixture("busybox-zstd"), "latest", "b");
    let (a, b) = (registry.image("a"), registry.image("b"));
    let (none, down) = (registry.image("none"), "127.0.0.1:1/x");
    let paths: Vec<String> = [&a, &b].iter().map(|r| scratch.run(["d-pull", r]).ok().out()).collect();
    let done = scratch.run(["d-pull", &b, &none, &a, down]).code(66);
    done.prints(&format!("{}\n{}", paths[1], paths[0]));
    assert_eq!(done.errors().len(), 2, "{done}");
    scratch.run(["d-pull", down, &none]).code(75).prints("");
    let done = scratch.run(["d-pull", "-0", &a, &b]).ok();
    assert_eq!(done.stdout, format!("{}\0{}\0", paths[0], paths[1]).into_bytes());
    let done = scratch.run(["d-pull", "--json", &a]).ok();
    let json: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((json["path"].as_str(), json["reference"].as_str()), (Some(&*paths[0]), Some(&*format!("{a}:latest"))));
}

#[test]
fn basic_credentials_come_from_files_and_descriptors() {
    let (scratch, registry) = (Scratch::new(), Registry::with(login()));
    registry.push(&fixture("busybox"), "latest", "private/x");
    let name = registry.image("private/x");
    let file = |user: &str| format!(r#"{{"auths":{{"{}":{{"auth":"{}"}}}}}}"#, registry.host(), auth(user));

    let done = scratch.run(["d-pull", &name]).fails(77);
    done.err_has(&format!("does not exist or is private; no credentials for {} in ", registry.host()));
    done.err_has(".docker/config.json");

    let wrong = scratch.write("wrong.json", file("wrong"));
    scratch.run(["d-pull", "--authfile"]).arg(&wrong).arg(&name).fails(77).err_has("wrong.json");

    let right = scratch.write("right.json", file("alice"));
    let path = scratch.run(["d-pull", "--authfile"]).arg(&right).arg(&name).ok().out();
    let again = || scratch.run(["d-pull", "--digest", &name]);
    again().env("REGISTRY_AUTH_FILE", &right).ok();
    again().env("REGISTRY_AUTH_FILE", scratch.join("none.json")).code(77);
    again().args(["--authfile", "none.json"]).fails(66).err_has("--authfile none.json");
    for (variable, place) in [
        ("XDG_RUNTIME_DIR", "run/containers/auth.json"),
        ("XDG_CONFIG_HOME", "conf/containers/auth.json"),
        ("DOCKER_CONFIG", "docker/config.json"),
    ] {
        let file = scratch.write(place, file("alice"));
        let folder = scratch.join(place.split('/').next().unwrap());
        again().env(variable, folder).ok();
        fs::remove_file(file).unwrap();
    }
    scratch.write("home/.docker/config.json", file("alice"));
    again().ok();
    // The first file that knows the registry counts.
    again().env("REGISTRY_AUTH_FILE", &wrong).code(77);
    scratch.sh(&format!("d-pull --digest --creds-fd 3 {name} 3<<E\nalice:s3cret\nE")).ok();
    scratch.sh(&format!("d-pull --digest --creds-fd 3 {name} 3<<E\nalice:wrong\nE")).fails(77).err_has("--creds-fd 3");
    scratch.sh(&format!("d-pull --digest --creds-fd 3 {name} 3<<E\nnonsense\nE")).fails(64);
    scratch.run(["d-pull", "--creds-fd", "9", &name]).fails(64);
    // Cached, it needs nobody's leave.
    scratch.run(["d-pull", "--offline", &name]).ok().prints(&path);
}

#[test]
fn tls_needs_an_authority_that_the_user_trusts() {
    let (scratch, registry) = (Scratch::new(), Registry::with(Setup { tls: true, ..Setup::default() }));
    registry.push(&fixture("busybox"), "latest", "x");
    let name = registry.image("x");
    let digest = || scratch.run(["d-pull", "--digest", &name]);
    digest().fails(76).err_has("--cert-dir");
    digest().env("SSL_CERT_FILE", registry.ca()).ok();
    let folder = scratch.join("certs");
    fs::create_dir(&folder).unwrap();
    fs::copy(registry.ca(), folder.join("ca.crt")).unwrap();
    digest().arg("--cert-dir").arg(&folder).ok();
    digest().arg("--insecure").ok();
    digest().fails(76);
    let certs_d = scratch.join("home/.config/containers/certs.d").join(registry.host());
    fs::create_dir_all(&certs_d).unwrap();
    fs::copy(registry.ca(), certs_d.join("ca.crt")).unwrap();
    digest().ok();
    fs::write(certs_d.join("ca.crt"), "rubbish").unwrap();
    digest().fails(65);
}

#[test]
fn a_self_signed_certificate_can_be_trusted_by_itself() {
    let (scratch, registry) = (Scratch::new(), Registry::start());
    registry.push(&fixture("busybox"), "latest", "x");
    let port = d_tests::free_port();
    let script = format!(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 3 -subj /CN=x -addext subjectAltName=IP:127.0.0.1 -keyout key -out ca.crt
        openssl req -x509 -newkey rsa:2048 -nodes -days 3 -subj /CN=me -keyout me.key -out me.cert
        mkdir server; cat key ca.crt >server/both; mkdir certs both; cp ca.crt certs; cp ca.crt me.cert me.key both
        exec socat OPENSSL-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork,cert=server/both,cafile=me.cert,verify=$1 TCP:{}",
        registry.host()
    );
    let digest = || scratch.run(["d-pull", "--digest", &format!("127.0.0.1:{port}/x")]);
    let listens = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
    for verify in ["0", "1"] {
        scratch.sh("rm -rf server certs both").ok();
        let socat = scratch.run(["sh", "-ec", &script, "sh", verify]).spawn();
        assert!(d_tests::eventually(std::time::Duration::from_secs(20), listens), "{}", socat.err());
        digest().fails(76).err_has("not trusted");
        match verify {
            "0" => _ = digest().args(["--cert-dir", "certs"]).ok(),
            // It wants to see ours.
            _ => _ = digest().args(["--cert-dir", "certs"]).code(75),
        }
        digest().args(["--cert-dir", "both"]).ok();
        drop(socat);
        assert!(d_tests::eventually(std::time::Duration::from_secs(20), || !listens()), "socat lives on");
    }
}

/// A proxy that knows CONNECT alone; its port, and the heads of the requests that it was sent.
fn connect_proxy() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let heads = Arc::<Mutex<Vec<String>>>::default();
    let seen = heads.clone();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let seen = seen.clone();
            std::thread::spawn(move || {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    client.read_exact(&mut byte).unwrap();
                    head.push(byte[0]);
                }
                let head = String::from_utf8(head).unwrap();
                seen.lock().unwrap().push(head.clone());
                let Some(target) = head.strip_prefix("CONNECT ") else {
                    return client.write_all(b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n").unwrap();
                };
                let server = TcpStream::connect(target.split(' ').next().unwrap()).unwrap();
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
                let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from_client, &mut to_server);
                    let _ = to_server.shutdown(Shutdown::Write);
                });
                let _ = std::io::copy(&mut { server }, &mut client);
            });
        }
    });
    (port, heads)
}

#[test]
fn https_goes_through_a_proxy_by_connect() {
    let (scratch, registry) = (Scratch::new(), Registry::with(Setup { tls: true, ..Setup::default() }));
    registry.push(&fixture("busybox"), "latest", "x");
    let name = registry.image("x");
    let (port, heads) = connect_proxy();
    let pull = |proxy: &str| {
        let cmd = scratch.run(["d-pull", &name]).env("SSL_CERT_FILE", registry.ca());
        cmd.env("https_proxy", format!("http://{proxy}127.0.0.1:{port}"))
    };
    pull("me:secret@").ok().silent();
    let asked = heads.lock().unwrap().clone();
    assert!(!asked.is_empty());
    for head in &asked {
        assert!(head.starts_with(&format!("CONNECT {} HTTP/1.1\r\n", registry.host())), "{head}");
        // base64 of me:secret
        assert!(head.to_ascii_lowercase().contains("proxy-authorization: basic bwu6c2vjcmv0"), "{head}");
    }
    // The certificate is still looked at, and what no_proxy names goes straight.
    scratch
        .run(["d-pull", &name])
        .env("https_proxy", format!("http://127.0.0.1:{port}"))
        .fails(76)
        .err_has("not trusted");
    let before = heads.lock().unwrap().len();
    pull("").env("no_proxy", "127.0.0.1").ok();
    assert_eq!(heads.lock().unwrap().len(), before);
    // A secret of a proxy's URL is in no message.
    fs::create_dir(scratch.join("certs")).unwrap();
    fs::copy(registry.ca(), scratch.join("certs/ca.crt")).unwrap();
    let gone = scratch.run(["d-pull", "-vv", "--cert-dir", "certs", &name]);
    let gone = gone.env("https_proxy", "http://me:secret@127.0.0.1:1").code(75);
    assert!(!gone.err().contains("secret"), "{gone}");
}

#[test]
fn an_archive_is_what_skopeo_calls_one() {
    let (scratch, registry) = (Scratch::new(), Registry::start());
    registry.push(&fixture("debian"), "latest", "debian:12");
    let name = registry.image("debian:12");
    let piped = scratch.sh(&format!("d-pull -o - {name} >piped.tar")).ok();
    piped.prints("").silent();
    let done = scratch.run(["d-pull", "-o", "file.tar", &name]).ok();
    assert!(done.out().starts_with(scratch.cache().to_str().unwrap()));
    scratch.sh("cmp piped.tar file.tar").ok();
    let members = run(["tar", "tf"]).arg(scratch.join("file.tar")).ok().out();
    let members: Vec<&str> = members.lines().collect();
    let manifest = done.out();
    let manifest = manifest.rsplit('/').next().unwrap();
    let first = ["oci-layout", "index.json", "blobs/", "blobs/sha256/", &format!("blobs/sha256/{manifest}")];
    assert_eq!(members[..5], first);
    assert_eq!(members.len(), 5 + 1 + 3);
    run(["skopeo", "inspect", &format!("oci-archive:{}", scratch.join("file.tar").display())]).ok().out_has(manifest);
    assert_eq!(scratch.names(""), ["cache", "file.tar", "home", "piped.tar"]);
    // Its own reading of archives fails for those of skopeo, too: it gets a folder.
    scratch.sh("mkdir layout; tar -xf file.tar -C layout; oci-image-tool validate --type image layout").ok();
    // A reader that goes away, a place that cannot be written.
    scratch.sh(&format!("d-pull -o - {name} | head -c 1000 >/dev/null")).ok();
    scratch.run(["d-pull", "-o", "no/such/place", &name]).fails(73);
    scratch.run(["d-pull", "-o", "home", &name]).fails(73);
    scratch.sh(&format!("d-pull -o - {name} >/dev/full")).fails(73);
    scratch.sh(&format!("d-pull {name} >/dev/full")).fails(73);
}

#[test]
fn fifty_pulls_share_a_cache() {
    let (scratch, registry) = (Scratch::new(), Registry::start());
    let images: Vec<_> = (1..=5).map(|n| image(&vec![40_000; n])).collect();
    for (n, image) in images.iter().enumerate() {
        image.write(&scratch.join(format!("layout{n}")));
        registry.push(&scratch.join(format!("layout{n}")), "latest", &format!("i{n}"));
    }
    let running: Vec<_> =
        (0..50).map(|i| scratch.run(["d-pull", &registry.image(&format!("i{}", i % 5))]).spawn()).collect();
    for (i, running) in running.into_iter().enumerate() {
        let done = running.wait(std::time::Duration::from_secs(120));
        done.expect(done.code() == 0, "success");
        assert!(done.out().ends_with(manifest_of(&images[i % 5]).hex()), "{done}");
    }
    scratch.run(["d-pull", "--fsck"]).ok().prints("");
    assert_eq!(scratch.run(["d-pull", "--list"]).ok().out().lines().count(), 5);
    assert_eq!(scratch.names("cache/d-utils/.d-pull/partial"), [""; 0]);
    assert_eq!(scratch.names("cache/d-utils/.d-pull/pulls"), [""; 0]);
}
