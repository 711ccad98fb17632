//! IMAGE: what an operand names, decided by what is there and by content, never by a file's ending (d-unpack(1), IMAGE).

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use d_common::digest::Digest;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use d_common::layout::Layout;

/// What an operand names.
#[derive(Debug)]
pub enum Source {
    /// A layout, and in it the image of this name, or this manifest.
    Layout(Layout, Wanted),
    /// An archive that can be read at any place.
    File(PathBuf, File, Wanted),
    /// An archive that comes along once.
    Stream(File),
}

/// Which image of several.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// The only one.
    Any,
    /// The one of this name.
    Named(String),
    /// The one whose manifest, or index, has this digest.
    Digest(Digest),
}

/// Opens what `operand` names: an existing path, else what stands left of the first `:` that leaves one.
///
/// # Errors
/// [`Exit::NotFound`] when there is no such thing.
pub fn open(operand: &OsStr) -> Result<Source> {
    if operand == "-" {
        return stdin();
    }
    if Path::new(operand).exists() {
        return at(Path::new(operand), Wanted::Any);
    }
    let shown = operand.display();
    let bytes = operand.as_bytes();
    let colons = bytes.iter().enumerate().filter(|(_, b)| **b == b':').map(|(at, _)| at);
    let mut split = colons.map(|at| (Path::new(OsStr::from_bytes(&bytes[..at])), &bytes[at + 1..]));
    match split.find(|(path, _)| !path.as_os_str().is_empty() && path.exists()) {
        Some((_, b"")) => fail!(Exit::NotFound, "{shown}: no name behind the colon"),
        Some((path, name)) => at(path, Wanted::Named(String::from_utf8_lossy(name).into_owned())),
        None if bytes.starts_with(b".") || bytes.starts_with(b"/") => {
            fail!(Exit::NotFound, "{shown}: no such file or directory")
        }
        None => fail!(Exit::NotFound, "{shown}: no such file; pull it first: d-unpack \"$(d-pull {shown})\" DIR"),
    }
}

fn at(path: &Path, wanted: Wanted) -> Result<Source> {
    let file = File::open(path).or_exit(Exit::NotFound, || format!("cannot open {}", path.display()))?;
    let kind = file.metadata().or_exit(Exit::Io, || format!("cannot look at {}", path.display()))?.file_type();
    if kind.is_dir() {
        if !Layout::is_at(path) {
            fail!(
                Exit::Data,
                "{} is no image: a directory without an oci-layout file (a root filesystem needs no unpacking: d-enter takes \
                 it as it is)",
                path.display()
            );
        }
        return Ok(Source::Layout(Layout::new(path), wanted));
    }
    // The manifest's blob that d-pull prints; through links, since it is known by its place.
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if let Some((layout, digest)) = [path, &real].into_iter().find_map(Layout::of_blob)
        && starts_with_brace(&file)
    {
        return Ok(Source::Layout(layout, Wanted::Digest(digest)));
    }
    Ok(if kind.is_file() { Source::File(path.to_owned(), file, wanted) } else { Source::Stream(file) })
}

fn stdin() -> Result<Source> {
    let duplicate = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3);
    let file = File::from(duplicate.map_err(io::Error::from).or_exit(Exit::Io, || "cannot read stdin")?);
    if rustix::termios::isatty(&file) {
        fail!(Exit::Usage, "IMAGE is - and stdin is a terminal: pipe an archive into it");
    }
    // `d-unpack - DIR < FILE` can be read at any place, if it stands at its start.
    let is_whole_file = file.metadata().is_ok_and(|m| m.is_file())
        && rustix::fs::seek(&file, rustix::fs::SeekFrom::Current(0)) == Ok(0);
    Ok(if is_whole_file { Source::File("stdin".into(), file, Wanted::Any) } else { Source::Stream(file) })
}

fn starts_with_brace(file: &File) -> bool {
    let mut start = [0; 64];
    let len = file.read_at(&mut start, 0).unwrap_or(0);
    start[..len].trim_ascii_start().first() == Some(&b'{')
}
