//! The bytes of a file of the tree.

use std::fs::File;
use std::io::{BufRead, Seek, SeekFrom, Write};

use anyhow::Result;
use d_common::exit::Exit;
use d_common::fail;
use rustix::io::Errno;

use crate::carried::reading;
use crate::rootfs::failed;
use crate::tar::Sparse;

/// Copies `size` bytes of `data`.
///
/// # Errors
/// [`Exit::Data`] when it ends early; write(2)'s.
pub fn copy(data: &mut dyn BufRead, file: &mut File, size: u64, path: &[u8]) -> Result<()> {
    let mut left = size;
    while left > 0 {
        let buffer = data.fill_buf().map_err(reading)?;
        if buffer.is_empty() {
            fail!(Exit::Data, "its data ends {left} bytes early");
        }
        let len = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        file.write_all(&buffer[..len])
            .map_err(|e| failed(Errno::from_io_error(&e).unwrap_or(Errno::IO), "write", path))?;
        data.consume(len);
        left -= len as u64;
    }
    Ok(())
}

/// Copies the extents of a sparse file.
///
/// # Errors
/// As [`copy`].
pub fn copy_sparse(data: &mut dyn BufRead, file: &mut File, sparse: &Sparse, path: &[u8]) -> Result<()> {
    let cannot = |e: std::io::Error| failed(Errno::from_io_error(&e).unwrap_or(Errno::IO), "write", path);
    file.set_len(sparse.real_size).map_err(cannot)?;
    for &(offset, length) in &sparse.extents {
        file.seek(SeekFrom::Start(offset)).map_err(cannot)?;
        copy(data, file, length, path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_that_ends_early_is_an_error_and_no_endless_loop() {
        let mut file = tempfile::tempfile().unwrap();
        assert!(copy(&mut &b"abc"[..], &mut file, 3, b"f").is_ok());
        assert!(copy(&mut &b"abc"[..], &mut file, 4, b"f").unwrap_err().to_string().contains("1 bytes early"));
    }
}
