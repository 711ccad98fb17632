//! Deciding: what was typed, what config.json says, what the image wants and what the machine offers become a [`Plan`].
//!
//! Precedence is the same everywhere: flag, lower-case key, Docker's key, variable, default (d-container(5)). Nothing is read and
//! nothing is done here.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use d_common::idmap::{self, Decision, Facts, MapChoice};
use d_common::signal::signal_number;

use crate::args::Args;
use crate::capabilities::Capabilities;
use crate::choice::{GroupsFrom, ProcMode, Share};
use crate::config::Docker;
use crate::directory::Directory;
use crate::env::{DEFAULT_PATH, Environment, parse_env_file};
use crate::limits::Limits;
use crate::network::{self, Net};
use crate::plan::{Caller, Ephemeral, Plan, Seccomp, Shared, Sysctl};
use crate::process::{self, Groups, Process};
use crate::rlimit::Limit;
use crate::user::{self, User};
use crate::volume::{self, Mount};
use crate::{paths, publish, scratch, size};

impl Plan {
    /// Decides. `args` is the command line alone; the directory's own options are merged here.
    ///
    /// # Errors
    /// [`Exit::Enter`] for what contradicts itself or cannot be had; [`Exit::Unavailable`] for a map that cannot.
    pub fn decide(args: Args, dir: &Directory, caller: &Caller, facts: &Facts) -> Result<Self> {
        let docker = &dir.config.docker;
        let choice = map_choice(args.map, dir, caller, facts)?;
        let bundle = dir.config.bundle.as_ref();
        let asked_user = args.user.is_some() || dir.config.options.user.is_some() || bundle.is_some();
        let typed = match bundle {
            Some(bundle) => bundle.check(args)?,
            None => args,
        };
        let args = typed.clone().over(dir.config.options.clone());

        let user = match () {
            () if args.fakeroot => user::resolve("0", &dir.passwd, &dir.group)?,
            () if choice == MapChoice::KeepId && !asked_user => {
                user::resolve(&format!("{}:{}", facts.uid, facts.gid), &dir.passwd, &dir.group)?
            }
            () => {
                let spec = args.user.as_deref().or(docker.user.as_deref()).unwrap_or("0");
                user::resolve(spec, &dir.passwd, &dir.group)?
            }
        };
        let recorded = dir.config.options.map.filter(|recorded| *recorded == choice);
        let decision = match (bundle.and_then(|b| b.map(facts)), recorded) {
            (Some(map), _) => Decision { map, warning: None },
            (None, None) => idmap::decide(choice, facts, (user.uid, user.gid))?,
            (None, Some(recorded)) => {
                idmap::decide(choice, facts, (user.uid, user.gid)).or_exit(Exit::Enter, || {
                    let shown = dir.path.display();
                    format!(
                        "{shown} was unpacked with --map={recorded} (d-unpack --map single --replace makes it another)"
                    )
                })?
            }
        };
        let map = decision.map;
        let mut warnings: Vec<String> = decision.warning.into_iter().collect();
        if map.is_single() && user.uid == 0 && dir.changes_user && args.entrypoint.is_none() {
            warnings.push(
                "the image's entrypoint changes its user, and with --map=single there is no other: give it one with \
                 --user, or unpack it with d-unpack --map=subid"
                    .to_owned(),
            );
        }
        for (id, extents, what) in [(user.uid, &map.uids, "user"), (user.gid, &map.gids, "group")] {
            if idmap::to_outside(extents, id).is_none() {
                let remedy = if recorded.is_some() { "d-unpack --map single --replace" } else { "--map=single" };
                fail!(
                    Exit::Enter,
                    "{what} {id} is not mapped: the subordinate ids do not reach that far ({remedy} does)"
                );
            }
        }
        let fakeroot = map.is_single() && user.uid == 0 && !args.no_fakeroot;

        let shared = shared(&args.share);
        let hostname = match (shared.uts, &args.hostname) {
            (false, _) => hostname(&args, docker, dir)?,
            (true, None) => caller.hostname.clone(),
            (true, Some(_)) => {
                fail!(Exit::Enter, "--hostname contradicts --share uts: the name would be the host's own")
            }
        };
        let (net, publish) = net(&args, docker, caller)?;
        let is_caller = idmap::to_outside(&map.uids, user.uid) == Some(facts.uid);
        let login = caller.name.as_deref().filter(|_| is_caller);
        let mut files = etc_files(&args, dir, caller, (&user, login), &net, &hostname)?;
        let mut environment = environment(&args, dir, caller, &user)?;
        if fakeroot && dir.has_apt && environment.get("APT_CONFIG").is_none() {
            // apt checks that it really became its sandbox user, which no filter can make true.
            environment.set("APT_CONFIG", "/run/apt.conf.d-enter");
            files.push(("/run/apt.conf.d-enter".into(), "APT::Sandbox::User \"root\";\n".into()));
        }
        if shared.pid && args.as_pid_1 {
            fail!(Exit::Enter, "--as-pid-1 contradicts --share pid");
        }
        let (masked, readonly) = paths::protected(&args.unmask)?;
        let pty = process::pty(args.tty.unwrap_or_default(), caller);
        if pty.contains(&true) && environment.get("TERM").is_none() {
            environment.set("TERM", "xterm");
        }
        let sysctls = sysctls(&args.sysctl, &net, &shared, network::ping_groups(&map.gids, user.gid))?;
        let process = Process {
            groups: match args.groups.unwrap_or(GroupsFrom::Image) {
                // setgroups(2) is denied in a namespace with a single map (user_namespaces(7)).
                _ if facts.groups_denied || (map.is_single() && !facts.privileged) => Groups::Keep,
                GroupsFrom::Keep => Groups::Keep,
                GroupsFrom::Image => {
                    let mapped = |g: &u32| idmap::to_outside(&map.gids, *g).is_some();
                    Groups::Set(user.groups.iter().copied().filter(mapped).collect())
                }
            },
            capabilities: Capabilities::decide(user.uid, &args.cap_add, &args.cap_drop)?,
            no_new_privs: args.no_new_privs || fakeroot,
            command: command(&args, docker),
            path: environment.get("PATH").unwrap_or(OsStr::new(DEFAULT_PATH)).to_owned(),
            environment: environment.strings().collect(),
            make_workdir: args.workdir.is_none(),
            workdir: workdir(&args, docker)?,
            umask: process::umask(args.umask.as_deref())?,
            rlimits: Limit::parse_all(&args.ulimit)?,
            keep_fds: args.keep_fd.clone(),
            stop_signal: stop_signal(docker)?,
            pty,
            background: process::in_background(pty, caller) && !args.as_pid_1,
            as_pid_1: args.as_pid_1,
            die_with_parent: args.die_with_parent,
            user,
        };
        let mut plan = Self {
            dir: dir.path.clone(),
            filesystem: dir.filesystem.clone(),
            ephemeral: ephemeral(&args, dir, caller)?,
            read_only: args.read_only,
            privileged: facts.privileged,
            map,
            fakeroot,
            seccomp: match args.seccomp.as_deref().map(|s| (s.to_str(), s)) {
                None | Some((Some("default"), _)) => Seccomp::Default,
                Some((Some("none" | "unconfined"), _)) => Seccomp::None,
                Some((_, file)) => Seccomp::File(file.into()),
            },
            limits: Limits::decide(&args)?,
            process,
            hostname,
            sysctls,
            net,
            publish,
            shared,
            proc: if shared.pid && args.proc.unwrap_or_default() == ProcMode::Auto {
                ProcMode::Bind
            } else {
                args.proc.unwrap_or_default()
            },
            tmpfs: !args.no_tmpfs,
            mounts: mounts(&args, docker)?,
            files,
            masked,
            readonly,
            special: true,
            console: None,
            nested: caller.in_container,
            warnings,
        };
        if let Some(bundle) = bundle {
            bundle.complete(&mut plan, &typed)?;
        }
        Ok(plan)
    }
}

