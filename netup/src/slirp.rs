//! slirp4netns(1): its command line, what its refusals mean, and its API socket.
//!
//! It runs with its sandbox and its seccomp filter. `--enable-sandbox` fails together with `--userns-path` for an ordinary
//! user (slirp4netns 1.2.0 calls setegid first), so it is started inside the user namespace that owns the network. Where
//! nobody is root in there it must enter by itself, and does without the sandbox.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use d_common::exit::{Exit, OrExit, exit_of, failure};
use d_common::fail;
use d_common::report::Report;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SendFlags, Shutdown, SocketFlags, SocketType, connect, send, shutdown, socket_with};
use serde_json::{Value, json};

use crate::gate::Inside;
use crate::helper::{Helper, Launch, new_pipe};
use crate::network::DEVICE;
use crate::plan::Network;
use crate::publish::{Proto, Publish};
use crate::runtime::{ApiDir, address_of};
use crate::target::Target;

/// The program's name.
pub const NAME: &str = "slirp4netns";
/// It answers from its main loop; one that does not within this time hangs.
const API_TIMEOUT: Duration = Duration::from_secs(5);
/// A list of [`crate::publish::MAX_FORWARDS`] entries takes less.
const MAX_REPLY: usize = 1 << 20;

/// How slirp4netns is confined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sandbox {
    On,
    Off,
}

/// Starts slirp4netns on the target's network and waits until it is ready.
///
/// # Errors
/// [`Exit::Unavailable`] with slirp4netns's words, and what to do about them.
pub fn start(
    program: &Path,
    target: &Target,
    inside: Inside,
    network: &Network,
    report: &Report,
) -> Result<(Helper, Api)> {
    let mut sandbox = sandbox(target, inside, network, report);
    loop {
        let (mut helper, ready, api) = launch(program, target, inside, options(network, sandbox), report)?;
        let Err(error) = helper.wait_until_ready(ready, report) else {
            let socket = api.take_socket().or_exit(Exit::Unavailable, || "slirp4netns made no API socket")?;
            return Ok((helper, Api { socket }));
        };
        // In a container the outer one may forbid mounts.
        if sandbox == Sandbox::Off || !helper.heard().contains("create_sandbox failed") {
            return Err(explain(helper.heard(), program).unwrap_or(error));
        }
        report.warn(format_args!("slirp4netns runs without its sandbox, which cannot be made here: {error}"));
        sandbox = Sandbox::Off;
    }
}

/// Starts slirp4netns with `args`; with the pipe that says when it is ready, and the directory of its socket.
fn launch(
    program: &Path,
    target: &Target,
    inside: Inside,
    mut args: Vec<OsString>,
    report: &Report,
) -> Result<(Helper, OwnedFd, ApiDir)> {
    let api = ApiDir::make(target.pid)?;
    let (exit_read, exit_write) = new_pipe()?;
    let (ready_read, ready_write) = new_pipe()?;
    args.extend(["--api-socket".into(), crate::runtime::API.into()]);
    let enter = target.userns.as_ref().filter(|_| inside == Inside::Root);
    let mut keep = vec![exit_read.as_fd(), ready_write.as_fd(), target.netns.as_fd()];
    if let (Some(userns), None) = (&target.userns, enter) {
        args.push(format!("--userns-path=/proc/self/fd/{}", userns.as_raw_fd()).into());
        keep.push(userns.as_fd());
    }
    args.extend([
        format!("--exit-fd={}", exit_read.as_raw_fd()).into(),
        format!("--ready-fd={}", ready_write.as_raw_fd()).into(),
        "--netns-type=path".into(),
        format!("/proc/self/fd/{}", target.netns.as_raw_fd()).into(),
        DEVICE.into(),
    ]);
    let enter = enter.map(AsFd::as_fd);
    let launch = Launch { name: NAME, program, args, enter, directory: Some(api.descriptor()), keep };
    report.debug(format_args!("starting {} {:?}", program.display(), launch.args));
    let helper = Helper::start(&launch, exit_write)?;
    Ok((helper, ready_read, api))
}

/// Whether the sandbox can be had; one warning says why not.
fn sandbox(target: &Target, inside: Inside, network: &Network, report: &Report) -> Sandbox {
    let root = if target.userns.is_some() { inside == Inside::Root } else { rustix::process::geteuid().is_root() };
    if !root {
        report.warn("slirp4netns runs without its sandbox: user 0 is not mapped in the namespace's user namespace");
        return Sandbox::Off;
    }
    if let Some(path) = resolv_conf_outside().filter(|_| network.dns) {
        report.warn(format_args!(
            "slirp4netns runs without its sandbox: /etc/resolv.conf leads to {}, which is invisible in there",
            path.display()
        ));
        return Sandbox::Off;
    }
    Sandbox::On
}

/// Where resolv.conf is, if the sandbox hides it: slirp4netns reads it at each question, and sees /etc and /run alone.
pub fn resolv_conf_outside() -> Option<PathBuf> {
    let path = fs::canonicalize("/etc/resolv.conf").ok()?;
    (!path.starts_with("/etc") && !path.starts_with("/run")).then_some(path)
}

/// The options that a slirp4netns must know.
pub const OPTIONS: [&str; 9] = [
    "--enable-sandbox",
    "--enable-seccomp",
    "--disable-host-loopback",
    "--api-socket",
    "--exit-fd",
    "--ready-fd",
    "--netns-type",
    "--outbound-addr",
    "--disable-dns",
];

