//! A transient scope of the systemd manager: one StartTransientUnit call by busctl(1), and waiting until the process has been
//! moved (org.freedesktop.systemd1(5)). For root that is the system's manager, for everybody else the user's own.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use d_common::report::chain;
use rustix::process::Pid;

use super::{ROOT, missing, own_path};
use crate::limits::Limits;

/// The manager answers before it has moved the process; on a busy machine that takes a while.
const PATIENCE: Duration = Duration::from_secs(10);
const REMEDY: &str = "log in through systemd (loginctl enable-linger USER starts the manager), or start d-enter in a \
                      delegated cgroup (systemd-run --user --scope -p Delegate=yes)";

/// Makes the scope with `pid` in it; its cgroup.
///
/// # Errors
/// [`Exit::Enter`] without a manager, or when that one cannot limit what is asked for.
pub(super) fn make(pid: Pid, limits: &Limits) -> Result<PathBuf> {
    let name = format!("d-enter-{}.scope", std::process::id());
    let start =
        |policy| call(&["StartTransientUnit", "ssa(sv)a(sa(sv))", &name, "fail"], &properties(pid, limits, policy));
    match start(Some("continue")) {
        // Before systemd 253 a scope has no such property.
        Err(error) if chain(&error).contains("OOMPolicy") => start(None)?,
        result => result?,
    }
    let path = wait(pid, &name)?;
    let lacking = missing(&path, limits);
    if !lacking.is_empty() {
        fail!(
            Exit::Enter,
            "the systemd manager does not have the controllers {}; as root: systemctl edit user@.service, with [Service] \
             Delegate=cpu memory pids",
            lacking.join(" ")
        );
    }
    Ok(path)
}

/// Moves `pid` into the unit that has made the cgroup `dir`, by one AttachProcessesToUnit call.
///
/// # Errors
/// [`Exit::Enter`] when the manager does not do that.
pub(super) fn attach(pid: Pid, dir: &Path) -> Result<()> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let arguments = ["", "1", &pid.to_string()].map(str::to_owned);
    call(&["AttachProcessesToUnit", "ssau", &name], &arguments)?;
    wait(pid, &name).map(drop)
}

/// The scope's properties in busctl's words: their number, and for each name, type and value; then no further units.
fn properties(pid: Pid, limits: &Limits, out_of_memory: Option<&str>) -> Vec<String> {
    let mut list: Vec<Vec<String>> = Vec::new();
    let mut add = |words: &[&str]| list.push(words.iter().map(|w| (*w).to_owned()).collect());
    add(&["PIDs", "au", "1", &pid.as_raw_nonzero().to_string()]);
    add(&["Description", "s", "container of d-enter"]);
    add(&["CollectMode", "s", "inactive-or-failed"]);
    // Only into a delegated one can further processes be moved (--join).
    add(&["Delegate", "b", "true"]);
    // A process that is killed for want of memory is its parent's business, not the end of all.
    if let Some(policy) = out_of_memory {
        add(&["OOMPolicy", "s", policy]);
    }
    let numbers = [
        ("MemoryMax", limits.memory),
        ("MemorySwapMax", limits.swap),
        ("CPUQuotaPerSecUSec", limits.cpu),
        ("TasksMax", limits.pids),
    ];
    for (name, value) in numbers {
        if let Some(value) = value {
            add(&[name, "t", &value.to_string()]);
        }
    }
    let count = list.len().to_string();
    [count].into_iter().chain(list.into_iter().flatten()).chain(["0".to_owned()]).collect()
}

/// Whether the unit's cgroup has been left to its processes (systemd.resource-control(5), "Delegate=").
pub(super) fn is_delegated(unit: &str) -> bool {
    let mut command = client("systemctl");
    let output = within_patience(command.args(["show", "--property=Delegate", "--value", unit]));
    output.is_ok_and(|o| o.stdout.trim_ascii() == b"yes")
}

/// A program that speaks with the manager of this user.
fn client(program: &str) -> Command {
    let uid = rustix::process::geteuid();
    let mut command = Command::new(program);
    command.args(["--quiet", if uid.is_root() { "--system" } else { "--user" }]).stdin(Stdio::null());
    // su(1) and cron leave the manager unnamed.
    let runtime = format!("/run/user/{}", uid.as_raw());
    if env::var_os("XDG_RUNTIME_DIR").is_none() && Path::new(&runtime).join("bus").exists() {
        command.env("XDG_RUNTIME_DIR", runtime);
    }
    command
}

fn call(method: &[&str], arguments: &[String]) -> Result<()> {
    const MANAGER: [&str; 3] =
        ["org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"];
    let mut command = client("busctl");
    command.arg("call").args(MANAGER).args(method).args(arguments);
    let output = within_patience(&mut command);
    let output = output.or_exit(Exit::Enter, || format!("no systemd manager (busctl does not answer); {REMEDY}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        fail!(
            Exit::Enter,
            "no help from the systemd manager ({}); {REMEDY}",
            words.trim().lines().next().unwrap_or("?")
        );
    }
    Ok(())
}

/// What a program says (a line or two, less than a pipe holds), killed when it takes too long: signals are blocked meanwhile, so nobody could end a wait without bound.
fn within_patience(command: &mut Command) -> io::Result<Output> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            return Err(io::ErrorKind::TimedOut.into());
        }
        sleep(Duration::from_millis(1));
    }
    child.wait_with_output()
}

/// Waits until the process is in the cgroup of the scope.
fn wait(pid: Pid, name: &str) -> Result<PathBuf> {
    let deadline = Instant::now() + PATIENCE;
    let file = format!("/proc/{}/cgroup", pid.as_raw_nonzero());
    loop {
        let text = fs::read_to_string(&file).unwrap_or_default();
        match own_path(&text) {
            Some(path) if path.ends_with(name) => return Ok(Path::new(ROOT).join(path)),
            _ if Instant::now() > deadline => {
                fail!(
                    Exit::Enter,
                    "the systemd manager has not moved the container into {name}; see systemctl --user status"
                )
            }
            _ => sleep(Duration::from_millis(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_counted() {
        let limits = Limits { memory: Some(5), cpu: Some(7), ..Limits::default() };
        let words = properties(Pid::from_raw(42).unwrap(), &limits, None);
        let text = words.join(" ");
        assert!(text.starts_with("6 PIDs au 1 42 Description s "), "{text}");
        assert!(text.ends_with("MemoryMax t 5 CPUQuotaPerSecUSec t 7 0"), "{text}");
    }
}
