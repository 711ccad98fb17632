//! Calling d-netup for the container's network: found by name, waited for until it is ready, and over when the container is.

use std::env;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};

use anyhow::Result;
use d_common::exit::{Exit, OrExit, failure};
use d_common::report::Report;
use d_common::sys::{self, SignalSet};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use rustix::time::Timespec;

/// d-netup ends by itself when its target does, or when it is told to; after this long it is killed.
const PATIENCE: Timespec = Timespec { tv_sec: 3, tv_nsec: 0 };
/// One that is still starting has so long: it may have no ear for signals yet, and leaves nothing behind when it is killed.
const HASTE: Timespec = Timespec { tv_sec: 0, tv_nsec: 300_000_000 };
/// What ends d-enter while there is no command yet to have the signal.
const ENDING: [Signal; 4] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];
/// No more of what it prints is read at once.
const MAX_WORDS: usize = 1 << 20;

/// A running d-netup.
#[derive(Debug)]
pub struct Netup {
    path: PathBuf,
    target: String,
    child: Child,
    handle: OwnedFd,
    messages: Option<ChildStderr>,
    /// It was heard of to its end.
    over: bool,
    /// The forwards whose port it chose, a line each.
    pub chosen: Vec<String>,
}

/// What d-netup's line says when it is waited for.
enum Heard {
    Ready,
    /// Nothing, and it will not.
    Nothing,
    /// d-enter is told to end.
    Signal(i32),
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
    /// Starts it for the namespace of `pid`, and waits until the network is up, or until a signal (the value of
    /// [`ControlFlow::Break`]) tells d-enter to end. All signals are blocked.
    ///
    /// # Errors
    /// [`Exit::Enter`] with d-netup's own words.
    pub fn start(pid: Pid, options: &[String], publish: &[String]) -> Result<ControlFlow<i32, Self>> {
        let path = find()?;
        let target = pid.as_raw_nonzero().to_string();
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
        command.arg(&target);
        // The service manager is told when the command runs.
        command.env_remove("NOTIFY_SOCKET");
        // Not of the caller's job: Ctrl-C is the command's to handle, and the network outlives it.
        command.process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().or_exit(Exit::Enter, || format!("cannot run {}", path.display()))?;
        drop(tell);
        let handle = pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
        let handle = handle.or_exit(Exit::Enter, || "cannot watch d-netup")?;
        match hear(&ready).or_exit(Exit::Enter, || "cannot hear from d-netup")? {
            Heard::Ready => {}
            Heard::Nothing => return Err(failed(&mut child, &handle)),
            Heard::Signal(signal) => {
                let _ = kill_process_group(Pid::from_child(&child), Signal::TERM);
                let _ = wait(&mut child, &handle, &HASTE);
                return Ok(ControlFlow::Break(signal));
            }
        }
        let printed = child.stdout.as_mut().map_or(Ok(String::new()), what_is_there);
        let printed = printed.or_exit(Exit::Enter, || "cannot read d-netup's forwards")?;
        let chosen = printed.lines().map(str::to_owned).collect();
        let messages = child.stderr.take();
        Ok(ControlFlow::Continue(Self { path, target, child, handle, messages, over: false, chosen }))
    }

    /// All forwards there are, a line each.
    ///
    /// # Errors
    /// [`Exit::Enter`] when d-netup does not tell them.
    pub fn forwards(&self) -> Result<Vec<String>> {
        let list = Command::new(&self.path).args(["--list", &self.target]).stdin(Stdio::null()).output();
        let list = list.ok().filter(|list| list.status.success());
        let list = list.or_exit(Exit::Enter, || "d-netup does not list its forwards")?;
        Ok(String::from_utf8_lossy(&list.stdout).lines().map(str::to_owned).collect())
    }

    /// Readable when it says something, or has ended and was not heard of yet.
    pub fn news(&self) -> Option<BorrowedFd<'_>> {
        let end = (!self.over).then_some(&self.handle);
        self.messages.as_ref().map(AsFd::as_fd).or(end.map(AsFd::as_fd))
    }

    /// Passes on what it says; at its end, says so where it could not itself.
    pub fn relay(&mut self, report: &Report) {
        let Some(messages) = &mut self.messages else { return self.ended(report) };
        let mut buffer = [0u8; 4096];
        match messages.read(&mut buffer) {
            Ok(n) if n > 0 => {
                for line in String::from_utf8_lossy(&buffer[..n]).lines() {
                    match line.strip_prefix("d-netup: warning: ") {
                        Some(warning) => report.warn(format!("d-netup: {warning}")),
                        None => report.warn(line),
                    }
                }
            }
            _ => self.messages = None,
        }
    }

    fn ended(&mut self, report: &Report) {
        self.over = true;
        let Ok(status) = self.child.wait() else { return };
        // Other failures it has told itself.
        let signal = status.signal().or_else(|| status.code().filter(|code| *code > 128).map(|code| code - 128));
        if let Some(signal) = signal {
            report.warn(format!("d-netup was ended by signal {signal}: the container has no network any more"));
        }
    }

    /// Waits for its end, so that nothing of the network is left when d-enter returns.
    pub fn finish(mut self) {
        let _ = wait(&mut self.child, &self.handle, &PATIENCE);
    }
}

/// Waits for the end, but not for ever.
fn wait(child: &mut Child, handle: &OwnedFd, patience: &Timespec) -> io::Result<ExitStatus> {
    if poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(patience)) != Ok(1) {
        let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
    }
    child.wait()
}

/// Why it will not get ready.
fn failed(child: &mut Child, handle: &OwnedFd) -> anyhow::Error {
    let status = wait(child, handle, &PATIENCE);
    let words = child.stderr.as_mut().and_then(|stderr| what_is_there(stderr).ok()).unwrap_or_default();
    let ended = || status.map_or_else(|e| e.to_string(), |status| status.to_string());
    let why = words.lines().last().map_or_else(|| format!("d-netup ended with {}", ended()), str::to_owned);
    failure(Exit::Enter, format!("cannot connect the network: {why}"))
}

/// Waits for its line, or for a signal.
fn hear(ready: &OwnedFd) -> io::Result<Heard> {
    // nohup(1) is not for the command alone.
    let ignored = sys::ignored_signals();
    let ending = ENDING.iter().map(|signal| signal.as_raw()).filter(|signal| !ignored.contains(signal));
    let signals = ending.fold(SignalSet::empty(), SignalSet::with).descriptor()?;
    loop {
        let mut fds = [PollFd::new(&signals, PollFlags::IN), PollFd::new(ready, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let [_, is_ready] = fds.map(|fd| !fd.revents().is_empty());
        if let Some(info) = sys::next_signal(&signals)? {
            return Ok(Heard::Signal(info.signal));
        }
        if is_ready {
            let n = rustix::io::read(ready, &mut [0u8; 64])?;
            return Ok(if n > 0 { Heard::Ready } else { Heard::Nothing });
        }
    }
}

/// What can be read without waiting.
fn what_is_there(pipe: &mut (impl Read + AsFd)) -> io::Result<String> {
    rustix::io::ioctl_fionbio(&*pipe, true)?;
    let mut text = Vec::new();
    let mut buffer = [0u8; 4096];
    while text.len() < MAX_WORDS {
        match pipe.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => text.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) => return Err(e),
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}
