//! Exit codes: one table for the suite, as d-utils(7) prints it.
//!
//! The numbers up to 77 are those of sysexits.h; d-enter (and `d-netup -- CMD`) use those of chroot(1) and env(1), since
//! their own failures must not be mistaken for the command's. An error carries its code as an `anyhow` context, so a
//! function says once what kind of failure it is and `main` asks for it at the end.

use std::fmt;
use std::io;

use rustix::io::Errno;

/// Why a program ended, as its exit status says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Exit {
    /// Wrong usage: an unknown option, an invalid reference, an empty operand.
    Usage = 64,
    /// Bad data: digest mismatch, broken or hostile image, input that ends early.
    Data = 65,
    /// Not found: image, tag, file, process.
    NotFound = 66,
    /// A helper program or a kernel feature is missing.
    Unavailable = 69,
    /// The result cannot be created: exists, in use, disk full, read-only.
    CantCreate = 73,
    /// Input or output failed.
    Io = 74,
    /// Try again: network, rate limit, 5xx.
    TryAgain = 75,
    /// The registry broke the protocol.
    Protocol = 76,
    /// Not allowed: 401, 403, a process or port of another user.
    NotAllowed = 77,
    /// d-enter itself failed.
    Enter = 125,
    /// The command exists and cannot be executed.
    CannotExecute = 126,
    /// The command was not found.
    CommandNotFound = 127,
}

/// A failure with its exit code; its text says what failed, why, and what to do.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    message: String,
}

impl Failure {
    /// A context for an error that has a cause: `error.context(Failure::new(Exit::Data, "layer 3"))`.
    pub fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// A new error of the kind `exit`.
pub fn failure(exit: Exit, message: impl fmt::Display) -> anyhow::Error {
    anyhow::Error::new(Failure { exit, message: message.to_string() })
}

/// A new error of the kind `exit`, with what caused it.
pub fn caused(exit: Exit, message: impl fmt::Display, cause: impl Into<anyhow::Error>) -> anyhow::Error {
    cause.into().context(Failure { exit, message: message.to_string() })
}

/// Returns early with a [`failure`]: `fail!(Exit::Data, "layer {n} is torn")`.
#[macro_export]
macro_rules! fail {
    ($exit:expr, $($message:tt)*) => {
        return ::std::result::Result::Err($crate::exit::failure($exit, format!($($message)*)))
    };
}

/// Gives a foreign error its step and its exit code.
pub trait OrExit<T> {
    /// Wraps the error in `message()` under `exit`.
    ///
    /// # Errors
    /// The wrapped error, where there was one.
    fn or_exit<M: fmt::Display>(self, exit: Exit, message: impl FnOnce() -> M) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit<M: fmt::Display>(self, exit: Exit, message: impl FnOnce() -> M) -> anyhow::Result<T> {
        self.map_err(|e| caused(exit, message(), e))
    }
}

impl<T> OrExit<T> for Option<T> {
    fn or_exit<M: fmt::Display>(self, exit: Exit, message: impl FnOnce() -> M) -> anyhow::Result<T> {
        self.ok_or_else(|| failure(exit, message()))
    }
}

/// The exit code of an error: a full or read-only disk, a quota or limit that is used up, is always [`Exit::CantCreate`]; else
/// the outermost code given with [`OrExit`] or [`failure`]; else what the first I/O error in the chain means; else
/// [`Exit::Io`].
pub fn exit_of(error: &anyhow::Error) -> Exit {
    let kind = |cause: &(dyn std::error::Error + 'static)| match cause.downcast_ref::<Errno>() {
        Some(errno) => Some(errno.kind()),
        None => cause.downcast_ref::<io::Error>().map(io::Error::kind),
    };
    let kinds: Vec<io::ErrorKind> = error.chain().filter_map(kind).collect();
    let full = [
        io::ErrorKind::StorageFull,
        io::ErrorKind::ReadOnlyFilesystem,
        io::ErrorKind::QuotaExceeded,
        io::ErrorKind::FileTooLarge,
    ];
    if kinds.iter().any(|kind| full.contains(kind)) {
        return Exit::CantCreate;
    }
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return failure.exit;
    }
    match kinds.first() {
        Some(io::ErrorKind::NotFound) => Exit::NotFound,
        Some(io::ErrorKind::PermissionDenied) => Exit::NotAllowed,
        Some(io::ErrorKind::AlreadyExists) => Exit::CantCreate,
        _ => Exit::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outermost_code_wins_and_a_full_disk_always() {
        let inner: anyhow::Result<()> = Err(failure(Exit::Data, "torn"));
        let outer = inner.or_exit(Exit::TryAgain, || "cannot pull").unwrap_err();
        assert_eq!(exit_of(&outer), Exit::TryAgain);
        let full: Result<(), _> = Err(io::Error::from_raw_os_error(28));
        assert_eq!(exit_of(&anyhow::Error::from(Errno::NOSPC)), Exit::CantCreate);
        assert_eq!(exit_of(&full.or_exit(Exit::Data, || "x").unwrap_err()), Exit::CantCreate);
        assert_eq!(exit_of(&anyhow::Error::from(io::Error::from(io::ErrorKind::NotFound))), Exit::NotFound);
        assert_eq!(exit_of(&anyhow::anyhow!("x")), Exit::Io);
    }
}
