//! config.json: Docker's keys as the image had them, and d-enter's own long options as lower-case keys (d-container(5)).
//!
//! The lower-case keys become a command line of their own and are parsed by the same parser as the real one, so an option has
//! one meaning wherever it is written. What the user typed goes over it ([`Args::over`]).

use std::ffi::OsString;

use anyhow::Result;
use d_common::exit::Exit;
use d_common::fail;
use d_common::options::{Outcome, Set};
use serde_json::{Map, Value};

use crate::args::{Args, after_none};
use crate::mount_args::MountArg;
use crate::oci::bundle::{self, Bundle};
use crate::options::TOOL;

/// Keys that make sense for one call only: an error in a file.
const CALL_ONLY: [&str; 11] = [
    "join",
    "check",
    "json",
    "dry-run",
    "print-oci",
    "pid-file",
    "verbose",
    "status-fd",
    "ready-fd",
    "block-fd",
    "keep-fd",
];

/// The options whose value is, or may be, a number: no other key takes one.
const NUMBERS: [&str; 6] = ["user", "publish", "memory", "memory-swap", "cpus", "pids-limit"];

/// Docker's keys of an image config (image-spec config.md).
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Docker {
    /// `Hostname`
    pub hostname: Option<String>,
    /// `WorkingDir`
    pub workdir: Option<String>,
    /// `Env`
    pub env: Vec<String>,
    /// `Volumes`: paths, and here also `SRC:DST[:ro]`.
    pub volumes: Vec<String>,
    /// `Entrypoint`
    pub entrypoint: Vec<String>,
    /// `Cmd`
    pub cmd: Vec<String>,
    /// `User`
    pub user: Option<String>,
    /// `StopSignal`
    pub stop_signal: Option<String>,
    /// `ExposedPorts`: `80/tcp`
    pub exposed_ports: Vec<String>,
}

/// A config.json that has been read.
#[derive(Debug, Default, Clone)]
pub struct Config {
    /// Docker's keys.
    pub docker: Docker,
    /// The lower-case keys.
    pub options: Args,
    /// What else it says, if it is an OCI runtime bundle's.
    pub bundle: Option<Bundle>,
}

impl Config {
    /// Reads the text of a config.json.
    ///
    /// # Errors
    /// [`Exit::Enter`], naming the key that has a wrong type or value.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let json: Value = match serde_json::from_slice(text) {
            Ok(json) => json,
            Err(e) => fail!(Exit::Enter, "config.json is no JSON: {e}"),
        };
        if json.get("ociVersion").is_some() {
            return bundle::read(&json);
        }
        let Value::Object(keys) = json else { fail!(Exit::Enter, "config.json is no JSON object") };
        Ok(Self { docker: docker_keys(&keys)?, options: option_keys(&keys)?, bundle: None })
    }
}

fn docker_keys(keys: &Map<String, Value>) -> Result<Docker> {
    let mut docker = Docker::default();
    for (key, value) in keys.iter().filter(|(_, v)| !v.is_null()) {
        match key.as_str() {
            "Hostname" => docker.hostname = text(key, value)?,
            "WorkingDir" => docker.workdir = text(key, value)?,
            "User" => docker.user = text(key, value)?,
            "StopSignal" => docker.stop_signal = text(key, value)?,
            "Env" => docker.env = texts(key, value)?,
            "Entrypoint" => docker.entrypoint = texts(key, value)?,
            "Cmd" => docker.cmd = texts(key, value)?,
            "Volumes" => docker.volumes = names(key, value)?,
            "ExposedPorts" => docker.exposed_ports = names(key, value)?,
            _ => {}
        }
    }
    Ok(docker)
}

fn wrong(key: &str, expected: &str) -> anyhow::Error {
    d_common::exit::failure(Exit::Enter, format!("config.json: {key} must be {expected}"))
}

/// A string; the empty one is Docker's way of saying nothing.
fn text(key: &str, value: &Value) -> Result<Option<String>> {
    match value {
        Value::String(s) if s.is_empty() => Ok(None),
        Value::String(s) => Ok(Some(s.clone())),
        _ => Err(wrong(key, "a string")),
    }
}

fn texts(key: &str, value: &Value) -> Result<Vec<String>> {
    let strings = value.as_array().map(|list| list.iter().map(|v| v.as_str().map(str::to_owned)).collect());
    strings.flatten().ok_or_else(|| wrong(key, "a list of strings"))
}

/// Docker's sets are objects with empty values; a list is taken as well.
fn names(key: &str, value: &Value) -> Result<Vec<String>> {
    match value {
        Value::Object(set) => Ok(set.keys().cloned().collect()),
        Value::Array(_) => texts(key, value),
        _ => Err(wrong(key, "an object whose keys are the entries")),
    }
}

