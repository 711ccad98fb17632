//! `--background`: a fork at the start, while there is one thread and nothing of our own is open; the child becomes the
//! supervisor, the parent waits until the network is up, or passes on that it never will be.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::sys::{self, Fork};
use rustix::fs::{Mode, OFlags};
use rustix::process::{WaitOptions, WaitStatus, chdir, getpid, setsid, waitpid};

use crate::helper::new_pipe;
use crate::plan::Style;

/// Which of the two this process is.
#[derive(Debug)]
pub enum Side {
    /// The one that was called; it ends with this code now.
    Caller(u8),
    /// The supervisor.
    Supervisor(Detach),
}

/// What the supervisor does when the network is up: it prints its pid, then (after other results) it detaches.
#[derive(Debug)]
pub struct Detach {
    done: OwnedFd,
}

/// Forks. Returns twice: in the supervisor at once, in the caller when the supervisor has detached or ended. Of what the
/// caller has open the supervisor has `keep` alone: it outlives the caller, who may hold locks and pipes by the rest.
///
/// # Errors
/// fork's and pipe's.
pub fn fork(keep: &[RawFd]) -> Result<Side> {
    let (wait, done) = new_pipe()?;
    match sys::clone_process(0).or_exit(Exit::Unavailable, || "cannot fork")? {
        Fork::Child => {
            drop(wait);
            let keep: Vec<RawFd> = keep.iter().copied().chain([done.as_raw_fd()]).collect();
            sys::close_all_but(&keep).or_exit(Exit::Io, || "cannot close the caller's descriptors")?;
            Ok(Side::Supervisor(Detach { done }))
        }
        Fork::Parent { pid, .. } => {
            drop(done);
            if rustix::io::read(&wait, &mut [0u8; 1]).is_ok_and(|n| n == 1) {
                return Ok(Side::Caller(0));
            }
            // It has told its error itself.
            let status =
                waitpid(Some(pid), WaitOptions::empty()).or_exit(Exit::Io, || "cannot wait for the supervisor")?;
            let code = status.and_then(|(_, status)| WaitStatus::exit_status(status));
            Ok(Side::Caller(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(Exit::Unavailable as u8)))
        }
    }
}

impl Detach {
    /// Prints this process's pid.
    ///
    /// # Errors
    /// write(2)'s.
    pub fn print_pid(&self, style: Style) -> Result<()> {
        let pid = getpid();
        let record = match style {
            Style::Lines => format!("{pid}\n"),
            Style::Null => format!("{pid}\0"),
            Style::Json => format!("{{\"pid\":{pid}}}\n"),
        };
        d_common::output::print(record.as_bytes())
    }

    /// Leaves the caller's session, directory and streams, and lets the caller go.
    ///
    /// # Errors
    /// dup2(2)'s and others'.
    pub fn detach(self) -> Result<()> {
        let detach = || -> rustix::io::Result<()> {
            let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
            rustix::stdio::dup2_stdin(&null)?;
            rustix::stdio::dup2_stdout(&null)?;
            rustix::stdio::dup2_stderr(&null)?;
            chdir("/")?;
            setsid()?;
            rustix::io::write(&self.done, b"1").map(drop)
        };
        detach().or_exit(Exit::Io, || "cannot go to the background")
    }
}
