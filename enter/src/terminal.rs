//! The caller's terminal, and the container's: raw mode while the command runs, and what is typed and printed carried across.
//!
//! The caller's terminal is never handed in; only what is typed goes through, so nothing inside can put characters into its
//! input queue (TIOCSTI) or change its settings for good.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use d_common::sys::{self, SignalSet};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Signal, getpid};
use rustix::pty::OpenptFlags;
use rustix::termios::{
    LocalModes, OptionalActions, OutputModes, Termios, Winsize, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr,
    tcsetwinsize,
};

/// Settings and size of a terminal.
#[derive(Debug, Clone)]
pub struct Look {
    termios: Termios,
    size: Option<Winsize>,
}

impl Look {
    /// Those of the terminal `fd`; `None` where it is none.
    pub fn of(fd: impl AsFd) -> Option<Self> {
        let termios = tcgetattr(fd.as_fd()).ok()?;
        Some(Self { termios, size: tcgetwinsize(fd).ok() })
    }

    /// Gives them to the terminal `fd`.
    ///
    /// # Errors
    /// tcsetattr(3)'s.
    pub fn apply(&self, fd: impl AsFd) -> io::Result<()> {
        tcsetattr(fd.as_fd(), OptionalActions::Now, &self.termios)?;
        if let Some(size) = self.size {
            tcsetwinsize(fd, size)?;
        }
        Ok(())
    }
}

/// Opens a new terminal of the devpts below `dev`, a container's /dev, and makes it the controlling one of this session: its
/// two sides, master first. `size` is rows and columns, where they are not those of `look`.
///
/// # Errors
/// Those of the files; `EACCES` where that devpts is somebody else's.
pub fn open(dev: &OwnedFd, look: Option<&Look>, size: Option<(u16, u16)>) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = match rustix::fs::openat(dev, "pts/ptmx", flags, Mode::empty()) {
        // The host's devpts in a container of others: its way in is beside it.
        Err(Errno::ACCESS) => rustix::fs::openat(dev, "ptmx", flags, Mode::empty())?,
        master => master?,
    };
    rustix::pty::unlockpt(&master)?;
    let slave =
        rustix::pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    if let Some(look) = look {
        look.apply(&slave)?;
    }
    if let Some((rows, columns)) = size {
        tcsetwinsize(&slave, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?;
    }
    rustix::process::ioctl_tiocsctty(&slave)?;
    Ok((master, slave))
}

/// What this process is to a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Job {
    /// Its foreground job: what is typed is for us.
    Foreground,
    /// A job in the background.
    Background,
    /// None of its jobs: the terminal is another session's, or no terminal.
    #[default]
    None,
}

impl Job {
    /// Asks the terminal `fd`.
    pub fn of(fd: impl AsFd) -> Self {
        match tcgetpgrp(fd) {
            Ok(group) if group == rustix::process::getpgrp() => Self::Foreground,
            Ok(_) => Self::Background,
            Err(_) => Self::None,
        }
    }
}

/// Stops this process by the signal of Ctrl-Z, which a shell tells of ($? is 148); by SIGSTOP where that one has no effect: the
/// caller ignores it, or no shell watches over this job (setpgid(2), "orphaned process group"). Returns after SIGCONT; all signals
/// are blocked then, as before.
pub fn stop() {
    for signal in [Signal::TSTP, Signal::STOP] {
        // A stop signal takes back every SIGCONT that is pending, so one that is pending afterwards has ended this stop.
        sys::send_signal(getpid().as_raw_nonzero().get(), signal.as_raw(), false);
        // Until it is let through it waits, like all others.
        let _ = SignalSet::all().without(Signal::TSTP.as_raw()).block();
        let _ = SignalSet::all().block();
        if SignalSet::pending().is_ok_and(|pending| pending.has(Signal::CONT.as_raw())) {
            break;
        }
    }
}

/// Copies the size of the terminal `from` to the terminal `to`, whose foreground job gets SIGWINCH by that.
pub fn copy_size(from: impl AsFd, to: impl AsFd) {
    if let Ok(size) = tcgetwinsize(from) {
        let _ = tcsetwinsize(to, size);
    }
}

/// The caller's terminal in raw mode; its own settings come back when this is dropped.
#[derive(Debug)]
pub struct Raw {
    saved: Termios,
}

impl Raw {
    /// Sets raw mode on stdin. `keep_output`: what does not come from the container's terminal is printed there too (stdout is
    /// a pipe into a pager, say), and needs its line ends translated.
    pub fn set(keep_output: bool) -> Option<Self> {
        let stdin = rustix::stdio::stdin();
        let saved = tcgetattr(stdin).ok()?;
        let mut raw = saved.clone();
        raw.make_raw();
        if keep_output {
            raw.output_modes |= saved.output_modes & (OutputModes::OPOST | OutputModes::ONLCR);
        }
        tcsetattr(stdin, OptionalActions::Now, &raw).ok()?;
        Some(Self { saved })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.saved);
    }
}

/// Bytes on their way: read from one side, not yet written to the other.
#[derive(Debug, Default)]
pub struct Flow {
    bytes: Vec<u8>,
    /// The source has ended.
    pub ended: bool,
}

/// One read, and the most that waits to be written.
const CHUNK: usize = 16 << 10;
/// Written at once: less than a terminal's own buffer, so that a write after POLLOUT does not block for long.
const PIECE: usize = 4 << 10;

impl Flow {
    /// One whose source has ended.
    pub fn closed() -> Self {
        Self { bytes: Vec::new(), ended: true }
    }

    /// Whether there is room for another read.
    pub fn wants(&self) -> bool {
        self.bytes.is_empty() && !self.ended
    }

    /// Whether something waits to be written.
    pub fn pending(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// Reads once. Both the end of a file and a hang-up of a terminal (EIO) end the flow.
    pub fn read(&mut self, from: BorrowedFd<'_>) {
        let mut buffer = [0u8; CHUNK];
        match rustix::io::read(from, &mut buffer) {
            Ok(0) | Err(Errno::IO) => self.ended = true,
            Ok(n) => self.bytes.extend_from_slice(&buffer[..n]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.ended = true,
        }
    }

    /// Adds bytes of our own.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Writes what goes; a reader that is gone drops the rest.
    pub fn write(&mut self, to: BorrowedFd<'_>) {
        let piece = &self.bytes[..self.bytes.len().min(PIECE)];
        match rustix::io::write(to, piece) {
            Ok(n) => drop(self.bytes.drain(..n)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.bytes.clear(),
        }
    }
}

/// The terminal's character for "end of file", as its settings have it.
pub fn end_of_file(master: &OwnedFd) -> u8 {
    let canonical = tcgetattr(master).ok().filter(|t| t.local_modes.contains(LocalModes::ICANON));
    canonical.map_or(4, |t| t.special_codes[rustix::termios::SpecialCodeIndex::VEOF])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn bytes_flow_and_end() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let mut flow = Flow::default();
        flow.push(b"abc");
        flow.write(write.as_fd());
        assert!(!flow.pending() && flow.wants());
        flow.read(read.as_fd());
        assert!(flow.pending() && !flow.wants());
        drop(write);
        flow.write(std::fs::OpenOptions::new().write(true).open("/dev/null").unwrap().as_fd());
        flow.read(read.as_fd());
        assert!(flow.ended);
    }

    #[test]
    fn pipes_have_no_look() {
        let (read, _write) = rustix::pipe::pipe().unwrap();
        assert!(Look::of(&read).is_none());
        assert_eq!(Job::of(&read), Job::None);
    }
}
