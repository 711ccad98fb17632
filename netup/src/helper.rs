//! The program that moves the packets (slirp4netns or pasta) as a child process: started with exactly the descriptors it
//! needs, watched through a pidfd, its words kept for an error message, and bound to this process by a pipe.
//!
//! Only the supervisor holds the other end of the exit pipe, so the helper ends with it, however it ends.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use d_common::exit::{Exit, OrExit, failure};
use d_common::report::Report;
use d_common::sys::{self, Fork};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, fcntl_setfl};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    DumpableBehavior, Pid, Signal, WaitOptions, WaitStatus, pidfd_send_signal, set_dumpable_behavior, setpgid, umask,
    waitpid,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A helper that is not ready by then never will be.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// One that was asked to end is killed then.
const END_TIMEOUT: Duration = Duration::from_secs(1);
/// No more of what it says is kept.
const MAX_WORDS: usize = 4096;
/// It runs in the namespace's user namespace, whose root may read its environment where it sees the process. None needs any.
const NO_ENVIRONMENT: &[CString] = &[];

/// How a helper is started.
#[derive(Debug)]
pub struct Launch<'a> {
    /// Its name, for messages.
    pub name: &'static str,
    /// Its executable.
    pub program: &'a Path,
    /// Its arguments, without argv[0].
    pub args: Vec<OsString>,
    /// The user namespace that it enters first, as root there.
    pub enter: Option<BorrowedFd<'a>>,
    /// Its working directory.
    pub directory: Option<BorrowedFd<'a>>,
    /// The descriptors that its arguments name.
    pub keep: Vec<BorrowedFd<'a>>,
}

/// A running helper.
#[derive(Debug)]
pub struct Helper {
    /// Its name.
    pub name: &'static str,
    pid: Pid,
    pidfd: OwnedFd,
    words: OwnedFd,
    heard: String,
    exit: Option<OwnedFd>,
    reaped: bool,
}

/// The two ends of a pipe, close-on-exec.
///
/// # Errors
/// pipe(2)'s.
pub fn new_pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).or_exit(Exit::Io, || "cannot make a pipe")
}

impl Helper {
    /// Starts it. `exit` is the writing end of the pipe whose end it waits for.
    ///
    /// # Errors
    /// fork's and pipe's; a failing exec shows itself in [`Helper::wait_until_ready`].
    pub fn start(launch: &Launch<'_>, exit: OwnedFd) -> Result<Self> {
        let (words, say) = new_pipe()?;
        // Neither side waits for the other: a helper that says more than is heard at the time (slirp4netns has a line for each
        // forward) loses the words, and would hang with us otherwise, who wait for its answer.
        for end in [&words, &say] {
            fcntl_setfl(end, OFlags::NONBLOCK).or_exit(Exit::Io, || "cannot set up a pipe")?;
        }
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .or_exit(Exit::Io, || "cannot open /dev/null")?;
        let argv = c_strings([OsString::from(launch.name)].into_iter().chain(launch.args.iter().cloned()))?;
        let program = c_strings([launch.program.as_os_str().to_owned()])?;
        match sys::clone_process(0).or_exit(Exit::Unavailable, || "cannot fork")? {
            Fork::Child => {
                let error = become_helper(launch, &null, &say).map_or_else(io::Error::from, |()| {
                    program.first().map_or_else(|| Errno::NOENT.into(), |p| sys::execve(p, &argv, NO_ENVIRONMENT))
                });
                let _ = rustix::io::write(rustix::stdio::stderr(), format!("cannot start: {error}\n").as_bytes());
                sys::exit_now(Exit::Unavailable as u8)
            }
            Fork::Parent { pid, pidfd } => {
                let heard = String::new();
                Ok(Self { name: launch.name, pid, pidfd, words, heard, exit: Some(exit), reaped: false })
            }
        }
    }