fn option_keys(keys: &Map<String, Value>) -> Result<Args> {
    let mut argv = Vec::new();
    for (key, value) in keys.iter().filter(|(_, v)| !v.is_null()) {
        let Some(option) = TOOL.by_name(key) else { continue };
        if CALL_ONLY.contains(&key.as_str()) {
            fail!(Exit::Enter, "config.json: {key} is for one call only: give it as --{key}");
        }
        match option.set {
            Set::Refused(_) | Set::Prints(_) => {}
            Set::Switch(_) => match value {
                Value::Bool(true) => argv.push(format!("--{key}").into()),
                Value::Bool(false) => {}
                _ => return Err(wrong(key, "true or false")),
            },
            Set::Each(_) | Set::Many(_) | Set::Pair(_) => push_list(&mut argv, key, value)?,
            Set::Maybe(_) if *value == Value::Bool(false) => {}
            Set::Maybe(_) | Set::One(_) | Set::Dashed(_) | Set::Word(..) => argv.push(single(key, value)?),
        }
    }
    match Args::from_words(argv) {
        Ok(args) => Ok(args),
        Err(Outcome::Usage(line)) => fail!(Exit::Enter, "config.json: {line}"),
        Err(Outcome::Print(_)) => Ok(Args::default()),
    }
}

/// An option of one value, as one argument; the switches that also have values take true and false.
fn single(key: &str, value: &Value) -> Result<OsString> {
    let word = match (key, value) {
        (_, Value::String(s)) => s.clone(),
        (_, Value::Number(n)) if NUMBERS.contains(&key) => n.to_string(),
        ("net", Value::Bool(on)) => if *on { "user" } else { "none" }.to_owned(),
        ("tty", Value::Bool(on)) => if *on { "always" } else { "never" }.to_owned(),
        ("ephemeral", Value::Bool(true)) => return Ok("--ephemeral".into()),
        ("ephemeral", Value::Number(n)) => n.to_string(),
        _ => return Err(wrong(key, "a string")),
    };
    Ok(format!("--{key}={word}").into())
}

fn push_list(argv: &mut Vec<OsString>, key: &str, value: &Value) -> Result<()> {
    let word = |v: &Value| match v {
        Value::String(s) => Some(s.clone()),
        Value::Number(n) if NUMBERS.contains(&key) => Some(n.to_string()),
        _ => None,
    };
    if key == "bind" || key == "ro-bind" {
        let expected = || wrong(key, "a list of [SRC, DST] pairs");
        for pair in value.as_array().ok_or_else(expected)? {
            match texts(key, pair).map_err(|_| expected())?.as_slice() {
                [src, dst] => argv.extend([format!("--{key}").into(), src.into(), dst.into()]),
                _ => return Err(expected()),
            }
        }
        return Ok(());
    }
    let words: Option<Vec<String>> = match value {
        Value::Array(list) => list.iter().map(word).collect(),
        _ => None,
    };
    for word in words.ok_or_else(|| wrong(key, "a list of strings"))? {
        argv.push(format!("--{key}={word}").into());
    }
    Ok(())
}

