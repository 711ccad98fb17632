//! Signals: sets of them, signalfd(2), and what this process does on them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use super::check;

/// Sends a signal to a process, or to its process group. A target that is gone is no error.
pub fn send_signal(pid: i32, signal: i32, group: bool) {
    // SAFETY: kill(2) touches no memory of ours; any number is allowed or an error.
    unsafe { libc::kill(if group { -pid } else { pid }, signal) };
}

/// A set of signals.
#[derive(Clone, Copy)]
pub struct SignalSet(libc::sigset_t);

impl SignalSet {
    /// The empty set.
    pub fn empty() -> Self {
        // SAFETY: sigemptyset initialises the set that it is given.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            Self(set)
        }
    }

    /// Every signal that can be blocked.
    pub fn all() -> Self {
        let mut set = Self::empty();
        // SAFETY: the set is initialised.
        unsafe { libc::sigfillset(&raw mut set.0) };
        set
    }

    /// With `signal` added.
    #[must_use]
    pub fn with(mut self, signal: i32) -> Self {
        // SAFETY: the set is initialised; an invalid number is an error without effect.
        unsafe { libc::sigaddset(&raw mut self.0, signal) };
        self
    }

    /// With `signal` taken out.
    #[must_use]
    pub fn without(mut self, signal: i32) -> Self {
        // SAFETY: as above.
        unsafe { libc::sigdelset(&raw mut self.0, signal) };
        self
    }

    /// Makes this the set of blocked signals; returns the former one.
    ///
    /// # Errors
    /// None in practice.
    pub fn block(&self) -> io::Result<Self> {
        let mut old = Self::empty();
        // SAFETY: both sets are initialised.
        let errno = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, &raw mut old.0) };
        if errno == 0 { Ok(old) } else { Err(io::Error::from_raw_os_error(errno)) }
    }

    /// The set of blocked signals.
    ///
    /// # Errors
    /// None in practice.
    pub fn blocked() -> io::Result<Self> {
        let mut now = Self::empty();
        // SAFETY: a null new set only asks; the old one is initialised.
        let errno = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, std::ptr::null(), &raw mut now.0) };
        if errno == 0 { Ok(now) } else { Err(io::Error::from_raw_os_error(errno)) }
    }

    /// The signals that wait to be let through.
    ///
    /// # Errors
    /// None in practice.
    pub fn pending() -> io::Result<Self> {
        let mut now = Self::empty();
        // SAFETY: the set is initialised.
        check(unsafe { libc::sigpending(&raw mut now.0) }.into())?;
        Ok(now)
    }

    /// Whether `signal` is one of these.
    pub fn has(&self, signal: i32) -> bool {
        // SAFETY: the set is initialised; an invalid number is in no set.
        unsafe { libc::sigismember(&raw const self.0, signal) == 1 }
    }

    /// A descriptor that becomes readable when one of these (blocked) signals is pending (signalfd(2)).
    ///
    /// # Errors
    /// signalfd's.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        // SAFETY: the set is initialised.
        let fd =
            check(unsafe { libc::signalfd(-1, &raw const self.0, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) }.into())?;
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)) })
    }
}

/// What this process does on a signal, to be put back later.
pub struct SignalAction {
    signal: i32,
    action: libc::sigaction,
}

impl SignalAction {
    /// What it does now on `signal`.
    ///
    /// # Errors
    /// `EINVAL` for a number that is no signal.
    pub fn of(signal: i32) -> io::Result<Self> {
        // SAFETY: sigaction is plain data for which all zeroes are valid; a null new action only asks.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            check(libc::sigaction(signal, std::ptr::null(), &raw mut action).into())?;
            Ok(Self { signal, action })
        }
    }

    /// Does that again.
    ///
    /// # Errors
    /// None in practice.
    pub fn restore(&self) -> io::Result<()> {
        // SAFETY: the action is one that this process had, so its handler is a function of the program or none.
        check(unsafe { libc::sigaction(self.signal, &raw const self.action, std::ptr::null_mut()) }.into()).map(drop)
    }
}

/// A signal as a [`SignalSet::descriptor`] reports it.
#[derive(Clone, Copy, Debug)]
pub struct SignalInfo {
    /// Its number.
    pub signal: i32,
    /// Who sent it; 0 from the kernel or from outside this pid namespace.
    pub pid: u32,
    /// `SI_USER`, `SI_KERNEL`, ... (sigaction(2)).
    pub code: i32,
}

/// The next pending signal of a signalfd, or `None` when there is none.
///
/// # Errors
/// read(2)'s.
pub fn next_signal(fd: impl AsFd) -> io::Result<Option<SignalInfo>> {
    // SAFETY: signalfd_siginfo is plain data for which all zeroes are valid.
    let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
    // SAFETY: the buffer has the size that is given, and any bytes are a valid value.
    let n = unsafe { libc::read(fd.as_fd().as_raw_fd(), (&raw mut info).cast(), size_of::<libc::signalfd_siginfo>()) };
    match check(n as libc::c_long) {
        Ok(_) => Ok(Some(SignalInfo {
            signal: i32::try_from(info.ssi_signo).unwrap_or(0),
            pid: info.ssi_pid,
            code: info.ssi_code,
        })),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Gives `signal` its default action.
pub fn default_signal(signal: i32) {
    // SAFETY: SIG_DFL runs no code of ours.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// Gives every signal its default action, but those in `keep_ignored`, and blocks none: what an exec'd command expects.
///
/// # Errors
/// None in practice.
pub fn reset_signals(keep_ignored: &[i32]) -> io::Result<()> {
    for signal in 1..=libc::SIGRTMAX() {
        if !keep_ignored.contains(&signal) {
            // SAFETY: SIG_DFL runs no code of ours; refused numbers (SIGKILL, glibc's own) are of no interest.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
    SignalSet::empty().block().map(drop)
}