impl Plan {
    /// Where the network comes from, which has to be known before all else: see [`crate::netns`].
    ///
    /// # Errors
    /// [`Exit::Enter`] for what cannot be read.
    pub fn network(args: &Args, dir: &Directory, caller: &Caller) -> Result<Net> {
        let args = args.clone().over(dir.config.options.clone());
        net(&args, &dir.config.docker, caller).map(|(net, _)| net)
    }
}

/// Which map is used: the recorded one binds, and a tree that is not mine has none of my subordinate ids.
fn map_choice(flag: Option<MapChoice>, dir: &Directory, caller: &Caller, facts: &Facts) -> Result<MapChoice> {
    if !dir.is_mine && !facts.privileged {
        return Ok(MapChoice::Single);
    }
    let recorded = dir.config.options.map.filter(|m| *m != MapChoice::Auto);
    if let (Some(recorded), Some(flag)) = (recorded, flag)
        && flag != MapChoice::Auto
        && flag != recorded
    {
        fail!(
            Exit::Enter,
            "{} was unpacked with --map={recorded}, its owners mean nothing under {flag}; d-unpack --map {flag} --replace",
            dir.path.display()
        );
    }
    if let Some(choice) = recorded.or(flag) {
        return Ok(choice);
    }
    match caller.var(OsStr::new("D_MAP")).filter(|v| !v.is_empty()) {
        Some(text) => {
            text.to_string_lossy().parse().map_err(|e| d_common::exit::failure(Exit::Enter, format!("D_MAP: {e}")))
        }
        None => Ok(MapChoice::Auto),
    }
}