    /// Readable when it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Readable when it says something.
    pub fn words(&self) -> BorrowedFd<'_> {
        self.words.as_fd()
    }

    /// Waits until it writes to `ready`.
    ///
    /// # Errors
    /// [`Exit::Unavailable`] with its last words, when it ends before that, or says nothing of it for ten seconds.
    pub fn wait_until_ready(&mut self, ready: OwnedFd, report: &Report) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        // A pipe that the helper has closed has nothing to say any more; whether it has ended its pidfd says.
        let (mut is_open, mut speaks) = (true, true);
        while Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fds = vec![PollFd::new(&self.pidfd, PollFlags::IN)];
            fds.extend(is_open.then(|| PollFd::new(&ready, PollFlags::IN)));
            fds.extend(speaks.then(|| PollFd::new(&self.words, PollFlags::IN)));
            match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e).or_exit(Exit::Io, || "cannot poll"),
            }
            let ended = fds.first().is_some_and(|fd| !fd.revents().is_empty());
            let told = fds.get(1).is_some_and(|fd| is_open && !fd.revents().is_empty());
            speaks = speaks && self.listen(report);
            if told && rustix::io::read(&ready, &mut [0u8; 8]).is_ok_and(|n| n > 0) {
                self.heard.clear();
                return Ok(());
            }
            is_open = is_open && !told;
            if ended {
                self.listen(report);
                return Err(self.death());
            }
        }
        Err(self.failed("is not ready after ten seconds"))
    }

    /// Reads what it says; false at the end.
    pub fn listen(&mut self, report: &Report) -> bool {
        let mut buffer = [0u8; 1024];
        loop {
            match rustix::io::read(&self.words, &mut buffer) {
                Ok(0) => return false,
                Ok(n) => {
                    let said = String::from_utf8_lossy(&buffer[..n]);
                    said.lines()
                        .filter(|l| !l.is_empty())
                        .for_each(|l| report.debug(format_args!("{}: {l}", self.name)));
                    if self.heard.len() + said.len() > MAX_WORDS {
                        self.heard.clear();
                    }
                    self.heard.push_str(&said);
                }
                Err(Errno::INTR) => {}
                Err(_) => return true,
            }
        }
    }

    /// What it has said so far.
    pub fn heard(&self) -> &str {
        &self.heard
    }

    /// Reaps it, which has ended, and says how.
    pub fn death(&mut self) -> anyhow::Error {
        let status = waitpid(Some(self.pid), WaitOptions::empty()).ok().flatten().map(|(_, status)| status);
        self.reaped = true;
        let how = match status {
            Some(s) if s.terminating_signal().is_some() => {
                format!("was killed by signal {}", s.terminating_signal().unwrap_or(0))
            }
            other => format!("ended with code {}", other.and_then(WaitStatus::exit_status).unwrap_or(-1)),
        };
        self.failed(&how)
    }

    fn failed(&self, how: &str) -> anyhow::Error {
        let words = reason(&self.heard).map(|l| format!(": {l}")).unwrap_or_default();
        failure(Exit::Unavailable, format!("{} {how}{words}", self.name))
    }
}

impl Drop for Helper {
    /// Ends it and waits for it.
    fn drop(&mut self) {
        self.exit = None;
        if self.reaped {
            return;
        }
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let _ = pidfd_send_signal(&self.pidfd, Signal::TERM);
        if !poll(&mut fds, Timespec::try_from(END_TIMEOUT).ok().as_ref()).is_ok_and(|n| n > 0) {
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        }
        let _ = waitpid(Some(self.pid), WaitOptions::empty());
    }
}

/// The last line that may be why it ended. slirp4netns's errors may lack their line's end, and its warning about seccomp
/// follows them; of each request it says that it came.
fn reason(heard: &str) -> Option<&str> {
    let lines = heard.lines().rev().filter(|line| !line.starts_with("api_handler: got request"));
    lines.filter_map(|line| line.split("WARNING").next()).map(str::trim).find(|line| !line.is_empty())
}

fn c_strings(strings: impl IntoIterator<Item = OsString>) -> Result<Vec<CString>> {
    let c_string = |s: OsString| CString::new(s.into_vec());
    strings.into_iter().map(c_string).collect::<Result<_, _>>().or_exit(Exit::Usage, || "an argument holds a NUL")
}

/// What the child does before exec. The user namespace comes last but for the ids, since outside ids count till then.
fn become_helper(launch: &Launch<'_>, null: &OwnedFd, say: &OwnedFd) -> Result<(), Errno> {
    // Ctrl-C of the terminal is the supervisor's business.
    setpgid(None, None)?;
    rustix::stdio::dup2_stdin(null)?;
    rustix::stdio::dup2_stdout(say)?;
    rustix::stdio::dup2_stderr(say)?;
    for fd in &launch.keep {
        fcntl_setfd(fd, FdFlags::empty())?;
    }
    let keep: Vec<RawFd> =
        launch.keep.iter().chain(&launch.enter).chain(&launch.directory).map(AsRawFd::as_raw_fd).collect();
    let _ = sys::close_all_but(&keep);
    let _ = sys::reset_signals(&[]);
    if let Some(directory) = launch.directory {
        rustix::process::fchdir(directory)?;
    }
    if let Some(userns) = launch.enter {
        // Until exec it has our memory, which nobody in there is to read.
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        move_into_link_name_space(userns, Some(LinkNameSpaceType::User))?;
        become_root()?;
        // As a subordinate user it makes a socket that we must be able to write to; the directory keeps others out.
        umask(Mode::empty());
    }
    Ok(())
}

/// Takes user and group 0 of the user namespace, whoever that is outside.
fn become_root() -> Result<(), Errno> {
    use rustix::process::{Gid, Uid};
    if !rustix::process::getegid().is_root() {
        rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    }
    if !rustix::process::geteuid().is_root() {
        rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_warnings_are_no_reasons() {
        let request = "api_handler: got request: {\"execute\":\"list_hostfwd\"}\n";
        assert_eq!(reason(&request.repeat(2)), None);
        assert_eq!(reason(&format!("child failed(1)WARNING: Support for seccomp\n{request}")), Some("child failed(1)"));
    }
}