impl Args {
    /// These options over those of `below` (config.json's): single values replace, lists add, `none` empties what it names.
    #[must_use]
    pub fn over(self, below: Args) -> Args {
        // A user on the command line beats a key.
        let fakeroot = self.fakeroot || (below.fakeroot && !self.no_fakeroot && self.user.is_none());
        let no_fakeroot = self.no_fakeroot || (below.no_fakeroot && !self.fakeroot);
        let (forget_ports, published) = after_none(&self.publish);
        let implies_user = self.publish_all || !published.is_empty();
        let below_publish = after_none(&below.publish).1;
        let stays = |m: &MountArg| !self.forget_volumes || !matches!(m, MountArg::Volume(_));
        let mounts = below.mounts.into_iter().filter(stays).chain(self.mounts).collect();
        let join = |mut low: Vec<String>, high: Vec<String>| {
            low.extend(high);
            low
        };
        let join_os = |mut low: Vec<OsString>, high: Vec<OsString>| {
            low.extend(high);
            low
        };
        Args {
            map: self.map.or(below.map),
            user: self.user.or(below.user),
            groups: self.groups.or(below.groups),
            fakeroot,
            no_fakeroot,
            mounts,
            forget_volumes: self.forget_volumes || below.forget_volumes,
            read_only: self.read_only || below.read_only,
            ephemeral: self.ephemeral.or(below.ephemeral),
            no_tmpfs: self.no_tmpfs || below.no_tmpfs,
            proc: self.proc.or(below.proc),
            env: join_os(below.env, self.env),
            env_file: join_os(below.env_file, self.env_file),
            workdir: self.workdir.or(below.workdir),
            entrypoint: self.entrypoint.or(below.entrypoint),
            hostname: self.hostname.or(below.hostname),
            ulimit: join(below.ulimit, self.ulimit),
            umask: self.umask.or(below.umask),
            sysctl: join(below.sysctl, self.sysctl),
            as_pid_1: self.as_pid_1 || below.as_pid_1,
            die_with_parent: self.die_with_parent || below.die_with_parent,
            tty: self.tty.or(below.tty),
            // A flag that implies a network goes over a key that says another.
            net: match self.net {
                None if implies_user => below.net.filter(|net| net.starts_with("user")),
                net => net.or(below.net),
            },
            publish: if forget_ports { published } else { join(below_publish, self.publish) },
            publish_all: self.publish_all || (below.publish_all && !forget_ports),
            share: below.share.into_iter().chain(self.share).collect(),
            dns: join(below.dns, self.dns),
            add_host: join(below.add_host, self.add_host),
            cap_add: join(below.cap_add, self.cap_add),
            cap_drop: join(below.cap_drop, self.cap_drop),
            seccomp: self.seccomp.or(below.seccomp),
            no_new_privs: self.no_new_privs || below.no_new_privs,
            unmask: join(below.unmask, self.unmask),
            memory: self.memory.or(below.memory),
            memory_swap: self.memory_swap.or(below.memory_swap),
            cpus: self.cpus.or(below.cpus),
            pids_limit: self.pids_limit.or(below.pids_limit),
            quiet: self.quiet || below.quiet,
            // Operands, modes and descriptors belong to this call.
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Config {
        Config::parse(json.as_bytes()).unwrap()
    }

    fn refuse(json: &str) -> String {
        Config::parse(json.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn dockers_keys() {
        let config = parse(
            r#"{"Hostname":"","User":"www","Env":["A=1"],"Cmd":null,"Entrypoint":["/e"],"Volumes":{"/data":{}},
                "ExposedPorts":{"80/tcp":{}},"StopSignal":"SIGQUIT","Labels":{"x":1},"WorkingDir":"/w"}"#,
        );
        let docker = config.docker;
        assert_eq!((docker.hostname, docker.user.as_deref()), (None, Some("www")));
        assert_eq!((docker.entrypoint, docker.cmd), (vec!["/e".to_owned()], vec![]));
        assert_eq!((docker.volumes, docker.exposed_ports), (vec!["/data".to_owned()], vec!["80/tcp".to_owned()]));
    }

    #[test]
    fn lower_case_keys_are_the_long_options() {
        let config = parse(
            r#"{"net":true,"fakeroot":true,"publish":["8080:80",9090],"memory":"512M","tmpfs":["/scratch"],"read-only":false,"ephemeral":false,
                "bind":[["/a b","/c"]],"volume":["/x:/y"],"map":"single","cpus":1.5,"unknown":[1],"help":1}"#,
        );
        let o = config.options;
        assert_eq!((o.net.as_deref(), o.fakeroot, o.read_only), (Some("user"), true, false));
        assert_eq!((o.publish, o.cpus.as_deref()), (vec!["8080:80".to_owned(), "9090".to_owned()], Some("1.5")));
        assert_eq!((o.mounts.len(), o.ephemeral), (3, None));
    }

    #[test]
    fn wrong_types_are_named() {
        for (json, key) in [
            (r#"{"Env":"A=1"}"#, "Env"),
            (r#"{"Cmd":"sh"}"#, "Cmd"),
            (r#"{"User":0}"#, "User"),
            (r#"{"fakeroot":"yes"}"#, "fakeroot"),
            (r#"{"publish":{"80":1}}"#, "publish"),
            (r#"{"net":7.5e3}"#, "net"),
            (r#"{"map":[]}"#, "map"),
            (r#"{"map":"wide"}"#, "map"),
            (r#"{"join":"1"}"#, "join"),
            (r#"{"status-fd":3}"#, "status-fd"),
            (r#"{"verbose":true}"#, "verbose"),
            (r#"{"Volumes":7}"#, "Volumes"),
            (r#"{"volume":"/x:/y"}"#, "volume"),
            (r#"{"env":[1]}"#, "env"),
            (r#"{"hostname":1}"#, "hostname"),
        ] {
            assert!(refuse(json).contains(key), "{json}: {}", refuse(json));
        }
        assert!(refuse("[]").contains("object"));
        assert!(refuse("{").contains("JSON"));
    }

    #[test]
    fn flags_go_over_keys_and_lists_add() {
        let low = parse(r#"{"net":"host","publish":["1:1"],"env":["A=1"],"volume":["/a:/b"],"fakeroot":true}"#).options;
        let cli = |line: &str| {
            let argv = ["d-enter"].into_iter().chain(line.split_whitespace()).map(OsString::from);
            Args::from_command_line(argv).unwrap()
        };
        let merged = cli("--net none -p 2:2 -e B=2 -v /c:/d dir").over(low.clone());
        assert_eq!((merged.net.as_deref(), merged.publish.len(), merged.env.len()), (Some("none"), 2, 2));
        assert_eq!(merged.mounts.len(), 2);
        assert_eq!(merged.operands, ["dir"]);
        let merged = cli("--publish none --volume none --no-fakeroot -v /c:/d dir").over(low);
        assert!(merged.publish.is_empty() && !merged.fakeroot);
        assert_eq!(merged.mounts, [MountArg::Volume("/c:/d".into())]);
        assert!(merged.forget_volumes);
    }

    #[test]
    fn an_oci_config_is_recognised() {
        assert!(parse(r#"{"ociVersion":"1.0.2","process":{},"root":{"path":"rootfs"}}"#).bundle.is_some());
    }
}