/// flag > key > Docker's key > the last component of DIR, as far as it makes a host name (hostname(7)).
fn hostname(args: &Args, docker: &Docker, dir: &Directory) -> Result<String> {
    if let Some(name) = args.hostname.as_deref().or(docker.hostname.as_deref()) {
        if name.is_empty() || name.len() > 64 || !name.bytes().all(|b| b.is_ascii_graphic()) {
            fail!(Exit::Enter, "{name:?} is not a host name: 1 to 64 printable characters");
        }
        return Ok(name.to_owned());
    }
    let last = dir.name.to_string_lossy();
    let clean = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_') { c } else { '-' };
    let name: String = last.chars().map(clean).take(64).collect();
    let name = name.trim_matches(['-', '.']).to_owned();
    Ok(if name.is_empty() { "d-enter".to_owned() } else { name })
}

fn net(args: &Args, docker: &Docker, caller: &Caller) -> Result<(Net, Vec<String>)> {
    let mut publish = args.publish.clone();
    if args.publish_all {
        // A container port alone: d-netup finds a free one on the host.
        let already = |port: &String| publish.iter().any(|p| p.rsplit(':').next() == Some(port));
        let all: Vec<String> = docker.exposed_ports.iter().map(|p| p.trim_end_matches("/tcp").to_owned()).collect();
        publish.extend(all.into_iter().filter(|p| !already(p)).collect::<Vec<_>>());
    }
    if let Some(empty) = publish.iter().find(|p| p.trim().is_empty()) {
        fail!(Exit::Enter, "--publish {empty:?} names no port");
    }
    let variable = caller.var(OsStr::new("D_NET")).filter(|v| !v.is_empty()).map(|v| v.to_string_lossy().into_owned());
    let mut net = match (&args.net, variable) {
        (Some(text), _) => Net::parse(text)?,
        (None, _) if !publish.is_empty() || args.publish_all => Net::User(Vec::new()),
        (None, Some(text)) => Net::parse(&text).or_exit(Exit::Enter, || "D_NET")?,
        (None, None) => Net::None,
    };
    if (!publish.is_empty() || args.publish_all) && !matches!(net, Net::User(_)) {
        let shown = args.net.as_deref().unwrap_or("none");
        fail!(
            Exit::Enter,
            "--publish needs --net=user, not --net={shown}: there is no network of its own to forward into"
        );
    }
    if let Net::User(options) = &mut net {
        // Named as an option of the network it is no other than ours.
        let of_net = |option: &str| option.strip_prefix("--publish=").map(str::to_owned);
        publish.splice(0..0, options.iter().filter_map(|o| of_net(o)));
        options.retain(|o| of_net(o).is_none());
    }
    Ok((net, publish::later_wins(&publish)))
}

