//! Errors on their way through `std::io::Read`: a digest that does not match, found by the thread that reads ahead, arrives at
//! the end of a `read` call as the error it is, exit code included.

use std::fmt;
use std::io;

use d_common::exit::{Exit, Failure};

/// An error inside an `io::Error`.
#[derive(Debug)]
struct Carried(anyhow::Error);

impl fmt::Display for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Carried {}

/// Packs an error for a reader to return.
pub(crate) fn carry(error: anyhow::Error) -> io::Error {
    io::Error::other(Carried(error))
}

/// What a failed read of an archive means: the packed error, or else a read(2) that failed ([`Exit::Io`]), or else bytes that
/// are not what they should be ([`Exit::Data`]).
pub(crate) fn reading(error: io::Error) -> anyhow::Error {
    match error.downcast::<Carried>() {
        Ok(Carried(inner)) => inner,
        Err(error) => {
            let exit = if error.raw_os_error().is_some() { Exit::Io } else { Exit::Data };
            anyhow::Error::new(error).context(Failure::new(exit, "cannot read the archive"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use d_common::exit::{exit_of, failure};

    #[test]
    fn codes_survive_the_journey() {
        assert_eq!(exit_of(&reading(carry(failure(Exit::NotFound, "x")))), Exit::NotFound);
        assert_eq!(exit_of(&reading(io::Error::from_raw_os_error(5))), Exit::Io);
        assert_eq!(exit_of(&reading(io::ErrorKind::UnexpectedEof.into())), Exit::Data);
    }
}
