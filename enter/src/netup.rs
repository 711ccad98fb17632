//! Calling d-netup for the container's network: found by name, waited for until it is ready, and over when the container is.

use std::env;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use d_common::report::Report;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::time::Timespec;

/// d-netup ends by itself when its target does; after this long it is killed.
const PATIENCE: Timespec = Timespec { tv_sec: 3, tv_nsec: 0 };

/// A running d-netup.
#[derive(Debug)]
pub struct Netup {
    child: Child,
    messages: Option<ChildStderr>,
    /// The forwards it opened, a line each.
    pub forwards: Vec<String>,
}

/// Where it is: `D_NETUP`, beside this program, or in PATH.
fn find() -> Result<PathBuf> {
    if let Some(path) = env::var_os("D_NETUP").filter(|p| !p.is_empty()) {
        return Ok(path.into());
    }
    let beside = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("d-netup")));
    match beside.filter(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => which::which("d-netup").or_exit(Exit::Enter, || {
            "cannot find d-netup beside d-enter or in PATH, which --net=user needs; install it or name it in D_NETUP"
        }),
    }
}

impl Netup {
    /// Starts it for the namespace of `pid`, and waits until the network is up.
    ///
    /// # Errors
    /// [`Exit::Enter`] with d-netup's own words.
    pub fn start(pid: Pid, options: &[String], publish: &[String]) -> Result<Self> {
        let path = find()?;
        let (ready, tell) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).or_exit(Exit::Enter, || "cannot make a pipe")?;
        // This process has one thread: nothing else can be spawned between here and there.
        rustix::io::fcntl_setfd(&tell, rustix::io::FdFlags::empty())
            .or_exit(Exit::Enter, || "cannot pass a pipe on")?;
        let mut command = Command::new(&path);
        command.args(options).arg("--ready-fd").arg(tell.as_raw_fd().to_string());
        for spec in publish {
            command.arg("--publish").arg(spec);
        }
        command.arg(pid.as_raw_nonzero().to_string());
        // Not of the caller's job: Ctrl-C is the command's to handle, and the network outlives it.
        command.process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().or_exit(Exit::Enter, || format!("cannot run {}", path.display()))?;
        drop(tell);
        let mut line = String::new();
        BufReader::new(File::from(ready)).read_line(&mut line).or_exit(Exit::Enter, || "cannot hear from d-netup")?;
        let mut messages = child.stderr.take();
        if line.is_empty() {
            let mut words = String::new();
            if let Some(messages) = &mut messages {
                let _ = messages.take(64 << 10).read_to_string(&mut words);
            }
            let status = child.wait().or_exit(Exit::Enter, || "cannot wait for d-netup")?;
            match words.lines().last() {
                Some(words) => fail!(Exit::Enter, "cannot connect the network: {words}"),
                None => fail!(Exit::Enter, "cannot connect the network: d-netup ended with {status}"),
            }
        }
        let mut forwards = Vec::new();
        if !publish.is_empty() {
            forwards = printed(&mut child).or_exit(Exit::Enter, || "cannot read d-netup's forwards")?;
        }
        Ok(Self { child, messages, forwards })
    }

    /// Where its messages can be read.
    pub fn messages(&self) -> Option<BorrowedFd<'_>> {
        self.messages.as_ref().map(AsFd::as_fd)
    }

    /// Passes on what it says; at its end, says so.
    pub fn relay(&mut self, report: &Report) {
        let mut buffer = [0u8; 4096];
        match self.messages.as_mut().map(|m| m.read(&mut buffer)) {
            Some(Ok(n)) if n > 0 => {
                for line in String::from_utf8_lossy(&buffer[..n]).lines() {
                    report.warn(line);
                }
            }
            _ => self.messages = None,
        }
    }

    /// Waits for its end, so that nothing of the network is left when d-enter returns.
    pub fn finish(mut self) {
        let ended = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty())
            .and_then(|handle| poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&PATIENCE)));
        if ended != Ok(1) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// What it has printed by the time it is ready: its lines come before that.
fn printed(child: &mut Child) -> io::Result<Vec<String>> {
    let Some(stdout) = child.stdout.as_mut() else { return Ok(Vec::new()) };
    rustix::io::ioctl_fionbio(&*stdout, true)?;
    let mut text = Vec::new();
    let mut buffer = [0u8; 4096];
    loop {
        match stdout.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) if text.len() < 1 << 20 => text.extend_from_slice(&buffer[..n]),
            Ok(_) => break,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) => return Err(e),
        }
    }
    Ok(String::from_utf8_lossy(&text).lines().map(str::to_owned).collect())
}