fn etc_files(
    args: &Args,
    dir: &Directory,
    caller: &Caller,
    (user, login): (&User, Option<&str>),
    net: &Net,
    hostname: &str,
) -> Result<Vec<(PathBuf, String)>> {
    let mut files: Vec<(PathBuf, String)> = Vec::new();
    let dns = if args.dns.is_empty() { net.dns() } else { args.dns.clone() };
    if let Some(bad) = dns.iter().find(|d| d.parse::<std::net::IpAddr>().is_err()) {
        fail!(Exit::Enter, "--dns {bad:?} is not an IP address");
    }
    if let Some(text) = network::resolv_conf(net, &dns, &caller.resolv_conf) {
        files.push(("/etc/resolv.conf".into(), text));
    }
    files.push(("/etc/hosts".into(), network::hosts(net, hostname, &args.add_host, &caller.hosts)?));
    files.push(("/etc/hostname".into(), format!("{hostname}\n")));
    let nameless = format!("user{}", user.uid);
    let name = if user.uid == 0 { "root" } else { login.unwrap_or(&nameless) };
    if let Some(text) = user::passwd_with(&dir.passwd, user, name) {
        files.push(("/etc/passwd".into(), text));
    }
    if let Some(text) = user::group_with(&dir.group, user, if user.gid == 0 { "root" } else { name }) {
        files.push(("/etc/group".into(), text));
    }
    Ok(files)
}

fn environment(args: &Args, dir: &Directory, caller: &Caller, user: &User) -> Result<Environment> {
    let mut env = Environment::default();
    let lookup = |name: &OsStr| caller.var(name);
    env.set("HOME", &user.home);
    // An OCI bundle's environment is complete.
    if dir.config.bundle.is_none() {
        env.set("PATH", DEFAULT_PATH);
        if let Some(term) = lookup(OsStr::new("TERM")) {
            env.set("TERM", term);
        }
        env.set("container", "d-enter");
    }
    for spec in &dir.config.docker.env {
        // A variable without a value in an image is none: an image does not reach into the caller's environment.
        env.set_spec(OsStr::new(spec), &|_| None)?;
    }
    for file in &caller.env_files {
        for spec in parse_env_file(file)? {
            env.set_spec(&spec, &lookup)?;
        }
    }
    for spec in &args.env {
        env.set_spec(spec, &lookup)?;
    }
    Ok(env)
}

/// docker's rule: words after DIR replace Cmd and go to the Entrypoint; `--entrypoint` also drops Cmd.
fn command(args: &Args, docker: &Docker) -> Vec<OsString> {
    let words = |list: &[String]| list.iter().map(OsString::from).collect::<Vec<_>>();
    let typed = args.operands.get(1..).unwrap_or_default().to_vec();
    let mut command = match &args.entrypoint {
        Some(entrypoint) if entrypoint.is_empty() => Vec::new(),
        Some(entrypoint) => vec![entrypoint.clone()],
        None => words(&docker.entrypoint),
    };
    command.extend(if typed.is_empty() && args.entrypoint.is_none() { words(&docker.cmd) } else { typed });
    if command.is_empty() { vec!["/bin/sh".into()] } else { command }
}

