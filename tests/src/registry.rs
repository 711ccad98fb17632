//! A real registry (docker-registry 2.8) on a free loopback port, with its own configuration and storage, stopped by pid.
//!
//! [`Registry::images`] serves the fixtures read-only: `busybox:latest`, `busybox:zstd`, `debian:12`, `debian:zstd`.

use std::fmt::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::command::run;
use crate::fixtures::fixtures;
use crate::wait::eventually;

/// How a registry is set up.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// User and password that it asks for (basic authentication).
    pub login: Option<(String, String)>,
    /// Speaks TLS, with a certificate for `localhost` and 127.0.0.1 of an authority of its own: [`Registry::ca`].
    pub tls: bool,
    /// Serves this storage folder, read-only, instead of an empty one of its own.
    pub storage: Option<PathBuf>,
}

/// A running registry; it ends when dropped, or with the thread that started it.
pub struct Registry {
    child: Child,
    dir: tempfile::TempDir,
    setup: Setup,
    port: u16,
}

impl Registry {
    /// An empty one that speaks plain http and takes pushes from everyone.
    #[track_caller]
    pub fn start() -> Self {
        Self::with(Setup::default())
    }

    /// One that serves the fixtures.
    #[track_caller]
    pub fn images() -> Self {
        Self::with(Setup { storage: Some(fixtures().join("registry")), ..Setup::default() })
    }

    /// One of the given setup.
    ///
    /// # Panics
    /// If docker-registry (or htpasswd, openssl, where asked for) is not installed or does not come up.
    #[track_caller]
    pub fn with(setup: Setup) -> Self {
        let dir = tempfile::Builder::new().prefix("d-tests-registry.").tempdir().expect("a folder for the registry");
        if setup.tls {
            certificates(dir.path());
        }
        if let Some((user, password)) = &setup.login {
            let line = run(["htpasswd", "-nbB", user, password]).ok();
            std::fs::write(dir.path().join("htpasswd"), line.stdout).expect("the registry's htpasswd");
        }
        let port = free_port();
        let config = dir.path().join("config.yml");
        std::fs::write(&config, configuration(&setup, dir.path(), port)).expect("the registry's configuration");
        let log = std::fs::File::create(dir.path().join("log")).expect("the registry's log");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "docker-registry", "serve"]).arg(config);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("setpriv(1), which starts docker-registry");
        let mut registry = Self { child, dir, setup, port };
        let ended = |registry: &mut Self| !matches!(registry.child.try_wait(), Ok(None));
        eventually(Duration::from_secs(30), || ended(&mut registry) || TcpStream::connect(("127.0.0.1", port)).is_ok());
        if ended(&mut registry) {
            let log = registry.log();
            // Between the choice of a free port and its use another test may have taken it.
            assert!(log.contains("address already in use"), "docker-registry does not come up:\n{log}");
            return Self::with(registry.setup.clone());
        }
        registry
    }

    /// Its address, `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A reference to an image of it: `127.0.0.1:PORT/NAME`.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.host())
    }

    /// The certificate of its authority (PEM).
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    /// What it logged (errors only).
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Pushes an image of an OCI layout, `oci:LAYOUT:TAG` in skopeo's words, byte for byte, as `name`.
    #[track_caller]
    pub fn push(&self, layout: &Path, tag: &str, name: &str) {
        let mut skopeo = run(["skopeo", "--insecure-policy", "copy", "--quiet", "--all", "--preserve-digests"]);
        if let Some((user, password)) = &self.setup.login {
            skopeo = skopeo.arg(format!("--dest-creds={user}:{password}"));
        }
        let source = format!("oci:{}:{tag}", layout.display());
        skopeo.args(["--dest-tls-verify=false", &source, &format!("docker://{}", self.image(name))]).ok();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port of 127.0.0.1 that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback socket");
    listener.local_addr().expect("its address").port()
}

fn configuration(setup: &Setup, dir: &Path, port: u16) -> String {
    let own = dir.join("storage");
    let (storage, readonly) = setup.storage.as_deref().map_or((own.as_path(), false), |s| (s, true));
    let mut yaml = format!(
        "version: 0.1\n\
         log: {{level: error, accesslog: {{disabled: true}}}}\n\
         storage:\n  filesystem: {{rootdirectory: '{}'}}\n  delete: {{enabled: true}}\n  maintenance: {{readonly: {{enabled: {readonly}}}, uploadpurging: {{enabled: false}}}}\n\
         http:\n  addr: '127.0.0.1:{port}'\n  secret: not-one\n",
        storage.display()
    );
    if setup.tls {
        let _ = writeln!(yaml, "  tls: {{certificate: '{0}/tls.crt', key: '{0}/tls.key'}}", dir.display());
    }
    if setup.login.is_some() {
        let _ = writeln!(yaml, "auth: {{htpasswd: {{realm: tests, path: '{}/htpasswd'}}}}", dir.display());
    }
    yaml
}

/// An authority (ca.crt) and a certificate of it for the loopback address (tls.crt, tls.key).
fn certificates(dir: &Path) {
    let script = "
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj '/CN=d-utils test authority' \
            -keyout ca.key -out ca.crt
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN=localhost' -keyout tls.key -out tls.csr
        printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\\nbasicConstraints=CA:FALSE\\n' >ext
        openssl x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile ext -out tls.crt";
    run(["sh", "-ec", script]).cwd(dir).ok();
}