/// The options for `network`.
fn options(network: &Network, sandbox: Sandbox) -> Vec<OsString> {
    let mut args = vec!["--configure".to_owned(), format!("--mtu={}", network.mtu), "--enable-seccomp".to_owned()];
    let mut flag = |on: bool, name: &str| args.extend(on.then(|| name.to_owned()));
    flag(sandbox == Sandbox::On, "--enable-sandbox");
    flag(!network.host_loopback, "--disable-host-loopback");
    flag(network.ipv6, "--enable-ipv6");
    flag(!network.dns, "--disable-dns");
    if network.cidr != Default::default() {
        args.push(format!("--cidr={}", network.cidr));
    }
    if let Some(address) = &network.outbound {
        let option = if address.contains(':') { "--outbound-addr6" } else { "--outbound-addr" };
        args.push(format!("{option}={address}"));
    }
    args.into_iter().map(Into::into).collect()
}

/// What a refusal means, where slirp4netns's own words do not say what to do.
fn explain(words: &str, program: &Path) -> Option<anyhow::Error> {
    let program = program.display();
    let option =
        words.lines().find_map(|l| l.split_once("unrecognized option '").or(l.split_once("unrecognized option: ")));
    if let Some((_, option)) = option {
        let option = option.trim_end_matches('\'');
        let since = match option.split('=').next().unwrap_or(option) {
            "--outbound-addr" | "--outbound-addr6" | "--disable-dns" => "1.1.0",
            _ => "0.4.0",
        };
        let message = format!("{program} is too old: it has no {option} (version {since} or later is needed)");
        return Some(failure(Exit::Unavailable, message));
    }
    None
}

/// The API of a running slirp4netns: one request a connection, ended by shutting down the writing side.
#[derive(Debug)]
pub struct Api {
    socket: OwnedFd,
}

impl Api {
    /// Opens a forward to `guest`; returns slirp4netns's id of it.
    ///
    /// # Errors
    /// [`Exit::CantCreate`] with slirp4netns's reason, [`Exit::Unavailable`] when it does not answer.
    pub fn add(&self, publish: &Publish, host_port: u16, guest: std::net::Ipv4Addr) -> Result<u64> {
        let Publish { proto, address, port, .. } = publish;
        let arguments = json!({
            "proto": proto, "host_addr": address, "host_port": host_port, "guest_addr": guest, "guest_port": port,
        });
        let reply = self.call("add_hostfwd", arguments).map_err(|why| {
            failure(exit_of(&why), format!("slirp4netns cannot forward {address}:{host_port}/{proto}: {why}"))
        })?;
        reply["id"].as_u64().or_exit(Exit::Unavailable, || "slirp4netns gave no id for a forward")
    }

    /// Closes a forward.
    ///
    /// # Errors
    /// [`Exit::Unavailable`] with slirp4netns's reason.
    pub fn remove(&self, id: u64) -> Result<()> {
        let reply = self.call("remove_hostfwd", json!({ "id": id }));
        reply.map(drop).map_err(|why| failure(Exit::Unavailable, format!("slirp4netns cannot remove a forward: {why}")))
    }

    fn call(&self, execute: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": execute, "arguments": arguments }).to_string();
        let answer = self.exchange(request.as_bytes()).or_exit(Exit::Unavailable, || "it does not answer")?;
        let mut reply: Value = serde_json::from_slice(&answer).or_exit(Exit::Unavailable, || "its answer is broken")?;
        if let Some(error) = reply.get("error") {
            fail!(Exit::CantCreate, "{}", error["desc"].as_str().unwrap_or("no reason given"));
        }
        Ok(reply["return"].take())
    }

    fn exchange(&self, request: &[u8]) -> Result<Vec<u8>> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        for which in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&socket, which, Some(API_TIMEOUT))?;
        }
        connect(&socket, &address_of(self.socket.as_fd())?)?;
        send(&socket, request, SendFlags::NOSIGNAL)?;
        shutdown(&socket, Shutdown::Write)?;
        let mut reply = Vec::new();
        use std::io::Read;
        fs::File::from(socket).take(MAX_REPLY as u64).read_to_end(&mut reply)?;
        Ok(reply)
    }
}

/// Whether this transport can be forwarded by slirp4netns: its UDP forwards get no reply while the host's loopback is off.
pub fn forwards(proto: Proto) -> bool {
    proto == Proto::Tcp
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_slirp4netns_is_named() {
        let words = "slirp4netns: unrecognized option '--enable-seccomp'\nUsage: ...";
        let error = explain(words, Path::new("/usr/bin/slirp4netns")).unwrap().to_string();
        assert_eq!(
            error,
            "/usr/bin/slirp4netns is too old: it has no --enable-seccomp (version 0.4.0 or later is needed)"
        );
        let words = "unrecognized option '--outbound-addr=1.2.3.4'";
        assert!(explain(words, Path::new("x")).unwrap().to_string().contains("1.1.0"));
        assert!(explain("something else", Path::new("x")).is_none());
    }

    #[test]
    fn options_follow_the_network() {
        let show = |n: &Network, s| {
            options(n, s).iter().map(|o| o.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
        };
        let network = Network::default();
        assert_eq!(
            show(&network, Sandbox::On),
            "--configure --mtu=65520 --enable-seccomp --enable-sandbox --disable-host-loopback"
        );
        let network = Network {
            cidr: "10.9.0.0/16".parse().unwrap(),
            mtu: 1500,
            ipv6: true,
            host_loopback: true,
            dns: false,
            outbound: Some("192.0.2.1".into()),
        };
        assert_eq!(
            show(&network, Sandbox::Off),
            "--configure --mtu=1500 --enable-seccomp --enable-ipv6 --disable-dns --cidr=10.9.0.0/16 --outbound-addr=192.0.2.1"
        );
    }
}