fn workdir(args: &Args, docker: &Docker) -> Result<OsString> {
    match (&args.workdir, &docker.workdir) {
        (Some(dir), _) if !dir.to_string_lossy().starts_with('/') => {
            fail!(Exit::Enter, "--workdir {:?} is not an absolute path", dir.display().to_string())
        }
        (Some(dir), _) => Ok(dir.clone()),
        (None, Some(dir)) if dir.starts_with('/') => Ok(dir.into()),
        (None, Some(dir)) => Ok(format!("/{dir}").into()),
        (None, None) => Ok("/".into()),
    }
}

fn stop_signal(docker: &Docker) -> Result<i32> {
    match &docker.stop_signal {
        None => Ok(15),
        Some(name) => match signal_number(name) {
            Some(number) => Ok(number),
            None => fail!(Exit::Enter, "config.json: StopSignal {name:?} is not a signal"),
        },
    }
}

/// The sysctls that belong to a namespace of the container (sysctl(8), docker's list), checked against what is shared.
fn sysctls(specs: &[String], net: &Net, shared: &Shared, ping_groups: Option<String>) -> Result<Vec<Sysctl>> {
    let mut list = Vec::new();
    if net.is_new() {
        // A network of its own has no ports to protect from its own users, and ping(8) needs no privilege.
        let own = |name: &str, value| Sysctl { name: name.to_owned(), value, asked: false };
        list.push(own("net.ipv4.ip_unprivileged_port_start", "0".to_owned()));
        list.extend(ping_groups.map(|groups| own("net.ipv4.ping_group_range", groups)));
    }
    for spec in specs {
        let Some((name, value)) = spec.split_once('=') else {
            fail!(Exit::Enter, "cannot read --sysctl {spec:?}: expected NAME=VALUE")
        };
        let name = name.replace('/', ".");
        let ipc = name.starts_with("kernel.msg") || name.starts_with("kernel.sem") || name.starts_with("kernel.shm");
        let owned = (name.starts_with("net.") && net.is_new())
            || ((ipc || name.starts_with("fs.mqueue.")) && !shared.ipc)
            || (matches!(name.as_str(), "kernel.hostname" | "kernel.domainname") && !shared.uts);
        if !owned || name.contains("..") {
            fail!(
                Exit::Enter,
                "--sysctl {name}: not a setting of the container's own namespaces (net., fs.mqueue., kernel.shm ...)"
            );
        }
        list.push(Sysctl { name, value: value.to_owned(), asked: true });
    }
    Ok(list)
}

fn shared(list: &[Share]) -> Shared {
    let has = |s| list.contains(&s);
    Shared { pid: has(Share::Pid), ipc: has(Share::Ipc), uts: has(Share::Uts), cgroup: has(Share::Cgroup) }
}

fn ephemeral(args: &Args, dir: &Directory, caller: &Caller) -> Result<Option<Ephemeral>> {
    let size = match args.ephemeral.as_deref() {
        None => return Ok(None),
        Some("") => None,
        Some(text) => Some(size::parse(text).or_exit(Exit::Enter, || "--ephemeral")?),
    };
    if caller.tmpfs_keeps_attributes {
        return Ok(Some(Ephemeral { size, beside: None, served: false }));
    }
    // What lies on disk has no bound.
    let beside = if size.is_none() && dir.room_beside { scratch::path_beside(&dir.path) } else { None };
    Ok(Some(Ephemeral { size, served: beside.is_none(), beside }))
}

/// Docker's volumes, then the options'; of several on one target the last is used.
fn mounts(args: &Args, docker: &Docker) -> Result<Vec<Mount>> {
    let dockers = || volume::from_config(&docker.volumes).or_exit(Exit::Enter, || "config.json: Volumes");
    let mut mounts = if args.forget_volumes { Vec::new() } else { dockers()? };
    for arg in &args.mounts {
        mounts.push(Mount::parse(arg)?);
    }
    let is_last = |i: usize| !mounts[i + 1..].iter().any(|later| later.target() == mounts[i].target());
    let lasts: Vec<bool> = (0..mounts.len()).map(is_last).collect();
    Ok(mounts.into_iter().zip(lasts).filter_map(|(mount, last)| last.then_some(mount)).collect())
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
