//! `d-netup --check`: what this machine can do for d-netup, and what to do where it cannot.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use d_common::check::Row;
use d_common::report::chain;
use d_common::runtime::runtime_dir;
use d_common::sys::{self, Fork};
use d_common::userns;
use rustix::process::{WaitOptions, waitpid};

use crate::backend::find_program;
use crate::{pasta, slirp, tun};

/// All rows. It makes a short-lived process in namespaces of its own, so the caller must have one thread.
pub fn rows() -> Vec<Row> {
    let slirp = program(slirp::NAME, "slirp4netns");
    let pasta = program(pasta::NAME, "passt");
    // One backend is enough.
    let slirp = if pasta.ok { slirp } else { slirp.needed() };
    vec![namespaces(), tun_device(), slirp, features(), pasta, resolv_conf(), ports(), runtime()]
}

/// Only `-- CMD` makes namespaces; PID has its own.
fn namespaces() -> Row {
    match sys::clone_process(sys::CLONE_NEWUSER | sys::CLONE_NEWNET) {
        Ok(Fork::Child) => sys::exit_now(0),
        Ok(Fork::Parent { pid, .. }) => {
            let _ = waitpid(Some(pid), WaitOptions::empty());
            Row::yes("namespaces", "user and network namespaces can be made, for -- CMD")
        }
        Err(error) => Row::no("namespaces", chain(&userns::explain(error)), "PID still works; -- CMD does not"),
    }
}

fn tun_device() -> Row {
    let row = match tun::problem() {
        None => Row::yes("tun", "/dev/net/tun can be opened"),
        Some((cause, remedy)) => Row::no("tun", cause, remedy),
    };
    row.needed()
}

/// A backend, and the first line of its `--version`.
fn program(name: &'static str, package: &str) -> Row {
    match find_program(name) {
        Some(path) => {
            let version = output(&path, "--version").lines().next().unwrap_or("of unknown version").to_owned();
            Row::yes(name, format!("{}: {version}", path.display()))
        }
        None => Row::no(name, "not in PATH", format!("install the package {package}")),
    }
}

/// What d-netup asks of slirp4netns, by its own `--help`.
fn features() -> Row {
    const NAME: &str = "slirp4netns-options";
    let Some(path) = find_program(slirp::NAME) else { return Row::no(NAME, "no slirp4netns", "install it first") };
    let help = output(&path, "--help");
    let missing: Vec<&str> = slirp::OPTIONS.iter().copied().filter(|option| !help.contains(option)).collect();
    if missing.is_empty() {
        return Row::yes(NAME, "all that d-netup uses");
    }
    Row::no(NAME, format!("it has no {}", missing.join(", ")), "install version 1.1.0 or later")
}

fn resolv_conf() -> Row {
    match slirp::resolv_conf_outside() {
        None => Row::yes("resolv.conf", "inside /etc or /run, where slirp4netns's sandbox sees it"),
        Some(path) => Row::no(
            "resolv.conf",
            format!("/etc/resolv.conf leads to {}, which slirp4netns's sandbox hides", path.display()),
            "none needed: d-netup leaves the sandbox out, with a warning",
        ),
    }
}

fn ports() -> Row {
    let start = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    match start.trim().parse::<u16>() {
        Ok(0) => Row::yes("ports", "all ports of the host can be forwarded"),
        Ok(start) => Row::yes("ports", format!("ports of the host from {start} on can be forwarded")),
        Err(_) => Row::yes("ports", "ports of the host from 1024 on can be forwarded"),
    }
}

fn runtime() -> Row {
    match runtime_dir("d-netup") {
        Ok(dir) => Row::yes("runtime-directory", dir.display().to_string()),
        Err(error) => Row::no("runtime-directory", chain(&error), "set XDG_RUNTIME_DIR").needed(),
    }
}

/// What a program says, on either stream.
fn output(program: &Path, option: &str) -> String {
    let output = Command::new(program).arg(option).stdin(Stdio::null()).output();
    let text = output.map(|o| [o.stdout, o.stderr].concat()).unwrap_or_default();
    String::from_utf8_lossy(&text).into_owned()
}
