//! Where files are by convention: the XDG base directories, docker's and podman's folders.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::args::Env;

/// The files of containers-registries.conf(5).
#[derive(Clone, Debug, Default)]
pub struct RegistriesConf {
    /// The first that exists counts.
    pub files: Vec<PathBuf>,
    /// Folders whose `*.conf` are added.
    pub folders: Vec<PathBuf>,
}

/// Where things are by convention.
pub struct Folders<'a>(Env<'a>);

impl<'a> Folders<'a> {
    /// By this environment.
    pub fn new(env: Env<'a>) -> Self {
        Self(env)
    }

    /// A variable that names a path and is not empty.
    pub fn variable(&self, name: &str) -> Option<PathBuf> {
        (self.0)(name).filter(|v: &OsString| !v.is_empty()).map(PathBuf::from)
    }

    /// The XDG base directories are absolute or not there.
    fn base(&self, name: &str, default: &str) -> Option<PathBuf> {
        self.variable(name).filter(|p| p.is_absolute()).or_else(|| Some(self.variable("HOME")?.join(default)))
    }

    /// `$XDG_CACHE_HOME`, unless there is not even a HOME.
    pub fn cache(&self) -> Option<PathBuf> {
        self.base("XDG_CACHE_HOME", ".cache")
    }

    fn config(&self) -> Option<PathBuf> {
        Some(self.base("XDG_CONFIG_HOME", ".config")?.join("containers"))
    }

    /// Where credentials may be, in the order of their precedence, after `--authfile`.
    pub fn auth_files(&self) -> impl Iterator<Item = PathBuf> {
        let runtime = self.variable("XDG_RUNTIME_DIR").map(|d| d.join("containers/auth.json"));
        let docker = self.variable("DOCKER_CONFIG").or_else(|| Some(self.variable("HOME")?.join(".docker")));
        let usual = [runtime, self.config().map(|d| d.join("auth.json")), docker.map(|d| d.join("config.json"))];
        self.variable("REGISTRY_AUTH_FILE").into_iter().chain(usual.into_iter().flatten())
    }

    /// Folders with a folder of certificates for each host.
    pub fn certs_d(&self) -> Vec<PathBuf> {
        let own = self.config().map(|d| d.join("certs.d"));
        own.into_iter().chain(["/etc/containers/certs.d", "/etc/docker/certs.d"].map(PathBuf::from)).collect()
    }

    /// Where registries.conf may be.
    pub fn registries_conf(&self) -> RegistriesConf {
        if let Some(file) = self.variable("CONTAINERS_REGISTRIES_CONF") {
            return RegistriesConf { files: vec![file], folders: Vec::new() };
        }
        let places = |name: &str| {
            let own = self.config().map(|d| d.join(name));
            own.into_iter().chain([Path::new("/etc/containers").join(name)]).collect::<Vec<_>>()
        };
        let mut folders = places("registries.conf.d");
        // The user's own are read last, and win.
        folders.reverse();
        RegistriesConf { files: places("registries.conf"), folders }
    }
}
