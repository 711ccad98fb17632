//! `d-netup -- CMD`: a command as user 0 of a new user namespace, in a network of its own.
//!
//! The child waits until the network is up; then it binds a resolv.conf of its own and becomes CMD, with the caller's
//! environment, directory and descriptors. It dies with d-netup.

use std::env;
use std::ffi::{CString, OsString};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::Result;
use d_common::exit::{Exit, OrExit, exit_of, failure};
use d_common::idmap::IdMap;
use d_common::report::{Report, errno_text};
use d_common::runtime::runtime_dir;
use d_common::sys::{self, Fork};
use d_common::userns;
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, pidfd_send_signal, set_parent_process_death_signal, waitpid,
};

use crate::helper::new_pipe;

/// Where a command is looked for when PATH is not set (confstr(3), `_CS_PATH`, and what login(1) adds).
pub(crate) const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A child that waits to become the command; killed when it is dropped before its end.
#[derive(Debug)]
pub struct Command {
    /// Its process.
    pub pid: Pid,
    pidfd: OwnedFd,
    release: Option<OwnedFd>,
    reaped: bool,
}

impl Command {
    /// Makes the child in its new namespaces. It sees `resolv_conf` as /etc/resolv.conf.
    ///
    /// # Errors
    /// [`Exit::Unavailable`] where user namespaces cannot be made.
    pub fn prepare(command: &[OsString], resolv_conf: &str, report: &Report) -> Result<Self> {
        // Asked for here, where the user is still who owns it.
        let scratch = runtime_dir("d-netup")?;
        let facts = userns::facts();
        let (hold, release) = new_pipe()?;
        let namespaces = sys::CLONE_NEWUSER | sys::CLONE_NEWNET | sys::CLONE_NEWNS;
        let made = sys::clone_process(namespaces).map_err(userns::explain);
        match made.or_exit(Exit::Unavailable, || "cannot make a user namespace")? {
            Fork::Child => {
                drop(release);
                sys::exit_now(child(&hold, command, (resolv_conf, &scratch), report))
            }
            Fork::Parent { pid, pidfd } => {
                let child = Self { pid, pidfd, release: Some(release), reaped: false };
                userns::write_map(pid, &IdMap::single(&facts, 0, 0), facts.privileged)?;
                Ok(child)
            }
        }
    }

    /// A handle to it, readable when it has ended.
    pub fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }

    /// Lets it become the command.
    ///
    /// # Errors
    /// When it has died.
    pub fn release(&mut self) -> Result<()> {
        match self.release.take() {
            Some(pipe) => {
                rustix::io::write(pipe, b"1").map(drop).or_exit(Exit::Unavailable, || "the command's process died")
            }
            None => Ok(()),
        }
    }

    /// Waits for its end; the code that stands for it.
    ///
    /// # Errors
    /// waitpid(2)'s.
    pub fn wait(mut self) -> Result<u8> {
        let status =
            waitpid(Some(self.pid), WaitOptions::empty()).or_exit(Exit::Io, || "cannot wait for the command")?;
        self.reaped = true;
        let status = status.map(|(_, status)| status);
        let code = status.and_then(WaitStatus::exit_status);
        let signal = || status.and_then(WaitStatus::terminating_signal).map(|signal| 128 + signal);
        Ok(code.or_else(signal).and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
            let _ = waitpid(Some(self.pid), WaitOptions::empty());
        }
    }
}

/// The child's own program: what it exits with, when it does not become the command.
fn child(hold: &OwnedFd, command: &[OsString], (resolv_conf, scratch): (&str, &Path), report: &Report) -> u8 {
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    // The pipe ends without a byte when the network did not come up, or when d-netup died before the line above.
    if !rustix::io::read(hold, &mut [0u8; 1]).is_ok_and(|n| n == 1) {
        return Exit::Enter as u8;
    }
    if let Err(error) = bind_resolv_conf(resolv_conf, scratch) {
        report.warn(format_args!("CMD sees the host's resolv.conf: {error}"));
    }
    let error = exec(command);
    report.error(&error);
    match exit_of(&error) {
        exit @ (Exit::CannotExecute | Exit::CommandNotFound) => exit as u8,
        _ => Exit::Enter as u8,
    }
}

/// Binds a file with `text` over /etc/resolv.conf. It lies on a tmpfs that is mounted over the runtime directory `scratch`,
/// here alone and for a moment, so nothing is left on the host. (Mounts of the host are slaves here: mount_namespaces(7).)
fn bind_resolv_conf(text: &str, scratch: &Path) -> Result<()> {
    use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
    let place = fs::canonicalize("/etc/resolv.conf").or_exit(Exit::Unavailable, || "cannot find /etc/resolv.conf")?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tmpfs", scratch, "tmpfs", flags, None).or_exit(Exit::Unavailable, || "cannot mount a tmpfs")?;
    let file = scratch.join("resolv.conf");
    let bound = fs::write(&file, text).and_then(|()| Ok(mount_bind(&file, &place)?));
    let _ = unmount(scratch, UnmountFlags::DETACH);
    bound.or_exit(Exit::Unavailable, || format!("cannot bind over {}", place.display()))
}

/// Becomes the command; returns why that failed.
fn exec(command: &[OsString]) -> anyhow::Error {
    // Rust ignores SIGPIPE, no shell does; what the caller had ignored stays so (nohup).
    const SIGPIPE: i32 = 13;
    let ignored: Vec<i32> = sys::ignored_signals().into_iter().filter(|signal| *signal != SIGPIPE).collect();
    let _ = sys::reset_signals(&ignored);
    let c_string = |s: &OsString| CString::new(s.as_bytes());
    let (Ok(argv), Some(name)) = (command.iter().map(c_string).collect::<Result<Vec<_>, _>>(), command.first()) else {
        return failure(Exit::Usage, "an argument of CMD holds a NUL");
    };
    let environment: Vec<CString> = env::vars_os()
        .filter_map(|(key, value)| CString::new([key.as_bytes(), b"=", value.as_bytes()].concat()).ok())
        .collect();
    let mut refused = None;
    let in_path = !name.as_bytes().contains(&b'/');
    for path in candidates(name) {
        let Ok(c_path) = CString::new(path.as_os_str().as_bytes()) else { continue };
        let error = sys::execve(&c_path, &argv, &environment);
        match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NOTDIR) if !path.exists() => {}
            // A directory of PATH that may not be searched is as good as empty.
            Some(Errno::ACCESS) if in_path && !path.exists() => {}
            _ => refused = refused.or(Some((path, error))),
        }
    }
    match refused {
        Some((path, error)) => cannot_execute(&path.to_string_lossy(), &error),
        None => failure(Exit::CommandNotFound, format!("{}: command not found", name.to_string_lossy())),
    }
}

fn cannot_execute(path: &str, error: &io::Error) -> anyhow::Error {
    let why = match Errno::from_io_error(error) {
        Some(Errno::NOENT) => "the interpreter that it names is missing".to_owned(),
        Some(Errno::NOEXEC) => "neither a program nor a script with a #! line".to_owned(),
        errno => errno.map_or_else(|| error.to_string(), |errno| errno_text(errno.raw_os_error())),
    };
    failure(Exit::CannotExecute, format!("{path}: cannot execute: {why}"))
}

/// The files that `name` may mean, in the order of PATH.
fn candidates(name: &OsString) -> Vec<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return vec![PathBuf::from(name)];
    }
    let path = env::var_os("PATH").unwrap_or_else(|| OsString::from_vec(DEFAULT_PATH.into()));
    env::split_paths(&path).map(|dir| dir.join(name)).collect()
}
